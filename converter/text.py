"""Names from files and figures, as they are shown to people: on a terminal, in a page, in an error."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with everything that is not shown as itself written as an escape, such as ``\x1b`` or ``\u202e``.

    Names in files are other people's input. A control character among them could move the cursor, colour the
    terminal or turn the reading direction, and a lone surrogate (``\ud800``) cannot be encoded at all.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shape_text(shape: tuple[int, ...]) -> str:
    """``1x3x224x224``; a scalar has the shape ``()``."""
    return "x".join(map(str, shape)) or "()"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
