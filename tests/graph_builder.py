"""Source models made from a configuration: the inverse of the matcher, without a file and without a framework.

The graph is spelled in one of the ways that frameworks have for the same network; names mean nothing in it (`n17`,
`t4`). Values are the same on every machine, no two tensors are alike, and they show mistakes: variances of 1e-3 ..
1e-2, gammas away from 1, means and biases away from 0, activations of order one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from single_node import ramp, store

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Conv,
    Flatten,
    Graph,
    Identity,
    Linear,
    Multiply,
    Node,
    Origin,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Softmax,
    SourceModel,
)
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
        linear_gates: the layers of squeeze-and-excitation are fully connected.
        flatten_nodes: a Flatten before each fully connected layer; else the layer flattens by itself.
        shortcut_first: the shortcut is the first term of each sum, and its branch comes first in the graph.
        identities: an Identity (a copy, a dropout, a cast) behind each operator of the path.
        fix_gamma: the stored gammas are ignored.
        softmax: the head is a softmax of the logits.
        dtype: of the stored tensors.
    """

    linear_gates: bool = False
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


def with_attrs(model: SourceModel, kind: type[Attrs], number: int = 0, /, **changes: Any) -> SourceModel:
    """The source with other attributes in one node: the first, second ... of a kind."""
    nodes = list(model.graph.nodes)
    place = [place for place, node in enumerate(nodes) if isinstance(node.attrs, kind)][number]
    nodes[place] = replace(nodes[place], attrs=replace(nodes[place].attrs, **changes))
    return replace(model, graph=replace(model.graph, nodes=tuple(nodes)))


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
        shape = (config.channels,)
        variance = 1e-3 * 10 ** (0.5 + 0.5 * self.values(*shape))
        params = {
            Role.GAMMA: self.tensor(self.away_from_zero(*shape, at_least=0.5)),
            Role.BETA: self.tensor(0.3 * self.away_from_zero(*shape, at_least=0.2)),
            Role.MEAN: self.tensor(0.05 * self.away_from_zero(*shape, at_least=0.2)),
            Role.VAR: self.tensor(variance),
        }
        momentum = float(1 - Decimal(repr(config.momentum)))
        attrs = BatchNorm(eps=config.eps, momentum=momentum, fix_gamma=self.spelling.fix_gamma)
        return self.op(attrs, value, params=params)

    def unit(self, config: UnitConfig, value: str) -> str:
        # Behind it the normalisation divides by a standard deviation of 0.03 to 0.1.
        value = self.conv(config.conv, value, spread=0.05 if config.norm else 1.0)
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
        params = {Role.WEIGHT: self.tensor(math.sqrt(3 / features) * self.values(out, features))}
        if bias:
            params[Role.BIAS] = self.tensor(0.3 * self.away_from_zero(out, at_least=0.2))
        attrs = Linear(out_features=out, bias=bias, flatten=not self.spelling.flatten_nodes)
        return self.op(attrs, value, params=params)

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
        return self.path(self.op(RELU, self.op(Add(), *terms)))

    def residual(self, config: BlockConfig, value: str) -> str:
        for unit in config.units:
            value = self.unit(unit, value)
        return self.excitation(config.squeeze_excitation, value) if config.squeeze_excitation else value

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
        value = self.linear(value, config.head.in_features, config.head.classes, bias=config.head.bias)
        return self.op(Softmax(axis=1), value) if self.spelling.softmax else value

    def path(self, value: str) -> str:
        return self.op(Identity(), value) if self.spelling.identities else value
