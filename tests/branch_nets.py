"""Networks of branches, built layer by layer, and what merging makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from graph_builder import RELU, GraphBuilder
from single_node import ROUNDING, of_peak, ramp, store

from resnext_convert.converter.branches import Stack, merge_branches
from resnext_convert.converter.graph import (
    Conv,
    Graph,
    SourceModel,
    Split,
)
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.config import ConvConfig, NormConfig
from resnext_convert.converter.tensors import TensorStore


class Net(GraphBuilder):
    """Branches of two channels in and out of a value of eight, by the shortest names."""

    def c(
        self, value: str, channels: int = 2, out: int = 2, *, kernel: int = 3, groups: int = 1, bias: bool = False
    ) -> str:
        config = ConvConfig(
            in_channels=channels,
            out_channels=out,
            kernel=(kernel,) * 2,
            padding=(kernel // 2,) * 2,
            groups=groups,
            bias=bias,
        )
        return self.conv(config, value)

    def b(self, value: str, channels: int = 2) -> str:
        return self.norm(NormConfig(channels=channels, eps=1e-3), value)

    def r(self, value: str) -> str:
        return self.op(RELU, value)

    def first(self, value: str) -> str:
        """1x1 from all channels, as each branch of the forms (a) and (b) begins."""
        return self.r(self.b(self.c(value, 8, kernel=1)))

    def branch(self, value: str) -> str:
        """The whole branch of form (b)."""
        return self.r(self.b(self.c(self.first(value))))

    def last(self, value: str) -> str:
        """1x1 to all channels, as each branch of form (a) ends."""
        return self.c(value, 2, 8, kernel=1)

    def cut(self, value: str, parts: int = 4, points: tuple[int, ...] = (), axis: int = 1) -> list[str]:
        whole = self.op(Split(axis=axis, parts=parts, points=points), value)
        values = [f"{whole}.{part}" for part in range(parts)]
        self.nodes[-1] = replace(self.nodes[-1], outputs=tuple(values))
        return values


def merged(net: Net, *outputs: str) -> tuple[SourceModel, Graph, Mapping[str, Stack]]:
    """The network, and what becomes of it; every value that is in both is the same in both."""
    model = net.model(*outputs)
    graph, stacks = merge_branches(model.graph, model.tensors)
    values = [value for value in graph.producers if value in model.graph.producers]
    assert set(outputs) <= {*values, "data"}
    image = ramp(2, 8, 7, 5)
    before = ReferenceExecutor(model.graph, model.tensors).run({"data": image}, values)
    after = ReferenceExecutor(graph, written(stacks, model.tensors)).run({"data": image}, values)
    assert max(of_peak(after[value], before[value]) for value in values) < ROUNDING
    return model, graph, stacks


def written(stacks: Mapping[str, Stack], tensors: TensorStore) -> TensorStore:
    """The tensors with each stack as if a file held it."""
    made = {}
    for name, stack in stacks.items():
        parts = [tensors[source].float64() for source in stack.sources]
        made[name] = np.sum(parts, axis=0) if stack.axis is None else np.concatenate(parts, stack.axis)
    return TensorStore({**tensors, **store(made)}, tensors.file)


def kinds(graph: Graph) -> list[str]:
    return [type(node.attrs).__name__ for node in graph.nodes]


def convs(graph: Graph) -> list[tuple[int, int]]:
    """(output channels, groups) of each convolution."""
    return [(node.attrs.out_channels, node.attrs.groups) for node in graph.nodes if isinstance(node.attrs, Conv)]
