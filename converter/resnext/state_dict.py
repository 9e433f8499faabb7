"""Assembles the state dict: the values of each binding, in the module's order. NumPy alone; nothing is copied twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from resnext_convert.converter.resnext.ledger import Binding, Transform
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.tensors import Array, DType, Float64Array, TensorRef, TensorStore
from resnext_convert.converter.text import counted

NARROW: Final = frozenset({DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.BOOL,
                           DType.INT16, DType.UINT16})  # fmt: skip
"""Stored types whose every value is a float32."""

Float = type[np.float32 | np.float64]
Shape = tuple[int, ...]


def state_dtype(match: Match, tensors: TensorStore) -> Float:
    """float32 where that loses nothing of what is stored, else float64: one type for all weights.

    A float64 file whose values are all float32 values (a cast one) comes out in float32.
    """
    stored = (tensors[source] for binding in match.bindings for source in binding.sources)
    return np.float32 if all(map(_fits_float32, stored)) else np.float64


def assemble(match: Match, tensors: TensorStore) -> dict[str, Array]:
    """The values for every key of ``match.config.state_shapes()``, in its order.

    Returns:
        Arrays of `state_dtype` (counters int64). What is computed and what that type cannot hold is float64: running
        statistics divided by a factor, sums of biases. Arrays that need no change are views of the mapped file,
        possibly unaligned.
    """
    dtype = state_dtype(match, tensors)
    shapes = match.config.state_shapes()
    return {
        binding.target: VALUES[binding.transform](binding, tensors, shapes[binding.target], dtype)
        for binding in match.bindings
    }


def dtype_note(arrays: Mapping[str, Array], bindings: Iterable[Binding] = ()) -> str:
    """Which values of an assembled state dict are wider than the weights, and why; empty where none is.

    ``bindings`` tell the values that were folded for a stock model from those that were not.
    """
    if arrays["fc.weight"].dtype == np.float64:
        return ""
    every = [key for key, values in arrays.items() if values.dtype == np.float64]
    folded = {binding.target for binding in bindings if binding.folds} & set(every)
    wide = [key for key in every if key not in folded]
    statistics = sum(key.endswith((".running_mean", ".running_var")) for key in wide)
    biases = len(wide) - statistics
    parts = [
        *([f"{counted(statistics, 'running statistic')}, divided by a moving-average factor"] if statistics else []),
        *([f"{counted(biases, 'bias', 'biases')}, summed over branches"] if biases else []),
        *([f"{counted(len(folded), 'tensor')}, folded for the stock model"] if folded else []),
    ]
    text = f"float64 for what float32 cannot hold ({'; '.join(parts)}); PyTorch rounds it as it loads it into float32"
    return text if parts else ""


def _stored(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    return _stacked(binding, [tensors[source].numpy().astype(dtype, copy=False) for source in binding.sources], shape)


def _transposed(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    (source,) = binding.sources
    return tensors[source].numpy().astype(dtype, copy=False).T.reshape(shape)


def _quotient(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    """As Caffe does it: times the inverse of the factor, or times 0 (batch_norm_layer.cpp, Forward_cpu)."""
    pairs = zip(binding.sources, binding.factors, strict=True)
    quotients = [tensors[source].float64() * _inverse(tensors[factor]) for source, factor in pairs]
    return narrowed(_stacked(binding, quotients, shape), dtype)


def _inverse(factor: TensorRef) -> float:
    (value,) = factor.float64().flat
    with np.errstate(over="ignore"):
        return float(1 / value if value else 0.0)


def _sum(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    total = np.sum([tensors[source].float64() for source in binding.sources], axis=0)
    return narrowed(total.reshape(shape), dtype)


def _ones(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    return np.ones(shape, dtype)


def _zeros(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    return np.zeros(shape, dtype)


def _counter(binding: Binding, tensors: TensorStore, shape: Shape, dtype: Float) -> Array:
    return np.zeros(shape, np.int64)


VALUES: Final[Mapping[Transform, Callable[[Binding, TensorStore, Shape, Float], Array]]] = {
    Transform.IDENTITY: _stored,
    Transform.LINEAR_TO_CONV: _stored,
    Transform.CONV_TO_LINEAR: _stored,
    Transform.TRANSPOSE: _transposed,
    Transform.TRANSPOSE_TO_CONV: _transposed,
    Transform.FACTOR: _quotient,
    Transform.SUM: _sum,
    Transform.ONES: _ones,
    Transform.NO_GAMMA: _ones,
    Transform.NO_VAR: _ones,
    Transform.NO_BETA: _zeros,
    Transform.NO_BIAS: _zeros,
    Transform.NO_MEAN: _zeros,
    Transform.ZERO: _counter,
}


def _stacked(binding: Binding, parts: Sequence[Array], shape: Shape) -> Array:
    whole = parts[0] if binding.axis is None else np.concatenate(parts, binding.axis)
    return whole.reshape(shape)


def narrowed(values: Float64Array, dtype: Float) -> Array:
    """float64 values in ``dtype`` if that holds each of them."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    return narrow if np.array_equal(narrow, values) else values


def _fits_float32(tensor: TensorRef) -> bool:
    # Through float64, which holds all but enormous integers: a cast back to an integer is undefined beyond its range.
    return tensor.dtype in NARROW or narrowed(tensor.float64(), np.float32).dtype == np.float32
