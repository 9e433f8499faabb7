"""Checkpoints read without PyTorch: what PyTorch writes is read as it is, and nothing of a file is ever executed."""

from __future__ import annotations

import io
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, UnsupportedError
from resnext_convert.converter.tensors import DType
from resnext_convert.converter.torch_zip import is_checkpoint, read_state

DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.float64: DType.FLOAT64,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
    torch.bool: DType.BOOL,
    torch.int8: DType.INT8,
    torch.int16: DType.INT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.uint8: DType.UINT8,
}


def saved(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def of_pickle(text: bytes, path: Path, storages: dict[str, bytes] | None = None) -> Path:
    """A checkpoint with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", text)
        archive.writestr("net/version", "3\n")
        archive.writestr("net/byteorder", "little")
        for key, content in (storages or {}).items():
            archive.writestr(f"net/data/{key}", content)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    state = read_state(saved({"a.weight": torch.zeros(2, 3, dtype=dtype)}, tmp_path / "a.pth"))
    assert list(state) == ["a.weight"]
    assert (state["a.weight"].dtype, state["a.weight"].shape) == (DTYPES[dtype], (2, 3))
    assert state["a.weight"].nbytes == 6 * dtype.itemsize


def test_what_a_module_saves(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4)).state_dict()
    found = read_state(saved(state, tmp_path / "a.pth"))
    assert [(key, tensor.shape) for key, tensor in found.items()] == [(k, tuple(t.shape)) for k, t in state.items()]


def test_views_and_shared_storages(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {"whole": whole, "end": whole[9:], "turned": whole.reshape(3, 4).t(), "none": whole[:0], "one": whole[5]}
    found = read_state(saved(state, tmp_path / "a.pth"))
    assert {key: tensor.shape for key, tensor in found.items()} == {
        "whole": (12,),
        "end": (3,),
        "turned": (4, 3),
        "none": (0,),
        "one": (),
    }
    assert {tensor.storage.key for tensor in found.values()} == {"0"}


def test_checkpoints_are_told_by_their_beginning(tmp_path: Path) -> None:
    assert is_checkpoint(saved({}, tmp_path / "a.pth").read_bytes()[:256])
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("data.npy", b"")
    assert not is_checkpoint((tmp_path / "b.npz").read_bytes()[:256])
    assert not is_checkpoint(b"PK\x03\x04")
    assert not is_checkpoint(b"")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"state_dict": {"a": torch.ones(1)}}, r"key 'state_dict': this is no plain state dict .*found dict"),
        ({"a": torch.ones(1), "epoch": 3}, "key 'epoch': this is no plain state dict .*found int"),
        ({"a": 1.5}, "BINFLOAT"),
        ({"a": [torch.ones(1)]}, "EMPTY_LIST"),
        ({3: torch.ones(1)}, "keys that are no texts"),
        ({"a": nn.Parameter(torch.ones(1))}, "'torch._utils _rebuild_parameter'"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "'torch ComplexFloatStorage'"),
        ({"a": torch.ones(1).to_sparse()}, "more than a state dict"),
        (nn.ReLU(), "'torch.nn.modules.activation ReLU'"),
        (torch.ones(2), "this is no state dict .*found StoredTensor"),
        ((1, 2), "this is no state dict .*found tuple"),
    ],
    ids=str,
)
def test_more_than_a_state_dict_is_refused(tmp_path: Path, value: object, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says) as refusal:
        read_state(saved(value, tmp_path / "a.pth"))
    assert refusal.value.file == str(tmp_path / "a.pth")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    text = pickle.dumps({"a": Evil(tmp_path / "executed")}, protocol=protocol)
    with pytest.raises(FormatError):
        read_state(of_pickle(text, tmp_path / "a.pth"))
    assert not (tmp_path / "executed").exists()
    pickle.loads(text)["a"].close()  # Python's own unpickler does
    assert (tmp_path / "executed").exists()


def tensor_pickle(
    storage: bytes = b"", offset: int = 0, shape: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1)
) -> bytes:
    """A pickle of {"a": tensor}, as `torch.save` writes it, of a storage "0" of six floats."""
    pickled = io.BytesIO()
    storage = storage or b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    pickled.write(b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + storage)
    for value in (offset, shape, stride, False):
        pickled.write(pickle.dumps(value, protocol=2)[2:-1])
    pickled.write(b"ccollections\nOrderedDict\n)RtRs.")
    return pickled.getvalue()


def test_a_pickle_made_by_hand(tmp_path: Path) -> None:
    path = of_pickle(tensor_pickle(), tmp_path / "a.pth", {"0": bytes(24)})
    assert torch.load(path, weights_only=True)["a"].shape == (2, 3)
    assert read_state(path)["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "size", "says"),
    [
        (tensor_pickle(), 23, "tensor 'a': its elements are not all in the file .*expected 24 bytes.*found 23 bytes"),
        (tensor_pickle(), None, "found no such entry"),
        (tensor_pickle(offset=1), 24, "expected 24 bytes in data/0, 7 elements"),
        (tensor_pickle(stride=(4, 1)), 24, "7 elements"),
        (tensor_pickle(shape=(2**40, 2**40), stride=(0, 0)), 24, "a shape that no array can have"),
        (tensor_pickle(shape=(2, -3)), 24, "a tensor cannot be read"),
        (tensor_pickle(stride=(3,)), 24, "damaged"),
        (tensor_pickle(offset=-1), 24, "a tensor cannot be read"),
        (tensor_pickle(b"K\x01"), 24, "a tensor cannot be read"),
        (tensor_pickle(b"K\x01Q"), 24, "a reference to the elements of a tensor cannot be read"),
        (tensor_pickle()[:-1], 24, "damaged"),
        (tensor_pickle()[:40], 24, "damaged"),
        (b"", 24, "damaged"),
        (b"\x80\x02.", 24, "damaged"),
        (b"\x80\x02h\x05.", 24, "damaged"),
        (b"\x80\x02}K\x01b}R.", 24, "damaged"),
        (b"\x80\x02}X\x01\x00\x00\x00au.", 24, "damaged"),
    ],
)
def test_damage_is_told(tmp_path: Path, text: bytes, size: int | None, says: str) -> None:
    path = of_pickle(text, tmp_path / "a.pth", {} if size is None else {"0": bytes(size)})
    with pytest.raises(FormatError, match=says):
        read_state(path)


def test_damage_of_the_zip_is_told(tmp_path: Path) -> None:
    path = saved(OrderedDict(a=torch.ones(100)), tmp_path / "a.pth")
    whole = path.read_bytes()
    for cut in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError, match="no PyTorch checkpoint, or it is damaged"):
            read_state(path)
    with pytest.raises(InputError):
        read_state(tmp_path)


def test_other_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", tensor_pickle())
    with pytest.raises(UnsupportedError, match="the zip is compressed"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/other.pkl", tensor_pickle())
    with pytest.raises(FormatError, match="no PyTorch checkpoint"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", tensor_pickle())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("net/data.pkl", tensor_pickle())
    with pytest.raises(FormatError, match="two entries of the same name"):
        read_state(path)


def test_a_few_bytes_cannot_take_much_memory_or_time(tmp_path: Path) -> None:
    # An index of the memo for which Python's unpickler would take 64 GiB; and a tuple nested 60 times in itself, whose
    # text or hash would never end.
    index = of_pickle(b"\x80\x02}r\xff\xff\xff\x7f.", tmp_path / "index.pth")
    nest = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    value = of_pickle(b"\x80\x02}X\x01\x00\x00\x00a)" + nest + b"s.", tmp_path / "value.pth")
    key = of_pickle(b"\x80\x02})" + nest + b"K\x01s.", tmp_path / "key.pth")
    assert read_state(index) == {}
    for path in (value, key):
        with pytest.raises(UnsupportedError):
            read_state(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB on Linux, bytes elsewhere: less still


def test_random_damage_gives_typed_errors_only(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4)).state_dict()
    with zipfile.ZipFile(saved(state, tmp_path / "a.pth")) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        folder = name.removesuffix("/data.pkl")
        storages = {
            n.rpartition("/")[2]: archive.read(n) for n in archive.namelist() if n.startswith(f"{folder}/data/")
        }
        text = archive.read(name)
    dice = random.Random(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(text)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            read_state(of_pickle(bytes(damaged), tmp_path / "b.pth", storages))
        except FormatError:
            refused += 1
    assert 500 < refused < 1500  # some damage makes other names only


def test_it_needs_no_torch(tmp_path: Path) -> None:
    path = saved({"a": torch.ones(2)}, tmp_path / "a.pth")
    program = (
        "import sys; from pathlib import Path; from resnext_convert.converter.torch_zip import read_state; "
        f"print(read_state(Path({str(path)!r}))['a'].shape, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said == "(2,) False\n"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_state(tmp_path / "absent.pth")
