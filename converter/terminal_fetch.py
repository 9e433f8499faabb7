"""What a person sees while files are fetched: a bar for each on stderr, and above the bars what is said about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from resnext_convert.converter.text import printable

Report = Callable[[str, int, int | None], None]
Say = Callable[[str], None]


@contextlib.contextmanager
def fetching() -> Iterator[tuple[Report, Say]]:
    """What `fetch.fetch` calls with its progress, and with what it has to say.

    What is said stays, one line each; the bars leave nothing behind, and are shown on a terminal only.
    """
    console = Console(stderr=True, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def report(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            # Bytes that an earlier try has left say nothing about the speed of this one.
            tasks[name] = bars.add_task(printable(name), total=total, completed=done)
        bars.update(tasks[name], completed=done, total=total)

    def say(message: str) -> None:
        console.print(printable(message), highlight=False, markup=False, emoji=False)

    # Where nothing can be drawn, older releases of rich end with an empty line for the bars that were not.
    with bars if console.is_interactive else contextlib.nullcontext():
        yield report, say
