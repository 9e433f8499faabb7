"""The file that never fails: it keeps the first error, and says nothing of it to the library that writes."""

from __future__ import annotations

import io
import os

import pytest
from disk import Refusing

from resnext_convert.converter.sink import Sink


def test_a_file_that_works() -> None:
    file = io.BytesIO()
    with Sink(file) as sink:
        assert sink.write(b"hello world") == 11
        sink.seek(6)
        sink.write(memoryview(b"there"))
        assert sink.seek(0, os.SEEK_END) == sink.tell() == 11
        sink.seek(0)
        assert sink.read(5) == b"hello"
        sink.seek(-1, os.SEEK_CUR)
        sink.write(b"O")
        sink.truncate(8)
    assert file.getvalue() == b"hellO th"


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_the_first_error_is_what_comes_out(error: BaseException) -> None:
    file = Refusing(4, error)
    with pytest.raises(type(error)) as caught, Sink(file) as sink:  # noqa: PT012  # all of it is what a library does
        sink.write(b"1234")
        assert sink.write(b"5678") == 4
        assert sink.write(b"9") == 1
        assert sink.tell() == sink.seek(0, os.SEEK_END) == 9
        sink.seek(2)
        assert sink.read(4) == bytes(4)
        sink.truncate(20)
        sink.flush()
        raise RuntimeError("the library is astonished")
    assert caught.value is error
    assert file.getvalue() == b"1234"


def test_an_error_of_the_library_stays_its_own() -> None:
    with pytest.raises(RuntimeError, match="its own"), Sink(io.BytesIO()):
        raise RuntimeError("its own")


def test_ctrl_c_that_the_library_has_renamed() -> None:
    error = RuntimeError("unexpected pos")
    error.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), Sink(io.BytesIO()):
        raise error


def test_what_comes_after_the_end_is_not_written() -> None:
    file = io.BytesIO()
    with Sink(file) as sink:
        sink.write(b"1")
    sink.write(b"2")
    assert file.getvalue() == b"1"
