"""Writes Caffe's binaries for tests, field by field, in every encoding that a reader must know, and can lie in any.

It shares no code with the reader: protobuf's wire format is written by hand. `test_caffe_weights.py` shows that it
writes what protobuf writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RAMP = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
RAW_TYPES = {"float64": 0, "float32": 1, "float16": 2, "int32": 3, "uint32": 4}  # NVCaffe's Type
LEGACY = ("num", "channels", "height", "width")
V1_CONVOLUTION = 4


def varint(value: int) -> bytes:
    value %= 1 << 64
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes | str, *, length: int | None = None) -> bytes:
    """A field with a length: a message, a text, bytes, or packed numbers."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw) if length is None else length) + raw


def little(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes("C")


def packed(array: Array, *, field: int | None = None, chunks: int = 1) -> bytes:
    """``data`` or ``double_data``, as the array's type says."""
    field = field or {"float32": 5, "float64": 8}[array.dtype.name]
    return b"".join(message(field, little(part)) for part in np.array_split(array.reshape(-1), chunks))


def unpacked(array: Array) -> bytes:
    tag = {"float32": varint(5 << 3 | 5), "float64": varint(8 << 3 | 1)}[array.dtype.name]
    return b"".join(tag + little(value) for value in array.reshape(-1))


def raw(array: Array, *, type_flag: int | None = None) -> bytes:
    """NVCaffe's ``raw_data_type`` and ``raw_data``."""
    return number(10, RAW_TYPES[array.dtype.name] if type_flag is None else type_flag) + message(12, little(array))


def shape(dims: Sequence[int]) -> bytes:
    return message(7, message(1, b"".join(map(varint, dims))))


def legacy(**dims: int) -> bytes:
    """``num``, ``channels``, ``height`` and ``width``, or some of them."""
    return b"".join(number(1 + LEGACY.index(name), size) for name, size in dims.items())


def blob(array: Array) -> bytes:
    """As Caffe writes it: the shape, and the numbers packed."""
    return packed(array) + (shape(array.shape) if array.ndim else b"")


def layer(name: str | bytes, blobs: Sequence[bytes] = (), kind: str = "Convolution", more: bytes = b"") -> bytes:
    text = name.encode() if isinstance(name, str) else name
    return message(1, text) + message(2, kind) + b"".join(message(7, item) for item in blobs) + more


def v1_layer(name: str, blobs: Sequence[bytes] = (), kind: int = V1_CONVOLUTION) -> bytes:
    return message(4, name) + number(5, kind) + b"".join(message(6, item) for item in blobs)


def v0_layer(name: str, blobs: Sequence[bytes] = (), kind: str = "conv") -> bytes:
    content = message(1, name) + message(2, kind) + b"".join(message(50, item) for item in blobs)
    return message(1, content)


def net(*layers: bytes, old: Sequence[bytes] = (), name: str | bytes = "net") -> bytes:
    """A NetParameter; ``old`` are layers of V1 or V0."""
    text = name.encode() if isinstance(name, str) else name
    return (
        message(1, text)
        + b"".join(message(2, content) for content in old)
        + b"".join(message(100, content) for content in layers)
    )


def solver_state(learned_net: str = "", history: Sequence[bytes] = ()) -> bytes:
    state = number(1, 5000) + (message(2, learned_net) if learned_net else b"")
    return state + b"".join(message(3, item) for item in history) + number(4, 1)


def hdf5(path: Path, layers: Mapping[str, Sequence[Array]], **how: Any) -> Path:
    """As `Net::ToHDF5`; ``how`` goes to `create_dataset`."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, blobs in layers.items():
            group = data.create_group(name)
            for index, array in enumerate(blobs):
                group.create_dataset(str(index), data=array, **how)
    return path
