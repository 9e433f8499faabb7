"""Writes `.h5`, a plain tree of tensors, and reads it back. Needs no torch.

The key ``layer1.0.conv1.weight`` is the dataset ``/layer1/0/conv1/weight``; the root's attributes say what it is.
libhdf5 reads in a process of its own (`libhdf5.py` says why).

Run as a module, this file is that process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NamedTuple

import numpy as np

from resnext_convert.converter import libhdf5
from resnext_convert.converter.errors import FormatError, UsageError, in_file
from resnext_convert.converter.libhdf5 import SHOWN, Entry, Layout, member_names, open_member, stored_entry
from resnext_convert.converter.sink import Sink
from resnext_convert.converter.tensors import Array, TensorRef

FORMAT: Final = "resnext-convert tensor tree"
"""The value of the root's attribute ``format``."""

_MODULE = "resnext_convert.converter.tensor_tree"
_LONGEST = 2**16  # bytes of an attribute, which HDF5 cannot store either
_LAYOUT = Layout(
    kind="a tree of tensors of this program",
    save_again="convert again: this program writes no such thing",
    name_another="name a file that this program has written",
)


class Contents(NamedTuple):
    """What is in a file: its tensors by their keys, and the root's attributes."""

    tensors: dict[str, TensorRef]
    metadata: dict[str, str]


def check(arrays: Mapping[str, Array]) -> None:
    """Refuses what HDF5 has no type for.

    Raises:
        UsageError: a tensor is bfloat16.
    """
    for key, array in arrays.items():
        if array.dtype.name == "bfloat16":
            raise UsageError(
                "HDF5 has no bfloat16",
                place=f"tensor {key!r:.80}",
                hint="take float16 or float32, or write .safetensors or .pth",
            )


def write(arrays: Mapping[str, Array], file: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Writes tensors; the same arrays and metadata give the same bytes.

    Args:
        arrays: by keys whose parts are separated by dots; float16, float32, float64, integers, bool.
        file: an empty file, open for reading and writing.
        metadata: attributes of the root beside ``format``.

    Raises:
        UsageError: a tensor is bfloat16.
        OSError: of the operating system.
    """
    import h5py  # here, because whoever writes another format does without

    check(arrays)
    # libhdf5 would close a file that could not be written when the process ends, when Python is no longer there.
    with Sink(file) as sink, h5py.File(sink, "w") as tree:
        for name, text in {"format": FORMAT, **metadata}.items():
            tree.attrs[name] = text
        for key, array in arrays.items():
            plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            tree.create_dataset(key.replace(".", "/"), data=plain.reshape(array.shape), track_times=False)


def read(path: Path) -> Contents:
    """What is in a file that `write` has made; plainly stored elements are mapped.

    Raises:
        UsageError: h5py cannot be imported.
        MissingFileError: there is no such file.
        FormatError: it is damaged, or holds something else: other attributes, links, no numbers.
    """
    found = find(path)
    if found is None:
        raise FormatError(
            f"this is not {_LAYOUT.kind}",
            file=path,
            place="/",
            expected=f"the attribute format, {FORMAT!r}",
            hint=_LAYOUT.name_another,
        )
    return found


def find(path: Path) -> Contents | None:
    """As `read`, but None for an HDF5 file that does not say that it is a tree of tensors."""
    with in_file(path):
        answer = libhdf5.ask(path, _MODULE)
        if answer.found["format"] != FORMAT:
            return None
        tensors: dict[str, TensorRef] = {}
        for place, entry in answer.found["tensors"]:
            key = place.removeprefix("/").replace("/", ".")
            if key in tensors:
                raise FormatError("two datasets are of one key", place=place[:SHOWN])
            tensors[key] = answer.tensor(Entry(**entry), key, place)
        return Contents(tensors, answer.found["metadata"])


# --- the other process -----------------------------------------------------------------------------------------------


def serve(path: str, output: IO[bytes]) -> None:
    """Answers `read` about a file; see `libhdf5.serve`."""
    libhdf5.serve(path, output, _walk)


def _walk(root: Any, output: IO[bytes], allowed: int) -> dict[str, Any]:
    attributes = dict(_attributes(root))
    form = attributes.pop("format", None)
    tensors = list(_datasets(root, "", output, allowed, set())) if form == FORMAT else {}
    return {"format": form, "metadata": attributes, "tensors": tensors}


def _attributes(root: Any) -> Iterator[tuple[str, str]]:
    """The attributes of the root that are one short text each."""
    import h5py

    for number in range(h5py.h5a.get_num_attrs(root)):
        attribute = h5py.h5a.open(root, index=number)
        kind, space = attribute.get_type(), attribute.get_space()
        if kind.get_class() != h5py.h5t.STRING or space.get_simple_extent_type() != h5py.h5s.SCALAR:
            continue
        if not kind.is_variable_str() and kind.get_size() > _LONGEST:
            continue
        value = np.empty((), attribute.dtype)
        attribute.read(value)
        text: Any = value[()]  # bytes, but text where h5py knows that it is
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        yield attribute.name.decode("utf-8", "replace"), str(text)[:_LONGEST]


def _datasets(
    group: Any, place: str, output: IO[bytes], allowed: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import h5py

    # A group that contains itself would come to no end, and one that is there often to a late one.
    address = h5py.h5o.get_info(group).addr
    if address in seen:
        raise FormatError("a group that is there twice", place=place[:SHOWN] or "/")
    seen.add(address)
    for name in member_names(group, place[:SHOWN] or "/"):
        inside = f"{place}/{name}"
        member = open_member(group, name, None, inside[:SHOWN], _LAYOUT)
        if isinstance(member, h5py.h5g.GroupID):
            yield from _datasets(member, inside, output, allowed, seen)
            continue
        try:
            yield inside, asdict(stored_entry(member, output, allowed, _LAYOUT))
        except FormatError as error:
            error.place = inside[:SHOWN]
            raise


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdout.buffer)
