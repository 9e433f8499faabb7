"""A bounded little-endian cursor over the bytes of a file."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from resnext_convert.converter.errors import InputError, MissingFileError, TruncatedError

_U32, _I32, _U64 = struct.Struct("<I"), struct.Struct("<i"), struct.Struct("<Q")


def map_file(path: Path) -> memoryview:
    """Maps a file read-only into memory; nothing is copied and nothing is read until it is touched.

    The mapping lives as long as a view of it does. It is private and writable (copy-on-write), because torch
    warns about tensors over read-only memory; the file itself is never changed.

    Raises:
        MissingFileError: there is no such file, or it is a folder.
        InputError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return memoryview(b"")  # an empty file cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingFileError(
            "there is no such file" if isinstance(error, FileNotFoundError) else "this is a folder, not a file",
            file=path,
            hint="check the path; a source is a folder, a prefix, or one file of the pair",
        ) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error


class ByteReader:
    """Reads forward over ``buffer``; the only method that moves, `take`, checks what is left before it does.

    Args:
        buffer: the bytes, usually a mapped file.
        file: the name to use in errors.
        start: where in ``buffer`` to begin; at most its length.
    """

    __slots__ = ("_buffer", "_position", "file")

    def __init__(self, buffer: memoryview, file: object, start: int = 0) -> None:
        self._buffer = buffer
        self._position = start
        self.file = file

    @property
    def position(self) -> int:
        """Where in the buffer the next byte is read."""
        return self._position

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._buffer) - self._position

    def take(self, size: int, what: str) -> memoryview:
        """The next ``size`` bytes, not copied.

        Args:
            size: how many; may come straight from the file, so it is compared with what is left first.
            what: what these bytes are, for the error.

        Raises:
            TruncatedError: fewer bytes are left.
        """
        start = self._position
        if not 0 <= size <= len(self._buffer) - start:
            raise TruncatedError(
                f"the file ends inside {what}",
                file=self.file,
                place=f"byte {self._position:#x}",
                expected=f"{size} bytes",
                found=f"{self.remaining} left",
                hint="the file is cut off or damaged; fetch it again and compare its size and checksum",
            )
        self._position += size
        return self._buffer[start : self._position]

    def _unpack(self, layout: struct.Struct, what: str) -> int:
        value: int
        (value,) = layout.unpack(self.take(layout.size, what))
        return value

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer."""
        return self._unpack(_U32, what)

    def i32(self, what: str) -> int:
        """A signed 32-bit integer."""
        return self._unpack(_I32, what)

    def u64(self, what: str) -> int:
        """An unsigned 64-bit integer."""
        return self._unpack(_U64, what)

    def integers(self, code: str, count: int, what: str) -> tuple[int, ...]:
        """``count`` integers of one ``struct`` code (``I`` or ``q``); the bytes are taken before any is unpacked."""
        size = struct.calcsize("<" + code)
        return struct.unpack(f"<{count}{code}", self.take(count * size, what)) if count > 0 else ()
