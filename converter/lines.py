"""Lines for the terminal: labelled rows and aligned columns, printed without wrapping or cutting.

Names from files are shown with control characters escaped; colours are Rich's business.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console

from resnext_convert.converter.text import printable


def console() -> Console:
    """Stdout as it is now."""
    return Console(file=sys.stdout, soft_wrap=True)


def print_lines(target: Console, lines: Iterable[str], style: str | None = None) -> None:
    """Prints lines in one style, each as it is."""
    for line in lines:
        target.print(printable(line), style=style, highlight=False, markup=False, emoji=False)


def row(label: str, text: str) -> str:
    """A line that begins with what it is about."""
    return f"  {label:<10} {text}"


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> Iterator[str]:
    """Aligned columns; those of ``right`` to the right. The first row is the heading."""
    shown = [[printable(cell) for cell in cells] for cells in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        cells = []
        for number, (cell, width) in enumerate(zip(line, widths, strict=True)):
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if number in right else cell + gap)
        yield f"    {'  '.join(cells)}".rstrip()
