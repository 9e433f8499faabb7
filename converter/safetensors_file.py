"""Writes `.safetensors`, and says what is in one. Needs no torch.

The format: the header's length (8 bytes, little-endian), the header (JSON, padded with spaces to 8 bytes), the elements
one after the other. The writer streams the arrays from where they are and fixes the order of everything. The library's
own writer (0.8) does neither: it assembles the whole file in memory, writes its metadata in an order that changes from
run to run, and replaces the file that it is given, which a file without a name cannot be. What this writer makes is,
but for the order of the metadata, what the library makes (a test compares the bytes), and the library reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import FormatError, UnsupportedError, in_file
from resnext_convert.converter.tensors import Array, DType, TensorRef, checked_size

FORMAT: Final = "pt"
"""What the library's readers for PyTorch ask for under ``format`` in the metadata."""

_LENGTH = 8
_LONGEST = 100_000_000  # of a header; the library reads no longer one
_METADATA = "__metadata__"

# The library's names, in the order in which it lays tensors out: the widest first, so that each is aligned.
_NAMES: Final[Mapping[str, str]] = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32",
    "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_DTYPES: Final[Mapping[str, DType]] = {name: DType(dtype) for dtype, name in _NAMES.items()}
_RANKS: Final[Mapping[str, int]] = {dtype: rank for rank, dtype in enumerate(_NAMES)}


class Contents(NamedTuple):
    """What is in a file: its tensors by their keys, in the order of their bytes, and the metadata."""

    tensors: dict[str, TensorRef]
    metadata: dict[str, str]


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file that begins so has a header of this format."""
    return 2 <= int.from_bytes(beginning[:_LENGTH], "little") <= _LONGEST and beginning[_LENGTH:][:1] == b"{"


def write(arrays: Mapping[str, Array], file: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Writes tensors; the same arrays and metadata give the same bytes.

    Args:
        arrays: of float16, bfloat16 (ml_dtypes), float32, float64, integers or bool; of any layout and byte order.
        file: where to.
        metadata: for the header, beside ``format``, which is ``pt``.

    Raises:
        OSError: of the operating system.
    """
    ordered = sorted(arrays.items(), key=lambda item: (_RANKS[item[1].dtype.name], item[0]))
    header: dict[str, Any] = {_METADATA: {"format": FORMAT, **metadata}}
    start = 0
    for key, array in ordered:
        end = start + array.nbytes
        header[key] = {"dtype": _NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    for _, array in ordered:
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        file.write(plain.reshape(-1).view(np.uint8).data)


def read(path: Path) -> Contents:
    """What is in a file; the elements are mapped, and none is read.

    The library checks the header: sizes, offsets without gaps or overlaps, and that they end where the file does.

    Raises:
        MissingFileError: there is no such file.
        UnsupportedError: an element type that no checkpoint of a network has.
        FormatError: the file is damaged, or no safetensors file.
    """
    content = map_file(path)
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(bytes(content[_LENGTH:start]))
    metadata = header.pop(_METADATA, None) or {}
    entries = sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"]))
    with in_file(path):
        return Contents({key: _tensor(key, entry, content, start) for key, entry in entries}, metadata)


def damaged(path: Path, error: BaseException) -> FormatError:
    """The error about a file that the library refuses with ``error``."""
    return FormatError(
        "this is no safetensors file, or it is damaged",
        file=path,
        found=" ".join(str(error).split()) or type(error).__name__,
        hint="fetch it again and compare its size and checksum",
    )


def _tensor(key: str, entry: Mapping[str, Any], content: memoryview, start: int) -> TensorRef:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise UnsupportedError(
            "a tensor of a type that weights do not have",
            place=f"tensor {key!r:.80}",
            expected=", ".join(_DTYPES),
            found=entry["dtype"],
        )
    checked_size(tuple(entry["shape"]))
    begin, end = (start + offset for offset in entry["data_offsets"])
    return TensorRef(key, dtype, tuple(entry["shape"]), f"byte {begin:#x}", content[begin:end])
