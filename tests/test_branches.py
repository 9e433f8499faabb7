"""Figure 3 of the paper: branches become one grouped convolution, where they are branches, and no value changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from branch_nets import Net, convs, kinds, merged
from graph_builder import RELU
from single_node import ramp, store

from resnext_convert.converter.branches import Stack, merge_branches
from resnext_convert.converter.graph import (
    Add,
    BatchNorm,
    Concat,
    Conv,
    Graph,
    Node,
    Role,
    Slice,
)
from resnext_convert.converter.normalize import normalize
from resnext_convert.converter.tensors import TensorStore


def sources(graph: Graph, stacks: Mapping[str, Stack], node: int, role: Role) -> Stack:
    return stacks[graph.nodes[node].params[role]]


# The forms


def test_branches_that_are_summed() -> None:
    net = Net()
    total = net.op(Add(), *(net.last(net.branch("data")) for _ in range(4)))
    model, graph, stacks = merged(net, total)
    assert kinds(graph) == ["Conv", "BatchNorm", "Activation", "Conv", "BatchNorm", "Activation", "Conv"]
    assert convs(graph) == [(8, 1), (8, 4), (8, 1)]
    assert graph.nodes[-1].outputs == (total,)
    each = [node for node in model.graph.nodes if isinstance(node.attrs, Conv)]
    for place, (number, axis) in enumerate([(0, 0), (3, 0), (6, 1)]):
        weights = tuple(conv.params[Role.WEIGHT] for conv in each[place::3])
        assert sources(graph, stacks, number, Role.WEIGHT) == Stack(sources=weights, axis=axis)
    assert {stack.axis for stack in stacks.values()} == {0, 1}


def test_branches_that_are_concatenated() -> None:
    net = Net()
    joined = net.op(Concat(axis=1), *(net.branch("data") for _ in range(4)))
    _, graph, _ = merged(net, net.c(joined, 8, 8, kernel=1))
    assert kinds(graph) == ["Conv", "BatchNorm", "Activation", "Conv", "BatchNorm", "Activation", "Conv"]
    assert convs(graph) == [(8, 1), (8, 4), (8, 1)]
    assert graph.nodes[-2].outputs == (joined,)


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("points", [(), (2, 4, 6)])
def test_parts_that_are_convolved_and_concatenated(points: tuple[int, ...], axis: int) -> None:
    net = Net()
    parts = net.cut(net.r("data"), points=points, axis=axis)
    joined = net.op(Concat(axis=axis), *(net.c(part, bias=True) for part in parts))
    _, graph, stacks = merged(net, joined)
    assert kinds(graph) == ["Activation", "Conv"]
    assert convs(graph) == [(8, 4)]
    assert graph.nodes[1].inputs == graph.nodes[0].outputs
    assert graph.nodes[1].outputs == (joined,)
    assert sources(graph, stacks, 1, Role.BIAS).axis == 0


def test_slices_are_parts() -> None:
    """MXNet's other way to cut."""
    net = Net()
    parts = [net.op(Slice(bounds=((None, None, None), (begin, begin + 2, None))), "data") for begin in (0, 2, 4, 6)]
    model = net.model(net.op(Concat(axis=1), *map(net.c, parts)))
    graph, _ = merge_branches(normalize(model.graph), model.tensors)
    assert convs(graph) == [(8, 4)]
    assert graph.nodes[0].inputs == ("data",)


def test_parts_that_are_convolved_and_summed() -> None:
    net = Net()
    total = net.op(Add(), *reversed([net.last(part) for part in net.cut("data")]))
    _, graph, stacks = merged(net, total)
    assert convs(graph) == [(8, 1)]
    assert sources(graph, stacks, 0, Role.WEIGHT).axis == 1


def test_groups_within_branches() -> None:
    net = Net()
    fork = [net.c(net.c("data", 8, 4, kernel=1), 4, 4, groups=2) for _ in range(3)]
    cut = [net.c(part, 4, 4, groups=2) for part in net.cut("data", 2)]
    first, second = net.op(Concat(axis=1), *fork), net.op(Concat(axis=1), *cut)
    _, graph, _ = merged(net, first, second)
    assert sorted(convs(graph)) == [(8, 4), (12, 1), (12, 6)]


@pytest.mark.parametrize("join", [Add(), Concat(axis=1)])
def test_the_order_of_the_branches_is_that_of_the_join(join: Add | Concat) -> None:
    net = Net()
    ends = [net.c(net.c("data", 8, kernel=1)) for _ in range(4)]
    out = net.op(join, *(ends[number] for number in (2, 0, 3, 1)))
    model, graph, stacks = merged(net, out)
    each = [node.params[Role.WEIGHT] for node in model.graph.nodes[:8:2]]
    assert sources(graph, stacks, 0, Role.WEIGHT).sources == tuple(each[number] for number in (2, 0, 3, 1))


def test_biases_behind_a_sum_are_added() -> None:
    net = Net()
    ends = [net.c(net.c("data", 8, kernel=1, bias=True), 2, 8, bias=True) for _ in range(3)]
    _, graph, stacks = merged(net, net.op(Add(), *ends))
    assert sources(graph, stacks, 0, Role.BIAS).axis == 0
    assert sources(graph, stacks, 1, Role.BIAS).axis is None
    assert len(sources(graph, stacks, 1, Role.BIAS).sources) == 3


def test_what_else_is_summed_stays() -> None:
    net = Net()
    ends = [net.last(net.branch("data")) for _ in range(3)]
    shortcut = net.b(net.c("data", 8, 8, kernel=1), 8)
    total = net.op(Add(), shortcut, *ends, shortcut)
    _, graph, _ = merged(net, total)
    residual = graph.nodes[-2].outputs[0]
    assert graph.nodes[-1].inputs == (shortcut, residual, shortcut)
    assert isinstance(graph.nodes[-2].attrs, Conv)
    assert residual not in net.model(total).graph.producers


def test_two_kinds_of_branches_in_one_sum() -> None:
    net = Net()
    ends = [net.last(net.branch("data")) for _ in range(2)]
    others = [net.last(net.r(net.c("data", 8))) for _ in range(3)]
    _, graph, _ = merged(net, net.op(Add(), ends[0], *others, ends[1]))
    assert convs(graph) == [(4, 1), (4, 2), (8, 1), (6, 1), (8, 1)]
    assert graph.nodes[-1].inputs == (graph.nodes[6].outputs[0], graph.nodes[9].outputs[0])


def test_statistics_with_factors_and_scales_alone() -> None:
    net = Net()
    net.spelling = replace(net.spelling, norms="apart", factor=999.98, scale_bias=False, scale_axis=-3)
    ends = [net.r(net.b(net.c("data", 8))) for _ in range(4)]
    model = net.model(net.op(Concat(axis=1), *ends))
    graph, stacks = merge_branches(model.graph, model.tensors)
    assert kinds(graph) == ["Conv", "BatchNorm", "Scale", "Activation"]
    norms = [node for node in model.graph.nodes if isinstance(node.attrs, BatchNorm)]
    factors = tuple(norm.params[Role.FACTOR] for norm in norms)
    assert sources(graph, stacks, 1, Role.FACTOR) == Stack(sources=factors, axis=0)
    assert set(graph.nodes[2].params) == {Role.GAMMA}


def test_a_plain_network_is_as_it_was() -> None:
    net = Net()
    shortcut = net.b(net.c("data", 8, 8, kernel=1), 8)
    residual = net.b(net.c(net.r(net.b(net.c("data", 8, 8, kernel=1), 8)), 8, 8, groups=4), 8)
    model, graph, stacks = merged(net, net.r(net.op(Add(), residual, shortcut)))
    assert graph.nodes == model.graph.nodes
    assert stacks == {}


def test_a_head_within_a_branch_keeps_it() -> None:
    net = Net()
    ends = [net.branch("data") for _ in range(2)]
    model, graph, _ = merged(net, net.op(Concat(axis=1), *ends), net.nodes[1].outputs[0])
    assert graph.nodes == model.graph.nodes


def test_the_others_are_merged_all_the_same() -> None:
    """One branch of three is unlike the others."""
    net = Net()
    ends = [net.last(net.c("data", 8)), net.last(net.c("data", 8, kernel=1)), net.last(net.c("data", 8))]
    _, graph, _ = merged(net, net.op(Add(), *ends))
    assert convs(graph) == [(2, 1), (8, 1), (4, 1), (8, 1)]


# Names


def test_new_names_are_new() -> None:
    """Whatever the names of a hostile file: nothing is taken for something else."""
    net = Net()
    joined = net.op(Concat(axis=1), *(net.c(net.c("data", 8)) for _ in range(2)))
    model = net.model(joined)
    nodes = list(model.graph.nodes)
    nodes.append(Node(name="odd", op="", attrs=RELU, inputs=("data",), outputs=("v0 .. v2",)))
    nodes.append(Node(name="odder", op="", attrs=RELU, inputs=("v0 .. v2",), outputs=("t0 .. t2",)))
    graph = replace(model.graph, nodes=tuple(nodes))
    tensors = TensorStore({**model.tensors, **store({"t0 .. t2": ramp(3), "t0 .. t2'": ramp(3)})}, "made.params")
    found, stacks = merge_branches(graph, tensors)
    assert len(found.producers) == len(found.nodes)
    assert not set(stacks) & set(tensors)
    assert {name for node in found.nodes for name in node.params.values()} == set(stacks)


def test_many_branches_take_no_time() -> None:
    net = Net()
    value = "data"
    for _ in range(20):
        value = net.op(Add(), *(net.last(net.r(net.c(value, 8, kernel=1))) for _ in range(250)))
    model = net.model(value)
    started = time.process_time()
    graph, _ = merge_branches(model.graph, model.tensors)
    assert time.process_time() - started < 2
    assert len(graph.nodes) == 60
