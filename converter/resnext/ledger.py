"""The books of a match: each source tensor is used once or ignored with a reason, each target key is filled once."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resnext_convert.converter.errors import LedgerError


class Transform(enum.StrEnum):
    """How a target's values come from the source's. All are exact, but for the rounding to float64 that two state."""

    IDENTITY = "identity"
    ONES = "ones: fix_gamma, the stored gamma is ignored"
    NO_GAMMA = "ones: the source normalises without a gamma"
    NO_BETA = "zeros: the source normalises or scales without a beta"
    NO_BIAS = "zeros: the source has no bias here"
    NO_MEAN = "zeros: the source scales without statistics"
    NO_VAR = "ones, with an eps of 0: the source scales without statistics"
    ZERO = "zero: a counter that the source does not have"
    FACTOR = "divided by the moving-average factor, in float64; zeros where that is 0"
    SUM = "the sum of the branches' biases, in float64"
    LINEAR_TO_CONV = "reshape (out, in) to (out, in, 1, 1)"
    CONV_TO_LINEAR = "reshape (out, in, 1, 1) to (out, in)"
    TRANSPOSE = "transpose (in, out) to (out, in)"
    TRANSPOSE_TO_CONV = "transpose and reshape (in, out) to (out, in, 1, 1)"


class Fold(enum.StrEnum):
    """What is done besides, for a stock model that lacks a layer or a number of the source."""

    EPS_TO_VAR = "plus the source's eps less the stock model's, in float64"
    EPS_TO_GAMMA = "times the quotient of the two standard deviations where the variance cannot take eps, in float64"
    BIAS_TO_MEAN = "less the bias of the convolution, which the stock model lacks, in float64"
    STD_TO_WEIGHT = "times the input's scale and the std of Normalize, channel by channel, in float64"
    REVERSED = "input channels reversed, BGR to RGB"
    CLASS_ORDER = "rows put in the order of ILSVRC-2012"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One key of the state dict, the source tensors that fill it, and how.

    Attributes:
        target: the key.
        sources: of one tensor usually; of none where the transform invents the values; of several where the source
            has the branches of a grouped convolution as layers of their own.
        transform: what is done with each source.
        axis: along which several are stacked, in this order; None for one, and for a sum.
        factors: the moving-average factor of each source, where the transform divides by it.
        folds: what is done after that.
        folded: the source tensors without a key of their own that the folds put in.
    """

    target: str
    sources: tuple[str, ...]
    transform: Transform
    axis: int | None = None
    factors: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    folded: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The sources in short: ``w``, ``w1 and 31 more``; empty where there is none."""
        more = len(self.sources) - 1
        return "".join(self.sources[:1]) + (f" and {more} more" if more > 0 else "")

    @property
    def how(self) -> str:
        """The transform in words."""
        stacked = f"the {len(self.sources)} branches stacked along axis {self.axis}" if self.axis is not None else ""
        return "; ".join(filter(None, [self.transform.value, stacked, *self.folds]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A source tensor that no target key takes, and why that is right."""

    source: str
    reason: str


def used(bindings: Iterable[Binding]) -> int:
    """How many source tensors are bound."""
    return len({name for binding in bindings for name in (*binding.sources, *binding.factors, *binding.folded)})


class Ledger:
    """Collects bindings; `close` checks that nothing is missing, left over or there twice."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}
        self._users: dict[str, str] = {}

    def bind(self, binding: Binding) -> None:
        """Enters one binding. A moving-average factor may divide several tensors.

        Raises:
            LedgerError: the target is filled already, or a source is used already.
        """
        target = binding.target
        if target in self._bindings:
            raise LedgerError(
                f"the target {target!r} is filled twice", found=f"{self._bindings[target].origin} and {binding.origin}"
            )
        for source in (*binding.sources, *binding.folded):
            if source in self._users:
                raise LedgerError(
                    f"the source tensor {source!r} is used twice",
                    expected="one use of each tensor",
                    found=f"{self._users[source]} and {target}",
                    hint="layers that share their weights are not supported: PyTorch keys would have to be tied",
                )
            self._users[source] = target
        self._bindings[target] = binding

    def close(
        self, stored: Iterable[str], targets: Iterable[str], reasons: Mapping[str, str], default_reason: str = ""
    ) -> tuple[tuple[Binding, ...], tuple[Ignored, ...]]:
        """Balances the books.

        Args:
            stored: every tensor of the source file.
            targets: every key of the target's state dict.
            reasons: why a tensor that is not bound is no loss.
            default_reason: the reason for those not in ``reasons``; none: there may be no such tensor.

        Returns:
            The bindings in the order of ``targets``, and the ignored tensors in the order of ``stored``.

        Raises:
            LedgerError: a target without a binding, a binding without a target, a source that is not stored, or that
                is used by no key and for no reason.
        """
        wanted, known = dict.fromkeys(targets), dict.fromkeys(stored)
        factors = dict.fromkeys(factor for binding in self._bindings.values() for factor in binding.factors)
        unused = [name for name in known if name not in self._users and name not in factors]
        problems = [
            *(f"{name} is used by no key" for name in unused if not reasons.get(name, default_reason)),
            *(f"nothing fills {key}" for key in wanted if key not in self._bindings),
            *(f"{key} is no key of the target" for key in self._bindings if key not in wanted),
            *(f"{name} is not in the file" for name in (*self._users, *factors) if name not in known),
        ]
        if problems:
            raise LedgerError("the match does not balance: " + "; ".join(problems))
        ignored = (Ignored(source=name, reason=reasons.get(name, default_reason)) for name in unused)
        return tuple(self._bindings[key] for key in wanted), tuple(ignored)
