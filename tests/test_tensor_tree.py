"""`.h5`: keys are places, the bytes are the same each time, and hostile files give typed errors only."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from fuzz_hdf5 import Worker, mutate

from resnext_convert.converter import libhdf5, tensor_tree
from resnext_convert.converter.errors import ConvertError, FormatError, TruncatedError, UnsupportedError, UsageError
from resnext_convert.converter.staging import DESCRIPTORS
from resnext_convert.converter.tensors import Array

ARRAYS: dict[str, Array] = {
    "layer1.0.conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "layer1.0.bn1.running_var": np.linspace(0, 1, 3),
    "bn1.num_batches_tracked": np.zeros((), np.int64),
    "fc.bias": np.array([1, -0.0], np.float16),
    "nothing": np.zeros((0, 3), np.float32),
}
METADATA = {"tool": "resnext-convert", "network": "ResNeXt-50 (32x4d) ×", "empty": ""}


def written(arrays: dict[str, Array] = ARRAYS) -> bytes:
    file = io.BytesIO()
    tensor_tree.write(arrays, file, METADATA)
    return file.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "out.h5"
    path.write_bytes(written())
    return path


def test_what_h5py_sees(tree: Path) -> None:
    with h5py.File(tree) as file:
        assert dict(file.attrs) == {"format": "resnext-convert tensor tree"} | METADATA
        for key, array in ARRAYS.items():
            found = file[key.replace(".", "/")]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found[()].tobytes() == array.tobytes()
            assert found.compression is None


def test_what_is_read_back(tree: Path) -> None:
    found = tensor_tree.read(tree)
    assert found.metadata == METADATA
    assert found.tensors.keys() == ARRAYS.keys()
    for key, tensor in found.tensors.items():
        assert (tensor.dtype.value, tensor.shape) == (ARRAYS[key].dtype.name, ARRAYS[key].shape)
        assert bytes(tensor.data) == ARRAYS[key].tobytes()
    assert found.tensors["fc.bias"].where.startswith("/fc/bias, byte 0x")


WRITER = """
import sys
import numpy as np
from resnext_convert.converter import tensor_tree
arrays = {f"layer{i}.weight": np.arange(100 * i, dtype=np.float32) for i in range(1, 8)}
with open(sys.argv[1], "w+b") as file:
    tensor_tree.write(arrays, file, {name: name for name in "abcdefgh"})
"""


def test_the_bytes_depend_on_the_arrays_alone(tmp_path: Path) -> None:
    """Two processes, two hash seeds, two seconds: HDF5 would keep the time."""
    for seed in range(2):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / str(seed))], check=True, env=environment)
        time.sleep(1.1)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_any_layout_and_byte_order() -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = np.frombuffer(bytes(1) + plain.tobytes(), "<f4", offset=1).reshape(3, 4)
    for same in (raw, plain.astype(">f4"), np.asfortranarray(plain)):
        assert written({"a": same}) == written({"a": plain})


def test_bfloat16_is_refused() -> None:
    file = io.BytesIO()
    with pytest.raises(UsageError, match="HDF5 has no bfloat16") as error:
        tensor_tree.write({"fc.bias": np.zeros(2, ml_dtypes.bfloat16)}, file, {})
    assert error.value.place == "tensor 'fc.bias'"
    assert file.getvalue() == b""


def test_a_file_without_a_name_is_read_as_well(tmp_path: Path) -> None:
    if not hasattr(os, "O_TMPFILE"):
        return  # only Linux has such files
    with os.fdopen(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR), "w+b") as file:
        tensor_tree.write(ARRAYS, file, METADATA)
        assert tensor_tree.read(DESCRIPTORS / str(file.fileno())).tensors.keys() == ARRAYS.keys()


# --- hostile files ----------------------------------------------------------------------------------------------------


def changed(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def link_to(path: str) -> Callable[[h5py.File], object]:
    return lambda file: file.__setitem__("fc/other", h5py.SoftLink(path))


def delete_format(file: h5py.File) -> None:
    del file.attrs["format"]


def other_format(file: h5py.File) -> None:
    file.attrs["format"] = "another"


@pytest.mark.parametrize("change", [delete_format, other_format])
def test_another_tree(tree: Path, change: Callable[[h5py.File], None]) -> None:
    with pytest.raises(FormatError, match="not a tree of tensors of this program"):
        tensor_tree.read(changed(tree, change))
    assert tensor_tree.find(tree) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (link_to("/fc/bias"), "a link"),
        (link_to("/nowhere"), "a link"),
        (lambda file: file.__setitem__("other", h5py.ExternalLink("b.h5", "/x")), "a link"),
        (lambda file: file.create_dataset("text", data="words"), "something else than numbers"),
        (lambda file: file.create_dataset("holes", (5,), "f4", chunks=(1,)), "never written"),
        (lambda file: file.create_dataset("big", (2**30,), "f4", chunks=(2**20,), compression="gzip"), "never written"),
        (lambda file: file.create_dataset("null", data=h5py.Empty("f4")), "without a shape"),
        (lambda file: file.__setitem__("named", np.dtype("f4")), "a tree of tensors"),
        (lambda file: file.create_dataset("fc.bias", data=np.zeros(1)), "two datasets are of one key"),
        (lambda file: file.__setitem__("again", file["/"]), "a group that is there twice"),
    ],
)
def test_what_this_program_does_not_write(tree: Path, change: Callable[[h5py.File], object], says: str) -> None:
    with pytest.raises(FormatError, match=says) as error:
        tensor_tree.read(changed(tree, change))
    assert error.value.file == str(tree)


def test_values_that_are_in_another_file(tree: Path) -> None:
    def elsewhere(file: h5py.File) -> None:
        file.create_dataset("secret", (4,), "u1", external=[("/etc/passwd", 0, 4)])

    with pytest.raises(UnsupportedError, match="in another file"):
        tensor_tree.read(changed(tree, elsewhere))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off(tree: Path, share: float) -> None:
    whole = tree.read_bytes()
    tree.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FormatError) as error:
        tensor_tree.read(tree)
    assert isinstance(error.value, TruncatedError) or "libhdf5 cannot read" in str(error.value)


def test_any_byte_may_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in some hundreds brings libhdf5 to no end; 10 s for each would be long."""
    monkeypatch.setattr(libhdf5, "_SECONDS", 1)
    worker = Worker(tmp_path, tensor_tree.serve)
    monkeypatch.setattr(libhdf5, "run_libhdf5", worker)
    rng, whole = random.Random(1), written()
    path = tmp_path / "spoiled.h5"
    refused = 0
    for _ in range(1000):
        path.write_bytes(mutate(whole, rng, [whole]))
        try:
            for tensor in tensor_tree.read(path).tensors.values():
                assert tensor.numpy().nbytes <= 2**20
        except ConvertError:
            refused += 1
    worker.stop()
    assert 500 < refused < 1000
