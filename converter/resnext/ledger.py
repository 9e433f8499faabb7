"""The books of a match: each source tensor is used once or ignored with a reason, each target key is filled once."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resnext_convert.converter.errors import LedgerError


class Transform(enum.StrEnum):
    """How a target's values come from the source's. All are exact."""

    IDENTITY = "identity"
    ONES = "ones: fix_gamma, the stored gamma is ignored"
    ZERO = "zero: a counter that the source does not have"
    LINEAR_TO_CONV = "reshape (out, in) to (out, in, 1, 1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One key of the state dict, the source tensor that fills it (None where none does), and how."""

    target: str
    source: str | None
    transform: Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A source tensor that no target key takes, and why that is right."""

    source: str
    reason: str


class Ledger:
    """Collects bindings; `close` checks that nothing is missing, left over or there twice."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}
        self._users: dict[str, str] = {}

    def bind(self, target: str, source: str | None, transform: Transform = Transform.IDENTITY) -> None:
        """Enters one binding.

        Raises:
            LedgerError: the target is filled already, or the source is used already.
        """
        if target in self._bindings:
            raise LedgerError(f"the target {target!r} is filled twice", found=f"{self._bindings[target]} and {source}")
        if source is not None:
            if source in self._users:
                raise LedgerError(
                    f"the source tensor {source!r} is used twice",
                    expected="one use of each tensor",
                    found=f"{self._users[source]} and {target}",
                    hint="layers that share their weights are not supported: PyTorch keys would have to be tied",
                )
            self._users[source] = target
        self._bindings[target] = Binding(target=target, source=source, transform=transform)

    def close(
        self, stored: Iterable[str], targets: Iterable[str], reasons: Mapping[str, str], default_reason: str
    ) -> tuple[tuple[Binding, ...], tuple[Ignored, ...]]:
        """Balances the books.

        Args:
            stored: every tensor of the source file.
            targets: every key of the target's state dict.
            reasons: why a tensor that is not bound is no loss.
            default_reason: the reason for those not in ``reasons``.

        Returns:
            The bindings in the order of ``targets``, and the ignored tensors in the order of ``stored``.

        Raises:
            LedgerError: a target without a binding, a binding without a target, a source that is not stored.
        """
        wanted, known = dict.fromkeys(targets), dict.fromkeys(stored)
        problems = [
            *(f"nothing fills {key}" for key in wanted if key not in self._bindings),
            *(f"{key} is no key of the target" for key in self._bindings if key not in wanted),
            *(f"{name} is not in the file" for name in self._users if name not in known),
        ]
        if problems:
            raise LedgerError("the match does not balance: " + "; ".join(problems))
        ignored = (
            Ignored(source=name, reason=reasons.get(name, default_reason)) for name in known if name not in self._users
        )
        return tuple(self._bindings[key] for key in wanted), tuple(ignored)
