"""From the layers that names tell to a source graph: shapes give widths, groups and kernels, the programs give strides.

What the programs named in `resnext_convert.converter.mxnet.gluon` do alike, and no name or shape says:

- the stem's 7x7 convolution, or the first of its three 3x3 ones, has stride 2, CIFAR's single 3x3 stride 1 (GluonCV:
  ``ResNext``, ``SENet``, ``CIFARResNext``; gluoncv2: ``ResInitBlock``, ``SEInitBlock``, ``CIFARResNeXt``; simpledet:
  ``resnext_c1``);
- the first block of each stage but the first has stride 2, at its 3x3 convolution and at its projection (``Block``,
  ``SEBlock``, ``CIFARBlock``; ``ResNeXtBottleneck`` and ``SENetBottleneck``; ``resnext_unit``). A projection that
  averages first does so in windows of 2x2, rounding up, and its convolution has stride 1 (``avg_down``);
- convolutions of side k are padded by k // 2, and have a bias in the excitation only;
- each normalisation but the residual's and the projection's last is followed by a ReLU, and so is the sum;
- normalisations use their gamma, and momentum is 0.9 (the default of Gluon's ``nn.BatchNorm`` and of the operator).

ResNets of the same authors have the same names and their strides elsewhere (``BottleneckV1`` of Gluon's own model zoo
and ``conv1_stride`` of gluoncv2 have them in the 1x1 convolution), so only grouped convolutions are taken for these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from resnext_convert.converter.errors import NotResNeXtError, ShapeError, UnsupportedError, UsageError
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Conv,
    Graph,
    Linear,
    Multiply,
    Node,
    Pair,
    Pool,
    PoolKind,
    Role,
)
from resnext_convert.converter.mxnet.description import Block, Description, Layer, Unit
from resnext_convert.converter.origin import GraphFacts, StemPool
from resnext_convert.converter.tensors import TensorStore

INPUT: Final = "data"

_MOMENTUM: Final = 0.9
_CIFAR_WIDTH: Final = 64  # of the stem; ResNets for CIFAR have 16
_RELU: Final = Activation(kind=ActivationKind.RELU)
_SIGMOID: Final = Activation(kind=ActivationKind.SIGMOID)
_SQUEEZE: Final = Pool(kind=PoolKind.AVERAGE, global_pool=True)
_HALVE: Final = Pool(
    kind=PoolKind.AVERAGE, kernel=(2, 2), stride=(2, 2), ceil=True, count_include_pad=False
)  # GluonCV: nn.AvgPool2D(pool_size=2, strides=2, ceil_mode=True, count_include_pad=False)
_STEM_POOLS: Final[Mapping[StemPool, Pool | None]] = {
    "3x3 max, stride 2, padding 1": Pool(kind=PoolKind.MAX, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    "3x3 max, stride 2, size rounded up": Pool(kind=PoolKind.MAX, kernel=(3, 3), stride=(2, 2), ceil=True),
    "none": None,
}
_OTHER: Final = "the names are those of a ResNeXt and the shapes are not: with its symbol file any network can be read"


def wire(description: Description, tensors: TensorStore, facts: GraphFacts) -> Graph:
    """The graph of a described network: one input (N, C, H, W), one output, the logits.

    Args:
        description: its layers, each with its stored tensors.
        tensors: of the file.
        facts: eps and the stem's pooling, which neither names nor shapes tell.

    Raises:
        ShapeError: a shape is none that its layer can have, or does not fit the channels that reach the layer.
        NotResNeXtError: the 3x3 convolutions are not grouped: a ResNet, of which it is not known where its strides are.
        UnsupportedError: the names do not say whether the projections average first.
        UsageError: the pooling that is stated contradicts the stem.
    """
    return _Wiring(description, tensors, facts).graph()


class _Wiring:
    def __init__(self, description: Description, tensors: TensorStore, facts: GraphFacts) -> None:
        self._description = description
        self._tensors = tensors
        self._facts = facts
        self._nodes: list[Node] = []
        self._channels: dict[str, int | None] = {INPUT: None}
        self._groups: int | None = None
        self._cifar = False

    def graph(self) -> Graph:
        value = self._stem()
        for number, stage in enumerate(self._description.stages):
            for place, block in enumerate(stage):
                value = self._block(block, value, 2 if number > 0 and place == 0 else 1)
        side = self._description.window
        pool = Pool(kind=PoolKind.AVERAGE, kernel=(side, side)) if side else _SQUEEZE
        value = self._op("pool", "Pooling", pool, value)
        output = self._classify(self._description.classifier, value)
        return Graph(nodes=tuple(self._nodes), inputs=(INPUT,), outputs=(output,))

    # -- the parts -------------------------------------------------------------------------------------------------

    def _stem(self) -> str:
        stem = self._description.stem
        first = self._shape(stem[0].conv, 4)
        deep = len(stem) > 1
        pools = self._description.stem_pools
        if pools is None:
            pools = deep or first[2:] != (3, 3)
        if pools is not (self._facts.stem_pool != "none"):
            raise UsageError(
                "the stated pooling behind the stem contradicts the stem",
                expected="one of the two poolings" if pools else "none: the stem is that of a network for CIFAR",
                found=self._facts.stem_pool,
                hint="--stem-pool floor or ceil" if pools else "--stem-pool none",
            )
        value = INPUT
        for number, unit in enumerate(stem):
            kernel = (7, 7) if pools and not deep else (3, 3)
            stride = 2 if pools and number == 0 else 1
            value = self._unit(unit, value, {kernel}, stride=stride, relu=True)
        self._cifar = not pools and self._channels[value] == _CIFAR_WIDTH
        pool = _STEM_POOLS[self._facts.stem_pool]
        return value if pool is None else self._op("stem/pool", "Pooling", pool, value)

    def _block(self, block: Block, fork: str, stride: int) -> str:
        reduce, grouped, expand = block.units
        value = self._unit(reduce, fork, {(1, 1)}, relu=True)
        value = self._unit(grouped, value, {(3, 3)}, stride=stride, relu=True, grouped=True)
        value = self._unit(expand, value, {(1, 1)})
        if block.gate:
            value = self._excite(block, value)
        shortcut = fork if block.projection is None else self._project(block, block.projection, fork, stride)
        if self._channels[value] != self._channels[shortcut]:
            self._refuse(
                expand.conv,
                "the residual has other channels than the shortcut to which it is added",
                expected=f"{self._channels[shortcut]} output channels",
            )
        total = self._op(f"{block.name}/plus", "elemwise_add", Add(), value, shortcut)
        return self._op(f"{block.name}/relu", "Activation", _RELU, total)

    def _excite(self, block: Block, value: str) -> str:
        reduce, expand = block.gate
        gate = self._op(f"{block.name}/squeeze", "_contrib_AdaptiveAvgPooling2D", _SQUEEZE, value)
        gate = self._op(f"{reduce.name}/relu", "Activation", _RELU, self._conv(reduce, gate, {(1, 1)}))
        gate = self._op(f"{expand.name}/sigmoid", "Activation", _SIGMOID, self._conv(expand, gate, {(1, 1)}))
        if self._channels[gate] != self._channels[value]:
            self._refuse(
                expand,
                "the excitation has other channels than the residual that it is for",
                expected=f"{self._channels[value]} output channels",
            )
        return self._op(f"{block.name}/multiply", "broadcast_mul", Multiply(), value, gate)

    def _project(self, block: Block, projection: Unit, value: str, stride: int) -> str:
        """The shortcut. GluonCV's and gluoncv2's SENet convolves 3x3 from the second stage on, all others 1x1."""
        deep = len(self._description.stem) > 1
        kernels = {(1, 1), (3, 3)} if deep and stride > 1 and not block.averages else {(1, 1)}
        if block.averages is None and self._shape(projection.conv, 4)[2:] == (1, 1):
            raise UnsupportedError(
                "the names do not say whether the projection averages before it convolves (avg_down)",
                place=f"tensor {projection.conv.params[Role.WEIGHT]!r}",
                expected="a 3x3 convolution, as SENet-154 has, or names that tell",
                found="a 1x1 convolution behind a stem of three",
                hint="save it with save_parameters, whose names tell, or export its graph too and convert the pair",
            )
        if block.averages:
            value = self._op(f"{block.name}/average", "Pooling", _HALVE, value)
            stride = 1
        return self._unit(projection, value, kernels, stride=stride)

    def _classify(self, layer: Layer, value: str) -> str:
        rows, columns = self._shape(layer, 2)
        if columns != self._channels[value]:
            self._refuse(
                layer,
                "the classifier is for another number of features than the network has",
                expected=f"(*, {self._channels[value]})",
            )
        return self._op(layer.name, "FullyConnected", Linear(out_features=rows, bias=True), value, params=layer.params)

    # -- the layers ------------------------------------------------------------------------------------------------

    def _unit(
        self,
        unit: Unit,
        value: str,
        kernels: set[Pair],
        *,
        stride: int = 1,
        relu: bool = False,
        grouped: bool = False,
    ) -> str:
        value = self._conv(unit.conv, value, kernels, stride=stride, grouped=grouped)
        norm = BatchNorm(eps=self._facts.eps, momentum=_MOMENTUM)
        value = self._op(unit.norm.name, "BatchNorm", norm, value, params=unit.norm.params)
        return self._op(f"{unit.norm.name}/relu", "Activation", _RELU, value) if relu else value

    def _conv(self, layer: Layer, value: str, kernels: set[Pair], *, stride: int = 1, grouped: bool = False) -> str:
        rows, columns, *kernel = self._shape(layer, 4)
        given = columns if (known := self._channels[value]) is None else known
        if tuple(kernel) not in kernels:
            wanted = " or ".join(f"{height}x{width}" for height, width in sorted(kernels))
            self._refuse(layer, "the layer has another kernel in every network with such names", expected=wanted)
        if columns != given and not (grouped and given % columns == 0 and rows % (given // columns) == 0):
            self._refuse(
                layer,
                "the layer is given another number of channels than its weight is for",
                expected=f"{given} input channels" + (", or a part of them in each group" if grouped else ""),
            )
        groups = given // columns
        if grouped:
            self._check_groups(layer, groups)
        attrs = Conv(
            out_channels=rows,
            kernel=(kernel[0], kernel[1]),
            stride=(stride, stride),
            padding=(kernel[0] // 2, kernel[1] // 2),
            groups=groups,
            bias=Role.BIAS in layer.params,
        )
        output = self._op(layer.name, "Convolution", attrs, value, params=layer.params)
        self._channels[output] = rows
        return output

    def _check_groups(self, layer: Layer, groups: int) -> None:
        if self._groups is None and groups == 1 and not self._cifar:
            raise NotResNeXtError(
                "the 3x3 convolutions are not grouped: ResNets have these names too, and their strides are in other "
                "layers, where nothing in the file says",
                place=f"tensor {layer.params[Role.WEIGHT]!r}",
                expected="a ResNeXt",
                found="one group",
                hint="export its graph too (HybridBlock.export), and convert the pair",
            )
        if self._groups is not None and groups != self._groups:
            self._refuse(
                layer,
                "the layer has another number of groups than those before it",
                expected=f"{self._groups} groups",
                found=groups,
            )
        self._groups = groups

    def _op(self, name: str, op: str, attrs: Attrs, *inputs: str, params: Mapping[Role, str] | None = None) -> str:
        output = f"{name}_output"
        node = Node(name=name, op=op, attrs=attrs, inputs=inputs, outputs=(output,), params=params or {})
        self._nodes.append(node)
        self._channels[output] = self._channels[inputs[0]]
        return output

    def _shape(self, layer: Layer, axes: int) -> tuple[int, ...]:
        """The shape of a layer's weight, of that many axes, none of them 0."""
        shape = self._tensors[layer.params[Role.WEIGHT]].shape
        if len(shape) != axes or 0 in shape:
            self._refuse(
                layer, "the weight has a shape that no such layer has", expected=f"{axes} axes, none of size 0"
            )
        return shape

    def _refuse(self, layer: Layer, problem: str, *, expected: str, found: object = None) -> NoReturn:
        tensor = self._tensors[layer.params[Role.WEIGHT]]
        raise ShapeError(
            problem,
            place=f"{tensor.where}, tensor {tensor.name!r}",
            expected=expected,
            found=tensor.shape if found is None else found,
            hint=_OTHER,
        )
