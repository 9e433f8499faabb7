"""Reads `.caffemodel.h5`, which ``net.save_hdf5`` and ``snapshot_format: HDF5`` write (net.cpp, Net::ToHDF5).

There is a dataset for each blob, ``/data/<layer>/<index>``, in the blob's shape; layers without blobs are empty groups.
A blob that belongs to another layer (``param { name: }``) is left out, so an index may be absent.

libhdf5 is not safe on damaged files (measured with 1.14 and 2.0). A free block of a group's heap that names itself as
the next one keeps it busy without end while its memory grows; a chunk that is shorter than its checksum crashes it. So
it runs in a process of its own, with limits of time and memory, and says where the datasets' bytes are. Those are
mapped here; what is not stored plainly is read there, and comes over in a temporary file.

Run as a module, this file is that process.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError, UsageError
from resnext_convert.converter.tensors import DType, TensorRef, checked_size

MAGIC: Final = b"\x89HDF\r\n\x1a\n"

# What is not mapped (compressed, in chunks, big-endian ...) may take this many times the file's size altogether, or
# this many bytes if that is more.
_READ_FACTOR = 16
_READ_FLOOR = 2**20

# What libhdf5 may use besides that: memory for its caches, and seconds of the processor.
_MEMORY = 2**27
_SECONDS = 10
_BYTES_A_SECOND = 2**23

_MOST_BLOBS = 1000  # of a layer; Caffe's own have at most 5
_ALIGNMENT = 64
_LENGTH_SIZE = 8  # the answer's length, in the last bytes of the output
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}  # H5Zpublic.h; libhdf5 loads others as plug-ins
_SHOWN = 80  # so much of a name is shown in an error
_TYPES = {dtype.value: dtype for dtype in DType if dtype not in (DType.BOOL, DType.BFLOAT16)}
_ERRORS = {kind.__name__: kind for kind in (FormatError, TruncatedError, UnsupportedError)}
_FACTS = ("problem", "place", "expected", "found", "hint")

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")

_SAVE_AGAIN = "Caffe writes no such thing; load the file with Caffe and save it again (net.save_hdf5 or net.save)"
_NAME_WEIGHTS = "name the .caffemodel.h5 (or .caffemodel) that training wrote"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A dataset as the two processes tell each other: where its bytes are, in the file or in what was read from it."""

    index: int
    dtype: str
    shape: tuple[int, ...]
    mapped: bool
    offset: int

    @property
    def nbytes(self) -> int:
        return checked_size(self.shape) * _TYPES[self.dtype].itemsize


def read_hdf5(path: Path) -> dict[str, tuple[TensorRef | None, ...]]:
    """The blobs of each layer, by name; None where another layer owns the blob.

    Raises:
        UsageError: h5py cannot be imported.
        TruncatedError: the file is cut off.
        UnsupportedError: a link, or a dataset whose values are elsewhere, filtered in an unknown way, or far bigger
            than the file.
        FormatError: the file is damaged, or not what Caffe writes.
    """
    mapped = map_file(path)
    with tempfile.TemporaryFile(prefix="resnext-convert-") as output:
        _check_status(*run_libhdf5(path, output))
        read = memoryview(mmap.mmap(output.fileno(), 0, access=mmap.ACCESS_COPY))
    length = int.from_bytes(read[-_LENGTH_SIZE:], "little")
    answer = json.loads(bytes(read[-_LENGTH_SIZE - length : -_LENGTH_SIZE]))
    if "error" in answer:
        raise _ERRORS[answer["error"]](**{fact: answer[fact] for fact in _FACTS})
    return {
        layer: tuple(_tensors(layer, [_Entry(**entry) for entry in entries], mapped, read))
        for layer, entries in answer["layers"].items()
    }


def _tensors(layer: str, entries: list[_Entry], mapped: memoryview, read: memoryview) -> Iterator[TensorRef | None]:
    by_index = {entry.index: entry for entry in entries}
    for index in range(max(by_index, default=-1) + 1):
        entry = by_index.get(index)
        yield None if entry is None else _tensor(layer, entry, mapped if entry.mapped else read)


def _tensor(layer: str, entry: _Entry, content: memoryview) -> TensorRef:
    where = _place(layer, entry.index) + (f", byte {entry.offset:#x}" if entry.mapped else "")
    data = content[entry.offset : entry.offset + entry.nbytes]
    if data.nbytes != entry.nbytes:
        raise TruncatedError(
            "the file ends inside a dataset",
            place=where,
            expected=f"{entry.nbytes} bytes",
            found=f"{max(content.nbytes - entry.offset, 0)} left",
        )
    return TensorRef(f"{layer}[{entry.index}]", _TYPES[entry.dtype], tuple(entry.shape), where, data)


def _place(layer: str, index: object) -> str:
    return f"/data/{layer[:_SHOWN]}/{index}"


def run_libhdf5(path: Path, output: IO[bytes]) -> tuple[int, str]:
    """Runs this file as the process that has libhdf5.

    Args:
        path: the HDF5 file.
        output: an empty file, for the process's answer.

    Returns:
        The status with which it ended (negative: by that signal), and the last line that it said.
    """
    child = subprocess.run(
        # -P keeps the current folder out of the child's path: a file `h5py.py` in it would be taken for h5py.
        [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(path.absolute())],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # each would take address space
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
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


def serve(path: str, output: IO[bytes]) -> None:
    """Writes the values that cannot be mapped, then the index or what is wrong as JSON, then the length of that.

    Args:
        path: the HDF5 file.
        output: an empty file.
    """
    import h5py

    size = Path(path).stat().st_size
    allowed = max(_READ_FACTOR * size, _READ_FLOOR)
    _limit_resources(memory=_MEMORY + 2 * allowed, seconds=_SECONDS + size // _BYTES_A_SECOND)
    try:
        with h5py.File(path, "r", locking=False) as file:
            answer: dict[str, Any] = {"layers": _layers(file.id, output, allowed)}
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


def _layers(root: Any, output: IO[bytes], allowed: int) -> Mapping[str, list[dict[str, Any]]]:
    import h5py

    names = _names(root, "/")
    if "data" not in names:
        raise _other_content(root, names)
    data = _open(root, "data", h5py.h5g.GroupID, "/data")
    layers = {}
    for layer in _names(data, "/data"):
        group = _open(data, layer, h5py.h5g.GroupID, f"/data/{layer[:_SHOWN]}")
        layers[layer] = [asdict(entry) for entry in _entries(group, layer, output, allowed)]
    return layers


def _other_content(root: Any, names: list[str]) -> FormatError:
    if "history" in names or "learned_net" in names:
        return FormatError(
            "this is a solver's state (.solverstate.h5), not the weights",
            hint=f"name the .caffemodel.h5 that was written with it{_learned_net(root, names)}",
        )
    return FormatError(
        "this is not a .caffemodel.h5",
        place="/",
        expected="the group 'data'",
        found=", ".join(names)[:_SHOWN] or "nothing",
        hint=_NAME_WEIGHTS,
    )


def _learned_net(root: Any, names: list[str]) -> str:
    """What a solver's state calls its weights (sgd_solver.cpp, SnapshotSolverStateToHDF5), if that is a short text."""
    import h5py

    if "learned_net" not in names:
        return ""
    dataset = _open(root, "learned_net", h5py.h5d.DatasetID, "/learned_net")
    kind, plist = dataset.get_type(), dataset.get_create_plist()
    short = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str() and kind.get_size() <= _SHOWN * 4
    if not short or dataset.get_space().get_simple_extent_npoints() != 1 or plist.get_external_count():
        return ""
    text = np.zeros((), f"S{kind.get_size()}")
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, text)
    return f", {bytes(text).rstrip(bytes(1)).decode('utf-8', 'replace')!r}"


def _names(group: Any, place: str) -> list[str]:
    """The names of a group's members. One with a slash would be taken for a path."""
    names = []
    for raw in group:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("a name that is not UTF-8", place=place, found=repr(raw[:_SHOWN])) from error
        if name in {"", "."} or "/" in name:
            raise FormatError("a name that HDF5 does not allow", place=place, found=repr(name[:_SHOWN]))
        names.append(name)
    if len(set(names)) != len(names):
        raise FormatError("a name that is there twice", place=place)
    return names


def _open(group: Any, name: str, kind: type[Any], place: str) -> Any:
    """The member of a group itself: links to another name or file are not followed."""
    import h5py

    raw = name.encode()
    if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise UnsupportedError(
            "a link (soft or external), which is not followed",
            place=place,
            found=repr(group.links.get_val(raw))[:_SHOWN],
            hint=_SAVE_AGAIN,
        )
    member = h5py.h5o.open(group, raw)
    if not isinstance(member, kind):
        kinds = {h5py.h5g.GroupID: "a group", h5py.h5d.DatasetID: "a dataset"}
        raise FormatError(
            "this is not a .caffemodel.h5",
            place=place,
            expected=kinds[kind],
            found=kinds.get(type(member), "a named type"),
            hint=_NAME_WEIGHTS,
        )
    return member


def _entries(group: Any, layer: str, output: IO[bytes], allowed: int) -> Iterator[_Entry]:
    import h5py

    for name in _names(group, f"/data/{layer[:_SHOWN]}"):
        place = _place(layer, name[:_SHOWN])
        dataset = _open(group, name, h5py.h5d.DatasetID, place)
        if not _INDEX.fullmatch(name) or int(name) >= _MOST_BLOBS:
            raise FormatError("the name of a blob is not its number", place=place, expected="0, 1, 2 ...")
        try:
            yield _entry(dataset, int(name), output, allowed)
        except FormatError as error:
            error.place = place
            raise


def _entry(dataset: Any, index: int, output: IO[bytes], allowed: int) -> _Entry:
    """Checks a dataset, and reads it if it cannot be mapped."""
    import h5py

    plist, space, kind, dtype = dataset.get_create_plist(), dataset.get_space(), dataset.get_type(), dataset.dtype
    layout = plist.get_layout()
    if plist.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise UnsupportedError("a dataset whose values are in another file", hint=_SAVE_AGAIN)
    if kind.get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) or dtype.name not in _TYPES:
        raise UnsupportedError(
            "a dataset of something else than numbers", expected=", ".join(_TYPES), found=dtype, hint=_SAVE_AGAIN
        )
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        raise FormatError("a dataset without a shape")
    dtype, shape = dtype.newbyteorder("<"), space.get_simple_extent_dims()
    nbytes, stored = checked_size(shape) * dtype.itemsize, dataset.get_storage_size()
    if nbytes and (not stored or (layout == h5py.h5d.CHUNKED and dataset.get_num_chunks() < _chunks(shape, plist))):
        raise FormatError("a dataset whose values, or some of them, were never written", hint=_SAVE_AGAIN)
    offset = dataset.get_offset()
    if offset is not None and stored == nbytes and kind.equal(h5py.h5t.py_create(dtype)):
        return _Entry(index, dtype.name, shape, mapped=True, offset=offset)
    _check_cost(plist, nbytes, dtype.itemsize, allowed - output.tell())
    output.write(bytes(-output.tell() % _ALIGNMENT))
    offset = output.tell()
    if nbytes:
        array = np.zeros(shape, dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        output.write(array.reshape(-1).view(np.uint8).data)
    return _Entry(index, dtype.name, shape, mapped=False, offset=offset)


def _chunks(shape: tuple[int, ...], plist: Any) -> int:
    return math.prod(-(-size // chunk) for size, chunk in zip(shape, plist.get_chunk(), strict=True))


def _check_cost(plist: Any, nbytes: int, itemsize: int, allowed: int) -> None:
    """A few bytes of a compressed dataset, or of one that was never filled, can stand for any size."""
    import h5py

    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if not _FILTERS.keys() >= set(filters):
        raise UnsupportedError(
            "a dataset that is filtered or compressed in another way",
            expected=", ".join(_FILTERS.values()),
            found=", ".join(map(str, filters)),
            hint=_SAVE_AGAIN,
        )
    chunk = math.prod(plist.get_chunk()) * itemsize if plist.get_layout() == h5py.h5d.CHUNKED else 0
    if max(nbytes, chunk) > allowed:
        raise UnsupportedError(
            "the datasets of this file are far bigger than the file when they are unpacked",
            expected=f"at most {_READ_FACTOR} times the file, or {_READ_FLOOR} bytes",
            found=f"{max(nbytes, chunk)} bytes",
            hint="a network's weights are not that empty; if these are, save them without compression",
        )


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdout.buffer)
