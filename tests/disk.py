"""Disks that are full, and what is in a folder: for the tests of what writes files."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The two ways to write a file that is not there yet; the second is that of systems without `O_TMPFILE`.
WAYS = ["nameless", "hidden"]


def write_in_this_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "hidden":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)  # what it would find out on such a system
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may become larger than ``size``. A write beyond it fails as on a full disk, but with EFBIG."""
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)


class Refusing(io.BytesIO):
    """Room for some bytes, then an error."""

    def __init__(self, room: int, error: BaseException) -> None:
        super().__init__()
        self.room, self.error = room, error

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.room:
            raise self.error
        return super().write(data)
