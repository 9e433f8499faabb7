"""The records of a proof: what was compared, how far it was apart, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnext_convert.converter.compare import TensorDiff

Precision = Literal["float32", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file that was read or written: what it is, its name (no folder), its size and its SHA-256."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputResult:
    """What one input of the proof gave: all comparisons were made, the worst and the logits are kept."""

    name: str
    shape: tuple[int, ...]
    compared: int
    worst: TensorDiff
    logits: TensorDiff
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalDiff:
    """One output of the original framework, recorded or asked for, against ours.

    ``precision`` is that of the original's own run; ``tolerance`` is what may differ, of peak.
    """

    diff: TensorDiff
    precision: Precision
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return self.diff.within(self.tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """What the original engine says.

    ``passed`` is None where it was not asked, and ``reason`` says why; where it was, ``reason`` is what is to be known.
    """

    name: str
    passed: bool | None
    reason: str = ""
    diffs: tuple[OriginalDiff, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingRecord:
    """What was found about weights that were rounded to a lower precision, on purpose.

    Attributes:
        dtype: the precision.
        tensors: how many tensors were compared with the rounding of the exact ones.
        wrong: the first that is not its rounding to the nearest value; empty where all are.
        layers: convolutions and fully connected layers on the longest path.
        bound: the largest difference that passes, of peak: a multiple of the unit roundoff that grows with ``layers``.
        worst: the largest difference of the logits, with the rounded weights run in float64, from the reference.
        subnormal: values that are subnormal.
        zero: values that became 0.
        flat: running variances among those.
    """

    dtype: str
    tensors: int
    wrong: str
    layers: int
    bound: float
    worst: TensorDiff
    subnormal: int
    zero: int
    flat: int

    @property
    def passed(self) -> bool:
        """Whether every tensor is the rounding of the exact one, and the outputs are within the bound."""
        return not self.wrong and self.worst.within(self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """The whole proof.

    Attributes:
        passed: the verdict: all that was done passed.
        failure: one sentence on what did not; empty if it passed.
        gate: the largest difference that passes in float64, of peak.
        inputs: one result for each input.
        worst: the largest difference met, over all inputs and activations.
        first_divergence: the first activation, in the order of execution, that differs; None if all agree.
        sensitivity: the largest difference of the reference's own logits between two inputs, of peak.
        float32: the module in float32 against the reference in float64, on the structured image: the worst of logits
            and heads.
        oracle: the original framework's verdict.
        golden: the recordings that the user gave.
        seconds: wall time of the comparison in float64.
        rounding: where the weights were rounded: all of the above is about the exact ones then, and this about those
            that were written.
        files: what was compared, where no report of a conversion around this one says it.
    """

    passed: bool
    failure: str
    gate: float
    inputs: tuple[InputResult, ...]
    worst: TensorDiff
    first_divergence: TensorDiff | None
    sensitivity: float
    float32: TensorDiff
    oracle: EngineResult
    golden: tuple[OriginalDiff, ...]
    seconds: float
    rounding: RoundingRecord | None = None
    files: tuple[FileRecord, ...] = ()
