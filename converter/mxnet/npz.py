"""Reads the zip of `.npy` arrays that MXNet 2.0 writes under the suffix `.params` (src/serialization/cnpy.cc).

A strict reader of the small part of the zip format that MXNet (libzip) and `numpy.savez` write: stored entries one
after the other from byte 0, the central directory, the end record, and nothing else. The standard library's
`zipfile` wants a file object, so it would copy each entry, and it passes over bytes between entries, entries that
overlap and bytes in front. Nothing is ever unpickled: an `.npy` header is matched, not evaluated.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnext_convert.converter.binary import ByteReader
from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError
from resnext_convert.converter.tensors import DType, TensorRef, checked_size

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # a zip with entries, a zip without

_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = struct.Struct("<4s3I")
_ENCRYPTED, _HAS_DESCRIPTOR = 0x1, 0x8  # bits of an entry's flags
_STORED = 0  # the compression method "none"
_ZIP64 = 0xFFFFFFFF  # a 32-bit field that says: look for the 64-bit one

_NPY_HEADER = re.compile(
    rb"\{'descr': (?P<descr>'[^']{1,9}'|\[\('bfloat16', '<u2'\)\]), 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<dims>(?:\d{1,19},|\d{1,19}(?:, \d{1,19})+)?)\), \} *\n"
)
_DTYPES = {
    b"'<f4'": DType.FLOAT32,
    b"'<f8'": DType.FLOAT64,
    b"'<f2'": DType.FLOAT16,
    b"[('bfloat16', '<u2')]": DType.BFLOAT16,
    b"'|b1'": DType.BOOL,
    b"'|i1'": DType.INT8,
    b"'<i2'": DType.INT16,
    b"'<i4'": DType.INT32,
    b"'<i8'": DType.INT64,
    b"'|u1'": DType.UINT8,
    b"'<u2'": DType.UINT16,
    b"'<u4'": DType.UINT32,
    b"'<u8'": DType.UINT64,
}

_SAVE_PLAIN = (
    "write it with MXNet 2.0 (Block.save_parameters, export, npx.savez) or numpy.savez, dense and uncompressed"
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the central directory; ``size`` counts the bytes of the `.npy` file."""

    raw_name: bytes
    name: str
    offset: int
    size: int
    crc: int


def read_npz(buffer: memoryview, file: object) -> tuple[list[TensorRef], list[str]]:
    """Reads a zip of plain `.npy` arrays without copying them, but for arrays in Fortran order.

    Every entry's checksum is verified, so every byte is read once.

    Args:
        buffer: the bytes of the zip.
        file: the name to use in errors.

    Returns:
        The arrays in the zip's order, under their names without `.npy`; and what is worth telling the user.

    Raises:
        TruncatedError: the zip is cut off.
        UnsupportedError: an entry is compressed, encrypted, or no plain little-endian `.npy` array.
        FormatError: the zip's own figures contradict each other.
    """
    _refuse_other_zips(buffer)
    entries, directory_start = _read_directory(buffer, file)
    reader = ByteReader(buffer[:directory_start], file)
    tensors = []
    notes = []
    for entry in entries:
        try:
            tensor, is_copy = _read_entry(buffer, reader, entry)
        except FormatError as error:
            error.place = f"entry '{entry.name}.npy', {error.place or f'byte {reader.position:#x}'}"
            raise
        tensors.append(tensor)
        if is_copy:
            notes.append(f"{tensor.name}: stored in Fortran order, rearranged into C order")
    if reader.remaining:
        raise FormatError(f"{reader.remaining} bytes of the zip belong to no entry")
    return tensors, notes


def _read_directory(buffer: memoryview, file: object) -> tuple[list[_Entry], int]:
    """The entries of the central directory, and the byte at which it begins."""
    end = len(buffer) - _END.size
    end_record = bytes(buffer[-_END.size :])
    if len(end_record) < _END.size or not end_record.startswith(b"PK\x05\x06"):
        raise TruncatedError(
            "this zip archive (MXNet 2.0 or numpy.savez) does not end with a zip's end record",
            hint="the file is cut off, or bytes were added to it; fetch it again and compare its size and checksum",
        )
    _, disk, directory_disk, count_here, count, size, start, comment_length = _END.unpack(end_record)
    if disk or directory_disk or count_here != count or comment_length or _ZIP64 in (size, start):
        raise UnsupportedError("a zip archive of several parts, with a comment, or over 4 GiB", hint=_SAVE_PLAIN)
    if start + size != end:
        raise FormatError(
            "the zip's directory is not where its end record says",
            place=f"byte {end:#x}",
            expected=f"a directory that ends at byte {end:#x}",
            found=f"{size} bytes from byte {start:#x} on",
        )
    reader = ByteReader(buffer[:end], file, start)
    entries = [_read_directory_entry(reader) for _ in range(count)]
    if reader.remaining:
        raise FormatError(f"{reader.remaining} bytes after the last of {count} directory entries")
    return entries, start


def _read_directory_entry(reader: ByteReader) -> _Entry:
    position = reader.position
    fields = _unpack(reader, _CENTRAL, "a directory entry")
    magic, _, _, flags, method, _, _, crc, stored_size, size, name_length, extra_length, comment_length = fields[:13]
    if magic != b"PK\x01\x02":
        raise FormatError("no zip directory entry where one must be", place=f"byte {position:#x}")
    raw_name = bytes(reader.take(name_length, "an entry's name"))
    name = _tensor_name(raw_name)
    reader.take(extra_length + comment_length, "an entry's extra fields")
    if method != _STORED or flags & _ENCRYPTED:
        raise UnsupportedError(
            f"entry '{name}.npy' is {'encrypted' if flags & _ENCRYPTED else 'compressed'}",
            place=f"byte {position:#x}",
            hint=_SAVE_PLAIN,
        )
    offset = fields[-1]
    if stored_size != size or _ZIP64 in (size, offset):
        raise FormatError(
            f"entry '{name}.npy' has two sizes, or one beyond 4 GiB (Zip64)",
            place=f"byte {position:#x}",
            found=f"{size} and {stored_size} bytes",
        )
    return _Entry(raw_name, name, offset, size, crc)


def _read_entry(buffer: memoryview, reader: ByteReader, entry: _Entry) -> tuple[TensorRef, bool]:
    """Reads one entry at the reader's position; also says whether the array had to be copied."""
    if reader.position != entry.offset:
        raise FormatError("the entries do not follow each other", found=f"byte {entry.offset:#x}")
    magic, _, flags, method, _, _, _, _, _, name_length, extra_length = _unpack(reader, _LOCAL, "an entry's header")
    raw_name = bytes(reader.take(name_length, "an entry's name"))
    if magic != b"PK\x03\x04" or method != _STORED or flags & _ENCRYPTED or raw_name != entry.raw_name:
        raise FormatError("an entry's own header contradicts the zip's directory")
    reader.take(extra_length, "an entry's extra fields")
    start = reader.position
    content = reader.take(entry.size, "an entry's content")
    if zlib.crc32(content) != entry.crc:
        raise FormatError("the checksum of this entry is wrong")
    if flags & _HAS_DESCRIPTOR:
        descriptor = _unpack(reader, _DESCRIPTOR, "an entry's data descriptor")
        if descriptor != (b"PK\x07\x08", entry.crc, entry.size, entry.size):
            raise FormatError("an entry's data descriptor contradicts the zip's directory")
    where = f"zip entry at byte {entry.offset:#x}"
    return _read_npy(ByteReader(buffer[: start + entry.size], reader.file, start), entry.name, where)


def _refuse_other_zips(buffer: memoryview) -> None:
    """Tells a zip of another kind by its first entry, before the fine print of its directory is looked at."""
    if bytes(buffer[:4]) == ZIP_MAGICS[0] and len(buffer) >= _LOCAL.size:
        name_length = _LOCAL.unpack(buffer[: _LOCAL.size])[-2]
        if len(buffer) >= _LOCAL.size + name_length:
            _tensor_name(bytes(buffer[_LOCAL.size : _LOCAL.size + name_length]))


def _tensor_name(raw_name: bytes) -> str:
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("an entry's name is not UTF-8", found=repr(raw_name)) from error
    if not name.endswith(".npy"):
        hint = "a PyTorch checkpoint is such a zip too; this reader takes MXNet's files"
        raise UnsupportedError("the zip holds something that is not an .npy array", found=repr(name), hint=hint)
    if name.endswith(("/format.npy", "/indices.npy")):
        raise UnsupportedError("MXNet 2.0's sparse storage is not read", found=repr(name), hint=_SAVE_PLAIN)
    return name.removesuffix(".npy")


def _read_npy(reader: ByteReader, name: str, where: str) -> tuple[TensorRef, bool]:
    """The array of one `.npy` file (format 1.0 and 2.0, NumPy's numpy/lib/format.py) and whether it was copied."""
    magic = bytes(reader.take(8, "the .npy magic"))
    if magic not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        raise UnsupportedError("not an .npy array of format 1.0 or 2.0", found=magic.hex(" "), hint=_SAVE_PLAIN)
    length = reader.integers("H", 1, "the .npy header")[0] if magic[6] == 1 else reader.u32("the .npy header")
    header = _NPY_HEADER.fullmatch(bytes(reader.take(length, "the .npy header")))
    if header is None:
        raise UnsupportedError("the .npy header is not that of a plain array", hint=_SAVE_PLAIN)
    dtype = _DTYPES.get(header["descr"])
    if dtype is None:
        raise UnsupportedError(
            "an array of this type is not read (big-endian numbers, text, or Python objects, which would be unpickled)",
            expected=", ".join(descr.decode() for descr in _DTYPES),
            found=header["descr"].decode("ascii", "backslashreplace"),
            hint=_SAVE_PLAIN,
        )
    shape = tuple(int(dim) for dim in header["dims"].split(b",") if dim)
    size = checked_size(shape) * dtype.itemsize
    if size != reader.remaining:
        raise FormatError("the .npy header and the entry disagree on the size", expected=size, found=reader.remaining)
    data = reader.take(size, "the array's data")
    is_copy = header["fortran"] == b"True" and len(shape) > 1
    if is_copy:
        columns_first = np.frombuffer(data, dtype.stored).reshape(shape, order="F")
        data = np.ascontiguousarray(columns_first).reshape(-1).view(np.uint8).data
    return TensorRef(name, dtype, shape, where, data), is_copy


def _unpack(reader: ByteReader, layout: struct.Struct, what: str) -> tuple[Any, ...]:
    return layout.unpack(reader.take(layout.size, what))
