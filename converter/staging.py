"""Output files that appear whole or not at all: written beside their place, verified there, then moved into it.

On Linux the bytes are written to a file without a name (``O_TMPFILE``), so that a crash, a kill or a power cut leaves
nothing behind. Where no file is there yet, getting its name is the whole move; one that is there is replaced by way of
a hidden name, which lasts for the instant of the move. Elsewhere a hidden temporary file is used, which an error or
Ctrl-C removes and only a kill can leave behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from resnext_convert.converter.errors import WriteError

HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "files may not be that large here (ulimit -f): raise the limit, or write elsewhere",
    errno.EACCES: "the folder cannot be written to: choose another, or change its permissions",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}

DESCRIPTORS = Path("/proc/self/fd")
# Ctrl-C last: it is the one that raises, at the latest when its own handler is back, and then all others are.
_HELD_BACK = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGINT") if name in signal.Signals.__members__]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system says about ``path`` into a `WriteError`."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            hint=HINTS.get(error.errno or 0, "nothing was changed"),
        ) from error


def hidden_name() -> str:
    """A name for what is there for an instant only."""
    return f".resnext-convert-{secrets.token_hex(6)}.part"


class StagedFile:
    """A file that is not at ``path`` before `commit`. A context manager: leaving it uncommitted removes it.

    Entering raises `WriteError` where the folder is absent or cannot be written to, or where the file is there and may
    not be replaced.

    Args:
        path: the place; its folder must exist.
        overwrite: whether a file that is there may be replaced (at commit; until then it stays).
        staging: the folder that has the bytes until then, on the same file system; None: that of ``path``.
        shown: what errors call it; None: ``path``.

    Attributes:
        file: what to write into, once entered.
    """

    file: BinaryIO

    def __init__(
        self, path: Path, *, overwrite: bool = True, staging: Path | None = None, shown: Path | None = None
    ) -> None:
        self.path = path
        self.overwrite = overwrite
        self.shown = shown or path
        self._staging = staging or path.parent
        self._hidden: Path | None = None
        self._previous: Path | None = None
        self._replaced = False
        self._removals: list[weakref.finalize[[Path], StagedFile]] = []

    def __enter__(self) -> Self:
        with writing(self.shown):
            self._check_place()
            self.file = os.fdopen(self._open(), "w+b")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk the last bytes of what is thrown away do not find room either; a commit has left none.
        with contextlib.suppress(OSError):
            self.file.close()
        _remove(self._hidden)
        for removal in self._removals:
            removal.detach()

    def _check_place(self) -> None:
        if self.path.is_dir():
            raise WriteError(
                "cannot be written: there is a folder of this name", file=self.shown, hint="choose another name"
            )
        if not self.overwrite and os.path.lexists(self.path):
            raise WriteError("is there already", file=self.shown, hint="--overwrite replaces it")

    def _open(self) -> int:
        # A nameless file gets its name through /proc. Some file systems (NFS, FAT) have none; a folder that is absent
        # fails below as well.
        if hasattr(os, "O_TMPFILE") and DESCRIPTORS.is_dir():
            with contextlib.suppress(OSError):
                return os.open(self._staging, os.O_TMPFILE | os.O_RDWR, 0o666)
        self._hidden = self._beside()
        return os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)

    def _beside(self) -> Path:
        """A name beside the place. Whatever has it is gone at the latest when this object is, or the program ends.

        That is for a Ctrl-C that comes before `__exit__` can do anything, and for an `__enter__` that fails.
        """
        hidden = self._staging / hidden_name()
        self._removals.append(weakref.finalize(self, _remove, hidden))
        return hidden

    @property
    def readable(self) -> Path:
        """A path under which the bytes written so far can be read back."""
        self.file.flush()
        return self._hidden or DESCRIPTORS / str(self.file.fileno())

    def sync(self) -> None:
        """Brings the bytes to the disk."""
        with writing(self.shown):
            self.file.flush()
            os.fsync(self.file.fileno())

    def move(self, *, undoable: bool) -> None:
        """Puts the bytes in their place; an ``undoable`` move keeps what was there until `settle`."""
        with writing(self.shown):
            if self._hidden is None:
                with contextlib.suppress(FileExistsError):
                    self._link(self.path)
                    return
            self._check_place()
            if self._hidden is None:
                self._hidden = self._beside()
                self._link(self._hidden)
            self._replaced = os.path.lexists(self.path)
            if self._replaced and undoable:
                # Without hard links (FAT) there is no way back, and the new file stays.
                with contextlib.suppress(OSError):
                    previous = self._beside()
                    os.link(self.path, previous, follow_symlinks=False)
                    self._previous = previous
            self._hidden.replace(self.path)
            self._hidden = None

    def undo(self) -> None:
        """Takes an ``undoable`` move back."""
        if self._previous is not None:
            self._previous.replace(self.path)
        elif not self._replaced:
            self.path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Gives up what an ``undoable`` move has kept."""
        _remove(self._previous)

    def _link(self, name: Path) -> None:
        """Gives the nameless file a name that nothing has yet."""
        # A descriptor, here without effect, makes Python call linkat, which alone can follow /proc's link.
        descriptor = self.file.fileno()
        os.link(DESCRIPTORS / str(descriptor), name, src_dir_fd=descriptor, follow_symlinks=True)


def commit(files: Sequence[StagedFile]) -> None:
    """Moves all files into their places, in order, and holds Ctrl-C and SIGTERM back between the first and the last.

    Raises:
        WriteError: a file could not be brought to the disk or into its place; then every place is as it was before.
    """
    for staged in files:
        staged.sync()
    with signals_held_back():
        with contextlib.ExitStack() as moved:
            for staged in files:
                staged.move(undoable=staged is not files[-1])
                moved.callback(staged.undo)
            moved.pop_all()
        for staged in files:
            staged.settle()
    for folder in {staged.path.parent for staged in files}:
        sync_folder(folder)


def _remove(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Makes the moves survive a power cut, where the system can do that for folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Signals that arrive meanwhile are delivered afterwards.

    By handlers, not by a mask: the system would give a masked signal to one of torch's threads, and Python would run
    its handler in the main thread all the same. No other thread is ever interrupted by a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in _HELD_BACK}
    try:
        for number, handler in before.items():
            if handler is not None:  # None: not set by Python, which could not set it again
                signal.signal(number, lambda number, frame: arrived.append(number))
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)
