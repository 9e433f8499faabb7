"""What a person sees of a classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from resnext_convert.converter.lines import console, print_lines, row, table

if TYPE_CHECKING:
    from resnext_convert.converter.classify import Classification


def print_classification(done: Classification) -> None:
    """How images were prepared, and one table for each; warnings go to stderr."""
    out = console()
    print_lines(out, [f"{done.checkpoint}: {done.network}"], style="bold")
    names = f"in the order {done.class_order}" if done.class_order else "as the file of labels names them"
    about = [
        row("input", f"{done.input.text}, as {done.input.source} says"),
        row("size", done.size.text),
        *([row("note", done.size.note)] if done.size.note else []),
        row("classes", names),
    ]
    print_lines(out, about)
    for image in done.images:
        print_lines(out, ["", image.file], style="bold")
        print_lines(out, (row("note", note) for note in image.notes))
        scores = [(f"{100 * score.probability:.2f} %", str(score.place), score.name) for score in image.top]
        print_lines(out, table([("probability", "class", "name"), *scores], right=(0, 1)))
    print_lines(Console(stderr=True, soft_wrap=True), (f"warning: {text}" for text in done.warnings), style="yellow")
