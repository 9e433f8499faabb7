"""Rounding to nearest, ties to even, once; overflow is refused, underflow is counted."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from resnext_convert.converter.errors import PrecisionError, UsageError
from resnext_convert.converter.resnext.precision import DTYPES, LARGEST, SMALLEST, Precision, cast, to_odd_float32
from resnext_convert.converter.tensors import Array

BITS = {"float16": 11, "bfloat16": 8, "float32": 24}
PRECISIONS: list[Precision] = ["float16", "bfloat16", "float32"]


def rounded(values: Array, precision: Precision) -> Array:
    return cast({"a": values}, precision).arrays["a"]


def by_definition(value: float, precision: Precision) -> Fraction:
    """The nearest value of the precision, ties to even, in rational numbers."""
    exact = Fraction(value)
    if not exact:
        return exact
    last = Fraction(SMALLEST[precision]) * Fraction(2) ** (1 - BITS[precision])
    while abs(exact) / last >= 2 ** BITS[precision]:
        last *= 2
    return round(exact / last) * last  # Python's round: ties to even


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_every_value_is_the_nearest(precision: Precision, stored: type[np.float32 | np.float64]) -> None:
    """Random ones of all magnitudes, and those around the middle between two."""
    rng = np.random.default_rng(0)
    low = -30.0 if precision == "float16" else -140.0
    high = 15.0 if precision == "float16" else 120.0
    values = rng.standard_normal(300) * np.exp2(rng.uniform(low, high, 300))
    near = values.astype(DTYPES[precision]).astype(np.float64)
    step = np.abs(near) * 2.0 ** -BITS[precision]
    middles = near + np.concatenate([step[:150], -step[150:]])
    spread = [values, near, middles, middles * (1 + 2**-50), middles * (1 - 2**-50), middles * (1 + 2**-30)]
    with np.errstate(under="ignore", over="ignore"):
        tried = np.concatenate(spread).astype(stored)
    tried = tried[np.abs(tried) < LARGEST[precision]]
    for value, found in zip(tried.tolist(), rounded(tried, precision).astype(np.float64).tolist(), strict=True):
        assert Fraction(found) == by_definition(value, precision), value


def test_a_double_is_rounded_once() -> None:
    """Through float32, this would come to the middle between two values of bfloat16, and then go to the even one."""
    value = np.array([1 + 2.0**-8 + 2.0**-30, -1 - 2.0**-8 - 2.0**-40])
    assert value.astype(np.float32).astype(ml_dtypes.bfloat16).astype(float).tolist() == [1, -1]
    assert rounded(value, "bfloat16").astype(float).tolist() == [1 + 2.0**-7, -1 - 2.0**-7]
    assert rounded(np.array([1 + 2.0**-11 + 2.0**-40]), "float16").astype(float).tolist() == [1 + 2.0**-10]


def test_to_odd() -> None:
    values = np.array([1.0, 1 + 2.0**-30, 1 - 2.0**-30, -(1 + 2.0**-30), 0.0, -0.0, 1e-300, -1e-300, 1 + 2.0**-23])
    tiny = 2.0**-149
    expected = [1, 1 + 2.0**-23, 1 - 2.0**-24, -(1 + 2.0**-23), 0, 0, tiny, -tiny, 1 + 2.0**-23]
    found = to_odd_float32(values)
    assert found.dtype == np.float32
    assert found.astype(float).tolist() == expected
    assert np.signbit(found).tolist() == [False, False, False, True, False, True, False, True, False]


def test_ties_go_to_even() -> None:
    values = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 3 * 2.0**-25])
    assert rounded(values, "float16").astype(float).tolist() == [1, 1 + 2.0**-9, 0, 2.0**-23]
    values = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8])
    assert rounded(values, "bfloat16").astype(float).tolist() == [1, 1 + 2.0**-6]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_largest_value(precision: Precision) -> None:
    largest = LARGEST[precision]
    half = largest * 2.0 ** -BITS[precision] / (2 - 2.0 ** (1 - BITS[precision]))
    assert rounded(np.array([largest, -largest, largest + 0.9 * half]), precision).astype(float).tolist() == [
        largest,
        -largest,
        largest,
    ]
    for value in (largest + half, -largest - half, 1e300):
        with pytest.raises(PrecisionError, match=f"{precision} cannot hold the weights") as error:
            cast({"bn1.bias": np.zeros(2), "bn1.running_var": np.array([1, value, 2])}, precision)
        assert error.value.place == "tensor 'bn1.running_var'"
        assert error.value.found == f"{abs(value):g}"
        assert isinstance(error.value, UsageError)


def test_what_is_lost_is_counted() -> None:
    arrays: dict[str, Array] = {
        "a": np.array([1e-3, 1e-5, 1e-9, 0.0, -1e-9, -2e-5], np.float32),
        "bn.running_var": np.array([1e-10, 5.0]),
        "n": np.array(2**40),
    }
    found = cast(arrays, "float16")
    assert (found.subnormal, found.zero) == (2, 3)
    assert found.note == "of the values, 2 are subnormal and 3 became 0"
    assert np.signbit(found.arrays["a"]).tolist() == [False, False, False, False, True, True]
    assert cast(arrays, "bfloat16").note == ""


def test_integers_stay_and_what_fits_is_not_copied() -> None:
    arrays: dict[str, Array] = {"n": np.array(2**62), "w": np.ones(3, np.float32)}
    found = cast(arrays, "float32").arrays
    assert found["n"] is arrays["n"]
    assert found["w"] is arrays["w"]
    assert {array.dtype for array in cast(arrays, "bfloat16").arrays.values()} == {
        np.dtype(np.int64),
        np.dtype(ml_dtypes.bfloat16),
    }
