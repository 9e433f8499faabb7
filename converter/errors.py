"""Every way in which a conversion can be refused, and the exit code that belongs to it.

An error says which file, where in it, what was expected, what was found and what to do next. The command line
prints it and exits with ``exit_code``; nothing else in the project turns errors into text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

_LONGEST: Final = 1000  # characters of a fact


class ConvertError(Exception):
    """Base of all errors of this package; never raised itself.

    Args:
        problem: one sentence: what is wrong.
        file: the file that it is about.
        place: where in the file (``tensor #3 'arg:fc1_weight', byte 0x1f40``; ``node 12 'conv0'``).
        expected: what would have been right.
        found: what is there instead.
        hint: what the user can do next.
    """

    exit_code: ClassVar[int]

    def __init__(
        self,
        problem: str,
        *,
        file: object | None = None,
        place: str | None = None,
        expected: object | None = None,
        found: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.place = place
        self.expected = None if expected is None else _clipped(str(expected))
        self.found = None if found is None else _clipped(str(found))
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.place) if part)
        facts = ", ".join(
            f"{label} {value}"
            for label, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        )
        text = f"{where}: {self.problem}" if where else self.problem
        return f"{text} ({facts})" if facts else text


class UsageError(ConvertError):
    """The request itself makes no sense (options that exclude each other, an oracle that is not installed)."""

    exit_code = 2


class MissingFactsError(UsageError):
    """Weights without a graph were named, and what only a graph says was not stated."""


class PrecisionError(UsageError):
    """The precision that was asked for cannot hold a value of the network."""


class InputError(ConvertError):
    """A source file cannot be used: absent, damaged, or holding values that no network can have."""

    exit_code = 3


class MissingFileError(InputError):
    """A file of the pair is not there, or the source does not say which one is meant."""


class FormatError(InputError):
    """The bytes or the text of a file are not what its format allows."""


class TruncatedError(FormatError):
    """The file ends before what it announces."""


class UnsupportedError(FormatError):
    """Legal in the format, but of a kind that is refused rather than guessed at."""


class MissingTensorError(InputError):
    """The graph names a tensor that the weights file does not hold (or holds under another role)."""


class ShapeError(InputError):
    """A stored tensor does not have the shape that the graph demands."""


class ValueRangeError(InputError):
    """A stored tensor holds values with which the network has no defined output (NaN, negative variance)."""


class NotResNeXtError(ConvertError):
    """The network is understood, but is no member of the family; ``place`` is the first node that does not fit."""

    exit_code = 4


class UnsupportedOperatorError(NotResNeXtError):
    """The reference executor was asked for an operator that it does not know."""


class LedgerError(NotResNeXtError):
    """A source tensor was used twice or not at all, or a target key was filled twice or not at all."""


class ReleaseMismatchError(NotResNeXtError):
    """The user named a release, and the files hold another network."""


class TargetError(NotResNeXtError):
    """No model of the target library computes what the network computes, or not enough is known to say so."""


class ProofError(ConvertError):
    """The converted network does not compute what the source computes, or nothing could be compared."""

    exit_code = 5


class WriteError(ConvertError):
    """The output could not be written; what was there before is untouched."""

    exit_code = 6


class FetchError(ConvertError):
    """A release's file could not be fetched, or is not the file that was published; nothing of it is kept."""

    exit_code = 7


def _clipped(text: str) -> str:
    """What is found in a file may be of any length; nobody reads more than this of it."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


@contextmanager
def in_file(file: object, place: str | None = None) -> Iterator[None]:
    """Adds the file (and the place) to an error that was raised where neither was known."""
    try:
        yield
    except ConvertError as error:
        if error.file is None:
            error.file = str(file)
            if error.place is None:
                error.place = place
        raise
