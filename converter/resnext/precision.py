"""Rounds a state dict to a precision that the user asks for. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

from resnext_convert.converter.errors import PrecisionError
from resnext_convert.converter.tensors import Array, Float64Array

Precision = Literal["float16", "bfloat16", "float32"]

DTYPES: Final[Mapping[Precision, np.dtype[Any]]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
LARGEST: Final[Mapping[Precision, float]] = {
    "float16": 65504.0,
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
    "float32": (2 - 2.0**-23) * 2.0**127,
}
SMALLEST: Final[Mapping[Precision, float]] = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}
"""Smallest normal value."""


@dataclass(frozen=True, slots=True)
class Cast:
    """A rounded state dict, and what became of small values: how many are subnormal, and how many have become 0."""

    arrays: dict[str, Array]
    subnormal: int
    zero: int

    @property
    def note(self) -> str:
        """What is to be known about the small values; empty where none suffered."""
        parts = [
            *([f"{self.subnormal:,} are subnormal"] if self.subnormal else []),
            *([f"{self.zero:,} became 0"] if self.zero else []),
        ]
        return f"of the values, {' and '.join(parts)}" if parts else ""


def cast(arrays: Mapping[str, Array], precision: Precision) -> Cast:
    """Every floating tensor in one precision, each value rounded to the nearest, ties to even. Integers stay.

    Args:
        arrays: float16, float32 or float64 (aligned or not), and integers.
        precision: of the result; bfloat16 is ml_dtypes' type.

    Raises:
        PrecisionError: a value is beyond the largest of the precision; names the tensor and the value.
    """
    rounded = {key: _rounded(key, array, precision) for key, array in arrays.items()}
    subnormal = zero = 0
    for key, array in rounded.items():
        if array.dtype.kind in "iub":
            continue
        # A large tensor has few of them, or none.
        small = np.flatnonzero(np.abs(array) < SMALLEST[precision])
        values, before = array.reshape(-1)[small], arrays[key].reshape(-1)[small]
        zero += int(np.count_nonzero((values == 0) & (before != 0)))
        subnormal += int(np.count_nonzero(values != 0))
    return Cast(rounded, subnormal, zero)


def _rounded(key: str, array: Array, precision: Precision) -> Array:
    if array.dtype.kind in "iub":
        return array
    dtype = DTYPES[precision]
    with np.errstate(over="ignore", under="ignore"):
        if array.dtype == np.float64 and precision == "bfloat16":
            rounded = to_odd_float32(array).astype(dtype)  # ml_dtypes goes through float32, and would round twice
        else:
            rounded = array.astype(dtype, copy=False)
    assert rounded.dtype == dtype
    beyond = np.isinf(rounded)
    if beyond.any():
        worst = float(np.abs(array[beyond]).max())
        raise PrecisionError(
            f"{precision} cannot hold the weights",
            place=f"tensor {key!r:.80}",
            expected=f"at most {LARGEST[precision]:g}",
            found=f"{worst:g}",
            hint="take bfloat16 or float32" if precision == "float16" else "leave the precision to the network",
        )
    return rounded


def to_odd_float32(values: Float64Array) -> Array:
    """float64 to float32, and where that is inexact to the neighbour whose last bit is 1.

    Rounding that once more, to at most 22 bits, gives what one rounding of the float64 gives (Boldo and Melquiond,
    2008).
    """
    with np.errstate(over="ignore", under="ignore"):
        near = values.astype(np.float32)
    wide = near.astype(np.float64)
    bits = near.view(np.uint32)
    # The neighbour on the other side of the value, where the nearest is even; a step in bits is a step of magnitude.
    even = (wide != values) & (bits & 1 == 0)
    away = np.abs(wide) < np.abs(values)
    bits = np.where(even, np.where(away, bits + np.uint32(1), bits - np.uint32(1)), bits)
    return np.asarray(bits, np.uint32).view(np.float32)
