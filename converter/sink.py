"""What libraries that write by callbacks are given: a file that never fails, and keeps its first error."""

from __future__ import annotations

import os
from types import TracebackType
from typing import BinaryIO, Self


class Sink:
    """A file that takes everything; after its first error nothing is written any more. A context manager.

    torch's archive writer answers an error with one of its own ("unexpected pos ..."), and where it is destroyed before
    it has finished, it writes the rest then: an error there, or a closed file, would end the process (std::terminate).
    libhdf5 keeps a file that it could not write open, and writes to it when the process ends. So the error is kept, and
    leaving raises it, whatever the library has made of it.

    Args:
        file: where to; its position is this one's beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file: BinaryIO | None = file
        self.error: BaseException | None = None
        self._position = self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self.file = self.file, None
        if self.error is not None:
            raise self.error from None
        # A Ctrl-C that Python notices on the way into a method comes out of the library as an error of its own.
        if error is not None and isinstance(error.__context__, KeyboardInterrupt | SystemExit):
            raise error.__context__ from None
        if error is None and file is not None:
            file.flush()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes all of it, or nothing after an error."""
        size = memoryview(data).nbytes
        if self.file is not None:
            try:
                if self.file.tell() != self._position:
                    self.file.seek(self._position)
                self.file.write(data)
            except BaseException as error:  # Ctrl-C as well
                self.file, self.error = None, error
        self._position += size
        self._end = max(self._end, self._position)
        return size

    def readinto(self, buffer: memoryview) -> int:
        """Reads what was written; zeros after an error."""
        buffer[:] = bytes(len(buffer))
        if self.file is not None:
            try:
                self.file.seek(self._position)
                self.file.readinto(buffer)  # type: ignore[attr-defined]  # every binary file has it
            except BaseException as error:
                self.file, self.error = None, error
        self._position += len(buffer)
        return len(buffer)

    def read(self, size: int) -> bytes:
        """What `readinto` reads, as bytes."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves; the end is that of what was meant to be written."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def truncate(self, size: int) -> int:
        """Sets the end."""
        self._end = size
        if self.file is not None:
            try:
                self.file.truncate(size)
            except BaseException as error:
                self.file, self.error = None, error
        return size

    def flush(self) -> None:
        """Leaving flushes."""
