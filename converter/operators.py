"""The formula of each operator, in NumPy: what `resnext_convert.converter.graph` states in words, and nothing else.

Each function takes the operator's attributes, its inputs, and its stored tensors by their roles. They are held against
recordings of real MXNet and real Caffe (tests/test_reference_recordings.py, tests/test_caffe_recordings.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from resnext_convert.converter.errors import MissingTensorError, ShapeError, ValueRangeError
from resnext_convert.converter.graph import (
    LRN,
    Activation,
    ActivationKind,
    Add,
    BatchNorm,
    Bias,
    Cast,
    Concat,
    Conv,
    Flatten,
    Identity,
    Linear,
    Maximum,
    Multiply,
    Pair,
    Pool,
    PoolKind,
    Power,
    Reshape,
    Role,
    Scalar,
    ScalarKind,
    Scale,
    Slice,
    Softmax,
    Split,
    Transpose,
)
from resnext_convert.converter.tensors import Array

LOWEST: Final = float(np.finfo(np.float32).min)
"""What a max-pooling window without a real cell yields: MXNet and Caffe start from the lowest float32."""


# What operators share


def _stored(role: Role, tensor: Array | None, shape: tuple[int, ...]) -> Array:
    """The stored tensor, if it is there and has the shape that the operator demands."""
    if tensor is None:
        raise MissingTensorError(f"the operator needs a {role} and the graph names none", expected=shape)
    if tensor.shape != shape:
        raise ShapeError(f"the {role} does not fit the operator and its input", expected=shape, found=tensor.shape)
    return tensor


def _per_channel(role: Role, tensor: Array | None, x: Array) -> Array:
    """A stored vector (C,), shaped to act along axis 1 of x."""
    return _stored(role, tensor, (x.shape[1],)).reshape(-1, *(1,) * (x.ndim - 2))


def _maps(x: Array) -> Array:
    """The same array, if it is a batch of maps."""
    if x.ndim != 4 or x.size == 0:
        raise ShapeError("the input is not a batch of maps", expected="(N, C, H, W), none of them 0", found=x.shape)
    return x


def _windows(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    *,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    clip: bool = False,
    fill: float = 0.0,
) -> Array:
    """All windows of x (N, C, H, W) padded with ``fill``: a view (N, C, kh, kw, oh, ow)."""
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
        raise ShapeError(
            "kernel, stride and dilation must be at least 1 and padding at least 0",
            found=f"kernel {kernel}, stride {stride}, dilation {dilation}, padding {padding}",
        )
    spans, pads = [], [(0, 0), (0, 0)]
    for size, k, s, p, d in zip(_maps(x).shape[2:], kernel, stride, padding, dilation, strict=True):
        span = (k - 1) * d + 1
        room = size + 2 * p - span
        if room < 0:
            raise ShapeError("the padded map is smaller than the kernel", expected=f">= {span}", found=size + 2 * p)
        count = (-(-room // s) if ceil else room // s) + 1
        if clip and any(padding) and (count - 1) * s >= size + p:
            count -= 1
        spans.append(span)
        pads.append((p, max((count - 1) * s + span - size - p, 0)))
    if any(before or after for before, after in pads):
        x = np.pad(x, pads, constant_values=fill)
    windows = sliding_window_view(x, spans, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return windows.transpose(0, 1, 4, 5, 2, 3)


# The operators; the attributes say what, `converter/graph.py` says what each attribute means


def convolution(op: Conv, x: Array, *, weight: Array | None = None, bias: Array | None = None) -> Array:
    """The filters of each group times the columns (im2col) of its own channels."""
    batch, channels = _maps(x).shape[:2]
    if op.groups < 1 or channels % op.groups or op.out_channels % op.groups:
        raise ShapeError(
            "the channels cannot be divided into the groups",
            expected=f"multiples of {op.groups}",
            found=f"{channels} in, {op.out_channels} out",
        )
    weight = _stored(Role.WEIGHT, weight, (op.out_channels, channels // op.groups, *op.kernel))
    windows = _windows(x, op.kernel, op.stride, op.padding, dilation=op.dilation)
    out_size = windows.shape[4:]
    filters = weight.reshape(op.groups, op.out_channels // op.groups, math.prod(weight.shape[1:]))
    # The copy that im2col is; with a 1x1 kernel of stride 1 it is a view, and the product all there is to do.
    columns = windows.reshape(batch, op.groups, filters.shape[2], math.prod(out_size))
    y: Array = (filters @ columns).reshape(batch, op.out_channels, *out_size)
    if op.bias:
        y += _per_channel(Role.BIAS, bias, y)
    return y


def batch_norm(
    op: BatchNorm,
    x: Array,
    *,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    moving_average_factor: Array | None = None,
) -> Array:
    """``(x - mean) / sqrt(var + eps) * gamma + beta``."""
    if op.batch_statistics:
        if x.ndim < 2 or x.size == 0:
            raise ShapeError("the input has no statistics", expected="(N, C, ...), none of them 0", found=x.shape)
        axes = (0, *range(2, x.ndim))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    else:
        mean, var = _per_channel(Role.MEAN, running_mean, x), _per_channel(Role.VAR, running_var, x)
        if op.factor:  # Caffe, batch_norm_layer.cpp, Forward_cpu
            factor = _stored(Role.FACTOR, moving_average_factor, (1,))[0]
            inverse = 0 if factor == 0 else 1 / factor
            mean, var = mean * inverse, var * inverse
    if not (var + op.eps > 0).all():
        raise ValueRangeError("the variance plus eps is not positive", expected=f"> {-op.eps}", found=var.min())
    y: Array = x - mean
    y *= (_per_channel(Role.GAMMA, gamma, x) if op.gamma and not op.fix_gamma else 1.0) / np.sqrt(var + op.eps)
    if op.beta:
        y += _per_channel(Role.BETA, beta, x)
    return y


def scale(
    op: Scale, x: Array, factor: Array | None = None, *, gamma: Array | None = None, beta: Array | None = None
) -> Array:
    """``x * gamma + beta``; ``factor``, the second input, takes the place of gamma."""
    axis, shape = _axes(op, x, factor)
    multiplier = _stored(Role.GAMMA, gamma if factor is None else factor, shape)
    y: Array = x * _along(multiplier, axis, x)
    if op.bias:
        y += _along(_stored(Role.BETA, beta, shape), axis, x)
    return y


def bias(op: Bias, x: Array, offset: Array | None = None, *, beta: Array | None = None) -> Array:
    """``x + beta``; ``offset``, the second input, takes the place of beta."""
    axis, shape = _axes(op, x, offset)
    y: Array = x + _along(_stored(Role.BETA, beta if offset is None else offset, shape), axis, x)
    return y


def _axes(op: Scale | Bias, x: Array, second: Array | None) -> tuple[int, tuple[int, ...]]:
    """The first axis along which a scale acts and the shape of x's axes from there on (scale_layer.cpp, Reshape)."""
    num_axes = op.num_axes if second is None else second.ndim
    axis = 0 if num_axes == 0 else op.axis + (x.ndim if op.axis < 0 else 0)
    end = x.ndim if num_axes == -1 else axis + num_axes
    if not 0 <= axis <= end <= x.ndim or (axis == end and num_axes):
        raise ShapeError("there are no such axes", expected=f"{num_axes} axes from {op.axis} on", found=x.shape)
    return axis, x.shape[axis:end]


def _along(tensor: Array, axis: int, x: Array) -> Array:
    """The tensor, shaped to act along the axes of x from ``axis`` on."""
    return tensor.reshape(tensor.shape + (1,) * (x.ndim - axis - tensor.ndim))


def activation(op: Activation, x: Array, *, weight: Array | None = None) -> Array:
    """The element-wise functions, in forms that are exact far from zero too (1 / inf is the sigmoid's limit)."""
    y: Array
    match op.kind:
        case ActivationKind.RELU:
            y = np.maximum(x, 0)
        case ActivationKind.SIGMOID:
            y = 1 / (1 + np.exp(-x))
        case ActivationKind.TANH:
            y = np.tanh(x)
        case ActivationKind.SOFTPLUS:
            y = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        case ActivationKind.SOFTSIGN:
            y = x / (1 + np.abs(x))
        case ActivationKind.LEAKY:
            y = np.where(x < 0, op.slope * x, x)
        case ActivationKind.PRELU:  # one slope a channel, or one for all
            shared = weight is not None and weight.shape in {(), (1,)}
            slope = weight if shared else _per_channel(Role.WEIGHT, weight, x)
            y = np.where(x < 0, slope * x, x)
    return y


def pool(op: Pool, x: Array) -> Array:
    """The largest, the mean or the sum of each window; `LOWEST` or 0 where it has no real cell (MXNet 1.9.1, Caffe).

    torch's ``ceil_mode`` differs there: it drops a last window that starts in the padding.
    """
    if op.global_pool:
        whole: Mapping[PoolKind, Callable[..., Array]]
        whole = {PoolKind.MAX: np.max, PoolKind.AVERAGE: np.mean, PoolKind.SUM: np.sum}
        return whole[op.kind](_maps(x), axis=(2, 3), keepdims=True)
    fill = LOWEST if op.kind is PoolKind.MAX else 0.0
    windows = _windows(x, op.kernel, op.stride, op.padding, ceil=op.ceil, clip=op.clip, fill=fill)
    taps = (windows[:, :, i, j] for i in range(op.kernel[0]) for j in range(op.kernel[1]))
    y: Array = reduce(np.maximum if op.kind is PoolKind.MAX else np.add, taps)
    if op.kind is PoolKind.AVERAGE:
        height, width = (_cells(op, axis, x.shape[2 + axis], windows.shape[4 + axis]) for axis in (0, 1))
        y = y / np.maximum(np.outer(height, width), 1).astype(y.dtype)
    return y


def _cells(op: Pool, axis: int, size: int, count: int) -> Array:
    """How many cells along one axis the mean of each window divides by; not positive where there is none."""
    start = np.arange(count) * op.stride[axis] - op.padding[axis]
    border = op.padding[axis] if op.count_include_pad else 0
    end = np.minimum(start + op.kernel[axis], size + border)
    cells: Array = end - np.maximum(start, -border)
    return cells


def linear(op: Linear, x: Array, *, weight: Array | None = None, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias``."""
    rows = flatten(Flatten(axis=op.axis), x)
    shape = (op.out_features, rows.shape[-1])
    matrix = _stored(Role.WEIGHT, weight, shape[::-1] if op.transpose else shape)
    y: Array = rows @ (matrix if op.transpose else matrix.T)
    if op.bias:
        y += _stored(Role.BIAS, bias, (op.out_features,))
    return y


def flatten(op: Flatten, x: Array) -> Array:
    """Some axes made one."""
    axis, end = (place + x.ndim if place < 0 else place for place in (op.axis, op.end_axis))
    if not 0 <= axis <= end < x.ndim:
        raise ShapeError("there are no such axes", expected=f"axes {op.axis} to {op.end_axis}", found=x.shape)
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis : end + 1]), *x.shape[end + 1 :])


def softmax(op: Softmax, x: Array) -> Array:
    """``exp(x - max) / sum``."""
    scores, axis = (flatten(Flatten(), x), 1) if op.axis is None else (x, op.axis)
    exponentials: Array = np.exp(scores - scores.max(axis, keepdims=True))
    y: Array = exponentials / exponentials.sum(axis, keepdims=True)
    return y.reshape(x.shape)


def add(op: Add, *xs: Array) -> Array:
    """The sum of all inputs, each times its coefficient."""
    terms = [c * x for c, x in zip(op.coefficients, xs, strict=True)] if op.coefficients else xs
    return reduce(np.add, terms)


def power(op: Power, x: Array) -> Array:
    """``(shift + scale * x) ** power`` (Caffe, power_layer.cpp)."""
    y: Array = op.shift + op.scale * x
    return y if op.power == 1 else y**op.power


def lrn(op: LRN, x: Array) -> Array:
    """``x / (k + alpha / n * sum of squares) ** beta`` (Caffe, lrn_layer.cpp)."""
    if op.size < 1 or op.size % 2 == 0:
        raise ShapeError("the neighbourhood has no middle", expected="an odd size", found=op.size)
    squares = _maps(x) ** 2
    axes = (2, 3) if op.within_channel else (1,)
    cells = op.size ** len(axes)
    for axis in axes:
        reach = min(op.size // 2, x.shape[axis] - 1)  # what is further away is zero
        padded = np.pad(squares, [(reach, reach) if place == axis else (0, 0) for place in range(4)])
        squares = sliding_window_view(padded, 2 * reach + 1, axis=axis).sum(-1)
    y: Array = x / ((1 if op.within_channel else op.k) + op.alpha / cells * squares) ** op.beta
    return y


def scalar(op: Scalar, x: Array) -> Array:
    """``x (kind) value``."""
    functions: Mapping[ScalarKind, Callable[..., Array]] = {
        ScalarKind.ADD: np.add,
        ScalarKind.MULTIPLY: np.multiply,
        ScalarKind.MAXIMUM: np.maximum,
        ScalarKind.MINIMUM: np.minimum,
    }
    return functions[op.kind](x, op.value)


def split(op: Split, x: Array) -> list[Array]:
    """Parts along an axis."""
    edges = (0, *op.points, x.shape[op.axis])
    if op.points and any(start >= end for start, end in pairwise(edges)):
        raise ShapeError("a part would be empty", expected=f"increasing points below {edges[-1]}", found=op.points)
    parts = np.split(x, op.points or op.parts, op.axis)
    return [np.squeeze(part, op.axis) for part in parts] if op.squeeze else parts


def reshape(op: Reshape, x: Array) -> Array:
    """A new shape for some axes; 0 copies the dimension at its place, -1 is inferred."""
    if min(op.shape, default=0) < -1:
        raise ShapeError("only 0 and -1 have a special meaning in a new shape", found=op.shape)
    axis = op.axis + (x.ndim + 1 if op.axis < 0 else 0)  # -1 is behind the last axis (Caffe, reshape_layer.cpp)
    end = x.ndim if op.num_axes == -1 else axis + op.num_axes
    if not 0 <= axis <= end <= x.ndim:
        raise ShapeError("there are no such axes", expected=f"{op.num_axes} axes from {op.axis} on", found=x.shape)
    new = [x.shape[axis + place] if size == 0 else size for place, size in enumerate(op.shape)]
    return x.reshape([*x.shape[:axis], *new, *x.shape[end:]])


# Each operator's function; what is not here is refused
OPERATORS: Final[Mapping[type, Callable[..., Array | list[Array]]]] = {
    Conv: convolution,
    BatchNorm: batch_norm,
    Activation: activation,
    Pool: pool,
    Linear: linear,
    Scale: scale,
    Bias: bias,
    Add: add,
    Multiply: lambda _, *xs: reduce(np.multiply, xs),
    Maximum: lambda _, *xs: reduce(np.maximum, xs),
    Power: power,
    LRN: lrn,
    Scalar: scalar,
    Concat: lambda op, *xs: np.concatenate(xs, op.axis),
    Split: split,
    Slice: lambda op, x: x[tuple(slice(*bounds) for bounds in op.bounds)],
    Flatten: flatten,
    Reshape: reshape,
    Transpose: lambda op, x: np.transpose(x, op.axes or None),
    Softmax: softmax,
    Identity: lambda _, x: x,
    Cast: lambda _, x: x,
}
