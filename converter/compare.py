"""Comparison of two arrays: not a verdict but the tolerance that would have been needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resnext_convert.converter.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDiff:
    """How far two tensors are apart.

    Attributes:
        name: what was compared.
        peak: the largest absolute value of the reference.
        max_abs: the largest absolute difference; infinite where either side is not finite or the shapes differ.
        max_of_peak: ``max_abs / peak``, the one measure that verdicts are made of.
        at: the index of the largest difference, () where the shapes differ.
        shape: of the reference.
    """

    name: str
    peak: float
    max_abs: float
    max_of_peak: float
    at: tuple[int, ...]
    shape: tuple[int, ...]

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most ``tolerance`` of the peak; never for NaN."""
        return self.max_of_peak <= tolerance

    def __str__(self) -> str:
        return f"{self.name}: {self.max_of_peak:.1e} of peak {self.peak:.3g}, at {list(self.at)}"


def compare(name: str, reference: Array, actual: Array) -> TensorDiff:
    """Compares ``actual`` with ``reference``; float64 on both sides before the difference is taken.

    An empty pair is as bad as a wrong shape: nothing compared is a failure.
    """
    if reference.shape != actual.shape or reference.size == 0:
        return TensorDiff(
            name=name, peak=0.0, max_abs=math.inf, max_of_peak=math.inf, at=(), shape=tuple(reference.shape)
        )
    wanted = np.asarray(reference, dtype=np.float64)
    with np.errstate(all="ignore"):  # infinity minus infinity is NaN, and seen below
        difference = np.subtract(actual, wanted, dtype=np.float64)
        np.abs(difference, out=difference)
    peak = float(max(wanted.max(), -wanted.min()))  # NaN in, NaN out
    place = int(difference.argmax())  # argmax finds a NaN first
    largest = float(difference.flat[place])
    if not math.isfinite(largest) or not math.isfinite(peak):
        largest = of_peak = math.inf
    else:
        of_peak = largest / peak if peak > 0 else (0.0 if largest == 0 else math.inf)
    return TensorDiff(
        name=name,
        peak=peak,
        max_abs=largest,
        max_of_peak=of_peak,
        at=tuple(int(i) for i in np.unravel_index(place, difference.shape)),
        shape=tuple(reference.shape),
    )


def worst(diffs: list[TensorDiff]) -> TensorDiff:
    """The largest of some differences.

    Raises:
        ValueError: there is none.
    """
    return max(diffs, key=lambda diff: diff.max_of_peak)
