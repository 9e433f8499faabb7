"""How a command ends: what is printed of its errors, and the exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import typer

from resnext_convert.converter.errors import ConvertError
from resnext_convert.converter.text import printable


def end(errors: Sequence[ConvertError]) -> None:
    """Explains all errors, and ends with the exit code of the first, if there is one."""
    for error in errors:
        lines = [f"error: {error}", *(f"  {note}" for note in getattr(error, "__notes__", ()))]
        lines += [f"hint: {error.hint}"] if error.hint else []
        sys.stderr.writelines(f"{printable(line)}\n" for line in lines)
    if errors:
        raise typer.Exit(errors[0].exit_code)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Turns an error into its message and its exit code."""
    try:
        yield
    except ConvertError as error:
        end([error])


def print_json(text: bytes) -> None:
    """Prints a document on stdout."""
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
