"""`.safetensors`: the bytes are those of the library, the same each time, and damaged files give typed errors only."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as library_save

from resnext_convert.converter import safetensors_file
from resnext_convert.converter.errors import ConvertError, FormatError, MissingFileError, UnsupportedError
from resnext_convert.converter.tensors import Array

ARRAYS: dict[str, Array] = {
    "layer1.0.conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn1.running_var": np.linspace(0, 1, 3),
    "bn1.num_batches_tracked": np.zeros((), np.int64),
    "fc.weight": np.linspace(-1, 1, 6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "fc.bias": np.array([1, -0.0], np.float16),
    "nothing": np.zeros((0, 3), np.float32),
}


def written(arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    safetensors_file.write(arrays, file, metadata or {})
    return file.getvalue()


def saved(path: Path, arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(written(arrays, metadata))
    return path


def test_the_bytes_are_the_library_s() -> None:
    """With one text of metadata: the library's order of more than one changes from run to run."""
    assert written(ARRAYS) == library_save(ARRAYS, {"format": "pt"})


def test_the_library_reads_it(tmp_path: Path) -> None:
    arrays = {key: array for key, array in ARRAYS.items() if array.dtype != ml_dtypes.bfloat16}
    found = load_file(saved(tmp_path / "a.safetensors", arrays, {"tool": "x"}))
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert (found[key].dtype, found[key].tobytes()) == (array.dtype, array.tobytes())


def test_what_is_read_back(tmp_path: Path) -> None:
    metadata = {"tool": "resnext-convert", "network": "ResNeXt-50 (32x4d) ×", "preprocessing": '{"mean":[1.5]}'}
    found = safetensors_file.read(saved(tmp_path / "a.safetensors", ARRAYS, metadata))
    assert found.metadata == {"format": "pt"} | metadata
    assert found.tensors.keys() == ARRAYS.keys()
    for key, tensor in found.tensors.items():
        assert (tensor.name, tensor.dtype.value, tensor.shape) == (key, ARRAYS[key].dtype.name, ARRAYS[key].shape)
        assert bytes(tensor.data) == ARRAYS[key].tobytes()
        assert int(tensor.where.removeprefix("byte "), 16) % ARRAYS[key].dtype.itemsize == 0


def test_any_layout_and_byte_order() -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    raw = np.frombuffer(bytes(1) + plain.tobytes(), "<f4", offset=1).reshape(3, 4)
    for same in (raw, plain.astype(">f4"), np.asfortranarray(plain)):
        assert written({"a": same}) == written({"a": plain})


WRITER = """
import sys
import numpy as np
from resnext_convert.converter import safetensors_file
arrays = {f"layer{i}.weight": np.arange(100 * i, dtype=np.float32) for i in range(1, 8)}
safetensors_file.write(arrays, sys.stdout.buffer, {name: name for name in "abcdefgh"})
"""


def test_the_bytes_depend_on_the_arrays_alone() -> None:
    outputs = set()
    for seed in range(2):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        outputs.add(
            subprocess.run([sys.executable, "-c", WRITER], check=True, env=environment, capture_output=True).stdout
        )
    assert len(outputs) == 1


def test_the_arrays_are_written_from_their_place() -> None:
    array = np.arange(1000, dtype=np.float32)
    parts: list[Any] = []

    class Keeping(io.BytesIO):
        def write(self, data: Any) -> int:
            parts.append(data)
            return len(data)

    safetensors_file.write({"a": array}, Keeping(), {})
    assert np.shares_memory(np.frombuffer(parts[-1], np.uint8), array)


def header(entries: object, elements: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + elements


def entry(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LIES: dict[str, bytes] = {
    "empty": b"",
    "the length alone": (100).to_bytes(8, "little"),
    "a length beyond the file": (1000).to_bytes(8, "little") + b"{}",
    "an enormous length": (2**63).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"{a:}",
    "a list": header([]),
    "not UTF-8": (5).to_bytes(8, "little") + b'{"\xff":',
    "elements beyond the file": header({"a": entry([2], 0, 8)}, bytes(4)),
    "elements that are left over": header({"a": entry([2], 0, 8)}, bytes(12)),
    "a shape of another size": header({"a": entry([3], 0, 8)}, bytes(8)),
    "a gap": header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "elements of two tensors": header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "backwards": header({"a": entry([2], 8, 0)}, bytes(8)),
    "a negative size": header({"a": entry([-2], 0, 8)}, bytes(8)),
    "a size that wraps": header({"a": entry([2**63, 2], 0, 0)}),
    "a shape of nothing that no array has": header({"a": entry([2**62, 0, 2**62], 0, 0)}),
    "an unknown type": header({"a": entry([2], 0, 8, "F33")}, bytes(8)),
    "metadata that is no text": header({"__metadata__": {"a": 5}}),
    "nested without end": (10_000).to_bytes(8, "little") + b'{"a":' + b"[" * 9_995,
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[name])
    with pytest.raises(FormatError) as error:
        safetensors_file.read(path)
    assert error.value.file == str(path)
    assert "\n" not in str(error.value)


def test_types_that_weights_do_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(header({"a": entry([4], 0, 4, "F8_E4M3")}, bytes(4)))
    with pytest.raises(UnsupportedError, match="a type that weights do not have") as error:
        safetensors_file.read(path)
    assert (error.value.place, error.value.found) == ("tensor 'a'", "F8_E4M3")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        safetensors_file.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("beginning", "is_one"),
    [
        (b"\x02" + bytes(7) + b"{}", True),
        (b"\x02" + bytes(7) + b"[]", False),
        (b"\x02" + bytes(7), False),
        (b"PK\x03\x04" + bytes(20), False),
        (bytes(7) + b"\x01{}", False),
        (b"", False),
    ],
)
def test_it_is_told_by_its_beginning(beginning: bytes, is_one: bool) -> None:
    assert safetensors_file.is_safetensors(beginning) is is_one


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, mostly of the header; sometimes cut off, sometimes longer."""
    spoiled = bytearray(whole)
    for place in random.integers(0, len(whole) if random.random() < 0.2 else 700, random.integers(1, 4)):
        spoiled[place % len(whole)] = random.choice([random.integers(0, 256), *b'0123456789[]{}",:'])
    if random.random() < 0.2:
        spoiled = spoiled[: random.integers(0, len(spoiled))]
    elif random.random() < 0.1:
        spoiled += bytes(random.integers(1, 20))
    return bytes(spoiled)


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    whole = written(ARRAYS, {"tool": "x"})
    random = np.random.default_rng(0)
    path = tmp_path / "spoiled.safetensors"
    refused = 0
    for _ in range(4000):
        path.write_bytes(mutated(whole, random))
        try:
            assert sum(tensor.numpy().size for tensor in safetensors_file.read(path).tensors.values()) <= len(whole)
        except ConvertError:
            refused += 1
    assert 1000 < refused < 4000
