"""Source models made from a configuration: the inverse of the matcher, without a file and without a framework.

The graph is spelled in one of the ways that frameworks have for the same network; names mean nothing in it (`n17`,
`t4`). Values are the same on every machine, no two tensors are alike, and they show mistakes: variances of 1e-3 ..
1e-2, gammas away from 1, means and biases away from 0, activations of order one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
from single_node import ramp, store

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    Graph,
    Identity,
    Linear,
    Multiply,
    Node,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Scale,
    Softmax,
    SourceModel,
    Split,
)
from resnext_convert.converter.origin import Origin
from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.tensors import Array

RELU = Activation(kind=ActivationKind.RELU)
SYMBOL = Path("made-symbol.json")
PARAMS = Path("made-0000.params")

TINY = resnext((1, 2), cardinality=2, base_width=4, classes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How a graph says what it computes; none of it is part of the configuration.

    Attributes:
        norms: a normalisation is one operator, or two, or has no scale, or is a scale alone.
        scale_bias: the scale has a beta.
        scale_axis: how the scale says that it acts along the channels.
        factor: by which the stored statistics are to be divided; None: they are not.
        figure: the form of a block that has a grouped convolution, as the paper's figure 3 calls it; ``d`` cuts the
            input of that convolution into parts.
        tree: a sum of many is a tree of sums of two.
        conv_head: the classifier is a convolution, where a pooling is before it.
        flat: where a Flatten is behind a convolution as classifier.
        transposed: the weights of fully connected layers are (in, out).
        linear_gates: the layers of squeeze-and-excitation are fully connected.
        gate_rows: such a gate stays (N, C), and the product is a scale by it.
        flatten_nodes: a Flatten before each fully connected layer; else the layer flattens by itself.
        shortcut_first: the shortcut is the first term of each sum, and its branch comes first in the graph.
        identities: an Identity (a copy, a dropout, a cast) behind each operator of the path.
        fix_gamma: the stored gammas are ignored.
        softmax: the head is a softmax of the logits.
        dtype: of the stored tensors.
    """

    norms: Literal["whole", "apart", "unscaled", "scale"] = "whole"
    scale_bias: bool = True
    scale_axis: Literal[1, -3] = 1
    factor: float | None = None
    figure: Literal["a", "b", "c", "d"] = "c"
    tree: bool = False
    conv_head: bool = False
    flat: Literal["", "before softmax", "behind softmax"] = ""
    transposed: bool = False
    linear_gates: bool = False
    gate_rows: bool = False
    flatten_nodes: bool = False
    shortcut_first: bool = False
    identities: bool = False
    fix_gamma: bool = False
    softmax: bool = False
    dtype: str = "float32"


def source_model(config: ResNeXtConfig, spelling: Spelling | None = None) -> SourceModel:
    """The network as a reader would give it; its input is ``data``."""
    builder = GraphBuilder(spelling or Spelling())
    value = builder.network(config)
    return builder.model(value)


def as_spelled(config: ResNeXtConfig, spelling: Spelling) -> ResNeXtConfig:
    """The configuration that a graph in this spelling has: that of a scale alone has no statistics."""
    found = _without_statistics(config) if spelling.norms == "scale" else config
    assert isinstance(found, ResNeXtConfig)
    return found


def _without_statistics(value: Any) -> Any:
    if isinstance(value, NormConfig):
        return NormConfig(channels=value.channels, eps=0.0)
    if isinstance(value, tuple):
        return tuple(map(_without_statistics, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _without_statistics(getattr(value, field.name)) for field in fields(value)}
        )
    return value


def with_attrs(model: SourceModel, kind: type[Attrs], number: int = 0, /, **changes: Any) -> SourceModel:
    """The source with other attributes in one node: the first, second ... of a kind."""
    nodes = list(model.graph.nodes)
    place = [place for place, node in enumerate(nodes) if isinstance(node.attrs, kind)][number]
    nodes[place] = replace(nodes[place], attrs=replace(nodes[place].attrs, **changes))
    return replace(model, graph=replace(model.graph, nodes=tuple(nodes)))


def in_branches(block: BlockConfig, spelling: Spelling) -> bool:
    """Whether a block is spelled in branches: whether its convolutions let it."""
    groups = [unit.conv.groups for unit in block.units]
    match spelling.figure:
        case "a":
            return len(groups) == 3 and groups[0] == groups[2] == 1 < groups[1]
        case "b":
            return len(groups) > 1 and groups[0] == 1 < groups[1]
        case "d":
            return len(groups) > 1 and groups[1] > 1
        case _:
            return False


def _one_of(branches: int, unit: UnitConfig) -> UnitConfig:
    """What a unit is in one of the branches: a first one reads all channels, a grouped one those of its group."""
    conv = unit.conv
    channels = conv.in_channels if conv.groups == 1 else conv.in_channels // branches
    norm = replace(unit.norm, channels=unit.norm.channels // branches) if unit.norm else None
    return replace(
        unit,
        norm=norm,
        conv=replace(conv, in_channels=channels, out_channels=conv.out_channels // branches, groups=1),
    )


class GraphBuilder:
    """Nodes and tensors, added one by one; each method returns the value that the last node writes."""

    def __init__(self, spelling: Spelling | None = None) -> None:
        self.spelling = spelling or Spelling()
        self.nodes: list[Node] = []
        self.tensors: dict[str, Array] = {}

    def model(self, *outputs: str, inputs: tuple[str, ...] = ("data",)) -> SourceModel:
        return SourceModel(
            graph=Graph(nodes=tuple(self.nodes), inputs=inputs, outputs=outputs),
            tensors=store(self.tensors),
            origin=Origin(framework="made", version=None, files={"symbol": SYMBOL, "params": PARAMS}),
        )

    def op(self, attrs: Attrs, *inputs: str, op: str = "", params: dict[Role, str] | None = None) -> str:
        number = len(self.nodes)
        self.nodes.append(
            Node(
                name=f"n{number}",
                op=op or type(attrs).__name__,
                attrs=attrs,
                inputs=inputs,
                outputs=(f"v{number}",),
                params=params or {},
            )
        )
        return f"v{number}"

    def tensor(self, values: Array) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = values.astype(self.spelling.dtype)
        return name

    def values(self, *shape: int) -> Array:
        """Values in (-1, 1), unlike those of any other tensor."""
        return ramp(*shape, phase=0.1234567 * (1 + len(self.tensors)))

    def away_from_zero(self, *shape: int, at_least: float) -> Array:
        values = self.values(*shape)
        return np.copysign(at_least + (1 - at_least) * np.abs(values), values)

    # The layers

    def conv(self, config: ConvConfig, value: str, *, spread: float = 1.0) -> str:
        """A convolution whose output has a standard deviation of about ``spread``, for inputs of about 1."""
        shape = config.weight_shape
        scale = spread * math.sqrt(3 / math.prod(shape[1:]))
        params = {Role.WEIGHT: self.tensor(scale * self.values(*shape))}
        if config.bias:
            params[Role.BIAS] = self.tensor(0.3 * spread * self.away_from_zero(config.out_channels, at_least=0.2))
        attrs = Conv(
            out_channels=config.out_channels,
            kernel=config.kernel,
            stride=config.stride,
            padding=config.padding,
            dilation=config.dilation,
            groups=config.groups,
            bias=config.bias,
        )
        return self.op(attrs, value, params=params)

    def norm(self, config: NormConfig, value: str) -> str:
        if self.spelling.norms == "scale":
            return self.scale(config.channels, value)
        whole = self.spelling.norms == "whole"
        attrs = BatchNorm(
            eps=config.eps,
            momentum=float(1 - Decimal(repr(config.momentum))),
            fix_gamma=whole and self.spelling.fix_gamma,
            gamma=whole,
            beta=whole,
            factor=self.spelling.factor is not None,
        )
        affine = self.affine(config.channels) if whole else {}
        value = self.op(attrs, value, params=affine | self.statistics(config.channels))
        return self.scale(config.channels, value) if self.spelling.norms == "apart" else value

    def scale(self, channels: int, value: str) -> str:
        params = self.affine(channels)
        if not self.spelling.scale_bias:
            del self.tensors[params.pop(Role.BETA)]
        return self.op(Scale(axis=self.spelling.scale_axis, bias=self.spelling.scale_bias), value, params=params)

    def affine(self, channels: int) -> dict[Role, str]:
        return {
            Role.GAMMA: self.tensor(self.away_from_zero(channels, at_least=0.5)),
            Role.BETA: self.tensor(0.3 * self.away_from_zero(channels, at_least=0.2)),
        }

    def statistics(self, channels: int) -> dict[Role, str]:
        factor = self.spelling.factor
        mean = 0.05 * self.away_from_zero(channels, at_least=0.2)
        variance = 1e-3 * 10 ** (0.5 + 0.5 * self.values(channels))
        stored = {Role.MEAN: self.tensor((factor or 1) * mean), Role.VAR: self.tensor((factor or 1) * variance)}
        return stored | ({} if factor is None else {Role.FACTOR: self.tensor(np.array([factor]))})

    def unit(self, config: UnitConfig, value: str) -> str:
        # Behind it the normalisation divides by a standard deviation of 0.03 to 0.1.
        divided = config.norm is not None and self.spelling.norms != "scale"
        return self.after_conv(config, self.conv(config.conv, value, spread=0.05 if divided else 1.0))

    def after_conv(self, config: UnitConfig, value: str) -> str:
        if config.norm:
            value = self.norm(config.norm, value)
        return self.path(self.op(RELU, value) if config.relu else value)

    def pool(self, config: PoolConfig | None, value: str) -> str:
        if config is None:
            return value
        attrs = Pool(
            kind=PoolKind(config.kind),
            kernel=config.kernel,
            stride=config.stride,
            padding=config.padding,
            ceil=config.ceil_mode,
            count_include_pad=config.count_include_pad,
            global_pool=config.global_pool,
        )
        return self.path(self.op(attrs, value))

    def excitation(self, config: SqueezeExcitationConfig, value: str) -> str:
        gate = self.op(Pool(kind=PoolKind.AVERAGE, global_pool=True), value)
        gate = self.op(RELU, self.gate_layer(gate, config.channels, config.reduced, bias=config.bias[0]))
        gate = self.gate_layer(gate, config.reduced, config.channels, bias=config.bias[1])
        gate = self.op(Activation(kind=ActivationKind.SIGMOID), gate)
        if self.spelling.linear_gates and self.spelling.gate_rows:
            return self.op(Scale(axis=0, bias=False), value, gate)
        if self.spelling.linear_gates:
            gate = self.op(Reshape(shape=(0, 0, 1, 1)), gate)
        return self.op(Multiply(), *((gate, value) if self.spelling.shortcut_first else (value, gate)))

    def gate_layer(self, value: str, channels: int, out: int, *, bias: bool) -> str:
        if self.spelling.linear_gates:
            return self.linear(value, channels, out, bias=bias)
        return self.conv(ConvConfig(in_channels=channels, out_channels=out, kernel=(1, 1), bias=bias), value)

    def linear(self, value: str, features: int, out: int, *, bias: bool) -> str:
        if self.spelling.flatten_nodes:
            value = self.op(Flatten(), value)
        shape = (features, out) if self.spelling.transposed else (out, features)
        params = {Role.WEIGHT: self.tensor(math.sqrt(3 / features) * self.values(*shape))}
        if bias:
            params[Role.BIAS] = self.tensor(0.3 * self.away_from_zero(out, at_least=0.2))
        axis = -1 if self.spelling.flatten_nodes else 1
        return self.op(
            Linear(out_features=out, bias=bias, axis=axis, transpose=self.spelling.transposed), value, params=params
        )

    def sum(self, *terms: str) -> str:
        if self.spelling.tree and len(terms) > 2:
            return self.sum(self.sum(*terms[:-2]), self.op(Add(), *terms[-2:]))
        return self.op(Add(), *terms) if len(terms) > 1 else terms[0]

    # The network

    def block(self, config: BlockConfig, fork: str) -> str:
        if self.spelling.shortcut_first:
            shortcut = self.downsample(config.downsample, fork)
            residual = self.residual(config, fork)
            terms = [*[shortcut] * config.shortcuts, residual]
        else:
            residual = self.residual(config, fork)
            shortcut = self.downsample(config.downsample, fork)
            terms = [residual, *[shortcut] * config.shortcuts]
        return self.path(self.op(RELU, self.sum(*terms)))

    def residual(self, config: BlockConfig, value: str) -> str:
        value = (
            self.branches(config.units, value)
            if in_branches(config, self.spelling)
            else self.units(config.units, value)
        )
        return self.excitation(config.squeeze_excitation, value) if config.squeeze_excitation else value

    def units(self, configs: Sequence[UnitConfig], value: str) -> str:
        for unit in configs:
            value = self.unit(unit, value)
        return value

    def branches(self, units: tuple[UnitConfig, ...], value: str) -> str:
        """The units of a residual, in as many branches as the second convolution has groups."""
        first, grouped, *last = units
        count = grouped.conv.groups
        if self.spelling.figure == "d":
            parts = self.split(self.unit(first, value), count)
            ends = [self.unit(_one_of(count, grouped), part) for part in parts]
        else:
            each = [_one_of(count, first), _one_of(count, grouped)]
            ends = [self.units(each, value) for _ in range(count)]
        if self.spelling.figure == "a":
            (end,) = last
            conv = replace(end.conv, in_channels=end.conv.in_channels // count)
            return self.after_conv(end, self.sum(*(self.conv(conv, branch, spread=0.05) for branch in ends)))
        return self.units(last, self.op(Concat(axis=1), *ends))

    def split(self, value: str, parts: int) -> list[str]:
        whole = self.op(Split(axis=1, parts=parts), value)
        values = [f"{whole}.{part}" for part in range(parts)]
        self.nodes[-1] = replace(self.nodes[-1], outputs=tuple(values))
        return values

    def downsample(self, config: DownsampleConfig | None, value: str) -> str:
        if config is None:
            return value
        return self.unit(config.unit, self.pool(config.pool, value))

    def network(self, config: ResNeXtConfig) -> str:
        value = self.path("data")
        if config.data_norm:
            value = self.norm(config.data_norm, value)
        for unit in config.stem:
            value = self.unit(unit, value)
        value = self.pool(config.stem_pool, value)
        for block in config.blocks():
            value = self.block(block, value)
        value = self.pool(config.head.pool, value)
        return self.classifier(config, value)

    def classifier(self, config: ResNeXtConfig, value: str) -> str:
        head, spelling = config.head, self.spelling
        if spelling.conv_head and head.pool:  # which leaves one cell
            features, classes = head.in_features, head.classes
            dense = ConvConfig(in_channels=features, out_channels=classes, kernel=(1, 1), bias=head.bias)
            value = self.conv(dense, value)
        else:
            value = self.linear(value, head.in_features, head.classes, bias=head.bias)
        value = self.op(Flatten(), value) if spelling.flat == "before softmax" else value
        value = self.op(Softmax(axis=1), value) if spelling.softmax else value
        return self.op(Flatten(), value) if spelling.flat == "behind softmax" else value

    def path(self, value: str) -> str:
        return self.op(Identity(), value) if self.spelling.identities else value
