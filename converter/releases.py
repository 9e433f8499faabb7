"""Published releases by name: what a source that is called so must turn out to be."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from resnext_convert.converter.errors import ReleaseMismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published release.

    Attributes:
        name: the publisher's file name prefix.
        framework: ``mxnet`` or ``caffe``.
        publisher: who published it.
        network: the summary of the configuration that it must have.
    """

    name: str
    framework: str
    publisher: str
    network: str


@cache
def catalogue() -> tuple[Release, ...]:
    """All releases of ``schemas/releases.toml``."""
    text = resources.files("resnext_convert.schemas").joinpath("releases.toml").read_text(encoding="utf-8")
    return tuple(Release(**row) for row in tomllib.loads(text)["release"])


def named(source: Path, framework: str) -> Release | None:
    """The release that a source names: a prefix such as ``models/resnext-101``. A file or a folder names none."""
    if source.is_file() or source.is_dir():
        return None
    return next((r for r in catalogue() if r.name == source.name and r.framework == framework), None)


def check(release: Release, network: str, source: Path) -> None:
    """Compares what was found with what the user named.

    Raises:
        ReleaseMismatchError: it is another network.
    """
    if network != release.network:
        raise ReleaseMismatchError(
            f"the source is called {release.name}, as the release of {release.publisher} is, but is another network",
            file=source,
            expected=release.network,
            found=network,
            hint="if the prefix is a name of your own, name the two files instead: --symbol FILE --params FILE",
        )
