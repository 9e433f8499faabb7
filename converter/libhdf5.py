"""Runs libhdf5 in a process of its own, with limits of time and memory, and says where the datasets' bytes are.

libhdf5 is not safe on damaged files (measured with 1.14 and 2.0). A free block of a group's heap that names itself as
the next one keeps it busy without end while its memory grows; a chunk that is shorter than its checksum crashes it. So
it runs in another process. The bytes of what is stored plainly are mapped here; what is not is read there, and comes
over in a temporary file.

A module that knows a layout of groups and datasets is itself run as that process: it calls `serve` with the function
that walks its layout. The functions below `serve` are for those walks.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError, UsageError
from resnext_convert.converter.staging import DESCRIPTORS
from resnext_convert.converter.tensors import DType, TensorRef, checked_size

MAGIC: Final = b"\x89HDF\r\n\x1a\n"
SHOWN: Final = 80  # so much of a name is shown in an error

# What is not mapped (compressed, in chunks, big-endian ...) may take this many times the file's size altogether, or
# this many bytes if that is more.
_READ_FACTOR = 16
_READ_FLOOR = 2**20

# What libhdf5 may use besides that: memory for its caches, and seconds of the processor.
_MEMORY = 2**27
_SECONDS = 10
_BYTES_A_SECOND = 2**23

_ALIGNMENT = 64
_LENGTH_SIZE = 8  # the answer's length, in the last bytes of the output
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}  # H5Zpublic.h; libhdf5 loads others as plug-ins
_TYPES = {dtype.value: dtype for dtype in DType if dtype not in (DType.BOOL, DType.BFLOAT16)}
_ERRORS = {kind.__name__: kind for kind in (FormatError, TruncatedError, UnsupportedError)}
_FACTS = ("problem", "place", "expected", "found", "hint")


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset as the two processes tell each other: where its bytes are, in the file or in what was read from it."""

    dtype: str
    shape: tuple[int, ...]
    mapped: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return checked_size(self.shape) * _TYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file of one layout is called in errors, and what to do where it is not one.

    Attributes:
        kind: what the file should be (``a .caffemodel.h5``).
        save_again: the hint where it holds what HDF5 allows and the layout's writer does not make.
        name_another: the hint where it is of another kind.
    """

    kind: str
    save_again: str
    name_another: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other process found: what its walk returned, and the bytes that entries point into."""

    found: Any
    mapped: memoryview
    read: memoryview

    def tensor(self, entry: Entry, name: str, place: str) -> TensorRef:
        """The tensor of an entry; its bytes are not copied.

        Raises:
            TruncatedError: the file ends before them.
        """
        content = self.mapped if entry.mapped else self.read
        where = place + (f", byte {entry.offset:#x}" if entry.mapped else "")
        data = content[entry.offset : entry.offset + entry.nbytes]
        if data.nbytes != entry.nbytes:
            raise TruncatedError(
                "the file ends inside a dataset",
                place=where,
                expected=f"{entry.nbytes} bytes",
                found=f"{max(content.nbytes - entry.offset, 0)} left",
            )
        return TensorRef(name, _TYPES[entry.dtype], tuple(entry.shape), where, data)


def ask(path: Path, module: str) -> Answer:
    """What is in an HDF5 file, as the process says that ``module`` is.

    Raises:
        UsageError: h5py cannot be imported.
        TruncatedError: the file is cut off.
        UnsupportedError: it holds what is refused rather than guessed at.
        FormatError: it is damaged, or of another layout.
    """
    mapped = map_file(path)
    with tempfile.TemporaryFile(prefix="resnext-convert-") as output:
        _check_status(*run_libhdf5(path, module, output))
        read = memoryview(mmap.mmap(output.fileno(), 0, access=mmap.ACCESS_COPY))
    length = int.from_bytes(read[-_LENGTH_SIZE:], "little")
    answer = json.loads(bytes(read[-_LENGTH_SIZE - length : -_LENGTH_SIZE]))
    if "error" in answer:
        raise _ERRORS[answer["error"]](**{fact: answer[fact] for fact in _FACTS})
    return Answer(answer["found"], mapped, read)


def run_libhdf5(path: Path, module: str, output: IO[bytes]) -> tuple[int, str]:
    """Runs a module as the process that has libhdf5.

    Args:
        path: the HDF5 file.
        module: by its full name.
        output: an empty file, for the process's answer.

    Returns:
        The status with which it ended (negative: by that signal), and the last line that it said.
    """
    # A file that has no name yet is named by its descriptor, which the other process is then given.
    inherited = [int(path.name)] if path.parent == DESCRIPTORS else []
    child = subprocess.run(
        # -P keeps the current folder out of the child's path: a file `h5py.py` in it would be taken for h5py.
        [sys.executable, "-P", "-W", "ignore", "-m", module, str(path.absolute())],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # each would take address space
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        text=True,
        errors="replace",
        check=False,
    )
    return child.returncode, next((line for line in reversed(child.stderr.splitlines()) if line.strip()), "")


def _check_status(status: int, words: str) -> None:
    if status > 0:
        raise UsageError("h5py, which reads HDF5 files, does not run here", found=words or f"exit status {status}")
    if status < 0:
        ending = "comes to no end with" if -status == signal.SIGXCPU else "crashes on"
        raise FormatError(f"libhdf5 {ending} this file", found=signal.Signals(-status).name)


# --- the other process -----------------------------------------------------------------------------------------------


def serve(path: str, output: IO[bytes], walk: Callable[[Any, IO[bytes], int], Any]) -> None:
    """Writes the values that cannot be mapped, then the index or what is wrong as JSON, then the length of that.

    Args:
        path: the HDF5 file.
        output: an empty file.
        walk: gets the root group (h5py's low-level one), the output and how many bytes it may write there; returns
            what is found, as JSON can hold it, with an `Entry` (as a dictionary) for each dataset.
    """
    import h5py

    size = Path(path).stat().st_size
    allowed = max(_READ_FACTOR * size, _READ_FLOOR)
    _limit_resources(memory=_MEMORY + 2 * allowed, seconds=_SECONDS + size // _BYTES_A_SECOND)
    try:
        with contextlib.ExitStack() as stack:
            # libhdf5 wants a file's real path, which one without a name does not have.
            source = stack.enter_context(Path(path).open("rb")) if Path(path).parent == DESCRIPTORS else path
            file = stack.enter_context(h5py.File(source, "r", locking=False))
            answer: dict[str, Any] = {"found": walk(file.id, output, allowed)}
    except Exception as error:  # whatever libhdf5 stumbles over: h5py raises ten kinds of exceptions
        answer = _refusal(error)
    text = json.dumps(answer).encode()
    output.write(text + len(text).to_bytes(_LENGTH_SIZE, "little"))


def _refusal(error: Exception) -> dict[str, Any]:
    if not isinstance(error, FormatError):
        words = " ".join(str(error).split())[:200]
        kind = TruncatedError if "truncated file" in words else FormatError
        error = kind("libhdf5 cannot read this file", found=words or type(error).__name__)
    return {"error": type(error).__name__} | {fact: getattr(error, fact) for fact in _FACTS}


def _limit_resources(memory: int, seconds: int) -> None:
    """Sets how much more this process may take. Linux keeps to both; macOS does not say how much memory is in use."""
    import resource

    def lower(kind: int, limit: int) -> None:
        soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))

    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)


def member_names(group: Any, place: str) -> list[str]:
    """The names of a group's members. One with a slash would be taken for a path."""
    names = []
    for raw in group:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("a name that is not UTF-8", place=place, found=repr(raw[:SHOWN])) from error
        if name in {"", "."} or "/" in name:
            raise FormatError("a name that HDF5 does not allow", place=place, found=repr(name[:SHOWN]))
        names.append(name)
    if len(set(names)) != len(names):
        raise FormatError("a name that is there twice", place=place)
    return names


def open_member(group: Any, name: str, kind: type[Any] | None, place: str, layout: Layout) -> Any:
    """The member of a group itself: links to another name or file are not followed.

    ``kind`` is h5py's class of it, ``h5g.GroupID`` or ``h5d.DatasetID``; None: either.
    """
    import h5py

    raw = name.encode()
    if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise UnsupportedError(
            "a link (soft or external), which is not followed",
            place=place,
            found=repr(group.links.get_val(raw))[:SHOWN],
            hint=layout.save_again,
        )
    member = h5py.h5o.open(group, raw)
    if not isinstance(member, kind or (h5py.h5g.GroupID, h5py.h5d.DatasetID)):
        kinds = {h5py.h5g.GroupID: "a group", h5py.h5d.DatasetID: "a dataset"}
        raise FormatError(
            f"this is not {layout.kind}",
            place=place,
            expected=kinds[kind] if kind else "a group or a dataset",
            found=kinds.get(type(member), "a named type"),
            hint=layout.name_another,
        )
    return member


def stored_entry(dataset: Any, output: IO[bytes], allowed: int, layout: Layout) -> Entry:
    """Checks a dataset, and reads it if it cannot be mapped."""
    import h5py

    plist, space, kind, dtype = dataset.get_create_plist(), dataset.get_space(), dataset.get_type(), dataset.dtype
    form = plist.get_layout()
    if plist.get_external_count() or form == h5py.h5d.VIRTUAL:
        raise UnsupportedError("a dataset whose values are in another file", hint=layout.save_again)
    if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or dtype.name not in _TYPES:
        raise UnsupportedError(
            "a dataset of something else than numbers", expected=", ".join(_TYPES), found=dtype, hint=layout.save_again
        )
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        raise FormatError("a dataset without a shape")
    dtype, shape = dtype.newbyteorder("<"), space.get_simple_extent_dims()
    nbytes, stored = checked_size(shape) * dtype.itemsize, dataset.get_storage_size()
    if nbytes and (not stored or (form == h5py.h5d.CHUNKED and dataset.get_num_chunks() < _chunks(shape, plist))):
        raise FormatError("a dataset whose values, or some of them, were never written", hint=layout.save_again)
    offset = dataset.get_offset()
    if offset is not None and stored == nbytes and kind.equal(h5py.h5t.py_create(dtype)):
        return Entry(dtype.name, shape, mapped=True, offset=offset)
    _check_cost(plist, nbytes, dtype.itemsize, allowed - output.tell(), layout)
    output.write(bytes(-output.tell() % _ALIGNMENT))
    offset = output.tell()
    if nbytes:
        array = np.zeros(shape, dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        output.write(array.reshape(-1).view(np.uint8).data)
    return Entry(dtype.name, shape, mapped=False, offset=offset)


def _chunks(shape: tuple[int, ...], plist: Any) -> int:
    return math.prod(-(-size // chunk) for size, chunk in zip(shape, plist.get_chunk(), strict=True))


def _check_cost(plist: Any, nbytes: int, itemsize: int, allowed: int, layout: Layout) -> None:
    """A few bytes of a compressed dataset, or of one that was never filled, can stand for any size."""
    import h5py

    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if not _FILTERS.keys() >= set(filters):
        raise UnsupportedError(
            "a dataset that is filtered or compressed in another way",
            expected=", ".join(_FILTERS.values()),
            found=", ".join(map(str, filters)),
            hint=layout.save_again,
        )
    chunk = math.prod(plist.get_chunk()) * itemsize if plist.get_layout() == h5py.h5d.CHUNKED else 0
    if max(nbytes, chunk) > allowed:
        raise UnsupportedError(
            "the datasets of this file are far bigger than the file when they are unpacked",
            expected=f"at most {_READ_FACTOR} times the file, or {_READ_FLOOR} bytes",
            found=f"{max(nbytes, chunk)} bytes",
            hint="a network's weights are not that empty; if these are, save them without compression",
        )
