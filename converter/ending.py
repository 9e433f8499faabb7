"""How a command talks and how it ends: what it shows meanwhile, what is printed of its errors, and the exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

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


@contextlib.contextmanager
def talking(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows what is being done (on a terminal only), and turns an error into its message and its exit code."""
    with ending():
        if quiet or not sys.stderr.isatty():
            yield lambda message: None
        else:
            from resnext_convert.converter.terminal import progress

            with progress() as say:
                yield say


def watching(
    quiet: bool,
) -> AbstractContextManager[tuple[Callable[[str, int, int | None], None], Callable[[str], None]]]:
    """Shows how far files are that are fetched, and what is said about them."""
    if quiet:
        return contextlib.nullcontext((lambda name, done, total: None, lambda message: None))
    from resnext_convert.converter.terminal_fetch import fetching

    return fetching()


def print_json(text: bytes) -> None:
    """Prints a document on stdout."""
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
