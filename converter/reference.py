"""The reference executor: runs a source graph as it was read, in NumPy, one small function per operator.

It is one of the two sides of the proof and shares nothing with the other: no pass has touched the graph, torch is
not imported, and each function is its operator's formula as `resnext_convert.converter.graph` states it. It is
held against recordings of real MXNet 0.8.0 to 1.9.1 (tests/test_reference.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from resnext_convert.converter.errors import (
    FormatError,
    MissingTensorError,
    ShapeError,
    UnsupportedOperatorError,
    UsageError,
    ValueRangeError,
    in_file,
)
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    Flatten,
    Graph,
    Identity,
    Linear,
    Multiply,
    Node,
    Pair,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Scalar,
    ScalarKind,
    Slice,
    Softmax,
    Split,
    Transpose,
)
from resnext_convert.converter.tensors import Array, TensorStore

LOWEST: Final = float(np.finfo(np.float32).min)
"""What a max-pooling window without a real cell yields: MXNet starts from the lowest float32."""


class ReferenceExecutor:
    """Runs the source graph.

    It keeps nothing between runs: each weight is converted where it is used, which costs less time than to fill the
    memory that would hold them all (ResNeXt-101 32x4d: 350 MB).

    Args:
        graph: the graph as read; each node has the stored tensors of its operator (readers see to that).
        tensors: the stored tensors that ``Node.params`` names.
        dtype: the precision of weights, activations and results.
    """

    def __init__(self, graph: Graph, tensors: TensorStore, *, dtype: npt.DTypeLike = np.float64) -> None:
        self.graph = graph
        self.tensors = tensors
        self.dtype = np.dtype(dtype)

    def run(self, feed: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Computes ``wanted`` and what it depends on, no more; every other value is freed after its last reader.

        NaN and infinity are carried along, never hidden: relu and max pooling keep NaN (MXNet's do not).

        Args:
            feed: the graph's inputs that are needed; images are (N, C, H, W).
            wanted: names of values, of inputs or of node outputs.

        Returns:
            The wanted values in the order asked, in ``dtype``. They may share memory with each other: do not write.

        Raises:
            UsageError: a name in ``feed`` or ``wanted`` is not in the graph, or an input that is needed is not fed.
            UnsupportedOperatorError: a needed node has an operator without a rule here; nothing has been run.
            MissingTensorError: a stored tensor that a node names is not there.
            ShapeError: a stored tensor or an input of a node does not fit its operator.
            ValueRangeError: a variance plus eps is not positive.
            FormatError: a node has a number of inputs that its operator cannot have.
        """
        names = tuple(dict.fromkeys(wanted))
        nodes = tuple(self.graph.ancestors(names))
        self._check(feed, names, nodes)
        values = {name: np.asarray(array, self.dtype) for name, array in feed.items()}
        last_reader = {value: node for node in nodes for value in node.inputs}
        for node in nodes:
            values.update(self._run_node(node, [values[value] for value in node.inputs]))
            for value in set(node.inputs) - set(names):
                if last_reader[value] is node:
                    del values[value]
        return {name: values[name] for name in names}

    def _check(self, feed: Mapping[str, Array], names: Sequence[str], nodes: Sequence[Node]) -> None:
        inputs, computed = set(self.graph.inputs), self.graph.producers.keys()
        if unknown := feed.keys() - inputs:
            raise UsageError(f"the graph has no input {sorted(unknown)}", expected=sorted(inputs))
        if unknown := set(names) - inputs - computed:
            raise UsageError(f"the graph has no value {sorted(unknown)}", hint=f"its outputs are {self.graph.outputs}")
        if missing := ({value for node in nodes for value in node.inputs} | set(names)) - computed - feed.keys():
            raise UsageError(f"no array was fed for {sorted(missing)}", found=f"arrays for {sorted(feed)}")
        for node in nodes:
            if type(node.attrs) not in OPERATORS:
                raise UnsupportedOperatorError(
                    "the reference executor has no rule for this operator",
                    file=self.tensors.file,
                    place=str(node),
                    hint=f"it has rules for {', '.join(sorted(attrs.__name__ for attrs in OPERATORS))}",
                )

    def _run_node(self, node: Node, inputs: Sequence[Array]) -> dict[str, Array]:
        with in_file(self.tensors.file, str(node)):
            if not inputs or (len(inputs) > 1 and not isinstance(node.attrs, Add | Multiply | Concat)):
                raise FormatError("the operator cannot have this number of inputs", found=len(inputs))
            stored = {role.value: self._weight(name) for role, name in node.params.items()}
            try:
                with np.errstate(all="ignore"):  # NaN and infinity go on to the comparison, which passes neither
                    result = OPERATORS[type(node.attrs)](node.attrs, *inputs, **stored)
                results = result if isinstance(result, list) else [result]
                return dict(zip(node.outputs, results, strict=True))
            except (ValueError, IndexError, ArithmeticError, MemoryError) as error:
                shapes = ", ".join(str(x.shape) for x in inputs)
                raise ShapeError(f"cannot be computed on these inputs: {error}", found=f"shapes {shapes}") from error

    def _weight(self, name: str) -> Array:
        if name not in self.tensors:
            raise MissingTensorError(
                f"the graph names {name!r}, which is not among the {len(self.tensors)} stored tensors",
                hint="are the two files from the same checkpoint (same prefix)?",
            )
        return np.array(self.tensors[name].numpy(), self.dtype, order="C")


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
) -> Array:
    """``(x - mean) / sqrt(var + eps) * gamma + beta``."""
    mean = _per_channel(Role.MEAN, running_mean, x)
    var = _per_channel(Role.VAR, running_var, x)
    if not (var + op.eps > 0).all():
        raise ValueRangeError("the variance plus eps is not positive", expected=f"> {-op.eps}", found=var.min())
    y: Array = x - mean
    y *= (1.0 if op.fix_gamma else _per_channel(Role.GAMMA, gamma, x)) / np.sqrt(var + op.eps)
    y += _per_channel(Role.BETA, beta, x)
    return y


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
            slope = weight if weight is not None and weight.shape == (1,) else _per_channel(Role.WEIGHT, weight, x)
            y = np.where(x < 0, slope * x, x)
    return y


def pool(op: Pool, x: Array) -> Array:
    """The largest, the mean or the sum of each window; `LOWEST` or 0 where it has no real cell (MXNet 1.9.1).

    torch's ``ceil_mode`` differs there: it drops a last window that starts in the padding.
    """
    if op.global_pool:
        whole: Mapping[PoolKind, Callable[..., Array]]
        whole = {PoolKind.MAX: np.max, PoolKind.AVERAGE: np.mean, PoolKind.SUM: np.sum}
        return whole[op.kind](_maps(x), axis=(2, 3), keepdims=True)
    fill = LOWEST if op.kind is PoolKind.MAX else 0.0
    windows = _windows(x, op.kernel, op.stride, op.padding, ceil=op.ceil, fill=fill)
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
    rows = _rows(x) if op.flatten else x
    y: Array = rows @ _stored(Role.WEIGHT, weight, (op.out_features, rows.shape[-1])).T
    if op.bias:
        y += _stored(Role.BIAS, bias, (op.out_features,))
    return y


def _rows(x: Array) -> Array:
    """(N, everything else)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def softmax(op: Softmax, x: Array) -> Array:
    """``exp(x - max) / sum``."""
    scores, axis = (_rows(x), 1) if op.axis is None else (x, op.axis)
    exponentials: Array = np.exp(scores - scores.max(axis, keepdims=True))
    y: Array = exponentials / exponentials.sum(axis, keepdims=True)
    return y.reshape(x.shape)


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
    """Equal parts along an axis."""
    parts = np.split(x, op.parts, op.axis)
    return [np.squeeze(part, op.axis) for part in parts] if op.squeeze else parts


def reshape(op: Reshape, x: Array) -> Array:
    """A new shape; 0 copies the dimension at its place, -1 is inferred."""
    if min(op.shape, default=0) < -1:
        raise ShapeError("only 0 and -1 have a special meaning in a new shape", found=op.shape)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(op.shape)])


# Each operator's function; what is not here is refused
OPERATORS: Final[Mapping[type, Callable[..., Array | list[Array]]]] = {
    Conv: convolution,
    BatchNorm: batch_norm,
    Activation: activation,
    Pool: pool,
    Linear: linear,
    Add: lambda _, *xs: reduce(np.add, xs),
    Multiply: lambda _, *xs: reduce(np.multiply, xs),
    Scalar: scalar,
    Concat: lambda op, *xs: np.concatenate(xs, op.axis),
    Split: split,
    Slice: lambda op, x: x[tuple(slice(*bounds) for bounds in op.bounds)],
    Flatten: lambda _, x: _rows(x),
    Reshape: reshape,
    Transpose: lambda op, x: np.transpose(x, op.axes or None),
    Softmax: softmax,
    Identity: lambda _, x: x,
    Cast: lambda _, x: x,
}
