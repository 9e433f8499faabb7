"""Attribute texts of MXNet operators, read as MXNet reads them.

Every attribute of a symbol file is a text. What it may be is decided by dmlc-core's parameter reader (MXNet 1.9.1,
3rdparty/dmlc-core/include/dmlc/parameter.h) and, for shapes, by the tuple reader (include/mxnet/tuple.h).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from resnext_convert.converter.errors import FormatError, UnsupportedError
from resnext_convert.converter.graph import Pair

Defaults = Mapping[str, str | None]
"""Attribute name to default text; None: the attribute is required."""

T = TypeVar("T")

# kHiddenKeys of MXNet 1.9.1, src/c_api/c_api_symbolic.cc. They say where to run and how to train, alone, or about one
# argument (``weight_lr_mult``). MXNet takes them out of files older than itself; here they have no effect in any file.
_HIDDEN_KEYS = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")

_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,19})\s*", re.ASCII)
_ELEMENT = re.compile(r"\s*(-?[0-9]{1,19})L?\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

_INT32_MAX = 2**31 - 1
_SHOWN = 60  # of a text in a message


def is_hidden(name: str) -> bool:
    """Whether an attribute is a remark that no operator reads: ``__anything__``, or one of the old hidden keys."""
    if name.startswith("__") and name.endswith("__"):
        return True
    return any(name.startswith(key) or name.endswith(key) for key in _HIDDEN_KEYS)


def parse_integers(text: str) -> tuple[int | None, ...]:
    """A shape: ``(7, 7)``, ``(7,7)``, ``[7, 7]``, ``(7L, 7L)``, ``7``, ``()``; an element may be None.

    Raises:
        ValueError: it is none of these.
    """
    stripped = text.strip()
    if single := _ELEMENT.fullmatch(stripped):
        return (int(single[1]),)
    if len(stripped) < 2 or stripped[0] not in "([" or stripped[-1] not in ")]":
        raise ValueError(f"no shape: {text!r:.60}")
    items = stripped[1:-1].split(",")
    if not items[-1].strip():
        items.pop()  # the end of ``()`` and of ``(7, 7,)``
    return tuple(_element(item) for item in items)


def _element(item: str) -> int | None:
    if item.strip() == "None":
        return None
    match = _ELEMENT.fullmatch(item)
    if match is None:
        raise ValueError(f"no shape: an element is {item!r:.60}")
    return int(match[1])


class Attributes:
    """The attributes of one operator: what the file says over what MXNet takes where it says nothing.

    Args:
        given: the texts of the file.
        defaults: every attribute that the operator has.

    Raises:
        FormatError: an attribute that the operator does not have, or a required one that is not given.
    """

    __slots__ = ("_texts",)

    def __init__(self, given: Mapping[str, str], defaults: Defaults) -> None:
        known = {name: text for name, text in given.items() if name in defaults}
        unknown = [name for name in given if name not in defaults and not is_hidden(name)]
        if unknown:
            raise FormatError(
                f"the operator has no attribute {_shown(unknown[0])}",
                expected=f"one of {', '.join(defaults) or 'none at all'}",
                found=_shown(given[unknown[0]]),
                hint="MXNet refuses it too (Cannot find argument); the file is of another operator set, or was edited",
            )
        missing = [name for name, text in defaults.items() if text is None and name not in given]
        if missing:
            raise FormatError(f"the attribute {missing[0]!r} is required and not given")
        self._texts = {name: text for name, text in defaults.items() if text is not None} | known

    def _refuse(self, name: str, expected: str) -> FormatError:
        return FormatError(f"attribute {name!r} cannot be read", expected=expected, found=_shown(self._texts[name]))

    def is_none(self, name: str) -> bool:
        """Whether the text is ``None``."""
        return self._texts[name] == "None"

    def boolean(self, name: str) -> bool:
        """``True``, ``true``, ``1`` or ``False``, ``false``, ``0``; blanks are not allowed."""
        value = _BOOLEANS.get(self._texts[name].lower())
        if value is None:
            raise self._refuse(name, "True or False")
        return value

    def integer(self, name: str, minimum: int = -_INT32_MAX - 1, maximum: int = _INT32_MAX) -> int:
        """A decimal integer of 32 bits within the limits."""
        match = _INTEGER.fullmatch(self._texts[name])
        if match is None or not minimum <= int(match[1]) <= maximum:
            raise self._refuse(name, f"an integer from {minimum} to {maximum}")
        return int(match[1])

    def number(self, name: str) -> float:
        """A finite decimal number, as float64 (MXNet's ``double`` fields)."""
        text = self._texts[name]
        if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
            raise self._refuse(name, "a finite number")
        return float(text)

    def float32(self, name: str) -> float:
        """A finite decimal number, rounded to float32 as MXNet's ``float`` fields are."""
        with np.errstate(over="ignore"):
            value = float(np.float32(self.number(name)))
        if not math.isfinite(value):
            raise self._refuse(name, "a number within float32")
        return value

    def choice(self, name: str, values: Mapping[str, T]) -> T:
        """What one of a closed set of texts stands for."""
        if self._texts[name] not in values:
            raise self._refuse(name, f"one of {', '.join(values)}")
        return values[self._texts[name]]

    def bounds(self, name: str) -> tuple[int | None, ...]:
        """A shape whose elements may be None."""
        try:
            return parse_integers(self._texts[name])
        except ValueError:
            raise self._refuse(name, "integers in parentheses") from None

    def integers(self, name: str) -> tuple[int, ...]:
        """A shape."""
        elements = self.bounds(name)
        if None in elements:
            raise self._refuse(name, "integers in parentheses, none of them None")
        return tuple(element for element in elements if element is not None)

    def kernel(self, name: str) -> Pair:
        """The kernel of a 2-D window; it says how many dimensions the operator works on.

        Raises:
            UnsupportedError: it has another number of dimensions.
        """
        sizes = self.integers(name)
        if len(sizes) in {1, 3}:
            raise UnsupportedError(
                f"a {len(sizes)}-D operator",
                expected="a 2-D kernel",
                found=_shown(self._texts[name]),
                hint="only networks on images are read",
            )
        return self._pair(name, sizes, minimum=1)

    def pair(self, name: str, *, minimum: int) -> Pair:
        """What belongs to a 2-D kernel: two integers, or ``()``, which stands for twice the smallest."""
        sizes = self.integers(name)
        return self._pair(name, sizes, minimum) if sizes else (minimum, minimum)

    def _pair(self, name: str, sizes: tuple[int, ...], minimum: int) -> Pair:
        if len(sizes) != 2 or not all(minimum <= size <= _INT32_MAX for size in sizes):
            raise self._refuse(name, f"two integers from {minimum} on, as the 2-D kernel has")
        return sizes[0], sizes[1]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
