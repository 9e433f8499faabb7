"""The catalogue of published releases: what ``schemas/releases.toml`` says of each, and which release a name means."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import ReleaseMismatchError

Algorithm = Literal["md5", "sha1", "sha256", "sha384"]
Layout = Literal["gluoncv", "osmr", "simpledet"]
StemPool = Literal["3x3 max, stride 2, padding 1", "3x3 max, stride 2, size rounded up", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """A published checksum of a file, or of the archive that holds it, and who published it."""

    algorithm: Algorithm
    value: str
    source: str
    archive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a file was published.

    Attributes:
        url: as published.
        dead: since when it is known not to answer, and who says so; empty where that is not known.
        page: it is a page for people (Google Drive, Baidu, OneDrive), not a file that a program can fetch.
    """

    url: str
    dead: str = ""
    page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One file of a release.

    Attributes:
        role: ``symbol``, ``params``, ``prototxt`` or ``weights``.
        name: the file's name, unpacked.
        locations: in order of preference.
        archive: the locations give this kind of archive, which holds the file; empty: the file itself.
        bytes: its exact size, where that was published.
        size: its size in words, where only that was published (``95.8 MB``).
        checksums: all that were published.
    """

    role: Literal["symbol", "params", "prototxt", "weights"]
    name: str
    locations: tuple[Location, ...] = ()
    archive: Literal["", "zip", "gz"] = ""
    bytes: int | None = None
    size: str = ""
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The configuration that a release must turn out to have.

    Attributes:
        network: its summary (`ResNeXtConfig.summary`).
        stem_pool: in the words of `overview.pool_text`.
        eps: every eps of its normalisations.
        data_norm: whether it normalises its input itself (``bn_data``).
        classes: of its classifier.
    """

    network: str
    stem_pool: StemPool | None = None
    eps: tuple[float, ...] = ()
    data_norm: bool | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published release.

    Attributes:
        id: its number in the catalogue (``M1``).
        name: unique in the catalogue.
        aliases: other names that mean it; one that several releases share means none of them alone.
        framework: whose files it has.
        publisher: who published it.
        files: all of it.
        layout: for weights that were published without a graph: whose code named the tensors; empty: there is a graph.
        expected: what it must turn out to be; None where it is no classifier of the family.
        licence: of the weights, as far as the publisher says.
        top1: published accuracy on the validation set, in percent; None: not published.
        top5: likewise.
        accuracy_source: who measured that.
        class_order: of its classifier; None: not known.
        domain: how its input is prepared; None: not known.
        uncertain: what is inferred rather than known, one sentence each.
        notes: what a user should know, one sentence each.
    """

    id: str
    name: str
    framework: Literal["mxnet", "caffe"]
    publisher: str
    aliases: tuple[str, ...] = ()
    files: tuple[ReleaseFile, ...] = ()
    layout: Layout | Literal[""] = ""
    expected: Expected | None = None
    licence: str = ""
    top1: float | None = None
    top5: float | None = None
    accuracy_source: str = ""
    class_order: ClassOrder | None = None
    domain: InputDomain | None = None
    uncertain: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@cache
def catalogue() -> tuple[Release, ...]:
    """All releases of ``schemas/releases.toml``."""
    text = resources.files("resnext_convert.schemas").joinpath("releases.toml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Release, ...]).validate_python(tomllib.loads(text)["release"])


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
    if release.expected and network != release.expected.network:
        raise ReleaseMismatchError(
            f"the source is called {release.name}, as the release of {release.publisher} is, but is another network",
            file=source,
            expected=release.expected.network,
            found=network,
            hint="if the prefix is a name of your own, name the two files instead: --symbol FILE --params FILE",
        )
