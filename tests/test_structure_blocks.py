"""Each way in which a residual block can be none: refused at the node that does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_net import AVERAGE, NOT_HERE, Net, refused

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Concat,
    Multiply,
    Pool,
    PoolKind,
    Slice,
    Split,
    Unknown,
)


def build(wrong: Callable[[Net, str], tuple[str, str]], *, after: bool = True) -> tuple[Net, str, str]:
    """A network whose second block is made by ``wrong``: returns its output and the value where it is refused."""
    net = Net()
    out, at = wrong(net, net.basic(net.stem()))
    return net, net.head(net.basic(out) if after else out), at


def three_ways(net: Net, fork: str) -> tuple[str, str]:
    one, two = net.cb(net.cbr(fork)), net.cb(net.cbr(fork))
    third = net.cb(fork)
    return net.ends(one, two, third), f"v{int(third[1:]) - 1}"


def two_residuals(net: Net, fork: str) -> tuple[str, str]:
    total = net.op(Add(), net.cb(net.cbr(fork)), net.cb(net.cbr(fork)))
    return net.r(total), total


def no_convolutions(net: Net, fork: str) -> tuple[str, str]:
    twice = net.op(Add(), fork, fork)
    return net.ends(twice, fork), twice


def a_weighted_sum(net: Net, fork: str) -> tuple[str, str]:
    total = net.op(Add(coefficients=(1.0, 0.5)), net.cb(net.cbr(fork)), fork)
    return net.r(total), total


def something_else_is_added(net: Net, fork: str) -> tuple[str, str]:
    extra = net.op(Unknown())
    total = net.op(Add(), net.cb(net.cbr(fork)), fork, extra)
    return net.r(total), total


def the_residual_is_added_twice(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    total = net.op(Add(), end, end, fork)
    return net.r(total), total


def branches_end_in_different_sums(net: Net, fork: str) -> tuple[str, str]:
    other = net.op(Unknown())
    total = net.op(Add(), net.cb(net.cbr(fork)), other)
    return net.ends(total, net.cb(fork, 1)), total


def four_convolutions(net: Net, fork: str) -> tuple[str, str]:
    total = net.op(Add(), net.cb(net.cbr(net.cbr(net.cbr(fork)))), fork)
    return net.r(total), total


def a_pooling_in_the_residual(net: Net, fork: str) -> tuple[str, str]:
    pool = net.op(Pool(kind=PoolKind.AVERAGE), fork)
    return net.ends(net.cb(net.cbr(pool)), fork), pool


def a_pooling_inside_the_residual(net: Net, fork: str) -> tuple[str, str]:
    pool = net.op(Pool(kind=PoolKind.AVERAGE), net.cbr(fork))
    return net.ends(net.cb(pool), fork), pool


def two_poolings_in_the_shortcut(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    second = net.op(AVERAGE, net.op(Pool(kind=PoolKind.AVERAGE), fork))
    return net.ends(end, net.cb(second, 1)), second


def no_relu_inside(net: Net, fork: str) -> tuple[str, str]:
    conv = net.c(net.cb(fork))
    return net.ends(net.b(conv), fork), conv


def no_relu_and_no_normalisation_inside(net: Net, fork: str) -> tuple[str, str]:
    conv = net.c(net.c(fork))
    return net.ends(net.b(conv), fork), conv


def a_relu_before_the_sum(net: Net, fork: str) -> tuple[str, str]:
    last = net.cbr(net.cbr(fork))
    return net.ends(last, fork), last


def a_relu_in_the_shortcut(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    shortcut = net.cbr(fork, 1)
    return net.ends(end, shortcut), shortcut


def two_convolutions_in_the_shortcut(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(net.cbr(fork)))
    total = net.op(Add(), end, net.cb(net.cbr(fork)))
    return net.r(total), total


def a_pooling_alone_in_the_shortcut(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    total = net.op(Add(), end, net.op(Pool(kind=PoolKind.AVERAGE), fork))
    return net.r(total), total


def excitation_in_the_shortcut(net: Net, fork: str) -> tuple[str, str]:
    end, short = net.cb(net.cbr(fork)), net.cb(fork)
    total = net.op(Add(), end, net.op(Multiply(), short, net.gate(short)))
    return net.r(total), total


def a_convolution_behind_the_excitation(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    conv = net.c(net.op(Multiply(), end, net.gate(end)))
    return net.ends(conv, fork), conv


def no_relu_behind_the_sum(net: Net, fork: str) -> tuple[str, str]:
    total = net.op(Add(), net.cb(net.cbr(fork)), fork)
    conv = net.c(total)
    return net.r(conv), conv


def leaky(net: Net, fork: str) -> tuple[str, str]:
    odd = net.op(Activation(kind=ActivationKind.LEAKY, slope=0.1), net.cb(fork))
    return net.ends(net.cb(odd), fork), odd


def a_leaky_sum(net: Net, fork: str) -> tuple[str, str]:
    total = net.op(Add(), net.cb(net.cbr(fork)), fork)
    odd = net.op(Activation(kind=ActivationKind.PRELU), total)
    return odd, odd


def a_value_with_three_readers(net: Net, fork: str) -> tuple[str, str]:
    end = net.cb(net.cbr(fork))
    one = net.op(AVERAGE, end)
    two = net.op(Pool(kind=PoolKind.MAX, global_pool=True), end)
    return net.ends(net.op(Multiply(), end, one, two), fork), one


def a_dense_layer(net: Net, fork: str) -> tuple[str, str]:
    joined = net.op(Concat(axis=1), fork, net.c(net.cbr(fork, 1)))
    return net.r(joined), joined


def an_unknown_operator(net: Net, fork: str) -> tuple[str, str]:
    odd = net.op(Unknown(), net.cb(fork), op="_contrib_DeformableConvolution")
    return net.ends(net.c(odd), fork), odd


def split(net: Net, fork: str) -> tuple[str, str]:
    odd = net.op(Split(axis=1, parts=2), net.cb(fork))
    return net.ends(net.c(odd), fork), odd


def sliced(net: Net, fork: str) -> tuple[str, str]:
    odd = net.op(Slice(bounds=((None, None, None), (0, 4, None))), fork)
    return net.ends(net.c(net.cbr(fork)), odd), odd


BLOCKS = [
    (three_ways, NOT_HERE, "two ways out of a block's input"),
    (two_residuals, NOT_HERE, "a projection of one convolution in the shortcut"),
    (no_convolutions, NOT_HERE, "a residual branch with convolutions"),
    (a_weighted_sum, NOT_HERE, "the sum of a residual and its shortcut, nothing else"),
    (something_else_is_added, NOT_HERE, "the sum of a residual and its shortcut, nothing else"),
    (the_residual_is_added_twice, NOT_HERE, "the sum of a residual and its shortcut, nothing else"),
    (branches_end_in_different_sums, NOT_HERE, "the sum of a residual and its shortcut, nothing else"),
    (four_convolutions, NOT_HERE, "one to three convolutions in the residual"),
    (a_pooling_in_the_residual, NOT_HERE, "one to three convolutions in the residual"),
    (a_pooling_inside_the_residual, NOT_HERE, "a convolution or the addition of a residual block"),
    (two_poolings_in_the_shortcut, NOT_HERE, "a convolution or the addition of a residual block"),
    (no_relu_inside, NOT_HERE, "a ReLU after each convolution of the residual but the last"),
    (no_relu_and_no_normalisation_inside, NOT_HERE, "a ReLU after each convolution of the residual but the last"),
    (a_relu_before_the_sum, NOT_HERE, "no ReLU between the residual's last convolution and the addition"),
    (a_relu_in_the_shortcut, NOT_HERE, "no ReLU in the shortcut"),
    (two_convolutions_in_the_shortcut, NOT_HERE, "a projection of one convolution in the shortcut"),
    (a_pooling_alone_in_the_shortcut, NOT_HERE, "a projection of one convolution in the shortcut"),
    (excitation_in_the_shortcut, NOT_HERE, "a projection of one convolution in the shortcut"),
    (a_convolution_behind_the_excitation, NOT_HERE, "the addition of a residual block"),
    (no_relu_behind_the_sum, NOT_HERE, "ReLU after the addition"),
    (leaky, NOT_HERE, "ReLU"),
    (a_leaky_sum, NOT_HERE, "ReLU"),
    (a_value_with_three_readers, "has 3 readers in a place where a ResNeXt has one", "one reader"),
    (a_dense_layer, "joins branches by concatenation, as DenseNet does", ""),
    (an_unknown_operator, "the operator '_contrib_DeformableConvolution' is part of no ResNeXt", ""),
    (split, NOT_HERE, "a convolution or the addition of a residual block"),
    (sliced, NOT_HERE, "a convolution or the addition of a residual block"),
]


@pytest.mark.parametrize(("wrong", "problem", "expected"), BLOCKS, ids=[case[0].__name__ for case in BLOCKS])
@pytest.mark.parametrize("after", [True, False])
def test_a_wrong_block(wrong: Callable[[Net, str], tuple[str, str]], problem: str, expected: str, after: bool) -> None:
    net, logits, at = build(wrong, after=after)
    refused(net, logits, at, problem, expected)
