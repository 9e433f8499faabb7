"""Tiny networks under the four naming schemes of weights without a graph, each with the graph that it lacks.

The names are made as the programs make them: those with numbers by counters that go on while a block is built. The
graph is written as a symbol file whose variables have the same names, so that the usual reader can be asked for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mxnet_graphs import document, written
from mxnet_params_writer import Array, dense, params_list

from resnext_convert.converter.mxnet.params import ParamsFile, parse_params
from resnext_convert.converter.origin import GraphFacts

Naming = Literal["gluon", "prefix", "gluoncv2", "simpledet"]
NAMINGS: tuple[Naming, ...] = ("gluon", "prefix", "gluoncv2", "simpledet")

EPS = 1e-3
FACTS = GraphFacts(eps=EPS, stem_pool="3x3 max, stride 2, padding 1")
CEIL = GraphFacts(eps=EPS, stem_pool="3x3 max, stride 2, size rounded up")
NONE = GraphFacts(eps=EPS, stem_pool="none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network.

    Attributes:
        depths: blocks of each stage.
        groups: of the 3x3 convolutions.
        stem: of one convolution, of three, or CIFAR's.
        stem_width: its output channels.
        gate: whether there is squeeze-and-excitation.
        projection: what the shortcuts of the second stage and later do.
        facts: what the names do not say.
        prefix: of the names with a prefix.
    """

    depths: tuple[int, ...] = (2, 1)
    groups: int = 2
    stem: Literal["7x7", "deep", "cifar"] = "7x7"
    stem_width: int = 4
    gate: bool = False
    projection: Literal["1x1", "3x3", "average"] = "1x1"
    facts: GraphFacts = FACTS
    prefix: str = "resnext0_"


SENET = Plan(stem="deep", gate=True, projection="3x3", facts=CEIL, prefix="senet3_", depths=(1, 2))
CIFAR = Plan(stem="cifar", facts=NONE, prefix="cifarresnext1_", depths=(1, 1, 2))


@dataclass
class Network:
    """The tensors by name, and the nodes of the symbol file."""

    tensors: dict[str, Array] = field(default_factory=dict)
    nodes: list[tuple[Any, ...]] = field(default_factory=list)

    def params(self, changes: Mapping[str, Array | None] | None = None) -> ParamsFile:
        """The tensors as a file; ``changes`` replaces some, and drops those that are None there."""
        return parse_params(memoryview(self.content(changes)), "net.params")

    def content(self, changes: Mapping[str, Array | None] | None = None) -> bytes:
        chosen = {**self.tensors, **(changes or {})}
        kept = {name: array for name, array in chosen.items() if array is not None}
        return params_list([dense(array.astype(np.float32)) for array in kept.values()], list(kept))

    def write(self, folder: Path, *, symbol: bool = False) -> Path:
        """``net.params`` in a folder, with ``net-symbol.json`` beside it if asked for."""
        folder.mkdir(exist_ok=True)
        (folder / "net.params").write_bytes(self.content())
        if symbol:
            (folder / "net-symbol.json").write_bytes(written(document(*self.nodes)))
        return folder / "net.params"


@dataclass(frozen=True)
class _Block:
    units: list[tuple[str, str]]
    gate: list[str]
    projection: tuple[str, str]


class _Names:
    """What the layers are called, in the order in which a program creates them."""

    def __init__(self, naming: Naming, plan: Plan) -> None:
        self.naming, self.plan = naming, plan

    def stem(self) -> list[tuple[str, str]]:
        count = 3 if self.plan.stem == "deep" else 1
        match self.naming:
            case "gluon":
                return [(f"features.{3 * i}", f"features.{3 * i + 1}") for i in range(count)]
            case "prefix":
                return [(f"{self.plan.prefix}conv{i}", f"{self.plan.prefix}batchnorm{i}") for i in range(count)]
            case "simpledet":
                return [("conv0", "bn0")]
        if self.plan.stem == "cifar":
            return [("features.0.conv", "features.0.bn")]
        parts = ["conv"] if count == 1 else ["conv1", "conv2", "conv3"]
        return [(f"features.0.{part}.conv", f"features.0.{part}.bn") for part in parts]

    def blocks(self, stage: int, depth: int) -> Iterator[_Block]:
        """The blocks of a stage (from 0)."""
        convs, norms = itertools.count(), itertools.count()
        first = {"7x7": 4, "deep": 10, "cifar": 3}[self.plan.stem]
        for number in range(depth):
            match self.naming:
                case "gluon":
                    start = f"features.{first + stage}.{number}"
                    places = (1, 2) if self.plan.projection == "average" and stage else (0, 1)
                    yield _Block(
                        [(f"{start}.body.{3 * i}", f"{start}.body.{3 * i + 1}") for i in range(3)],
                        [f"{start}.se.0", f"{start}.se.2"],
                        (f"{start}.downsample.{places[0]}", f"{start}.downsample.{places[1]}"),
                    )
                case "prefix":
                    start = f"{self.plan.prefix}stage{stage + 1}_"
                    units = [(f"{start}conv{next(convs)}", f"{start}batchnorm{next(norms)}") for _ in range(3)]
                    gate = [f"{start}conv{next(convs)}" for _ in range(2)] if self.plan.gate else []
                    projection = ("", "")
                    if number == 0:
                        projection = f"{start}conv{next(convs)}", f"{start}batchnorm{next(norms)}"
                    yield _Block(units, gate, projection)
                case "gluoncv2":
                    start = f"features.{stage + 1}.{number}"
                    yield _Block(
                        [(f"{start}.body.conv{i}.conv", f"{start}.body.conv{i}.bn") for i in (1, 2, 3)],
                        [f"{start}.se.conv1", f"{start}.se.conv2"],
                        (f"{start}.identity_conv.conv", f"{start}.identity_conv.bn"),
                    )
                case "simpledet":
                    start = f"stage{stage + 1}_unit{number + 1}_"
                    yield _Block(
                        [(f"{start}conv{i}", f"{start}bn{i}") for i in (1, 2, 3)], [], (f"{start}sc", f"{start}sc_bn")
                    )

    def classifier(self) -> str:
        match self.naming:
            case "gluon":
                return "output"
            case "prefix":
                return f"{self.plan.prefix}dense0"
            case "gluoncv2":
                return "output.2" if self.plan.stem == "deep" else "output.1"
        return "fc1"


class _Builder:
    """Layers as tensors and as nodes of a symbol file; values are node numbers."""

    def __init__(self, naming: Naming, *, kinds: bool) -> None:
        self.network = Network()
        self._naming = naming
        self._kinds = kinds
        self._random = np.random.default_rng(7)
        self._ops = itertools.count()

    def variable(self, name: str) -> int:
        self.network.nodes.append(("null", name, []))
        return len(self.network.nodes) - 1

    def tensor(self, layer: str, leaf: str, *shape: int) -> int:
        separator = "." if self._naming in {"gluon", "gluoncv2"} else "_"
        kind = ""
        if leaf in {"mean", "var"}:
            kind = "aux:"
            leaf = f"{'moving' if self._naming == 'simpledet' else 'running'}_{leaf}"
        name = layer + separator + leaf
        values = self._random.uniform(0.3, 0.7, shape) * self._random.choice([-1, 1], shape)
        stored = f"{kind or 'arg:'}{name}" if self._kinds else name
        self.network.tensors[stored] = np.abs(values) if leaf.endswith("_var") else values
        return self.variable(name)

    def op(self, op: str, *inputs: int, **attributes: object) -> int:
        texts = {key: str(value) for key, value in attributes.items()}
        self.network.nodes.append((op, f"op{next(self._ops)}", list(inputs), texts))
        return len(self.network.nodes) - 1

    def conv(
        self, value: int, name: str, given: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1,
        bias: bool = False,
    ) -> int:  # fmt: skip
        weights = [self.tensor(name, "weight", out, given // groups, kernel, kernel)]
        weights += [self.tensor(name, "bias", out)] if bias else []
        square = {key: (side, side) for key, side in (("kernel", kernel), ("stride", stride), ("pad", kernel // 2))}
        return self.op("Convolution", value, *weights, num_filter=out, num_group=groups, no_bias=not bias, **square)

    def norm(self, value: int, name: str, channels: int) -> int:
        stored = [self.tensor(name, leaf, channels) for leaf in ("gamma", "beta", "mean", "var")]
        return self.op("BatchNorm", value, *stored, eps=EPS, fix_gamma=False)

    def relu(self, value: int) -> int:
        return self.op("Activation", value, act_type="relu")


def made(naming: Naming, plan: Plan | None = None, *, kinds: bool = False, classes: int = 5) -> Network:
    """A network; ``kinds``: its tensors have the prefixes ``arg:`` and ``aux:``."""
    plan = plan or Plan()
    names, builder = _Names(naming, plan), _Builder(naming, kinds=kinds)
    value, channels = builder.variable("data"), 3
    for number, (conv, norm) in enumerate(names.stem()):
        kernel = 7 if plan.stem == "7x7" else 3
        stride = 2 if number == 0 and plan.stem != "cifar" else 1
        value = builder.conv(value, conv, channels, plan.stem_width, kernel, stride=stride)
        channels = plan.stem_width
        value = builder.relu(builder.norm(value, norm, channels))
    if plan.facts.stem_pool != "none":
        rounding = {"pooling_convention": "full"} if plan.facts is CEIL else {"pad": (1, 1)}
        value = builder.op("Pooling", value, kernel=(3, 3), stride=(2, 2), pool_type="max", **rounding)
    for stage, depth in enumerate(plan.depths):
        for number, block in enumerate(names.blocks(stage, depth)):
            value = _block(builder, plan, block, value, channels, 8 << stage, stage=stage, number=number)
            channels = 8 << stage
    if naming == "gluoncv2":
        side = 8 if plan.stem == "cifar" else 7
        value = builder.op("Pooling", value, kernel=(side, side), stride=(1, 1), pool_type="avg")
    else:
        value = builder.op("Pooling", value, kernel=(1, 1), global_pool=True, pool_type="avg")
    stored = [
        builder.tensor(names.classifier(), "weight", classes, channels),
        builder.tensor(names.classifier(), "bias", classes),
    ]
    builder.op("FullyConnected", value, *stored, num_hidden=classes)
    return builder.network


def _block(
    builder: _Builder, plan: Plan, block: _Block, fork: int, channels: int, out: int, *, stage: int, number: int
) -> int:
    stride = 2 if stage and number == 0 else 1
    value = fork
    shapes = [(channels, 4, 1, 1), (4, 6, 3, plan.groups), (6, out, 1, 1)]
    for place, ((conv, norm), (given, width, kernel, groups)) in enumerate(zip(block.units, shapes, strict=True)):
        value = builder.conv(value, conv, given, width, kernel, stride=stride if place == 1 else 1, groups=groups)
        value = builder.norm(value, norm, width)
        value = builder.relu(value) if place < 2 else value
    if plan.gate:
        gate = builder.op("_contrib_AdaptiveAvgPooling2D", value, output_size=1)
        gate = builder.relu(builder.conv(gate, block.gate[0], out, 3, 1, bias=True))
        gate = builder.conv(gate, block.gate[1], 3, out, 1, bias=True)
        value = builder.op("broadcast_mul", value, builder.op("Activation", gate, act_type="sigmoid"))
    if number == 0:
        averages = plan.projection == "average" and stage > 0
        if averages:
            fork = builder.op(
                "Pooling", fork, kernel=(2, 2), stride=(2, 2), pool_type="avg", pooling_convention="full",
                count_include_pad=False,
            )  # fmt: skip
        kernel = 3 if plan.projection == "3x3" and stage else 1
        conv, norm = block.projection
        fork = builder.conv(fork, conv, channels, out, kernel, stride=1 if averages else stride)
        fork = builder.norm(fork, norm, out)
    return builder.relu(builder.op("elemwise_add", value, fork))
