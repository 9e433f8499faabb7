"""HDF5 files that Caffe does not write, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from caffe_writer import RAMP, hdf5
from test_caffe_hdf5 import DOUBLE, LAYERS, Array, _this_process, assert_reads, made, other_process, refusal, tensors  # noqa: F401  # fixtures

from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    TruncatedError,
    UnsupportedError,
)

# --- what is refused -------------------------------------------------------------------------------------------------


def set_external_link(file: h5py.File) -> None:
    file["data/conv/1"] = h5py.ExternalLink("other.h5", "/data/conv/0")


def set_soft_link(file: h5py.File) -> None:
    file["data/conv/1"] = h5py.SoftLink("/data/conv/0")


def set_soft_link_to_itself(file: h5py.File) -> None:
    file["data/conv/1"] = h5py.SoftLink("/data/conv/1")


def set_dangling_link(file: h5py.File) -> None:
    file["data/conv/1"] = h5py.SoftLink("/nowhere")


def set_linked_layer(file: h5py.File) -> None:
    file["data/fc"] = h5py.ExternalLink("other.h5", "/data/fc")


def set_linked_data(file: h5py.File) -> None:
    file.move("data", "elsewhere")
    file["data"] = h5py.SoftLink("/elsewhere")


def set_group_in_group(file: h5py.File) -> None:
    file.create_group("data/conv/1")


def set_dataset_as_layer(file: h5py.File) -> None:
    file["data/fc"] = RAMP


def set_type_as_blob(file: h5py.File) -> None:
    file["data/conv/1"] = np.dtype("f4")


def set_inputs(file: h5py.File) -> None:
    del file["data"]
    file["data"], file["label"] = RAMP, RAMP[0]


def set_cycle(file: h5py.File) -> None:
    file["data/again"] = file["data"]


def set_cycle_to_root(file: h5py.File) -> None:
    file["data/conv/1"] = file["/"]


def set_other_blob_name(file: h5py.File) -> None:
    file["data/conv/weight"] = RAMP


def set_blob_01(file: h5py.File) -> None:
    file["data/conv/01"] = RAMP


def set_blob_minus_1(file: h5py.File) -> None:
    file["data/conv/-1"] = RAMP


def set_blob_million(file: h5py.File) -> None:
    file["data/conv/1000000"] = RAMP


def set_blob_arabic(file: h5py.File) -> None:
    file["data/conv/١"] = RAMP


def set_text(file: h5py.File) -> None:
    file["data/conv/1"] = np.array([b"abc"])


def set_texts(file: h5py.File) -> None:
    file["data/conv/1"] = "abc"


def set_compound(file: h5py.File) -> None:
    file["data/conv/1"] = np.zeros(2, np.dtype([("a", "f4")]))


def set_booleans(file: h5py.File) -> None:
    file["data/conv/1"] = np.ones(2, bool)


def set_complex(file: h5py.File) -> None:
    file["data/conv/1"] = np.ones(2, np.complex64)


def set_extended(file: h5py.File) -> None:
    file["data/conv/1"] = np.ones(2, np.longdouble)


def set_reference(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", (1,), h5py.ref_dtype)


def set_null(file: h5py.File) -> None:
    file["data/conv/1"] = h5py.Empty("f4")


def set_unwritten(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", (2, 3), "f4")


def set_unwritten_bomb(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", (2**40,), "f4")


def set_half_written(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", (4, 3), "f4", chunks=(2, 3))[:2] = RAMP


def set_external_storage(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def set_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 3))
    file.create_virtual_dataset("data/conv/1", layout)


def set_lzf(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", data=RAMP, compression="lzf")


def set_bomb(file: h5py.File) -> None:
    file.create_dataset("data/conv/1", data=np.zeros((1024, 1024), np.float32), compression="gzip")


def set_bomb_of_many(file: h5py.File) -> None:
    for index in range(1, 9):
        file.create_dataset(f"data/conv/{index}", data=np.zeros(2**16, np.float32), compression="gzip")


def set_chunk_bomb(file: h5py.File) -> None:
    space = h5py.h5s.create_simple((1,), (h5py.h5s.UNLIMITED,))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((2**22,))
    plist.set_deflate(9)
    dataset = h5py.h5d.create(file["data/conv"].id, b"1", h5py.h5t.IEEE_F32LE, space, plist)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(1, np.float32))


def set_nothing(file: h5py.File) -> None:
    del file["data"]


def set_keras(file: h5py.File) -> None:
    del file["data"]
    file.create_group("model_weights")


def set_no_blobs(file: h5py.File) -> None:
    del file["data/conv/0"]


def set_state(file: h5py.File) -> None:
    del file["data"]
    file["learned_net"] = np.bytes_("x_iter_5.caffemodel.h5")
    file["iter"] = np.array([5])


def set_state_of_other_texts(file: h5py.File) -> None:
    del file["data"]
    file["learned_net"] = "text of any length"
    file["history/0"] = RAMP


BLOB, LAYER = "/data/conv/1", "/data/conv"
REFUSED: dict[Callable[[h5py.File], object], tuple[str, str, type[InputError]]] = {
    set_external_link: (BLOB, r"a link .*other\.h5", UnsupportedError),
    set_soft_link: (BLOB, "a link .*/data/conv/0", UnsupportedError),
    set_soft_link_to_itself: (BLOB, "a link", UnsupportedError),
    set_dangling_link: (BLOB, "a link .*/nowhere", UnsupportedError),
    set_linked_layer: ("/data/fc", "a link", UnsupportedError),
    set_linked_data: ("/data", "a link", UnsupportedError),
    set_group_in_group: (BLOB, "expected a dataset, found a group", FormatError),
    set_dataset_as_layer: ("/data/fc", "expected a group, found a dataset", FormatError),
    set_type_as_blob: (BLOB, "expected a dataset, found a named type", FormatError),
    set_inputs: ("/data", "expected a group, found a dataset", FormatError),
    set_cycle: ("/data/again/", "expected a dataset, found a group", FormatError),
    set_cycle_to_root: (BLOB, "expected a dataset, found a group", FormatError),
    set_other_blob_name: ("/data/conv/weight", "not its number", FormatError),
    set_blob_01: ("/data/conv/01", "not its number", FormatError),
    set_blob_minus_1: ("/data/conv/-1", "not its number", FormatError),
    set_blob_million: ("/data/conv/1000000", "not its number", FormatError),
    set_blob_arabic: ("/data/conv/١", "not its number", FormatError),
    set_text: (BLOB, "something else than numbers", UnsupportedError),
    set_texts: (BLOB, "something else than numbers", UnsupportedError),
    set_compound: (BLOB, "something else than numbers", UnsupportedError),
    set_booleans: (BLOB, "something else than numbers", UnsupportedError),
    set_complex: (BLOB, "something else than numbers", UnsupportedError),
    set_extended: (BLOB, "something else than numbers", UnsupportedError),
    set_reference: (BLOB, "something else than numbers", UnsupportedError),
    set_null: (BLOB, "without a shape", FormatError),
    set_unwritten: (BLOB, "never written", FormatError),
    set_unwritten_bomb: (BLOB, "never written", FormatError),
    set_half_written: (BLOB, "never written", FormatError),
    set_external_storage: (BLOB, "in another file", UnsupportedError),
    set_virtual: (BLOB, "in another file", UnsupportedError),
    set_lzf: (BLOB, "filtered or compressed in another way .*found 32000", UnsupportedError),
    set_bomb: (BLOB, "far bigger than the file .*found 4194304 bytes", UnsupportedError),
    set_bomb_of_many: ("/data/conv/", "far bigger than the file .*found 262144 bytes", UnsupportedError),
    set_chunk_bomb: (BLOB, "far bigger than the file .*found 16777216 bytes", UnsupportedError),
    set_nothing: ("/", r"not a \.caffemodel\.h5 .*found nothing", FormatError),
    set_keras: ("/", r"not a \.caffemodel\.h5 .*found model_weights", FormatError),
    set_state: ("", r"a solver's state \(\.solverstate\.h5\)", FormatError),
    set_state_of_other_texts: ("", "a solver's state", FormatError),
    set_no_blobs: ("", "a net without weights", FormatError),
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__.removeprefix("set_"))
def test_it_is_refused(make: Callable[[h5py.File], object], tmp_path: Path) -> None:
    place, says, kind = REFUSED[make]
    error = refusal(made(tmp_path, make), says, kind)
    assert type(error) is kind
    assert (error.place or "").startswith(place)


@pytest.mark.usefixtures("other_process")
def test_a_solvers_state_says_which_file_is_meant(tmp_path: Path) -> None:
    assert "with it, 'x_iter_5.caffemodel.h5'" in str(refusal(made(tmp_path, set_state), "a solver's state").hint)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, lambda file: h5py.h5g.create(file["data"].id, b"\xc3\x28"))
    assert refusal(path, "a name that is not UTF-8").place == "/data"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = hdf5(tmp_path / "whole.h5", {"conv": [RAMP]}).read_bytes()
    path = tmp_path / "cut.h5"
    for size in (8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refusal(path, "libhdf5 cannot read this file", TruncatedError if size >= 100 else FormatError)
