"""What are no branches, or none that a grouped convolution could be: they stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from branch_nets import Net, merged

from resnext_convert.converter.branches import merge_branches
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    BatchNorm,
    Concat,
    Multiply,
    Pool,
    PoolKind,
    Role,
    Scale,
)

POOL = Pool(kind=PoolKind.MAX, kernel=(3, 3), padding=(1, 1))


def a_residual_beside_its_projection(net: Net) -> str:
    return net.op(Add(), net.c("data", 8, 8), net.c("data", 8, 8))


def a_norm_before_the_sum(net: Net) -> str:
    return net.op(Add(), *(net.b(net.last(net.branch("data")), 8) for _ in range(2)))


def a_relu_before_the_sum(net: Net) -> str:
    return net.op(Add(), *(net.r(net.last(net.branch("data"))) for _ in range(2)))


def weights_of_the_sum(net: Net) -> str:
    return net.op(Add(coefficients=(0.5, 0.5)), *(net.last(net.branch("data")) for _ in range(2)))


def a_product(net: Net) -> str:
    return net.op(Multiply(), *(net.last(net.branch("data")) for _ in range(2)))


def another_kernel(net: Net) -> str:
    return net.op(Add(), net.last(net.c("data", 8, kernel=3)), net.last(net.c("data", 8, kernel=1)))


def another_eps(net: Net) -> str:
    one, two = net.branch("data"), net.branch("data")
    place = max(place for place, node in enumerate(net.nodes) if isinstance(node.attrs, BatchNorm))
    net.nodes[place] = replace(net.nodes[place], attrs=BatchNorm(eps=2e-3, momentum=0.9))
    return net.op(Concat(axis=1), one, two)


def another_length(net: Net) -> str:
    return net.op(Concat(axis=1), net.c(net.c("data", 8)), net.c(net.r(net.c("data", 8))))


def another_input(net: Net) -> str:
    return net.op(Concat(axis=1), net.branch("data"), net.branch(net.r("data")))


def another_join(net: Net) -> str:
    ends = [net.last(net.branch("data")) for _ in range(2)]
    return net.op(Concat(axis=1), net.op(Add(), ends[0], "data"), net.op(Add(), ends[1], "data"))


def something_read_twice(net: Net) -> str:
    one, two = (net.branch("data") for _ in range(2))
    inner = net.nodes[0].outputs[0]
    return net.op(Concat(axis=1), one, two, net.r(inner))


def an_end_that_is_read_twice(net: Net) -> str:
    one, two = (net.branch("data") for _ in range(2))
    return net.op(Concat(axis=1), one, two, one)


def a_join_of_something_else_too(net: Net) -> str:
    return net.op(Concat(axis=1), *(net.branch("data") for _ in range(2)), "data")


def a_join_along_the_height(net: Net) -> str:
    return net.op(Concat(axis=2), *(net.branch("data") for _ in range(2)))


def groups_in_the_first(net: Net) -> str:
    return net.op(Concat(axis=1), *(net.c(net.c("data", 8, groups=2)) for _ in range(2)))


def groups_in_the_last(net: Net) -> str:
    return net.op(Add(), *(net.c(net.c("data", 8), groups=2) for _ in range(2)))


def a_pooling_inside(net: Net) -> str:
    return net.op(Concat(axis=1), *(net.op(POOL, net.c("data", 8)) for _ in range(2)))


def slopes_inside(net: Net) -> str:
    def prelu(value: str) -> str:
        return net.op(Activation(kind=ActivationKind.PRELU), value, params={Role.WEIGHT: net.tensor(net.values(2))})

    return net.op(Concat(axis=1), *(prelu(net.c("data", 8)) for _ in range(2)))


def a_scale_by_another_value(net: Net) -> str:
    def gated(value: str) -> str:
        return net.op(Scale(axis=0, bias=False), value, value)

    return net.op(Concat(axis=1), *(gated(net.c("data", 8)) for _ in range(2)))


def a_scale_of_rows(net: Net) -> str:
    def scaled(value: str) -> str:
        return net.op(Scale(axis=2, bias=False), value, params={Role.GAMMA: net.tensor(net.values(7))})

    return net.op(Concat(axis=1), *(scaled(net.c("data", 8)) for _ in range(2)))


def parts_in_another_order(net: Net) -> str:
    ends = [net.c(part) for part in net.cut("data")]
    return net.op(Concat(axis=1), *reversed(ends))


def parts_of_other_sizes(net: Net) -> str:
    ends = [net.c(part, size) for part, size in zip(net.cut("data", 3, (2, 6)), (2, 4, 2), strict=True)]
    return net.op(Concat(axis=1), *ends)


def a_last_part_of_another_size(net: Net) -> str:
    ends = [net.c(part, size) for part, size in zip(net.cut("data", 3, (2, 4)), (2, 2, 4), strict=True)]
    return net.op(Concat(axis=1), *ends)


def a_part_that_is_not_convolved(net: Net) -> str:
    parts = net.cut("data")
    return net.op(Concat(axis=1), *(net.c(part) for part in parts[:3]), parts[3])


def a_part_that_is_not_used(net: Net) -> str:
    return net.op(Concat(axis=1), *(net.c(part) for part in net.cut("data")[:3]))


def a_part_that_is_used_twice(net: Net) -> str:
    parts = net.cut("data")
    return net.op(Concat(axis=1), *(net.c(part) for part in parts), net.r(parts[0]))


def rows_cut(net: Net) -> str:
    parts = net.cut("data", 7, axis=2)
    return net.op(Concat(axis=1), *(net.c(part, 8) for part in parts))


@pytest.mark.parametrize(
    "build",
    [
        a_residual_beside_its_projection,
        a_norm_before_the_sum,
        a_relu_before_the_sum,
        weights_of_the_sum,
        a_product,
        another_kernel,
        another_eps,
        another_length,
        another_input,
        another_join,
        something_read_twice,
        an_end_that_is_read_twice,
        a_join_of_something_else_too,
        a_join_along_the_height,
        groups_in_the_first,
        groups_in_the_last,
        a_pooling_inside,
        slopes_inside,
        a_scale_by_another_value,
        a_scale_of_rows,
        parts_in_another_order,
        parts_of_other_sizes,
        a_last_part_of_another_size,
        a_part_that_is_not_convolved,
        a_part_that_is_not_used,
        a_part_that_is_used_twice,
        rows_cut,
    ],
)
def test_what_stays(build: Callable[[Net], str]) -> None:
    net = Net()
    out = build(net)
    model, graph, stacks = merged(net, out)
    assert graph.nodes == model.graph.nodes
    assert stacks == {}


def test_parts_that_do_not_fit_their_weights_stay() -> None:
    """No engine runs that."""
    net = Net()
    ends = [net.c(part) for part in net.cut("data", 3, (2, 5))]
    model = net.model(net.op(Concat(axis=1), *ends))
    assert merge_branches(model.graph, model.tensors)[0].nodes == model.graph.nodes
