"""Convolution and pooling against their definitions, written out as loops, and against torch in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from single_node import ROUNDING, of_peak, ramp, run

from resnext_convert.converter.graph import (
    Conv,
    Pool,
    PoolKind,
)
from resnext_convert.converter.operators import LOWEST
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
    if op.clip and padding != (0, 0):
        lasts = [(count - 1) * s - p for count, s, p in zip(counts, stride, padding, strict=True)]
        counts = [count - (last >= size) for count, last, size in zip(counts, lasts, sizes, strict=True)]
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
        clip=draw(st.booleans()),
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


@pytest.mark.parametrize(
    ("stride", "padding", "rows"),
    [
        ((3, 3), (1, 1), [[-19, -16], [-7, -4]]),
        ((3, 5), (1, 0), [[-18], [-6]]),  # padding on one axis is enough for both
        ((5, 5), (0, 0), [[-14, LOWEST], [LOWEST, LOWEST]]),
    ],
)
def test_caffe_leaves_out_a_last_window_behind_the_map_if_there_is_padding(
    stride: tuple[int, int], padding: tuple[int, int], rows: list[list[float]]
) -> None:
    """By hand, after pooling_layer.cpp, Reshape; real Caffe's own answers are in the recording p_pool_sweep."""
    x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4) - 20
    op = Pool(kind=PoolKind.MAX, kernel=(2, 2), stride=stride, padding=padding, ceil=True, clip=True)
    assert run(op, x)[0, 0].tolist() == rows


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
