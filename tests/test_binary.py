"""The bounded cursor and mapped files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_convert.converter.binary import ByteReader, map_file
from resnext_convert.converter.errors import InputError, MissingFileError, TruncatedError


def reader(data: bytes, start: int = 0) -> ByteReader:
    return ByteReader(memoryview(data), "a.params", start)


def test_integers_are_little_endian_and_follow_each_other() -> None:
    data = bytes.fromhex("01000080 feffffff 0200000000000080 0300000004000000 ffffffffffffffff")
    cursor = reader(data)
    assert cursor.u32("a") == 0x80000001
    assert cursor.i32("b") == -2
    assert cursor.u64("c") == 0x8000000000000002
    assert cursor.integers("I", 2, "d") == (3, 4)
    assert cursor.remaining == 8
    assert cursor.integers("q", 1, "e") == (-1,)
    assert (cursor.position, cursor.remaining) == (len(data), 0)


def test_a_reader_can_begin_later() -> None:
    cursor = reader(b"abcdef", 2)
    assert (cursor.position, cursor.remaining) == (2, 4)
    assert bytes(cursor.take(3, "x")) == b"cde"
    assert cursor.position == 5


def test_nothing_is_copied() -> None:
    data = bytearray(b"abcdef")
    taken = ByteReader(memoryview(data), "a").take(3, "x")
    data[0] = ord("z")
    assert bytes(taken) == b"zbc"


@pytest.mark.parametrize(
    "read",
    [
        lambda cursor: cursor.take(4, "the weights"),
        lambda cursor: cursor.take(-1, "the weights"),
        lambda cursor: cursor.take(2**64, "the weights"),
        lambda cursor: cursor.u32("the weights"),
        lambda cursor: cursor.i32("the weights"),
        lambda cursor: cursor.u64("the weights"),
        lambda cursor: cursor.integers("I", 1, "the weights"),
        lambda cursor: cursor.integers("q", 2**61, "the weights"),
    ],
)
def test_nothing_is_read_beyond_the_end(read: Callable[[ByteReader], object]) -> None:
    cursor = reader(b"abcde", 2)
    with pytest.raises(TruncatedError, match=r"^a.params: byte 0x2: the file ends inside the weights \(.*3 left\)$"):
        read(cursor)
    assert cursor.position == 2  # a refused read does not move


def test_no_integers() -> None:
    cursor = reader(b"")
    assert cursor.integers("I", 0, "dims") == cursor.integers("q", -1, "dims") == ()
    assert bytes(cursor.take(0, "nothing")) == b""


@given(st.binary(max_size=40), st.lists(st.integers(-3, 50), max_size=8))
def test_taken_pieces_are_the_file(data: bytes, sizes: list[int]) -> None:
    cursor, read = reader(data), b""
    for size in sizes:
        if 0 <= size <= len(data) - len(read):
            read += bytes(cursor.take(size, "a piece"))
        else:
            with pytest.raises(TruncatedError):
                cursor.take(size, "a piece")
        assert (cursor.position, cursor.remaining) == (len(read), len(data) - len(read))
    assert data.startswith(read)


def test_a_mapped_file_is_its_bytes_and_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    path.write_bytes(b"abc")
    view = map_file(path)
    assert bytes(view) == b"abc"
    view[0] = ord("z")  # torch warns about tensors over read-only memory
    assert path.read_bytes() == b"abc"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.params").touch()
    assert len(map_file(tmp_path / "a.params")) == 0


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no such file") as caught:
        map_file(tmp_path / "a.params")
    assert caught.value.file == str(tmp_path / "a.params")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="this is a folder, not a file"):
        map_file(tmp_path)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="cannot be read: Too many levels of symbolic links"):
        map_file(loop)
