"""The small networks of the fixtures, built with MXNet's symbol API from plans of our own.

Every node is named, so that the files do not depend on counters. Names follow the historic script's habit (``conv0``,
``stage1_unit1_conv1``), which nothing in the package reads.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

Symbol = Any
Kernel = tuple[int, int]

EPS = 2e-5
PADDED_MAX = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "pool_type": "max"}
FULL_MAX = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full", "pool_type": "max"}
AVERAGE = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "pool_type": "avg", "count_include_pad": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A residual network.

    Attributes:
        depths: blocks of each stage.
        channels: output channels of each stage.
        groups: of the second convolution.
        normalise_input: whether `bn_data`, with an ignored gamma, comes first.
        stem: one 7x7 convolution of stride 2, or three 3x3 ones.
        stem_channels: output channels of the stem.
        pool: attributes of the stem's pooling.
        block: bottleneck (1x1, grouped 3x3, 1x1) or basic (two 3x3).
        narrow: the first 1x1 convolution is half as wide as the second (SENet-154).
        stride_on: the convolution of a bottleneck that strides.
        dilation: of the second convolution, by stage; a dilated stage does not stride.
        shortcut: the projection from stage 2 on; stage 1 has a 1x1 convolution.
        gate: squeeze-and-excitation by fully connected layers or by 1x1 convolutions.
        pointwise_bias: whether 1x1 convolutions have a bias.
        grouped_bias: whether the grouped convolutions of bottlenecks have one.
    """

    depths: tuple[int, ...] = (1, 1)
    channels: tuple[int, ...] = (16, 24)
    groups: int = 4
    normalise_input: bool = False
    stem: Literal["7x7", "deep"] = "7x7"
    stem_channels: int = 8
    pool: dict[str, Any] = dataclasses.field(default_factory=lambda: PADDED_MAX)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    narrow: bool = False
    stride_on: Literal["conv1", "conv2"] = "conv2"
    dilation: tuple[int, ...] = ()
    shortcut: Literal["1x1", "3x3", "average"] = "1x1"
    gate: Literal["dense", "conv"] | None = None
    pointwise_bias: bool = False
    grouped_bias: bool = False


class Layers:
    """MXNet's layers under short names, with the attributes that all of these networks share."""

    def __init__(self, mx: Any) -> None:
        self.sym = mx.sym

    def conv(
        self, x: Symbol, name: str, channels: int, kernel: int, *, bias: bool = False, **attributes: Any
    ) -> Symbol:
        """A square convolution that keeps the size at stride 1 and dilation 1 unless ``pad`` says otherwise."""
        attributes = {"pad": (kernel // 2, kernel // 2), "num_filter": channels, "no_bias": not bias} | attributes
        return self.sym.Convolution(x, name=name, kernel=(kernel, kernel), **attributes)

    def norm(self, x: Symbol, name: str, *, fix_gamma: bool = False) -> Symbol:
        """A BatchNorm."""
        return self.sym.BatchNorm(x, name=name, eps=EPS, momentum=0.9, fix_gamma=fix_gamma)

    def relu(self, x: Symbol, name: str) -> Symbol:
        """A rectifier."""
        return self.sym.Activation(x, name=name, act_type="relu")

    def head(self, x: Symbol, classes: int = 10) -> Symbol:
        """Global average, classifier, softmax."""
        x = self.sym.Pooling(x, name="pool1", global_pool=True, kernel=(7, 7), pool_type="avg")
        x = self.sym.Flatten(x, name="flatten0")
        x = self.sym.FullyConnected(x, name="fc1", num_hidden=classes)
        return self.sym.SoftmaxOutput(x, name="softmax")


def residual(mx: Any, plan: Plan) -> Symbol:
    """The network of a plan."""
    layers = Layers(mx)
    x = mx.sym.Variable("data")
    if plan.normalise_input:
        x = layers.norm(x, "bn_data", fix_gamma=True)
    x = _stem(layers, x, plan)
    width = plan.stem_channels
    for stage, (depth, channels) in enumerate(zip(plan.depths, plan.channels, strict=True), start=1):
        dilation = plan.dilation[stage - 1] if plan.dilation else 1
        for unit in range(1, depth + 1):
            stride = 2 if stage > 1 and unit == 1 and dilation == 1 else 1
            name = f"stage{stage}_unit{unit}"
            branch = _branch(layers, x, plan, name, channels, stride, dilation)
            if unit == 1 and (width != channels or stride != 1):
                x = _projection(layers, x, plan, f"{name}_sc", channels, stride, first_stage=stage == 1)
            x = layers.relu(mx.sym.elemwise_add(branch, x, name=f"{name}_plus"), f"{name}_relu")
            width = channels
    return layers.head(x)


def _stem(layers: Layers, x: Symbol, plan: Plan) -> Symbol:
    if plan.stem == "7x7":
        x = layers.conv(x, "conv0", plan.stem_channels, 7, stride=(2, 2))
    else:
        narrow = plan.stem_channels // 2
        x = layers.conv(x, "conv0_1", narrow, 3, stride=(2, 2))
        x = layers.relu(layers.norm(x, "bn0_1"), "relu0_1")
        x = layers.conv(x, "conv0_2", narrow, 3)
        x = layers.relu(layers.norm(x, "bn0_2"), "relu0_2")
        x = layers.conv(x, "conv0", plan.stem_channels, 3)
    x = layers.relu(layers.norm(x, "bn0"), "relu0")
    return layers.sym.Pooling(x, name="pooling0", **plan.pool)


def _branch(layers: Layers, x: Symbol, plan: Plan, name: str, channels: int, stride: int, dilation: int) -> Symbol:
    spread: dict[str, Any] = {"dilate": (dilation, dilation), "pad": (dilation, dilation)}
    if plan.block == "basic":
        x = layers.conv(x, f"{name}_conv1", channels, 3, stride=(stride, stride))
        x = layers.relu(layers.norm(x, f"{name}_bn1"), f"{name}_relu1")
        x = layers.conv(x, f"{name}_conv2", channels, 3, **spread)
        last = "bn2"
    else:
        width, bias = channels // 2, plan.pointwise_bias
        first, second = (stride, 1) if plan.stride_on == "conv1" else (1, stride)
        x = layers.conv(x, f"{name}_conv1", width // 2 if plan.narrow else width, 1, stride=(first, first), bias=bias)
        x = layers.relu(layers.norm(x, f"{name}_bn1"), f"{name}_relu1")
        grouped: dict[str, Any] = {"num_group": plan.groups, "bias": plan.grouped_bias, **spread}
        x = layers.conv(x, f"{name}_conv2", width, 3, stride=(second, second), **grouped)
        x = layers.relu(layers.norm(x, f"{name}_bn2"), f"{name}_relu2")
        x = layers.conv(x, f"{name}_conv3", channels, 1, bias=bias)
        last = "bn3"
    x = layers.norm(x, f"{name}_{last}")
    return x if plan.gate is None else _gated(layers, x, plan.gate, f"{name}_se", channels)


def _gated(layers: Layers, x: Symbol, kind: str, name: str, channels: int) -> Symbol:
    """Squeeze-and-excitation with reduction 4."""
    sym = layers.sym
    gate = sym.Pooling(x, name=f"{name}_pool", global_pool=True, kernel=(7, 7), pool_type="avg")
    if kind == "dense":
        gate = sym.Flatten(gate, name=f"{name}_flatten")
        gate = sym.FullyConnected(gate, name=f"{name}_down", num_hidden=channels // 4)
        gate = sym.FullyConnected(layers.relu(gate, f"{name}_relu"), name=f"{name}_up", num_hidden=channels)
        gate = sym.Activation(gate, name=f"{name}_sigmoid", act_type="sigmoid")
        gate = sym.Reshape(gate, name=f"{name}_reshape", shape=(-1, channels, 1, 1))
    else:
        gate = layers.relu(layers.conv(gate, f"{name}_down", channels // 4, 1, bias=True), f"{name}_relu")
        gate = layers.conv(gate, f"{name}_up", channels, 1, bias=True)
        gate = sym.Activation(gate, name=f"{name}_sigmoid", act_type="sigmoid")
    return sym.broadcast_mul(x, gate, name=f"{name}_mul")


def _projection(
    layers: Layers, x: Symbol, plan: Plan, name: str, channels: int, stride: int, *, first_stage: bool
) -> Symbol:
    step = (stride, stride)
    if plan.shortcut == "average" and stride > 1:
        x = layers.sym.Pooling(
            x,
            name=f"{name}_pool",
            kernel=step,
            stride=step,
            pool_type="avg",
            pooling_convention="full",
            count_include_pad=False,
        )
        step = (1, 1)
    kernel = 3 if plan.shortcut == "3x3" and not first_stage else 1
    x = layers.conv(x, name, channels, kernel, stride=step, bias=plan.pointwise_bias and kernel == 1)
    return layers.norm(x, f"{name}_bn")


def preactivation(mx: Any) -> Symbol:
    """A ResNet v2: normalisation and rectifier before each convolution, none after the sum."""
    layers = Layers(mx)
    x = layers.conv(layers.norm(mx.sym.Variable("data"), "bn_data", fix_gamma=True), "conv0", 8, 7, stride=(2, 2))
    x = layers.sym.Pooling(layers.relu(layers.norm(x, "bn0"), "relu0"), name="pooling0", **PADDED_MAX)
    for name, channels, stride, project in (("unit1", 16, 1, True), ("unit2", 16, 1, False), ("unit3", 24, 2, True)):
        active = layers.relu(layers.norm(x, f"{name}_bn1"), f"{name}_relu1")
        y = layers.conv(active, f"{name}_conv1", channels // 2, 1)
        y = layers.relu(layers.norm(y, f"{name}_bn2"), f"{name}_relu2")
        y = layers.conv(y, f"{name}_conv2", channels // 2, 3, stride=(stride, stride))
        y = layers.relu(layers.norm(y, f"{name}_bn3"), f"{name}_relu3")
        y = layers.conv(y, f"{name}_conv3", channels, 1)
        shortcut = layers.conv(active, f"{name}_sc", channels, 1, stride=(stride, stride)) if project else x
        x = mx.sym.elemwise_add(y, shortcut, name=f"{name}_plus")
    return layers.head(layers.relu(layers.norm(x, "bn1"), "relu1"))


def dense(mx: Any) -> Symbol:
    """A DenseNet: each layer's output is concatenated with its input."""
    layers = Layers(mx)
    x = layers.conv(mx.sym.Variable("data"), "conv0", 8, 7, stride=(2, 2))
    x = layers.sym.Pooling(layers.relu(layers.norm(x, "bn0"), "relu0"), name="pooling0", **PADDED_MAX)
    for block in (1, 2):
        for layer in (1, 2):
            name = f"block{block}_layer{layer}"
            y = layers.conv(layers.relu(layers.norm(x, f"{name}_bn1"), f"{name}_relu1"), f"{name}_conv1", 16, 1)
            y = layers.conv(layers.relu(layers.norm(y, f"{name}_bn2"), f"{name}_relu2"), f"{name}_conv2", 8, 3)
            x = mx.sym.Concat(x, y, name=f"{name}_concat", dim=1)
        x = layers.relu(layers.norm(x, f"transition{block}_bn"), f"transition{block}_relu")
        if block == 1:
            x = layers.conv(x, "transition1_conv", 12, 1)
            x = mx.sym.Pooling(x, name="transition1_pool", kernel=(2, 2), stride=(2, 2), pool_type="avg")
    return layers.head(x)


def octave(mx: Any) -> Symbol:
    """A residual block of octave convolutions: two resolutions side by side, each fed from both."""
    layers = Layers(mx)
    x = layers.conv(mx.sym.Variable("data"), "conv0", 8, 7, stride=(2, 2))
    x = layers.sym.Pooling(layers.relu(layers.norm(x, "bn0"), "relu0"), name="pooling0", **PADDED_MAX)

    def halved(y: Symbol, name: str) -> Symbol:
        return mx.sym.Pooling(y, name=f"{name}_half", kernel=(2, 2), stride=(2, 2), pool_type="avg")

    def doubled(y: Symbol, name: str) -> Symbol:
        return mx.sym.UpSampling(y, name=f"{name}_double", scale=2, sample_type="nearest", num_args=1)

    high = layers.conv(x, "split_high", 8, 1)
    low = layers.conv(halved(x, "split"), "split_low", 8, 1)
    for name in ("oct1", "oct2"):
        high_from_low = doubled(layers.conv(low, f"{name}_lh", 8, 1), name)
        low_from_high = layers.conv(halved(high, name), f"{name}_hl", 8, 3)
        new_high = mx.sym.elemwise_add(layers.conv(high, f"{name}_hh", 8, 3), high_from_low, name=f"{name}_high")
        new_low = mx.sym.elemwise_add(layers.conv(low, f"{name}_ll", 8, 3), low_from_high, name=f"{name}_low")
        high = layers.relu(layers.norm(new_high, f"{name}_bn_h"), f"{name}_relu_h")
        low = layers.relu(layers.norm(new_low, f"{name}_bn_l"), f"{name}_relu_l")
    x = mx.sym.Concat(high, doubled(low, "join"), name="join", dim=1)
    x = layers.norm(layers.conv(x, "join_conv", 8, 1), "join_bn")
    return layers.head(layers.relu(x, "join_relu"))
