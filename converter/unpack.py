"""The one wanted file of an archive, with bounds on everything that a hostile archive can claim."""

from __future__ import annotations

import gzip
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final, Literal

from resnext_convert.converter.errors import FetchError
from resnext_convert.converter.staging import writing

RATIO: Final = 200
"""How many times larger than packed a file may be; weights have about 1.1, symbol files 30, a bomb 1000."""

_ROOM: Final = 1 << 20  # bytes that a file may have whatever its ratio
_CHUNK: Final = 1 << 20
# What a damaged archive makes the standard library raise. Reading fails with an OSError, too (BadGzipFile is one).
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, OSError)


def unpack(archive: Path, kind: Literal["zip", "gz"], name: str, out: BinaryIO, *, place: Path, most: int) -> None:
    """Writes the file ``name`` of an archive to ``out``.

    Args:
        archive: the archive.
        kind: what it is.
        name: the file's base name in a zip; a ``.gz`` has one file, whose name is not looked at.
        out: where it goes.
        place: what an error in writing is said about.
        most: bytes that it may have, unpacked.

    Raises:
        FetchError: the archive is damaged, does not have one such file, or has one that is refused.
        WriteError: the file could not be written.
    """
    try:
        if kind == "gz":
            packed = archive.stat().st_size
            with gzip.open(archive, "rb") as source:
                _copy(archive, source, out, place, min(most, _ROOM + RATIO * packed))
            return
        with zipfile.ZipFile(archive) as zipped:
            member = _member(archive, zipped, name)
            _check(archive, member, most)
            with zipped.open(member) as source:
                _copy(archive, source, out, place, member.file_size)
    except _DAMAGE as error:
        raise FetchError(
            "the archive is damaged", file=archive, expected=f"a {kind} that can be unpacked", found=error
        ) from error


def _member(archive: Path, zipped: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The only member of that base name. One name that leads out of a folder, and the archive is not believed."""
    members = zipped.infolist()
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise FetchError("the archive has a file outside of itself", file=archive, found=repr(member.filename))
    found = [
        member
        for member in members
        if not member.filename.endswith("/") and PurePosixPath(member.filename).name == name
    ]
    if len(found) != 1:
        listed = ", ".join(repr(member.filename) for member in found or members[:20])
        raise FetchError(
            f"the archive has {'several files' if found else 'no file'} of the wanted name",
            file=archive,
            expected=f"one {name}",
            found=listed or "an empty archive",
        )
    return found[0]


def _check(archive: Path, member: zipfile.ZipInfo, most: int) -> None:
    place = repr(member.filename)
    if member.flag_bits & 0x1:
        raise FetchError("is encrypted", file=archive, place=place)
    if stat.S_ISLNK(member.external_attr >> 16):
        raise FetchError("is a link", file=archive, place=place, expected="a file")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise FetchError(
            "is compressed in an unusual way",
            file=archive,
            place=place,
            expected="stored or deflated",
            found=f"method {member.compress_type}",
        )
    allowed = min(most, _ROOM + RATIO * member.compress_size)
    if member.file_size > allowed:
        raise FetchError(
            "unpacks to more than the file can have",
            file=archive,
            place=place,
            expected=f"at most {allowed} bytes",
            found=f"{member.file_size} bytes",
        )


def _copy(archive: Path, source: IO[bytes] | gzip.GzipFile, out: BinaryIO, place: Path, most: int) -> None:
    done = 0
    while data := source.read(_CHUNK):
        done += len(data)
        if done > most:
            raise FetchError(
                "unpacks to more than the file can have", file=archive, expected=f"at most {most} bytes", found="more"
            )
        with writing(place):
            out.write(data)
    with writing(place):
        out.flush()
