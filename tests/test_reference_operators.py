"""Each operator against its definition, written out as loops, and against torch in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from single_node import ROUNDING, batch_norm_tensors, of_peak, ramp, run, run_all

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    Flatten,
    Identity,
    Linear,
    Multiply,
    Pool,
    PoolKind,
    Reshape,
    Scalar,
    ScalarKind,
    Slice,
    Softmax,
    Split,
    Transpose,
    Unknown,
)
from resnext_convert.converter.reference import LOWEST, OPERATORS
from resnext_convert.converter.tensors import Array

# Convolution


def literal_convolution(op: Conv, x: Array, weight: Array, bias: Array | None) -> Array:
    """The definition, index by index."""
    (n, channels, height, width), (kh, kw), (sh, sw) = x.shape, op.kernel, op.stride
    (ph, pw), (dh, dw) = op.padding, op.dilation
    per_group_in, per_group_out = channels // op.groups, op.out_channels // op.groups
    oh = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    ow = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((n, op.out_channels, oh, ow))
    for b, o, i, j in itertools.product(range(n), range(op.out_channels), range(oh), range(ow)):
        total = 0.0 if bias is None else float(bias[o])
        for c, u, v in itertools.product(range(per_group_in), range(kh), range(kw)):
            row, column = i * sh - ph + u * dh, j * sw - pw + v * dw
            if 0 <= row < height and 0 <= column < width:
                total += x[b, o // per_group_out * per_group_in + c, row, column] * weight[o, c, u, v]
        y[b, o, i, j] = total
    return y


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv, tuple[int, int, int, int]]:
    groups = draw(st.integers(1, 3))
    op = Conv(
        out_channels=groups * draw(st.integers(1, 3)),
        kernel=draw(pairs(1, 3)),
        stride=draw(pairs(1, 3)),
        padding=draw(pairs(0, 2)),
        dilation=draw(pairs(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
    )
    spans = [(k - 1) * d + 1 - 2 * p for k, p, d in zip(op.kernel, op.padding, op.dilation, strict=True)]
    height, width = (draw(st.integers(max(1, span), max(1, span) + 3)) for span in spans)
    return op, (draw(st.integers(1, 2)), groups * draw(st.integers(1, 3)), height, width)


def convolution_tensors(op: Conv, channels: int) -> dict[str, Array]:
    weight = {"weight": ramp(op.out_channels, channels // op.groups, *op.kernel, phase=0.3)}
    return weight | ({"bias": ramp(op.out_channels, phase=0.7)} if op.bias else {})


@given(convolutions())
@settings(max_examples=80)
def test_convolution_is_its_definition(case: tuple[Conv, tuple[int, int, int, int]]) -> None:
    op, shape = case
    tensors = convolution_tensors(op, shape[1])
    expected = literal_convolution(op, ramp(*shape), tensors["weight"], tensors.get("bias"))
    assert of_peak(run(op, ramp(*shape), **tensors), expected) <= ROUNDING


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (7, 7), (1, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (3, 0)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_convolution_agrees_with_torch(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    op = Conv(
        out_channels=16, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=True
    )
    x, tensors = ramp(2, 8, 19, 22), convolution_tensors(op, 8)
    expected = F.conv2d(
        torch.from_numpy(x),
        torch.from_numpy(tensors["weight"]),
        torch.from_numpy(tensors["bias"]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    assert of_peak(run(op, x, **tensors), expected.numpy()) <= ROUNDING


# Pooling


def literal_pool(op: Pool, x: Array) -> Array:
    """Window by window and cell by cell, after the class's docstring."""
    n, channels, *sizes = x.shape
    if op.global_pool:
        kernel, stride, padding = tuple(sizes), (1, 1), (0, 0)
    else:
        kernel, stride, padding = op.kernel, op.stride, op.padding
    rounded = math.ceil if op.ceil else math.floor
    counts = [rounded((size + 2 * p - k) / s) + 1 for size, k, s, p in zip(sizes, kernel, stride, padding, strict=True)]
    y = np.zeros((n, channels, *counts))
    for b, c, i, j in itertools.product(range(n), range(channels), *map(range, counts)):
        starts = i * stride[0] - padding[0], j * stride[1] - padding[1]
        ends = [min(start + k, size + p) for start, k, size, p in zip(starts, kernel, sizes, padding, strict=True)]
        cells = list(itertools.product(*(range(start, end) for start, end in zip(starts, ends, strict=True))))
        real = [(u, v) for u, v in cells if 0 <= u < sizes[0] and 0 <= v < sizes[1]]
        values = [float(x[b, c, u, v]) for u, v in real]
        if op.kind is PoolKind.MAX:
            y[b, c, i, j] = max(values, default=-3.4028234663852886e38)
        elif op.kind is PoolKind.SUM:
            y[b, c, i, j] = math.fsum(values)
        else:
            y[b, c, i, j] = math.fsum(values) / max(len(cells if op.count_include_pad else real), 1)
    return y


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, tuple[int, int, int, int]]:
    op = Pool(
        kind=draw(st.sampled_from(PoolKind)),
        kernel=draw(pairs(1, 4)),
        stride=draw(pairs(1, 4)),
        padding=draw(pairs(0, 3)),
        ceil=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        global_pool=draw(st.integers(0, 9)) == 0,
    )
    least = [1 if op.global_pool else max(1, k - 2 * p) for k, p in zip(op.kernel, op.padding, strict=True)]
    height, width = (draw(st.integers(size, size + 5)) for size in least)
    return op, (draw(st.integers(1, 2)), draw(st.integers(1, 2)), height, width)


@given(pools())
@settings(max_examples=300)
def test_pooling_is_its_definition(case: tuple[Pool, tuple[int, int, int, int]]) -> None:
    op, shape = case
    assert of_peak(run(op, ramp(*shape)), literal_pool(op, ramp(*shape))) <= ROUNDING


@pytest.mark.parametrize("kind", PoolKind)
def test_a_window_without_a_real_cell(kind: PoolKind) -> None:
    """MXNet 1.9.1's own answer on this input, `mx.nd.Pooling(..., pooling_convention='full')`, seen once.

    torch's ceil_mode yields one row and one column less.
    """
    x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4) - 20
    op = Pool(kind=kind, kernel=(2, 2), stride=(3, 3), padding=(1, 1), ceil=True)
    seen = {
        PoolKind.MAX: [[-19, -16, LOWEST], [-7, -4, LOWEST], [LOWEST, LOWEST, LOWEST]],
        PoolKind.AVERAGE: [[-4.75, -8.25, 0], [-4.5, -6.5, 0], [0, 0, 0]],
        PoolKind.SUM: [[-19, -33, 0], [-18, -26, 0], [0, 0, 0]],
    }
    assert run(op, x)[0, 0].tolist() == seen[kind]
    assert np.float32(LOWEST) == np.finfo(np.float32).min


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (7, 7), (3, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
@pytest.mark.parametrize("size", [(14, 15), (9, 8)])
def test_pooling_agrees_with_torch(
    ceil: bool, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int]
) -> None:
    """Where no window lies wholly in the padding, and torch has the same windows."""
    x = ramp(2, 3, *size)
    for kind, count_include_pad in [(PoolKind.MAX, True), (PoolKind.AVERAGE, True), (PoolKind.AVERAGE, False)]:
        op = Pool(
            kind=kind, kernel=kernel, stride=stride, padding=padding, ceil=ceil, count_include_pad=count_include_pad
        )
        if kind is PoolKind.MAX:
            expected = F.max_pool2d(torch.from_numpy(x), kernel, stride, padding, ceil_mode=ceil)
        else:
            expected = F.avg_pool2d(torch.from_numpy(x), kernel, stride, padding, ceil, count_include_pad)
        found = run(op, x)
        windows_in_padding = [
            (count - 1) * s - p >= length
            for count, s, p, length in zip(found.shape[2:], stride, padding, size, strict=True)
        ]
        rows, columns = (count - last for count, last in zip(found.shape[2:], windows_in_padding, strict=True))
        assert of_peak(found[:, :, :rows, :columns], expected.numpy()) <= ROUNDING


# The other operators


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (3, 5), (2, 5, 7)])
@pytest.mark.parametrize("fix_gamma", [False, True])
def test_batch_norm_agrees_with_torch(shape: tuple[int, ...], fix_gamma: bool) -> None:
    tensors = batch_norm_tensors(5)
    of_torch = {role: torch.from_numpy(values) for role, values in tensors.items()}
    expected = F.batch_norm(
        torch.from_numpy(ramp(*shape)),
        of_torch["running_mean"],
        of_torch["running_var"],
        None if fix_gamma else of_torch["gamma"],
        of_torch["beta"],
        eps=2e-5,
    )
    found = run(BatchNorm(eps=2e-5, momentum=0.9, fix_gamma=fix_gamma), ramp(*shape), **tensors)
    assert of_peak(found, expected.numpy()) <= ROUNDING


def test_batch_norm_keeps_its_precision_far_from_zero() -> None:
    """``x * scale + shift`` would lose here what ``x - mean`` keeps: the exact answers are 1 and -1."""
    x = np.array([1e8 + 1, 1e8 - 1]).reshape(2, 1)
    stored = {"beta": np.zeros(1), "running_mean": np.array([1e8]), "running_var": np.array([0.75])}
    assert run(BatchNorm(eps=0.25, momentum=0.9, fix_gamma=True), x, **stored).ravel().tolist() == [1.0, -1.0]


@pytest.mark.parametrize("variance", [0.0, -0.25])
def test_batch_norm_needs_only_the_sum_of_variance_and_eps_to_be_positive(variance: float) -> None:
    stored = {"beta": np.zeros(1), "running_mean": np.zeros(1), "running_var": np.array([variance])}
    op = BatchNorm(eps=0.5, momentum=0.9, fix_gamma=True)
    assert run(op, np.ones((1, 1)), **stored) == 1 / np.sqrt(variance + 0.5)


@pytest.mark.parametrize("kind", ActivationKind)
def test_activation_agrees_with_torch(kind: ActivationKind) -> None:
    x = ramp(2, 3, 4, 5) * 8
    slopes = np.array([0.1, -0.2, 1.5])
    t = torch.from_numpy(x)
    expected = {
        ActivationKind.RELU: torch.relu(t),
        ActivationKind.SIGMOID: torch.sigmoid(t),
        ActivationKind.TANH: torch.tanh(t),
        ActivationKind.SOFTPLUS: F.softplus(t, threshold=100),
        ActivationKind.SOFTSIGN: F.softsign(t),
        ActivationKind.LEAKY: F.leaky_relu(t, 0.3),
        ActivationKind.PRELU: F.prelu(t, torch.from_numpy(slopes)),
    }[kind]
    stored = {"weight": slopes} if kind is ActivationKind.PRELU else {}
    assert of_peak(run(Activation(kind=kind, slope=0.3), x, **stored), expected.numpy()) <= ROUNDING


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ActivationKind.RELU, [0.0, 0.0, 1e4]),
        (ActivationKind.SIGMOID, [0.0, 0.5, 1.0]),
        (ActivationKind.TANH, [-1.0, 0.0, 1.0]),
        (ActivationKind.SOFTPLUS, [0.0, math.log(2), 1e4]),
        (ActivationKind.SOFTSIGN, [-1e4 / 10001, 0.0, 1e4 / 10001]),
    ],
)
def test_activation_is_stable_far_out(kind: ActivationKind, expected: list[float]) -> None:
    assert run(Activation(kind=kind), np.array([[-1e4, 0.0, 1e4]])).tolist() == [expected]


def test_leaky_slopes_below_one_and_above() -> None:
    x = np.array([[-2.0, 4.0]])
    assert run(Activation(kind=ActivationKind.LEAKY, slope=0.25), x).tolist() == [[-0.5, 4.0]]
    assert run(Activation(kind=ActivationKind.LEAKY, slope=1.5), x).tolist() == [[-3.0, 4.0]]


def test_prelu_with_one_slope_for_all_channels() -> None:
    x = np.array([[-2.0, 4.0, -6.0]])
    assert run(Activation(kind=ActivationKind.PRELU), x, weight=np.array([0.5])).tolist() == [[-1.0, 4.0, -3.0]]


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(flatten: bool, bias: bool) -> None:
    x = ramp(2, 3, 4)
    features = 12 if flatten else 4
    weight, offset = ramp(5, features, phase=0.3), ramp(5, phase=0.6)
    rows = x.reshape(2, 12) if flatten else x
    expected = np.einsum("...i,oi->...o", rows, weight) + (offset if bias else 0)
    stored = {"weight": weight} | ({"bias": offset} if bias else {})
    assert of_peak(run(Linear(out_features=5, bias=bias, flatten=flatten), x, **stored), expected) <= ROUNDING


def test_add_and_multiply_take_any_number_and_broadcast() -> None:
    x, y, z = ramp(2, 3, 4, 4), ramp(2, 3, 1, 1, phase=0.2), ramp(2, 3, 4, 4, phase=0.4)
    assert np.array_equal(run(Add(), x, y, z), x + y + z)
    assert np.array_equal(run(Add(), x), x)
    assert np.array_equal(run(Multiply(), x, y), x * y)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ScalarKind.ADD, [[-1.5, 2.5]]),
        (ScalarKind.MULTIPLY, [[-1.0, 1.0]]),
        (ScalarKind.MAXIMUM, [[0.5, 2.0]]),
        (ScalarKind.MINIMUM, [[-2.0, 0.5]]),
    ],
)
def test_scalar(kind: ScalarKind, expected: list[list[float]]) -> None:
    assert run(Scalar(kind=kind, value=0.5), np.array([[-2.0, 2.0]])).tolist() == expected


def test_shape_operators() -> None:
    x = ramp(2, 6, 4, 5)
    assert np.array_equal(run(Concat(axis=1), x, x[:, :2]), np.concatenate([x, x[:, :2]], 1))
    assert np.array_equal(run(Slice(bounds=((None, None, None), (1, 5, 2), (-3, None, None))), x), x[:, 1:5:2, -3:])
    assert np.array_equal(run(Flatten(), x), x.reshape(2, 120))
    assert np.array_equal(run(Reshape(shape=(0, -1, 10)), x), x.reshape(2, 12, 10))
    assert np.array_equal(run(Reshape(shape=(-1, 6, 0, 0)), x), x)
    assert np.array_equal(run(Transpose(axes=(0, 2, 3, 1)), x), x.transpose(0, 2, 3, 1))
    assert np.array_equal(run(Transpose(axes=()), x), x.T)
    assert np.array_equal(run(Identity(), x), x)


def test_cast_keeps_the_precision_of_the_proof() -> None:
    x = ramp(1, 3)
    assert run(Cast(dtype="float16"), x).tolist() == x.tolist()


def test_split() -> None:
    x = ramp(2, 6, 4)
    parts = run_all(Split(axis=1, parts=3), x, parts=3)
    assert [part.tolist() for part in parts] == [x[:, :2].tolist(), x[:, 2:4].tolist(), x[:, 4:].tolist()]
    rows = run_all(Split(axis=0, parts=2, squeeze=True), x, parts=2)
    assert [row.tolist() for row in rows] == x.tolist()


def test_softmax() -> None:
    x = ramp(2, 3, 4, 5) * 30
    for axis in (1, -1):
        expected = torch.softmax(torch.from_numpy(x), axis).numpy()
        assert of_peak(run(Softmax(axis=axis), x), expected) <= ROUNDING
    expected = torch.softmax(torch.from_numpy(x.reshape(2, 60)), 1).numpy().reshape(x.shape)
    assert of_peak(run(Softmax(axis=None), x), expected) <= ROUNDING
    assert run(Softmax(axis=None), np.array([[1e5, 1e5]])).tolist() == [[0.5, 0.5]]


def test_every_operator_of_the_graph_but_unknown_has_a_function() -> None:
    assert set(OPERATORS) == set(get_args(Attrs)) - {Unknown}


@pytest.mark.parametrize(
    ("attrs", "stored"),
    [
        (Conv(out_channels=4, kernel=(3, 3), groups=2, bias=True), {"weight": ramp(4, 1, 3, 3), "bias": ramp(4)}),
        (BatchNorm(eps=1e-3, momentum=0.9, fix_gamma=False), batch_norm_tensors(2)),
        *((Activation(kind=kind), {}) for kind in ActivationKind if kind is not ActivationKind.PRELU),
        (Activation(kind=ActivationKind.PRELU), {"weight": ramp(2)}),
        *((Pool(kind=kind, kernel=(2, 2), stride=(3, 3), padding=(1, 1), ceil=True), {}) for kind in PoolKind),
        *((Pool(kind=kind, global_pool=True), {}) for kind in PoolKind),
        (Linear(out_features=3, bias=True, flatten=True), {"weight": ramp(3, 72), "bias": ramp(3)}),
        *((Scalar(kind=kind, value=0.5), {}) for kind in ScalarKind),
        (Softmax(axis=None), {}),
    ],
)
def test_a_run_stays_in_its_precision(attrs: Attrs, stored: Mapping[str, Array]) -> None:
    """Weights and inputs of any float type; one precision in between and at the end."""
    x = ramp(1, 2, 6, 6)
    stored = {role: values.astype(np.float32) for role, values in stored.items()}
    double = run(attrs, x.astype(np.float32), **stored)
    single = run(attrs, x, dtype=np.float32, **stored)
    assert double.dtype == np.float64
    assert single.dtype == np.float32
    assert of_peak(single.astype(np.float64), double) <= 1e-6  # measured: 3.8e-7
