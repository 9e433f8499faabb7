"""Checkpoints: the same bytes each time, a plain state dict, and a typed error for whatever else a file may be."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import save, tiny_arrays
from disk import Refusing
from graph_builder import TINY, Spelling
from single_node import ramp

from resnext_convert.converter import checkpoint
from resnext_convert.converter.errors import ConvertError, FormatError, MissingFileError, UsageError, WriteError
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.tensors import Array

# Writing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_written_is_a_plain_state_dict(tmp_path: Path, dtype: str) -> None:
    arrays = tiny_arrays(Spelling(dtype=dtype))
    path = save(arrays, tmp_path / "out.pth")
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    assert list(state) == list(TINY.state_shapes())
    for key, value in state.items():
        assert type(value) is torch.Tensor
        assert value.is_contiguous()
        assert not value.requires_grad
        assert value.numpy().dtype == arrays[key].dtype
        assert np.array_equal(value.numpy(), arrays[key])
    elements = sum(array.nbytes for array in arrays.values())
    # torch aligns each tensor to 64 bytes and says about 250 about it.
    assert elements < path.stat().st_size < elements + 500 * len(arrays) + 2000


WRITER = """
import sys
from pathlib import Path
import numpy as np
from resnext_convert.converter import checkpoint
from resnext_convert.converter.staging import StagedFile, commit
arrays = {f"layer{i}.weight": np.sin(np.arange(1000 * i, dtype=np.float32)).reshape(10, -1) for i in range(1, 8)}
arrays["counter"] = np.zeros((), np.int64)
with StagedFile(Path(sys.argv[1])) as staged:
    checkpoint.write(arrays, staged.file)
    commit([staged])
"""


def test_the_bytes_depend_on_the_arrays_alone(tmp_path: Path) -> None:
    """Two processes, two hash seeds, two names, two folders, two days."""
    (tmp_path / "elsewhere").mkdir()
    digests = set()
    for number, name in enumerate(["a.pth", "elsewhere/another-name.pt"]):
        path = tmp_path / name
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": "UTC" if number else "Asia/Tokyo"}
        subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, env=environment)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_another_value_makes_other_bytes(tmp_path: Path) -> None:
    arrays = tiny_arrays()
    first = save(arrays, tmp_path / "a.pth").read_bytes()
    assert save(arrays, tmp_path / "b.pth").read_bytes() == first
    changed = {**arrays, "fc.bias": arrays["fc.bias"] + np.float32(1e-6)}
    assert save(changed, tmp_path / "b.pth").read_bytes() != first


def test_unaligned_and_read_only_arrays_are_written_as_well(tmp_path: Path) -> None:
    raw = bytes(3) + ramp(4, 5).astype("<f4").tobytes()
    unaligned = np.frombuffer(raw, "<f4", offset=3).reshape(4, 5)
    assert not unaligned.flags.aligned
    transposed = ramp(3, 7).T
    path = save({"a": unaligned, "b": transposed, "c": np.zeros((0, 3), np.float32)}, tmp_path / "out.pth")
    state = checkpoint.read(path)
    assert np.array_equal(state["a"].numpy(), unaligned)
    assert np.array_equal(state["b"].numpy(), transposed)
    assert state["c"].shape == (0, 3)


def test_an_array_that_can_be_written_from_its_place_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: dict[str, Array] = {"a": np.ones((4, 5), np.float32), "b": np.ones(3, np.int64)}
    kept: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(torch, "save", lambda state, file: kept.update(state))
    checkpoint.write(arrays, io.BytesIO())
    assert all(np.shares_memory(kept[key].numpy(), arrays[key]) for key in arrays)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk() -> None:
    says = "the checkpoint cannot be written: No space left on device"
    with Path("/dev/full").open("r+b", buffering=0) as file, pytest.raises(WriteError, match=says) as error:
        checkpoint.write(tiny_arrays(), file)
    assert error.value.exit_code == 6
    assert error.value.hint == "the disk is full: free some space, or write elsewhere"


# The first byte; in the pickle; in the first large tensor; in the last; in the directory at the end.
PLACES = pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.99, 0.9999])


@PLACES
def test_an_error_of_the_system_at_any_place(share: float) -> None:
    arrays = tiny_arrays()
    whole = io.BytesIO()
    checkpoint.write(arrays, whole)
    room = int(share * len(whole.getvalue()))
    with pytest.raises(WriteError, match="the checkpoint cannot be written: Input/output error"):
        checkpoint.write(arrays, Refusing(room, OSError(5, "Input/output error")))


@PLACES
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_ctrl_c_stays_ctrl_c(share: float, stop: type[BaseException]) -> None:
    """Python may notice the signal in the call in which torch writes; torch would make an error of its own of it."""
    arrays = tiny_arrays()
    whole = io.BytesIO()
    checkpoint.write(arrays, whole)
    with pytest.raises(stop):
        checkpoint.write(arrays, Refusing(int(share * len(whole.getvalue())), stop()))


INTERRUPTED = """
import gc, sys
from pathlib import Path
import numpy as np, torch
from resnext_convert.converter import checkpoint
from resnext_convert.converter.staging import StagedFile

def stop(writer, *error):
    raise KeyboardInterrupt

torch.serialization._open_zipfile_writer_buffer.__exit__ = stop
try:
    with StagedFile(Path(sys.argv[1])) as staged:
        checkpoint.write({"a": np.ones(100_000, np.float32)}, staged.file)
except KeyboardInterrupt:
    pass
gc.collect()
print("still alive")
"""


def test_torch_s_writer_may_be_destroyed_after_the_file_is_closed(tmp_path: Path) -> None:
    """Ctrl-C just before torch ends its archive; what torch then writes late must not end the process (abort)."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "still alive\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "suffix"),
    [
        ("out.pth", ".pth"),
        ("out.pt", ".pt"),
        ("dir.json/out.pth", ".pth"),
        ("out.v2.safetensors", ".safetensors"),
        ("out.h5", ".h5"),
        ("out/", ".safetensors"),
        ("out.pth/", ".safetensors"),
        ("resnext-50.v1/", ".safetensors"),
    ],
)
def test_a_suffix_that_is_known(out: str, suffix: str) -> None:
    assert checkpoint.suffix_of(out) == suffix


def test_a_folder_that_is_there_needs_no_slash(tmp_path: Path) -> None:
    (tmp_path / "out.v1").mkdir()
    assert checkpoint.suffix_of(tmp_path / "out.v1") == ".safetensors"
    (tmp_path / "out.pth").mkdir()
    assert checkpoint.suffix_of(tmp_path / "out.pth") == ".pth"  # which cannot be written then


@pytest.mark.parametrize(
    ("name", "found"), [("out", "no suffix"), ("out.PTH", ".PTH"), ("out.pth.gz", ".gz"), ("out.hdf5", ".hdf5")]
)
def test_a_suffix_that_is_not(name: str, found: str) -> None:
    with pytest.raises(UsageError, match="the suffix of the output") as error:
        checkpoint.suffix_of(Path(name))
    assert error.value.found == found
    assert error.value.expected == ".pth, .pt, .safetensors, .h5, or a folder: a name that ends in /"


# Reading


def written(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


JUNK: dict[str, bytes] = {
    "empty": b"",
    "text": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "zeros": bytes(4096),
    "a pickle": pickle.dumps({"a": 1}),
    "a pickle of a command": b"cos\nsystem\n(S'exit 1'\ntR.",
    "the beginning of a zip": b"PK\x03\x04",
    "an NDArray list": bytes.fromhex("1201000000000000" + "00" * 16),
}


@pytest.mark.parametrize("name", JUNK)
def test_what_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    path = tmp_path / "junk.pth"
    path.write_bytes(JUNK[name])
    with pytest.raises(FormatError, match="no checkpoint that torch loads with weights_only=True") as error:
        checkpoint.read(path)
    assert error.value.file == str(path)
    assert error.value.found
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(tmp_path: Path, share: float) -> None:
    whole = save(tiny_arrays(), tmp_path / "out.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FormatError, match="no checkpoint"):
        checkpoint.read(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="no checkpoint"):
        checkpoint.read(path)


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such checkpoint") as error:
        checkpoint.read(tmp_path)
    assert error.value.file == str(tmp_path / "model.safetensors")
    with pytest.raises(MissingFileError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([torch.zeros(1)], "a list"),
        (torch.zeros(1), "a Tensor"),
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "'state_dict' with a value of dict"),
        ({"a": torch.zeros(1), "epoch": 3}, "'epoch' with a value of int"),
        ({"a": torch.zeros(1), 5: torch.zeros(1)}, "a key 5"),
        ({"a": torch.eye(3).to_sparse()}, "'a' with a value of torch.sparse_coo"),
        ({"a": None}, "'a' with a value of NoneType"),
    ],
)
def test_more_than_a_plain_state_dict(tmp_path: Path, value: object, found: str) -> None:
    path = written(tmp_path / "more.pth", value)
    with pytest.raises(FormatError, match="this is no plain state dict") as error:
        checkpoint.read(path)
    assert error.value.found == found
    assert error.value.expected == "a dictionary of dense tensors"


def test_a_whole_module(tmp_path: Path) -> None:
    """torch.save(model): a pickle of classes, which weights_only=True refuses."""
    path = written(tmp_path / "module.pth", torch.nn.Linear(2, 2))
    with pytest.raises(FormatError, match="no checkpoint that torch loads with weights_only=True"):
        checkpoint.read(path)


def test_an_ordered_dictionary_is_a_state_dict(tmp_path: Path) -> None:
    module = ResNeXt(TINY)
    path = written(tmp_path / "ordered.pth", OrderedDict(module.state_dict()))
    assert set(checkpoint.read(path)) == set(TINY.state_shapes())


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """Only typed errors; and no tensor that reaches beyond the file."""
    state = {f"layer{i}.weight": torch.arange(6.0).reshape(2, 3) + i for i in range(3)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    whole = buffer.getvalue()
    random = np.random.default_rng(0)
    path = tmp_path / "spoiled.pth"
    refused = 0
    for _ in range(1500):
        spoiled = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            spoiled[place] = random.integers(0, 256)
        path.write_bytes(spoiled)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch wonders about other versions of pickle
                values = list(checkpoint.read(path).values())
            assert all(value.numpy().size < 1000 for value in values)
        except ConvertError:
            refused += 1
    assert 500 < refused < 1500
