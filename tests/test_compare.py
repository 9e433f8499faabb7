"""What a comparison says, and what it must never pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from single_node import ramp

from resnext_convert.converter.compare import TensorDiff, compare, worst

NAN, INF = math.nan, math.inf


def array(*values: float, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    return np.array(values, dtype)


def test_the_largest_difference_and_its_place() -> None:
    reference = ramp(2, 3, 4)
    reference[0, 0, 0] = -8.0
    actual = reference.copy()
    actual[1, 2, 1] += 0.25
    actual[0, 1, 1] -= 0.125
    diff = compare("layer1.0", reference, actual)
    assert diff == TensorDiff(
        name="layer1.0", peak=8.0, max_abs=0.25, max_of_peak=0.03125, at=(1, 2, 1), shape=(2, 3, 4)
    )
    assert diff.within(0.03125)
    assert not diff.within(0.03124)
    assert str(diff) == "layer1.0: 3.1e-02 of peak 8, at [1, 2, 1]"


def test_equal_arrays_differ_by_nothing() -> None:
    diff = compare("fc", ramp(3, 5), ramp(3, 5))
    assert (diff.max_abs, diff.max_of_peak) == (0.0, 0.0)
    assert diff.within(0.0)


def test_the_difference_is_taken_in_float64() -> None:
    """In float32 these two would be equal."""
    diff = compare("fc", array(1.0, 2.0), array(1.0, 2.0 + 1e-12))
    assert 0 < diff.max_of_peak < 1e-12
    single = compare("fc", array(2**24, dtype=np.float32), array(2**24 + 1))
    assert single.max_abs == 1.0


def test_the_peak_is_the_references() -> None:
    assert compare("fc", array(0.5), array(100.0)).max_of_peak == 199.0
    assert compare("fc", array(100.0), array(0.5)).max_of_peak == 0.995


# Each pair: (reference, actual). None of them may pass at any tolerance.
@pytest.mark.parametrize(
    ("reference", "actual"),
    [
        (array(1.0, NAN), array(1.0, NAN)),
        (array(1.0, 2.0), array(NAN, 2.0)),
        (array(NAN, 2.0), array(1.0, 2.0)),
        (array(INF, 1.0), array(INF, 1.0)),
        (array(INF, 1.0), array(1.0, 1.0)),
        (array(1.0, 1.0), array(-INF, 1.0)),
        (array(1.0, 1.0), array(INF, NAN)),
        (array(INF), array(-INF)),
        (array(1e308), array(-1e308)),
        (array(0.0, 0.0), array(0.0, 5e-324)),
        (array(0.0), array(-1.0)),
        (array(), array()),
        (np.zeros((2, 0)), np.zeros((2, 0))),
        (ramp(2, 3), ramp(3, 2)),
        (ramp(6), ramp(1, 6)),
        (ramp(1), ramp(2)),
    ],
)
def test_what_never_passes(reference: npt.NDArray[Any], actual: npt.NDArray[Any]) -> None:
    diff = compare("fc", reference, actual)
    assert diff.max_of_peak == INF
    assert not diff.within(1e300)
    assert diff.shape == reference.shape


def test_not_a_number_is_found_before_a_large_difference() -> None:
    diff = compare("fc", array(1.0, 1.0, 1.0), array(1e9, NAN, 1.0))
    assert diff.at == (1,)
    assert diff.max_abs == INF


def test_a_difference_that_is_not_a_number_is_never_within() -> None:
    diff = TensorDiff(name="made by hand", peak=1.0, max_abs=NAN, max_of_peak=NAN, at=(), shape=(1,))
    assert not diff.within(INF)


def test_two_dead_activations_are_equal() -> None:
    """All zero on both sides is no difference; that dead logits prove nothing is the verifier's business."""
    diff = compare("layer4.0", np.zeros((2, 3)), np.zeros((2, 3)))
    assert diff.within(0.0)
    assert diff.peak == 0.0


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("reference", "actual"), [(INF, 1.0), (INF, INF), (NAN, 1.0), (1.0, NAN), (1.0, -INF)])
def test_the_worst_is_never_hidden(place: int, reference: float, actual: float) -> None:
    diffs = [compare(f"ok {number}", ramp(4), ramp(4) + 1e-14) for number in range(2)]
    diffs.insert(place, compare("bad", array(reference, 1.0), array(actual, 1.0)))
    assert worst(diffs).name == "bad"


def test_the_worst_of_none() -> None:
    with pytest.raises(ValueError):
        worst([])


@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.lists(st.floats(width=32), min_size=1, max_size=6))
def test_any_values(reference: list[float], actual: list[float]) -> None:
    """The measure is a number, never NaN; it is 0 for equal finite arrays alone."""
    diff = compare("any", np.array(reference), np.array(actual))
    assert diff.max_of_peak >= 0
    equal = reference == actual and all(math.isfinite(value) for value in reference)
    assert diff.within(0.0) == equal
