"""Writes `.params` files for tests, field by field, and can lie in any one field.

It shares no code with the reader. `test_mxnet_params.py` shows that it writes what MXNet writes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPE_FLAGS = {
    "float32": 0,
    "float64": 1,
    "float16": 2,
    "uint8": 3,
    "int32": 4,
    "int8": 5,
    "int64": 6,
    "bool": 7,
    "int16": 8,
    "uint16": 9,
    "uint32": 10,
    "uint64": 11,
    "bfloat16": 12,
}
LAYOUTS = ("legacy", "V1", "V2", "V3")
MAGICS = {"V1": 0xF993FAC8, "V2": 0xF993FAC9, "V3": 0xF993FACA}


def shape64(dims: Sequence[int], ndim: int | None = None) -> bytes:
    return struct.pack(f"<i{len(dims)}q", len(dims) if ndim is None else ndim, *dims)


def little(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes("C")


def dense(
    array: Array,
    layout: str = "V2",
    *,
    bfloat16: bool = False,
    dims: Sequence[int] | None = None,
    ndim: int | None = None,
    magic: int | None = None,
    storage: int = 0,
    context: tuple[int, int] = (1, 0),
    type_flag: int | None = None,
) -> bytes:
    """One dense record; ``bfloat16``: the array is uint16 and holds the upper halves of float32 numbers."""
    dims = array.shape if dims is None else dims
    ndim = len(dims) if ndim is None else ndim
    if layout == "legacy":
        head = struct.pack(f"<I{len(dims)}I", ndim, *dims)
    else:
        head = struct.pack("<I", MAGICS[layout] if magic is None else magic)
        head += b"" if layout == "V1" else struct.pack("<i", storage)
        head += shape64(dims, ndim)
    flag = TYPE_FLAGS["bfloat16" if bfloat16 else array.dtype.name] if type_flag is None else type_flag
    return head + struct.pack("<iii", *context, flag) + little(array)


def none(layout: str, ndim: int = 0, dims: Sequence[int] = ()) -> bytes:
    """An array without a shape: the record ends after it."""
    if layout == "legacy":
        return struct.pack("<I", 0)
    return struct.pack("<I", MAGICS[layout]) + (b"" if layout == "V1" else struct.pack("<i", 0)) + shape64(dims, ndim)


def sparse(
    storage: int,
    shape: Sequence[int],
    values: Array,
    indices: Sequence[Array],
    *,
    layout: str = "V2",
    stored_shape: Sequence[int] | None = None,
    bfloat16: bool = False,
    index_flag: int | None = None,
    index_shape: Sequence[int] | None = None,
) -> bytes:
    """A row_sparse (``storage`` 1; indices: rows) or csr record (2; indices: indptr, columns)."""
    head = struct.pack("<Ii", MAGICS[layout], storage)
    head += shape64(values.shape if stored_shape is None else stored_shape) + shape64(shape)
    head += struct.pack("<iii", 1, 0, TYPE_FLAGS["bfloat16" if bfloat16 else values.dtype.name])
    for index in indices:
        head += struct.pack("<i", TYPE_FLAGS[index.dtype.name] if index_flag is None else index_flag)
        head += shape64(index.shape if index_shape is None else index_shape)
    return head + little(values) + b"".join(map(little, indices))


def row_sparse(shape: Sequence[int], rows: Iterable[int], values: Array, **lie: Any) -> bytes:
    return sparse(1, shape, values, [np.array(list(rows), np.int64)], **lie)


def csr(shape: Sequence[int], indptr: Iterable[int], columns: Iterable[int], values: Array, **lie: Any) -> bytes:
    indices = [np.array(list(indptr), np.int64), np.array(list(columns), np.int64)]
    return sparse(2, shape, values, indices, **lie)


def params_list(
    records: Sequence[bytes],
    names: Sequence[str | bytes] = (),
    *,
    magic: int = 0x112,
    reserved: int = 0,
    count: int | None = None,
    name_count: int | None = None,
    name_length: int | None = None,
    tail: bytes = b"",
) -> bytes:
    pieces = [struct.pack("<3Q", magic, reserved, len(records) if count is None else count), *records]
    pieces.append(struct.pack("<Q", len(names) if name_count is None else name_count))
    for name in names:
        raw = name.encode() if isinstance(name, str) else name
        pieces += [struct.pack("<Q", len(raw) if name_length is None else name_length), raw]
    return b"".join([*pieces, tail])


def npy(array: Array, *, header: str | None = None, magic: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    """An `.npy` file as MXNet 2.0 writes it; ``header`` replaces its dictionary."""
    text = header or f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    text += " " * (64 - (10 + len(text) + 1) % 64) + "\n"
    length = struct.pack("<H" if magic[6] == 1 else "<I", len(text))
    return magic + length + text.encode("latin-1") + array.tobytes("C")


@dataclass(frozen=True, kw_only=True)
class ZipLie:
    """What a zip says that is not so; what is None is told truly."""

    crc: int | None = None
    size: int | None = None
    stored_size: int | None = None
    offset: int | None = None
    method: int = 0
    flags: int = 0x808
    local_flags: int | None = None
    local_method: int = 0
    local_name: bytes | None = None
    local_magic: bytes = b"PK\x03\x04"
    descriptor: bytes | None = None
    gap: bytes = b""
    directory_magic: bytes = b"PK\x01\x02"
    directory_gap: bytes = b""
    directory_start: int | None = None
    count: int | None = None
    count_here: int | None = None
    directory_size: int | None = None
    disk: int = 0
    directory_disk: int = 0
    comment_length: int = 0


def zip_of(files: Mapping[str, bytes], lie: ZipLie | None = None) -> bytes:
    """A zip of stored entries as MXNet 2.0 (libzip) writes it: sizes in a descriptor after the data."""
    lie = lie or ZipLie()
    body, directory = b"", b""
    for name, content in files.items():
        raw, local_raw = name.encode(), lie.local_name or name.encode()
        offset = len(body) if lie.offset is None else lie.offset
        crc = zlib.crc32(content) if lie.crc is None else lie.crc
        size = len(content) if lie.size is None else lie.size
        stored_size = size if lie.stored_size is None else lie.stored_size
        local_flags = lie.flags if lie.local_flags is None else lie.local_flags
        local = (lie.local_magic, 0, local_flags, lie.local_method, 0, 0, 0, 0, 0, len(local_raw), 0)
        body += struct.pack("<4s5H3I2H", *local) + local_raw + content
        if local_flags & 0x8:
            body += struct.pack("<4s3I", b"PK\x07\x08", crc, size, size) if lie.descriptor is None else lie.descriptor
        body += lie.gap
        central = (lie.directory_magic, 0, 0, lie.flags, lie.method, 0, 0, crc, stored_size, size, len(raw))
        directory += struct.pack("<4s6H3I5H2I", *central, 0, 0, 0, 0, 0, offset) + raw
    directory += lie.directory_gap
    start = len(body) if lie.directory_start is None else lie.directory_start
    count = len(files) if lie.count is None else lie.count
    count_here = count if lie.count_here is None else lie.count_here
    size = len(directory) if lie.directory_size is None else lie.directory_size
    end = (b"PK\x05\x06", lie.disk, lie.directory_disk, count_here, count, size, start, lie.comment_length)
    return body + directory + struct.pack("<4s4H2IH", *end)
