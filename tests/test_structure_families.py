"""Squeeze-and-excitation that is something else, and whole networks of other families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_net import AVERAGE, NORMALISES, NOT_HERE, SIGMOID, Net, refused

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Concat,
    Flatten,
    Linear,
    Multiply,
    Pool,
    PoolKind,
    Reshape,
    Scalar,
    ScalarKind,
    Scale,
    Softmax,
    Unknown,
)
from resnext_convert.converter.resnext.config import ConvConfig, NormConfig

MAX = Pool(kind=PoolKind.MAX, kernel=(3, 3), stride=(2, 2))

# Squeeze-and-excitation. Each function makes a gate for ``end``, and returns it with the value where it is refused.
Gate = Callable[[Net, str], tuple[str, str]]


def gate_conv(net: Net, value: str, out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
    config = ConvConfig(
        in_channels=8, out_channels=out, kernel=(kernel, kernel), stride=(stride, stride), groups=groups, bias=True
    )
    return net.conv(config, value)


def squeezes_to_the_maximum(net: Net, end: str) -> tuple[str, str]:
    squeeze = net.op(Pool(kind=PoolKind.MAX, global_pool=True), end)
    gate = net.op(SIGMOID, gate_conv(net, net.r(gate_conv(net, squeeze, 8)), 8))
    return gate, squeeze


def squeezes_a_window(net: Net, end: str) -> tuple[str, str]:
    squeeze = net.op(Pool(kind=PoolKind.AVERAGE, kernel=(3, 3)), end)
    gate = net.op(SIGMOID, gate_conv(net, net.r(gate_conv(net, squeeze, 8)), 8))
    return gate, squeeze


def no_squeeze(net: Net, end: str) -> tuple[str, str]:
    first = gate_conv(net, end, 8)
    return net.op(SIGMOID, gate_conv(net, net.r(first), 8)), first


def a_3x3_gate(net: Net, end: str) -> tuple[str, str]:
    odd = net.c(net.op(AVERAGE, end))
    return net.op(SIGMOID, gate_conv(net, net.r(odd), 8)), odd


def a_strided_gate(net: Net, end: str) -> tuple[str, str]:
    odd = gate_conv(net, net.op(AVERAGE, end), 8, stride=2)
    return net.op(SIGMOID, gate_conv(net, net.r(odd), 8)), odd


def a_grouped_gate(net: Net, end: str) -> tuple[str, str]:
    odd = gate_conv(net, net.r(gate_conv(net, net.op(AVERAGE, end), 8)), 8, groups=2)
    return net.op(SIGMOID, odd), odd


def a_flattened_convolution(net: Net, end: str) -> tuple[str, str]:
    odd = gate_conv(net, net.op(Flatten(), net.op(AVERAGE, end)), 8)
    return net.op(SIGMOID, gate_conv(net, net.r(odd), 8)), odd


def a_gate_that_does_not_flatten(net: Net, end: str) -> tuple[str, str]:
    odd = net.op(Linear(out_features=8, bias=False, axis=-1), net.op(AVERAGE, end))
    return net.op(SIGMOID, gate_conv(net, net.r(odd), 8)), odd


def one_layer(net: Net, end: str) -> tuple[str, str]:
    sigmoid = net.op(SIGMOID, gate_conv(net, net.op(AVERAGE, end), 8))
    return sigmoid, sigmoid


def no_relu(net: Net, end: str) -> tuple[str, str]:
    odd = gate_conv(net, gate_conv(net, net.op(AVERAGE, end), 8), 8)
    return net.op(SIGMOID, odd), odd


def a_normalised_gate(net: Net, end: str) -> tuple[str, str]:
    odd = net.b(gate_conv(net, net.op(AVERAGE, end), 8))
    return net.op(SIGMOID, gate_conv(net, net.r(odd), 8)), odd


def tanh(net: Net, end: str) -> tuple[str, str]:
    odd = net.op(
        Activation(kind=ActivationKind.TANH), gate_conv(net, net.r(gate_conv(net, net.op(AVERAGE, end), 8)), 8)
    )
    return odd, odd


def a_hard_sigmoid(net: Net, end: str) -> tuple[str, str]:
    odd = net.op(
        Scalar(kind=ScalarKind.ADD, value=3.0), gate_conv(net, net.r(gate_conv(net, net.op(AVERAGE, end), 8)), 8)
    )
    return odd, odd


def a_softmax(net: Net, end: str) -> tuple[str, str]:
    odd = net.op(Softmax(axis=1), gate_conv(net, net.r(gate_conv(net, net.op(AVERAGE, end), 8)), 8))
    return odd, odd


def no_reshape(net: Net, end: str) -> tuple[str, str]:
    gate = net.gate(end, linear=True)
    reshape = net.nodes.pop()
    assert isinstance(reshape.attrs, Reshape)
    return reshape.inputs[0], gate  # the product takes the place of the reshape


def another_reshape(net: Net, end: str) -> tuple[str, str]:
    net.gate(end, linear=True)
    reshape = net.nodes.pop()
    odd = net.op(Reshape(shape=(0, 1, -1, 1)), reshape.inputs[0])
    return odd, odd


def scaled_by(net: Net, end: str, attrs: Scale, *, swapped: bool = False, linear: bool = True) -> str:
    """A gate whose product with ``end`` is a Scale."""
    net.gate(end, linear=linear)
    rows = net.nodes.pop().inputs[0] if linear else net.nodes[-1].outputs[0]
    return net.op(attrs, *((rows, end) if swapped else (end, rows)))


@pytest.mark.parametrize(
    ("attrs", "swapped", "linear"),
    [
        (Scale(axis=1, bias=False), False, True),
        (Scale(axis=0, bias=True), False, True),
        (Scale(axis=0, bias=False), True, True),
        (Scale(axis=0, bias=False), False, False),
    ],
)
def test_another_product_with_a_gate(attrs: Scale, swapped: bool, linear: bool) -> None:
    net = Net()
    fork = net.stem()
    product = scaled_by(net, net.cb(net.cbr(fork)), attrs, swapped=swapped, linear=linear)
    logits = net.head(net.ends(product, fork))
    refused(net, logits, product, NOT_HERE, "the product of the residual and its gate, nothing else")


def a_scaled_gate(net: Net, end: str) -> tuple[str, str]:
    gate = net.op(Scalar(kind=ScalarKind.MULTIPLY, value=2.0), net.gate(end))
    return gate, f"v{len(net.nodes)}"


GATES: list[tuple[Gate, str, str]] = [
    (squeezes_to_the_maximum, NOT_HERE, "the global average pooling of squeeze-and-excitation"),
    (squeezes_a_window, NOT_HERE, "the global average pooling of squeeze-and-excitation"),
    (no_squeeze, NOT_HERE, "squeeze-and-excitation (a global pooling and a product)"),
    (a_3x3_gate, NOT_HERE, "a 1x1 convolution or a fully connected layer"),
    (a_strided_gate, NOT_HERE, "a 1x1 convolution or a fully connected layer"),
    (a_grouped_gate, NOT_HERE, "a 1x1 convolution or a fully connected layer"),
    (a_flattened_convolution, NOT_HERE, "a 1x1 convolution or a fully connected layer"),
    (a_gate_that_does_not_flatten, NOT_HERE, "a 1x1 convolution or a fully connected layer"),
    (one_layer, NOT_HERE, "ReLU"),
    (no_relu, NOT_HERE, "the ReLU of squeeze-and-excitation"),
    (a_normalised_gate, NORMALISES, "the ReLU of squeeze-and-excitation"),
    (tanh, NOT_HERE, "the sigmoid of squeeze-and-excitation"),
    (a_hard_sigmoid, NOT_HERE, "the sigmoid of squeeze-and-excitation"),
    (a_softmax, NOT_HERE, "the sigmoid of squeeze-and-excitation"),
    (no_reshape, NOT_HERE, "a reshape to (N, C, 1, 1)"),
    (another_reshape, NOT_HERE, "a reshape to (N, C, 1, 1)"),
    (a_scaled_gate, NOT_HERE, "the product of the residual and its gate, nothing else"),
]


@pytest.mark.parametrize(("gate", "problem", "expected"), GATES, ids=[case[0].__name__ for case in GATES])
def test_a_wrong_gate(gate: Gate, problem: str, expected: str) -> None:
    net = Net()
    fork = net.stem()
    end = net.cb(net.cbr(fork))
    value, at = gate(net, end)
    logits = net.head(net.ends(net.op(Multiply(), end, value), fork))
    refused(net, logits, at, problem, expected)


def test_a_gate_without_a_product() -> None:
    net = Net()
    fork = net.stem()
    end = net.cb(net.cbr(fork))
    squeeze = net.op(AVERAGE, end)
    total = net.op(Add(), end, squeeze, fork)
    refused(net, net.head(net.r(total)), squeeze, NOT_HERE, "squeeze-and-excitation (a global pooling and a product)")


def test_two_gates() -> None:
    """Spatial and channel attention, each with a product of its own (CBAM)."""
    net = Net()
    fork = net.stem()
    end = net.cb(net.cbr(fork))
    first = net.op(Multiply(), end, net.gate(end))
    squeeze = net.op(AVERAGE, first)
    second = net.op(Multiply(), first, net.op(SIGMOID, squeeze))
    logits = net.head(net.ends(second, fork))
    refused(net, logits, squeeze, "has 2 readers in a place where a ResNeXt has one", "one reader")


# Other families


def test_a_pre_activation_resnet() -> None:
    """example/image-classification/symbols/resnet.py of MXNet 1.x, its first unit with a projection."""
    net = Net()
    pool = net.op(MAX, net.r(net.b(net.c(net.norm(NormConfig(channels=3), "data"), 3, 3))))
    norm = net.b(pool)
    act = net.r(norm)
    total = net.op(Add(), net.c(net.r(net.b(net.c(act)))), net.c(act, 1))
    logits = net.head(net.r(net.b(total)))
    error = refused(net, logits, norm, NORMALISES, "the first residual block")
    assert "pre-activation ResNet (v2), which is another family" in error.problem


def test_a_pre_activation_resnet_whose_first_shortcut_is_the_identity() -> None:
    net = Net()
    fork = net.stem()
    norm = net.b(fork)
    total = net.op(Add(), net.c(net.r(net.b(net.c(net.r(norm))))), fork)
    logits = net.head(net.r(net.b(total)))
    refused(net, logits, norm, NORMALISES, "a convolution or the addition of a residual block")


def test_a_sum_that_is_normalised() -> None:
    """The first block is like ours, and what follows is pre-activation: the value of the sum goes on without ReLU."""
    net = Net()
    fork = net.stem()
    first = net.op(Add(), net.cb(net.cbr(fork)), fork)
    norm = net.b(first)
    second = net.op(Add(), net.c(net.r(norm)), first)
    refused(net, net.head(net.r(second)), norm, NORMALISES, "ReLU after the addition")


def test_a_densenet() -> None:
    """Each layer's channels are joined to its input (arXiv:1608.06993), here with convolutions first."""
    net = Net()
    value = net.stem()
    joined = net.op(Concat(axis=1), value, net.cbr(net.cbr(value, 1)))
    logits = net.head(net.op(Concat(axis=1), joined, net.cbr(net.cbr(joined, 1))))
    error = refused(net, logits, joined, "concatenation, as DenseNet does: another family", "the addition")
    assert error.found == "Concat"


def test_a_densenet_as_published() -> None:
    net = Net()
    value = net.op(MAX, net.stem())
    norm = net.b(value)
    joined = net.op(Concat(axis=1), value, net.c(net.r(net.b(net.c(net.r(norm), 1)))))
    refused(net, net.head(net.r(joined)), norm, NORMALISES, "a convolution or the addition of a residual block")


def test_octave_convolutions() -> None:
    """Two frequencies (arXiv:1904.05049): high to high, high to low by a pooling, low to high by an upsampling."""
    net = Net()
    value = net.stem()
    high = net.cbr(value)
    low = net.cbr(net.op(Pool(kind=PoolKind.AVERAGE, kernel=(2, 2), stride=(2, 2)), value))
    upsampled = net.op(Unknown(), net.c(low), op="UpSampling")
    pooled = net.op(Pool(kind=PoolKind.AVERAGE, kernel=(2, 2), stride=(2, 2)), high)
    high_out = net.r(net.op(Add(), net.c(high), upsampled))
    low_out = net.r(net.op(Add(), net.c(low), net.c(pooled)))
    last = net.op(Add(), net.c(high_out), net.op(Unknown(), net.c(low_out), op="UpSampling"))
    # ``high`` goes two ways that do not meet in a product: as far as the walk can say, a wrong excitation.
    first_reader = next(node for node in net.nodes if high in node.inputs)
    refused(net, net.head(net.r(last)), first_reader.outputs[0], NOT_HERE, "squeeze-and-excitation")


def test_an_inception_block() -> None:
    net = Net()
    value = net.stem()
    ways = [net.cbr(value, 1), net.cbr(net.cbr(value, 1)), net.cbr(net.op(MAX, value), 1)]
    third_way = next(node for node in net.nodes if isinstance(node.attrs, Pool))
    logits = net.head(net.op(Concat(axis=1), *ways))
    refused(net, logits, third_way.outputs[0], NOT_HERE, "two ways out of a block's input")


def test_a_plain_network() -> None:
    """VGG: convolutions and poolings, no block."""
    net = Net()
    second = net.c(net.op(MAX, net.cbr(net.stem())))
    logits = net.fc(net.op(MAX, net.r(second)))
    refused(net, logits, second, NOT_HERE, "the first residual block")


def test_split_attention() -> None:
    """ResNeSt (arXiv:2004.08955): the gate of several radix groups behind the 3x3 convolution."""
    net = Net()
    fork = net.stem()
    middle = net.cbr(net.cbr(fork, 1))
    odd = net.op(Unknown(), middle, op="SliceChannel")
    logits = net.head(net.ends(net.cb(odd, 1), fork))
    refused(net, logits, odd, "the operator 'SliceChannel' is part of no ResNeXt", "the addition of a residual block")
