"""One file comes out of an archive, or nothing does."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Literal

import pytest
from archives import patched, zipped, zipped_link
from fetching import DATA, NAME, Call, checksum, file
from file_server import Server, Serves
from hypothesis import given
from hypothesis import strategies as st

from resnext_convert.converter.errors import FetchError
from resnext_convert.converter.unpack import unpack

GOOD = zipped((f"net/{NAME}", DATA), ("net/README", b"other"))
MOST = 1 << 22


def unpacked(folder: Path, data: bytes, kind: Literal["zip", "gz"] = "zip", most: int = MOST) -> bytes:
    archive, out = folder / f"archive.{kind}", io.BytesIO()
    archive.write_bytes(data)
    unpack(archive, kind, NAME, out, place=folder / NAME, most=most)
    return out.getvalue()


# What should happen


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", [NAME, f"net/{NAME}", f"a/b/{NAME}"])
def test_the_wanted_file_of_a_zip(tmp_path: Path, name: str, method: int) -> None:
    assert unpacked(tmp_path, zipped((name, DATA), ("README", b"other"), (f"{NAME}/", b""), method=method)) == DATA


def test_the_file_of_a_gz(tmp_path: Path) -> None:
    assert unpacked(tmp_path, gzip.compress(DATA), "gz") == DATA


def test_text_may_be_packed_very_well(tmp_path: Path) -> None:
    text = b'{"op": "null"}, ' * 60_000
    assert unpacked(tmp_path, zipped((NAME, text))) == text
    assert unpacked(tmp_path, gzip.compress(text), "gz") == text


# Hostile and damaged archives


def encrypted() -> bytes:
    return patched(zipped((NAME, DATA)), 6, 8, b"\x01\x00")


BOMB = bytes(3 << 20)
HOSTILE = {
    "absolute": (zipped(("/etc/passwd", b"x"), (NAME, DATA)), "outside of itself"),
    "absolute itself": (zipped((f"/{NAME}", DATA)), "outside of itself"),
    "upwards": (zipped((f"../../{NAME}", DATA)), "outside of itself"),
    "upwards beside it": (zipped((NAME, DATA), ("a/../../b", b"x")), "outside of itself"),
    "upwards on Windows": (zipped((f"..\\{NAME}", DATA)), "outside of itself"),
    "two": (zipped((f"a/{NAME}", DATA), (f"b/{NAME}", DATA)), "several files of the wanted name"),
    "one twice": (zipped((NAME, DATA), (NAME, b"other")), "several files of the wanted name"),
    "none": (zipped(("other.params", DATA)), "no file of the wanted name"),
    "only a folder": (zipped((f"{NAME}/", b"")), "no file of the wanted name"),
    "empty": (zipped(), "no file of the wanted name"),
    "link": (zipped_link(NAME, "/etc/passwd"), "is a link"),
    "encrypted": (encrypted(), "is encrypted"),
    "lzma": (zipped((NAME, DATA), method=zipfile.ZIP_LZMA), "in an unusual way"),
    "unknown method": (patched(zipped((NAME, DATA)), 8, 10, struct.pack("<H", 98)), "in an unusual way"),
    "bomb": (zipped((NAME, BOMB)), "more than the file can have"),
    "too large": (zipped((NAME, bytes(MOST + 1)), method=zipfile.ZIP_STORED), "more than the file can have"),
    # The size is a lie: what comes out is cut off there, and its CRC is wrong.
    "bomb that lies": (patched(zipped((NAME, BOMB)), 22, 24, struct.pack("<I", 1000)), "is damaged"),
    # The one letter of its name counts as its extra field.
    "without a name": (patched(zipped(("n", DATA)), 26, 28, struct.pack("<HH", 0, 1)), "no file of the wanted name"),
    "wrong CRC": (patched(zipped((NAME, DATA)), 14, 16, b"\0\0\0\0"), "is damaged"),
    "cut off": (GOOD[: len(GOOD) // 2], "is damaged"),
    "no zip": (DATA, "is damaged"),
    "nothing": (b"", "is damaged"),
    "damaged data": (patched(zipped((NAME, DATA)), 100, 0, b"\xff" * 1000)[: len(GOOD)], "is damaged"),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_a_zip_that_is_refused(tmp_path: Path, which: str) -> None:
    archive, what = HOSTILE[which]
    with pytest.raises(FetchError, match=what) as refusal:
        unpacked(tmp_path, archive)
    assert refusal.value.file == str(tmp_path / "archive.zip")


@pytest.mark.parametrize(
    ("archive", "what"),
    [
        (gzip.compress(DATA)[:-1000], "is damaged"),
        (gzip.compress(DATA)[:-8] + bytes(8), "is damaged"),
        (gzip.compress(DATA) + b"garbage", "is damaged"),
        (DATA, "is damaged"),
        (gzip.compress(BOMB), "more than the file can have"),
        (gzip.compress(bytes(MOST)) + gzip.compress(DATA), "more than the file can have"),
    ],
)
def test_a_gz_that_is_refused(tmp_path: Path, archive: bytes, what: str) -> None:
    with pytest.raises(FetchError, match=what):
        unpacked(tmp_path, archive, "gz")


@given(place=st.integers(0, 2**16), junk=st.binary(min_size=1, max_size=8), kind=st.sampled_from(["zip", "gz"]))
def test_a_damaged_archive_gives_the_file_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, kind: Literal["zip", "gz"]
) -> None:
    small = DATA[:500]
    archive = bytearray(zipped((NAME, small)) if kind == "zip" else gzip.compress(small, mtime=0))
    place %= len(archive)
    archive[place : place + len(junk)] = junk
    with contextlib.suppress(FetchError):
        assert unpacked(tmp_path_factory.getbasetemp(), bytes(archive), kind) == small


# Fetched archives


@pytest.mark.parametrize(("kind", "archive"), [("zip", GOOD), ("gz", gzip.compress(DATA))])
@pytest.mark.parametrize("published", ["file", "archive", "both", "neither"])
def test_an_archive_is_unpacked_and_not_kept(
    server: Server, call: Call, kind: str, archive: bytes, published: str
) -> None:
    sums = []
    if published in {"file", "both"}:
        sums.append(checksum(DATA, "sha1"))
    if published in {"archive", "both"}:
        sums.append(checksum(archive, "sha256", archive=True))
    url = server.gives(f"/net.{kind}", Serves(archive))
    wanted = file(url, archive=kind, checksums=tuple(sums), bytes=len(DATA))
    for _ in range(2):
        assert call(wanted)["params"].read_bytes() == DATA
    assert len(server.requests) == 1
    recorded = published in {"archive", "neither"}
    assert set(call.kept()) == ({NAME, f"{NAME}.sha256"} if recorded else {NAME})


def test_an_archive_is_continued(server: Server, call: Call) -> None:
    url = server.gives("/net.zip", Serves(GOOD, until=1000), Serves(GOOD))
    assert call(file(url, archive="zip"))["params"].read_bytes() == DATA
    assert server.requests[1].sent == len(GOOD) - 1000
    assert set(call.kept()) == {NAME}
    assert call.reports[-1] == (f"{NAME}.zip", len(GOOD), len(GOOD))


def test_a_gz_may_be_announced_as_an_encoding(server: Server, call: Call) -> None:
    archive = gzip.compress(DATA)
    url = server.gives("/net.gz", Serves(archive, headers={"Content_Encoding": "x-gzip"}))
    assert call(file(url, archive="gz"))["params"].read_bytes() == DATA


@pytest.mark.parametrize(
    ("sums", "size", "what"),
    [
        ((checksum(b"another archive", archive=True),), None, "is not the file that was published"),
        ((checksum(b"another file"),), None, "is not the file that was published"),
        ((checksum(GOOD, archive=True), checksum(b"another file")), None, "is not the file that was published"),
        ((), len(DATA) + 1, "is not the file that was published"),
        ((), len(DATA) - 1, "more than the file can have"),
    ],
)
def test_another_archive_than_was_published(
    server: Server, call: Call, sums: tuple[object, ...], size: int | None, what: str
) -> None:
    url = server.gives("/net.zip", Serves(GOOD))
    error = call.refused(file(url, archive="zip", checksums=sums, bytes=size))
    assert what in error.problem
    assert url in (error.file or "")
    assert error.expected
    assert error.found
    assert call.kept() == {}


def test_a_hostile_archive_is_not_kept(server: Server, call: Call) -> None:
    url = server.gives("/net.zip", Serves(HOSTILE["bomb"][0]))
    error = call.refused(file(url, archive="zip"))
    assert error.file == url
    assert call.kept() == {}
