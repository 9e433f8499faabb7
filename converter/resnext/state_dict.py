"""Assembles the state dict: the values of each binding, in the module's order. NumPy alone; nothing is copied twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from resnext_convert.converter.resnext.ledger import Transform
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.tensors import Array, DType, TensorRef, TensorStore

NARROW: Final = frozenset({DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.BOOL,
                           DType.INT16, DType.UINT16})  # fmt: skip
"""Stored types whose every value is a float32."""


def state_dtype(match: Match, tensors: TensorStore) -> type[np.float32 | np.float64]:
    """float32 where that loses nothing, else float64: one type for the whole state dict.

    A float64 file whose values are all float32 values (a cast one) comes out in float32.
    """
    for binding in match.bindings:
        if binding.source is not None and not _fits_float32(tensors[binding.source]):
            return np.float64
    return np.float32


def assemble(match: Match, tensors: TensorStore) -> dict[str, Array]:
    """The values for every key of ``match.config.state_shapes()``, in its order.

    Returns:
        Arrays of `state_dtype` (counters int64). Those that need no change are views of the mapped file, possibly
        unaligned.
    """
    dtype = state_dtype(match, tensors)
    shapes = match.config.state_shapes()
    return {
        binding.target: VALUES[binding.transform](
            tensors[binding.source] if binding.source is not None else None, shapes[binding.target], dtype
        )
        for binding in match.bindings
    }


def _stored(tensor: TensorRef | None, shape: tuple[int, ...], dtype: type[np.floating]) -> Array:
    assert tensor is not None
    return tensor.numpy().astype(dtype, copy=False).reshape(shape)


def _ones(tensor: TensorRef | None, shape: tuple[int, ...], dtype: type[np.floating]) -> Array:
    return np.ones(shape, dtype)


def _counter(tensor: TensorRef | None, shape: tuple[int, ...], dtype: type[np.floating]) -> Array:
    return np.zeros(shape, np.int64)


VALUES: Final[Mapping[Transform, Callable[[TensorRef | None, tuple[int, ...], type[np.floating]], Array]]] = {
    Transform.IDENTITY: _stored,
    Transform.LINEAR_TO_CONV: _stored,
    Transform.ONES: _ones,
    Transform.ZERO: _counter,
}


def _fits_float32(tensor: TensorRef) -> bool:
    if tensor.dtype in NARROW:
        return True
    # Through float64, which holds all but enormous integers: a cast back to an integer is undefined beyond its range.
    values = tensor.float64()
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float32), values))
