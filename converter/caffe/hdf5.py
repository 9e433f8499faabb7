"""Reads `.caffemodel.h5`, which ``net.save_hdf5`` and ``snapshot_format: HDF5`` write (net.cpp, Net::ToHDF5).

There is a dataset for each blob, ``/data/<layer>/<index>``, in the blob's shape; layers without blobs are empty groups.
A blob that belongs to another layer (``param { name: }``) is left out, so an index may be absent.

Run as a module, this file is the process that has libhdf5 (`libhdf5.py` says why there is one).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from resnext_convert.converter import libhdf5
from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.libhdf5 import SHOWN, Answer, Entry, Layout, member_names, open_member, stored_entry
from resnext_convert.converter.tensors import TensorRef

MAGIC: Final = libhdf5.MAGIC

_MODULE = "resnext_convert.converter.caffe.hdf5"
_MOST_BLOBS = 1000  # of a layer; Caffe's own have at most 5
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_LAYOUT = Layout(
    kind="a .caffemodel.h5",
    save_again="Caffe writes no such thing; load the file with Caffe and save it again (net.save_hdf5 or net.save)",
    name_another="name the .caffemodel.h5 (or .caffemodel) that training wrote",
)


def read_hdf5(path: Path) -> dict[str, tuple[TensorRef | None, ...]]:
    """The blobs of each layer, by name; None where another layer owns the blob.

    Raises:
        UsageError: h5py cannot be imported.
        TruncatedError: the file is cut off.
        UnsupportedError: a link, or a dataset whose values are elsewhere, filtered in an unknown way, or far bigger
            than the file.
        FormatError: the file is damaged, or not what Caffe writes.
    """
    answer = libhdf5.ask(path, _MODULE)
    return {layer: tuple(_tensors(layer, blobs, answer)) for layer, blobs in answer.found.items()}


def _tensors(layer: str, blobs: Mapping[str, dict[str, Any]], answer: Answer) -> Iterator[TensorRef | None]:
    by_index = {int(index): Entry(**entry) for index, entry in blobs.items()}
    for index in range(max(by_index, default=-1) + 1):
        entry = by_index.get(index)
        yield None if entry is None else answer.tensor(entry, f"{layer}[{index}]", _place(layer, index))


def _place(layer: str, index: object) -> str:
    return f"/data/{layer[:SHOWN]}/{index}"


# --- the other process -----------------------------------------------------------------------------------------------


def serve(path: str, output: IO[bytes]) -> None:
    """Answers `read_hdf5` about a file; see `libhdf5.serve`."""
    libhdf5.serve(path, output, _layers)


def _layers(root: Any, output: IO[bytes], allowed: int) -> dict[str, dict[str, Any]]:
    import h5py

    names = member_names(root, "/")
    if "data" not in names:
        raise _other_content(root, names)
    data = open_member(root, "data", h5py.h5g.GroupID, "/data", _LAYOUT)
    layers = {}
    for layer in member_names(data, "/data"):
        group = open_member(data, layer, h5py.h5g.GroupID, f"/data/{layer[:SHOWN]}", _LAYOUT)
        layers[layer] = dict(_entries(group, layer, output, allowed))
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
        found=", ".join(names)[:SHOWN] or "nothing",
        hint=_LAYOUT.name_another,
    )


def _learned_net(root: Any, names: list[str]) -> str:
    """What a solver's state calls its weights (sgd_solver.cpp, SnapshotSolverStateToHDF5), if that is a short text."""
    import h5py

    if "learned_net" not in names:
        return ""
    dataset = open_member(root, "learned_net", h5py.h5d.DatasetID, "/learned_net", _LAYOUT)
    kind, plist = dataset.get_type(), dataset.get_create_plist()
    short = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str() and kind.get_size() <= SHOWN * 4
    if not short or dataset.get_space().get_simple_extent_npoints() != 1 or plist.get_external_count():
        return ""
    text = np.zeros((), f"S{kind.get_size()}")
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, text)
    return f", {bytes(text).rstrip(bytes(1)).decode('utf-8', 'replace')!r}"


def _entries(group: Any, layer: str, output: IO[bytes], allowed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    import h5py

    for name in member_names(group, f"/data/{layer[:SHOWN]}"):
        place = _place(layer, name[:SHOWN])
        dataset = open_member(group, name, h5py.h5d.DatasetID, place, _LAYOUT)
        if not _INDEX.fullmatch(name) or int(name) >= _MOST_BLOBS:
            raise FormatError("the name of a blob is not its number", place=place, expected="0, 1, 2 ...")
        try:
            yield name, asdict(stored_entry(dataset, output, allowed, _LAYOUT))
        except FormatError as error:
            error.place = place
            raise


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdout.buffer)
