"""Reads MXNet `.params` files: the NDArray list in every layout ever written, and MXNet 2.0's zip of arrays.

The list is little-endian, without padding or checksum (MXNet 1.9.1, src/ndarray/ndarray.cc, NDArray::Load)::

    u64 0x112 | u64 reserved | u64 count | record * count | u64 names | (u64 length, UTF-8) * names

Each record is told by its own first u32, so records of different versions may follow each other::

    ndim itself       legacy, to 0.10   u32 dim * ndim | context | type | data
    0xF993FAC8        V1, 0.11          shape | context | type | data
    0xF993FAC9        V2, 0.12 to 1.9   i32 storage | [stored shape] | shape | context | type
                                        | [type, shape] * index arrays | data | index arrays
    0xF993FACA        V3, np-shape      as V2, dense only; ndim 0 is a scalar

with shape = i32 ndim, i64 dim * ndim; context = i32 device type, i32 device id; type = i32; what is in brackets is
there in sparse records only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_convert.converter.binary import ByteReader, map_file
from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError, in_file
from resnext_convert.converter.mxnet.npz import ZIP_MAGICS, read_npz
from resnext_convert.converter.mxnet.sparse import Storage, densify, stored_shape
from resnext_convert.converter.tensors import Array, DType, TensorRef, TensorStore, check_ndim, checked_size

_LIST_MAGIC = 0x112
_V1_MAGIC, _V2_MAGIC, _V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_SMALLEST_RECORD = 4  # a legacy "none"

# mshadow's TypeFlag (MXNet 1.9.1, 3rdparty/mshadow/mshadow/base.h).
_DTYPES = {
    0: DType.FLOAT32,
    1: DType.FLOAT64,
    2: DType.FLOAT16,
    3: DType.UINT8,
    4: DType.INT32,
    5: DType.INT8,
    6: DType.INT64,
    7: DType.BOOL,
    8: DType.INT16,
    9: DType.UINT16,
    10: DType.UINT32,
    11: DType.UINT64,
    12: DType.BFLOAT16,
}
# NDArrayStorageType (MXNet 1.9.1, include/mxnet/ndarray.h), and how many index arrays each has.
_STORAGES: dict[int, tuple[Storage, int]] = {0: ("dense", 0), 1: ("row_sparse", 1), 2: ("csr", 2)}

# A few bytes of sparse storage can stand for any size. All sparse arrays of a file together may take this many times
# the file's size as dense arrays, or this many bytes if that is more.
_DENSE_FACTOR = 16
_DENSE_FLOOR = 2**20

_SHOWN = 80  # so much of a name is shown in an error
_DAMAGED = "the file is cut off or damaged; fetch it again and compare its size and checksum"

# What else is found under the name .params: how it begins, what it is, what to do.
_NOT_PARAMS = (
    (
        _LIST_MAGIC.to_bytes(8, "big"),
        "its numbers are big-endian",
        "MXNet writes little-endian; fetch the original file",
    ),
    (b"\x1f\x8b", "it is compressed with gzip", "gunzip it first"),
    (b"BZh", "it is compressed with bzip2", "bunzip2 it first"),
    (b"\xfd7zXZ", "it is compressed with xz", "unxz it first"),
    (b"\x89HDF", "it is an HDF5 file", "HDF5 weights are not MXNet's; name the .params file"),
    (b"\x80", "it is a Python pickle (a PyTorch checkpoint?)", "name the .params file that MXNet wrote"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "fetch the file with 'git lfs pull'"),
    (b"{", "it is JSON (a symbol file?)", "the weights are in PREFIX-NNNN.params, the graph in PREFIX-symbol.json"),
    (b"<", "it is a web page (HTML or XML)", "the download failed; open the page to see why, then fetch the file"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamsFile:
    """What a `.params` file holds.

    Attributes:
        tensors: by the names in the file (``arg:conv0_weight``, ``conv0_weight``), or ``#0``, ``#1`` ... where it
            has no names.
        layouts: the distinct layouts of its records in order of appearance: ``legacy``, ``V1``, ``V2``, ``V3``, or
            ``npz`` alone.
        named: False where the file is a list without names (`mx.nd.save` of a list).
        notes: what is worth telling the user: sparse arrays made dense, a reserved word that is not 0.
    """

    tensors: TensorStore
    layouts: tuple[str, ...]
    named: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One array of the list; its name comes after the last record."""

    start: int
    layout: str
    shape: tuple[int, ...]
    dtype: DType
    data: memoryview
    storage: Storage = "dense"
    indices: tuple[Array, ...] = ()


def read_params(path: Path) -> ParamsFile:
    """Maps a `.params` file and indexes its arrays; no weight is copied, but those stored sparse.

    Raises:
        InputError: as `parse_params`, or the file cannot be opened.
    """
    return parse_params(map_file(path), path)


def parse_params(buffer: memoryview, file: object) -> ParamsFile:
    """Indexes the arrays of a `.params` file that is in memory.

    Every length is compared with the bytes that are left before it is used, and every byte is accounted for.
    The device that an array was saved from is ignored, as in MXNet.

    Args:
        buffer: the bytes; they are referred to, not copied.
        file: the name to use in errors.

    Raises:
        TruncatedError: the file ends before what it announces.
        UnsupportedError: it holds an array without a shape ("none"), a sparse array that would be far bigger than
            the file, or another legal thing of which no use can be made.
        FormatError: it is another kind of file, or damaged.
    """
    try:
        with in_file(file):
            if bytes(buffer[:4]) in ZIP_MAGICS:
                tensors, notes = read_npz(buffer, file)
                return _params_file(tensors, file, layouts=["npz"], named=True, notes=notes)
            _refuse_other_files(buffer)
            return _read_list(ByteReader(buffer, file))
    except FormatError as error:
        error.hint = error.hint or _DAMAGED
        raise


def _params_file(
    tensors: list[TensorRef], file: object, *, layouts: list[str], named: bool, notes: list[str]
) -> ParamsFile:
    for name, times in Counter(tensor.name for tensor in tensors).items():
        if "\0" in name:
            raise FormatError(
                "a name with a NUL in it",
                found=repr(name[:_SHOWN]),
                hint=f"MXNet would cut the name at the NUL; {_DAMAGED}",
            )
        if times > 1:
            raise FormatError(
                f"the name {name[:_SHOWN]!r} stands for {times} arrays",
                expected="each name once",
                hint="MXNet silently takes the last one; rename or delete the others",
            )
    store = TensorStore({tensor.name: tensor for tensor in tensors}, file)
    return ParamsFile(tensors=store, layouts=tuple(dict.fromkeys(layouts)), named=named, notes=tuple(notes))


def _refuse_other_files(buffer: memoryview) -> None:
    """Names the kind of file that a user has at hand instead of a `.params` file."""
    beginning = bytes(buffer[:64])
    if not beginning:
        raise FormatError("the file is empty", hint="the download failed or the disk was full; fetch it again")
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()  # text may begin with a byte-order mark and blank lines
    for magic, what, hint in _NOT_PARAMS:
        if text.startswith(magic):
            raise FormatError(f"this is not an MXNet .params file: {what}", hint=hint)


def _read_list(reader: ByteReader) -> ParamsFile:
    magic = reader.u64("the list's magic number")
    if magic != _LIST_MAGIC:
        raise FormatError(
            "this is not an MXNet .params file",
            place="byte 0x0",
            expected=f"{_LIST_MAGIC:#x}",
            found=f"{magic:#x}",
            hint="name the file that MXNet wrote (PREFIX-NNNN.params)",
        )
    reserved = reader.u64("the reserved word")
    records = _read_records(reader)
    names = _read_names(reader, len(records))
    if reader.remaining:
        raise FormatError(
            f"{reader.remaining} bytes after the last name",
            place=f"byte {reader.position:#x}",
            hint="MXNet would ignore them; but a file that was written once ends here, so this one was damaged or "
            "appended to: fetch it again and compare its size and checksum",
        )
    _check_dense_size(records, reader.position)
    named = len(names) == len(records)
    if not named:
        names = [f"#{index}" for index in range(len(records))]
    tensors = [_tensor(name, record) for name, record in zip(names, records, strict=True)]
    notes = [] if reserved == 0 else [f"the reserved word is {reserved:#x}, MXNet writes 0; it has no meaning"]
    for name, record in zip(names, records, strict=True):
        if record.storage != "dense":
            notes.append(f"{name}: stored as {record.storage}, made dense")
    return _params_file(tensors, reader.file, layouts=[record.layout for record in records], named=named, notes=notes)


def _read_records(reader: ByteReader) -> list[_Record]:
    place = f"byte {reader.position:#x}"
    count = reader.u64("the number of arrays")
    if count > reader.remaining // _SMALLEST_RECORD:
        raise TruncatedError(
            f"the list announces {count} arrays, but only {reader.remaining} bytes follow", place=place
        )
    records = []
    for index in range(count):
        try:
            records.append(_read_record(reader))
        except FormatError as error:
            error.place = f"tensor #{index} of {count}, {error.place or f'before byte {reader.position:#x}'}"
            raise
    return records


def _read_record(reader: ByteReader) -> _Record:
    start = reader.position
    first = reader.u32("the first word of a record")
    if first in (_V2_MAGIC, _V3_MAGIC):
        return _read_v2_or_v3(reader, start, "V2" if first == _V2_MAGIC else "V3")
    layout = "V1" if first == _V1_MAGIC else "legacy"
    shape = _read_shape(reader) if layout == "V1" else _read_legacy_dims(reader, ndim=first)
    if not shape:
        raise _none_array()
    reader.take(8, "a context")
    dtype = _read_dtype(reader)
    return _Record(start, layout, shape, dtype, _read_elements(reader, shape, dtype))


def _read_v2_or_v3(reader: ByteReader, start: int, layout: str) -> _Record:
    flag = reader.i32("a storage type")
    if flag not in _STORAGES or (layout == "V3" and flag != 0):
        known = "0 (dense)" if layout == "V3" else "0 (dense), 1 (row_sparse), 2 (csr)"
        raise FormatError(f"unknown storage type of a {layout} record", expected=known, found=flag)
    storage, index_arrays = _STORAGES[flag]
    stated_shape = _read_shape(reader) if index_arrays else None
    shape = _read_shape(reader)
    if shape is None or _is_none(shape, layout):
        raise _none_array()
    reader.take(8, "a context")
    dtype = _read_dtype(reader)
    index_headers = [(_read_index_dtype(reader), _read_shape(reader) or ()) for _ in range(index_arrays)]
    data_shape = stored_shape(storage, shape, [index_shape for _, index_shape in index_headers])
    if index_arrays:
        _check_stated_shape(stated_shape or (), data_shape)
    data = _read_elements(reader, data_shape, dtype)
    indices = tuple(
        np.frombuffer(_read_elements(reader, index_shape, index_dtype), index_dtype.stored)
        for index_dtype, index_shape in index_headers
    )
    return _Record(start, layout, shape, dtype, data, storage, indices)


def _read_legacy_dims(reader: ByteReader, ndim: int) -> tuple[int, ...]:
    if ndim & 0xFFFFFF00 == _V1_MAGIC & 0xFFFFFF00:
        raise UnsupportedError(
            "a record of an unknown version",
            expected=f"{_V1_MAGIC:#x}, {_V2_MAGIC:#x}, {_V3_MAGIC:#x}, or a number of dimensions",
            found=f"{ndim:#x}",
            hint="MXNet never released such a version: the file is damaged; fetch it again and compare its checksum",
        )
    check_ndim(ndim)
    return reader.integers("I", ndim, "a shape")


def _read_shape(reader: ByteReader) -> tuple[int, ...] | None:
    """A shape with 64-bit dimensions; None for ndim -1, MXNet's "unknown"."""
    ndim = reader.i32("a number of dimensions")
    if ndim < -1:
        raise FormatError("a negative number of dimensions", found=ndim)
    check_ndim(ndim)
    return None if ndim == -1 else reader.integers("q", ndim, "a shape")


def _is_none(shape: tuple[int, ...], layout: str) -> bool:
    """Whether the record ends after its shape: at ndim 0, but under np-shape (V3) at an unknown dimension."""
    return min(shape, default=0) < 0 if layout == "V3" else not shape


def _none_array() -> UnsupportedError:
    return UnsupportedError(
        'an array without a shape and without data (MXNet\'s "none")',
        hint="the network was saved before this parameter was initialised; run one forward pass and save it again",
    )


def _read_dtype(reader: ByteReader) -> DType:
    flag = reader.i32("a type flag")
    if flag not in _DTYPES:
        raise FormatError("unknown type flag", expected="0 to 12", found=flag)
    return _DTYPES[flag]


def _read_index_dtype(reader: ByteReader) -> DType:
    dtype = _read_dtype(reader)
    if dtype not in (DType.INT64, DType.INT32):
        raise FormatError(
            "unknown type of the index array of a sparse array", expected="int64 or int32", found=dtype.value
        )
    return dtype


def _check_stated_shape(stated: tuple[int, ...], demanded: tuple[int, ...]) -> None:
    """The stored shape says what the index arrays say, or it is stale.

    MXNet writes it before the operator that fills the array has ended, so it may still have the size 0. Its reader
    then goes by the index arrays (include/mxnet/ndarray.h, NDArray's constructor for sparse storage).
    """
    if stated != demanded and 0 not in stated:
        raise FormatError(
            "the stored shape of a sparse array contradicts its index arrays",
            expected=list(demanded),
            found=list(stated),
        )


def _read_elements(reader: ByteReader, shape: tuple[int, ...], dtype: DType) -> memoryview:
    return reader.take(checked_size(shape) * dtype.itemsize, "the data of an array")


def _read_names(reader: ByteReader, count: int) -> list[str]:
    place = f"byte {reader.position:#x}"
    stated = reader.u64("the number of names")
    if stated not in (0, count):
        raise FormatError(
            "the number of names is not the number of arrays",
            place=place,
            expected=f"{count} (or 0: no names)",
            found=stated,
        )
    names = []
    for index in range(stated):
        place = f"name #{index}, byte {reader.position:#x}"
        raw = bytes(reader.take(reader.u64("the length of a name"), "a name"))
        try:
            names.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise FormatError("a name that is not UTF-8", place=place, found=repr(raw[:_SHOWN])) from error
    return names


def _check_dense_size(records: list[_Record], file_size: int) -> None:
    needed = sum(checked_size(record.shape) * record.dtype.itemsize for record in records if record.indices)
    allowed = max(_DENSE_FACTOR * file_size, _DENSE_FLOOR)
    if needed > allowed:
        raise UnsupportedError(
            "the sparse arrays of this file are far bigger than the file when they are made dense",
            expected=f"at most {allowed} bytes ({_DENSE_FACTOR} times the file, or {_DENSE_FLOOR})",
            found=f"{needed} bytes",
            hint="a network's weights are not that empty; if these are, save them dense: array.tostype('default')",
        )


def _tensor(name: str, record: _Record) -> TensorRef:
    where = f"{record.layout} record at byte {record.start:#x}"
    data = record.data
    if record.storage != "dense":
        try:
            data = densify(record.storage, record.shape, record.dtype, data, record.indices)
        except FormatError as error:
            error.place = f"tensor {name!r}, {where}"
            raise
    return TensorRef(name, record.dtype, record.shape, where, data)
