"""Every format gives torch the tensors that were written, to the bit; and what no format takes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoints import save, tiny_arrays
from graph_builder import TINY
from pydantic import TypeAdapter
from safetensors.torch import load_file
from test_safetensors_file import mutated

import resnext_convert as rc
from resnext_convert.converter import checkpoint, safetensors_file, torch_checkpoint
from resnext_convert.converter.errors import ConvertError, FormatError, UsageError, WriteError
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.tensors import Array

SUFFIXES = list(checkpoint.FORMATS)
MIXED: dict[str, Array] = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.running_var": np.array([1e-300, -0.0, np.pi]),
    "a.num_batches_tracked": np.array(2**62),
    "b.weight": np.array([[65504, 6e-8]], np.float16),
    "b.empty": np.zeros((0, 3), np.float32),
    "c.weight": np.frombuffer(bytes(1) + np.arange(5.0).tobytes(), "<f8", offset=1),
}
BRAIN = np.array([1, -(2**-133), 3e38]).astype(ml_dtypes.bfloat16)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    arrays = dict(MIXED) if suffix == ".h5" else {**MIXED, "c.bias": BRAIN}
    state = checkpoint.read(save(arrays, tmp_path / f"out{suffix}", {"tool": "x"}))
    assert state.keys() == arrays.keys()
    for key, tensor in state.items():
        assert str(tensor.dtype) == f"torch.{arrays[key].dtype.name}"
        assert tensor.shape == arrays[key].shape
        assert bits(tensor) == arrays[key].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_is_told_by_its_content(tmp_path: Path, suffix: str) -> None:
    path = save(MIXED, tmp_path / f"out{suffix}")
    assert checkpoint.read(path.rename(tmp_path / "renamed")).keys() == MIXED.keys()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load(tmp_path: Path, suffix: str) -> None:
    path = save(tiny_arrays(), tmp_path / f"out{suffix}")
    config = TypeAdapter(ResNeXtConfig).dump_python(TINY, mode="json")
    (tmp_path / "out.json").write_text(json.dumps({"output": {"sha256": checkpoint.sha256(path)}, "config": config}))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    state = rc.load(path).state_dict()
    for key, array in tiny_arrays().items():
        assert np.array_equal(state[key].numpy(), array)
        state[key].add_(1)  # the weights may be mapped from the file, and what is written to them is private
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_others_read_safetensors(tmp_path: Path) -> None:
    arrays = {**MIXED, "c.bias": BRAIN}
    for key, tensor in load_file(save(arrays, tmp_path / "out.safetensors")).items():
        assert bits(tensor) == arrays[key].tobytes()


def test_an_array_that_torch_can_use_is_not_copied() -> None:
    arrays = {"a": np.ones((4, 5), np.float32), "b": np.ones(3, ml_dtypes.bfloat16)}
    for key, tensor in torch_checkpoint.tensors_of(arrays).items():
        assert tensor.data_ptr() == arrays[key].ctypes.data
        assert torch.equal(tensor, torch.ones_like(tensor))


def test_hdf5_has_no_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="HDF5 has no bfloat16"):
        save({"a": BRAIN}, tmp_path / "out.h5")
    with pytest.raises(UsageError, match=r"a \.h5 file cannot hold bfloat16"):
        checkpoint.suffix_of("out.h5", "bfloat16")
    assert list(tmp_path.iterdir()) == []


class Refusing(io.BytesIO):
    def __init__(self, room: int, error: BaseException) -> None:
        super().__init__()
        self.room, self.error = room, error

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() + len(memoryview(data).cast("B")) > self.room:
            raise self.error
        return super().write(data)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99, 0.9999])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_of_the_system_at_any_place(suffix: str, share: float) -> None:
    whole = io.BytesIO()
    checkpoint.write(tiny_arrays(), whole, suffix)
    room = int(share * len(whole.getvalue()))
    with pytest.raises(WriteError, match="the checkpoint cannot be written: No space left on device") as error:
        checkpoint.write(tiny_arrays(), Refusing(room, OSError(28, "No space left on device")), suffix)
    assert error.value.hint == "the disk is full: free some space, or write elsewhere"
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tiny_arrays(), Refusing(room, KeyboardInterrupt()), suffix)


def test_elements_that_are_not_aligned(tmp_path: Path) -> None:
    """The format allows it, and torch may say no, but says so properly."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode() + b" " * 3
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.ones(2, np.float32).tobytes())
    with contextlib.suppress(FormatError):
        assert checkpoint.read(path)["a"].tolist() == [1, 1]


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    safetensors_file.write(MIXED, buffer, {"tool": "x"})
    whole, random = buffer.getvalue(), np.random.default_rng(3)
    path = tmp_path / "spoiled.safetensors"
    refused = 0
    for _ in range(3000):
        path.write_bytes(mutated(whole, random))
        try:
            assert all(tensor.numel() <= len(whole) for tensor in torch_checkpoint.read_safetensors(path).values())
        except ConvertError:
            refused += 1
    assert 500 < refused < 3000
