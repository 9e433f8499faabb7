"""Releases made for a test, and one call of `fetch` with everything that it said."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext_convert.converter.download import Patience
from resnext_convert.converter.errors import FetchError
from resnext_convert.converter.fetch import fetch
from resnext_convert.converter.releases import Checksum, Location, Release, ReleaseFile

DATA = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
NAME = "net-0000.params"

QUICK = Patience(connect=10, read=10, slowest=1000, tries=2, pause=0.01)
ONCE = replace(QUICK, tries=1)
IMPATIENT = replace(ONCE, read=0.4)


def checksum(data: bytes, algorithm: Any = "md5", *, archive: bool = False) -> Checksum:
    digest = hashlib.new(algorithm, data).hexdigest()
    return Checksum(algorithm=algorithm, value=digest, source="the publisher", archive=archive)


def file(*urls: str | Location, data: bytes | None = DATA, **fields: Any) -> ReleaseFile:
    """A params file at these addresses, with the checksum of ``data`` (None: none was published)."""
    locations = tuple(url if isinstance(url, Location) else Location(url=url) for url in urls)
    if data is not None:
        fields.setdefault("checksums", (checksum(data),))
    return ReleaseFile(**{"role": "params", "name": NAME, "locations": locations, **fields})


def release(*files: ReleaseFile) -> Release:
    return Release(id="X1", name="somebody/net", framework="mxnet", publisher="somebody", files=files)


class Call:
    """One call of `fetch`, in a cache of its own.

    Attributes:
        cache: the cache.
        said: all that was said.
        reports: all progress.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.said: list[str] = []
        self.reports: list[tuple[str, int, int | None]] = []
        self.report: Callable[[str, int, int | None], None] = lambda *facts: self.reports.append(facts)

    def __call__(self, *files: ReleaseFile, patience: Patience = QUICK, **options: Any) -> dict[str, Path]:
        self.said.clear()
        self.reports.clear()
        return fetch(
            release(*files),
            cache=self.cache,
            report=lambda *facts: self.report(*facts),
            say=self.said.append,
            patience=patience,
            **options,
        )

    def refused(self, *files: ReleaseFile, patience: Patience = ONCE, **options: Any) -> FetchError:
        """The error; it has its exit code and says what to do."""
        with pytest.raises(FetchError) as refusal:
            self(*files, patience=patience, **options)
        assert refusal.value.exit_code == 7
        assert refusal.value.hint
        assert "--from DIR" in refusal.value.hint
        assert "--cache-dir" in refusal.value.hint
        return refusal.value

    @property
    def folder(self) -> Path:
        return self.cache / "mxnet--somebody--net"

    @property
    def part(self) -> Path:
        return self.folder / f"{NAME}.part"

    def kept(self) -> dict[str, bytes]:
        """What is in the cache, but for the lock."""
        if not self.folder.exists():
            return {}
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != ".lock"}


def whole(error: FetchError) -> str:
    """All that a user is told: the error and its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])
