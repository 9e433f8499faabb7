"""Reads Caffe's weights: a `.caffemodel`, or a `.caffemodel.h5` (`hdf5`), told apart by their content.

A caffemodel is a NetParameter whose layers have blobs. Of each layer its name and its blobs are read and nothing else:
what the network computes is in the prototxt, and the file's own geometry may be of a fork that numbers its fields
otherwise (``ceil_mode``).

protobuf copies the file once while it parses, and each blob is copied once more, into memory of its own that is aligned
and writable, so that torch takes it as it is. The peak is therefore twice the file, and once the file stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.caffe.hdf5 import MAGIC as HDF5_MAGIC
from resnext_convert.converter.caffe.hdf5 import read_hdf5
from resnext_convert.converter.caffe.upgrade import V0_TYPES, V1_TYPES
from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError, in_file
from resnext_convert.converter.tensors import DType, TensorRef, checked_size
from resnext_convert.schemas.caffe_pb2 import BlobProto, NetParameter, SolverState, V1LayerParameter

_M = TypeVar("_M", bound=Message)

LOOK: Final = 4096
"""So many bytes of a file's beginning tell what it is."""

_LARGEST = 2**31 - 1  # protobuf's own limit for a message
_SHOWN = 80  # so much of a name is shown in an error
_DAMAGED = "the file is cut off or damaged; fetch it again and compare its size and checksum"
_NAME_BOTH = "name the net's text with --prototxt and its weights (.caffemodel or .caffemodel.h5) with --weights"

# What protobuf raises for bytes that are no such message. The last two come from its pure-Python runtime: names that
# are not UTF-8, and (4.25) groups in groups.
_NO_MESSAGE = (DecodeError, UnicodeDecodeError, RecursionError)

# What else is found under the name .caffemodel: how it begins, what it is, what to do.
_OTHER_TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file with 'git lfs pull'"),
    (b"<", "a web page (HTML or XML)", "the download failed; open the page to see why, then fetch the file"),
    (b"{", "JSON", _NAME_BOTH),
)
_OTHER_BINARIES = (
    (b"\x12\x01" + bytes(6), "MXNet's weights (an NDArray list)", "convert them with `resnext-convert mxnet`"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
    (b"BZh", "compressed with bzip2", "bunzip2 it first"),
    (b"\xfd7zXZ", "compressed with xz", "unxz it first"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, or a download still to be unpacked)", _NAME_BOTH),
    (b"\x80\x02", "a Python pickle (a PyTorch checkpoint?)", _NAME_BOTH),
)
_NO_TEXT = bytes(set(range(32)) - set(b"\t\n\f\r")) + b"\x7f"
_NET_AS_TEXT = re.compile(rb"^\s*(?:layers?\s*:?\s*[{<]|(?:name|input|input_dim|net|train_net)\s*:)", re.MULTILINE)

# The numbers of BlobProto's two arrays: their type, and the field number and wire type of one that is not packed.
_DOUBLE_DATA = (DType.FLOAT64, (8, 1))
_DATA = (DType.FLOAT32, (5, 5))
_RAW_TYPES = {BlobProto.DOUBLE: DType.FLOAT64, BlobProto.FLOAT: DType.FLOAT32, BlobProto.FLOAT16: DType.FLOAT16}


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer of a weights file.

    Attributes:
        name: what Caffe pairs it with the prototxt's layers by. Names may repeat; Caffe takes the last copy.
        type: for messages only; empty in HDF5.
        blobs: its tensors, ``NAME[0]``, ``NAME[1]`` ...; None where HDF5 leaves out a blob that another layer owns.
        legacy: which of the blobs have num, channels, height and width instead of a shape.
    """

    name: str
    type: str
    blobs: tuple[TensorRef | None, ...]
    legacy: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """What a weights file holds.

    Attributes:
        file: where it was read from.
        kind: its format.
        name: the net's own name; empty in HDF5.
        layers: in the file's order, also those without blobs.
        notes: what is worth telling the user.
    """

    file: Path
    kind: Literal["caffemodel", "hdf5"]
    name: str
    layers: tuple[StoredLayer, ...]
    notes: tuple[str, ...]


def read_weights(path: Path) -> StoredWeights:
    """Reads a `.caffemodel` or a `.caffemodel.h5`.

    Raises:
        MissingFileError: there is no such file.
        TruncatedError: the file ends before what it announces.
        UnsupportedError: the values of a blob are stored in a way that is refused rather than guessed at.
        FormatError: it is another kind of file, or damaged.
        InputError: it cannot be opened.
    """
    with in_file(path):
        try:
            beginning = look(path)
            weights = _from_hdf5(path) if beginning.startswith(HDF5_MAGIC) else _from_caffemodel(path, beginning)
        except FormatError as error:
            error.hint = error.hint or _DAMAGED
            raise
    return weights


def look(path: Path) -> bytes:
    """The first `LOOK` bytes of a file.

    Raises:
        InputError: as `map_file`.
    """
    return bytes(map_file(path)[:LOOK])


def refuse_other_files(beginning: bytes, wanted: str) -> None:
    """Names the kind of file that a user has at hand instead of one of Caffe's binaries.

    Args:
        beginning: the file's first bytes.
        wanted: what it was taken for (``a caffemodel``).

    Raises:
        FormatError: it is empty, text, or begins like a file of another kind.
    """
    if not beginning:
        raise FormatError("the file is empty", hint="the download failed or the disk was full; fetch it again")
    # A caffemodel begins with a line feed, and the length of the net's name may be that of "<": only text is stripped.
    is_text = len(beginning.translate(None, _NO_TEXT)) == len(beginning)
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip() if is_text else beginning
    for magic, what, hint in _OTHER_TEXTS if is_text else _OTHER_BINARIES:
        if text.startswith(magic):
            raise FormatError(f"this is not {wanted}: it is {what}", hint=hint)
    if is_text:
        what = "a prototxt, the net as text" if _NET_AS_TEXT.search(text) else "text"
        raise FormatError(f"this is not {wanted}: it is {what}", hint=_NAME_BOTH)


def parse_message(kind: type[_M], buffer: memoryview) -> _M | None:
    """The message of this kind that the bytes are, or None."""
    message = kind()
    try:
        _parse(message, buffer)
    except _NO_MESSAGE:
        return None
    return message


def _parse(message: Message, buffer: memoryview) -> None:
    message.ParseFromString(cast("bytes", buffer))  # any buffer will do, whatever the stubs say


def read_blob(blob: BlobProto, name: str, where: str) -> TensorRef:
    """The values of a blob in memory of their own, in the shape that the file says.

    As Caffe does (blob.cpp, Blob::FromProto, ShapeEquals): num, channels, height and width win over a shape, and
    double_data over data; NVIDIA's fork reads raw_data if both are empty. Gradients (diff) are left alone.

    Args:
        blob: the message; it may be released afterwards.
        name: of the tensor.
        where: the place in the file.

    Raises:
        UnsupportedError: packed and unpacked numbers in one blob, or raw_data of another type than a float.
        FormatError: the values do not fill the shape.
    """
    try:
        shape, dtype, data = _contents(blob)
    except FormatError as error:
        error.place = where
        error.hint = error.hint or _DAMAGED
        raise
    return TensorRef(name, dtype, shape, where, data)


def _contents(blob: BlobProto) -> tuple[tuple[int, ...], DType, memoryview]:
    shape = (blob.num, blob.channels, blob.height, blob.width) if is_legacy(blob) else tuple(blob.shape.dim)
    size = checked_size(shape)
    dtype, data = _values(blob)
    if data.nbytes != size * dtype.itemsize:
        raise FormatError(
            "the number of values is not what the shape says",
            expected=f"{size} for the shape {list(shape)}",
            found=data.nbytes // dtype.itemsize,
        )
    return shape, dtype, data


def is_legacy(blob: BlobProto) -> bool:
    """Whether the blob says num, channels, height or width, as files did before 2014: then its shape has no meaning."""
    return any(map(blob.HasField, ("num", "channels", "height", "width")))


def _values(blob: BlobProto) -> tuple[DType, memoryview]:
    unknown: Any = UnknownFieldSet(blob)
    for chunks, dtype, field in ((blob.double_data, *_DOUBLE_DATA), (blob.data, *_DATA)):
        unpacked = [other.data for other in unknown if (other.field_number, other.wire_type) == field]
        parts = list(chunks)  # each access of a chunk copies it
        if any(len(part) % dtype.itemsize for part in parts):
            raise FormatError(f"an array of {dtype.value} ends inside a number")
        data = memoryview(bytearray().join(parts))
        if unpacked and data.nbytes:
            raise UnsupportedError(
                "packed and unpacked numbers in one array: their order is not known",
                hint="no version of Caffe writes such a file; load it with Caffe and save it again",
            )
        if unpacked:
            integers = np.fromiter(unpacked, f"<u{dtype.itemsize}", len(unpacked))
            data = integers.data.cast("B")
        if data.nbytes:
            return dtype, data
    return _raw_values(blob) if blob.HasField("raw_data") else (DType.FLOAT32, memoryview(bytearray()))


def _raw_values(blob: BlobProto) -> tuple[DType, memoryview]:
    """NVIDIA's raw_data (NVCaffe 0.16, blob.cpp, Blob::FromProto)."""
    if not blob.HasField("raw_data_type") or blob.raw_data_type not in _RAW_TYPES:
        raise UnsupportedError(
            "raw_data that are no floats",
            expected="raw_data_type DOUBLE, FLOAT or FLOAT16",
            found=BlobProto.Type.Name(blob.raw_data_type) if blob.HasField("raw_data_type") else "no raw_data_type",
            hint="the file is of a fork that is not known, or damaged; load it there and save it without raw_data",
        )
    dtype = _RAW_TYPES[blob.raw_data_type]
    if len(blob.raw_data) % dtype.itemsize:
        raise FormatError(f"raw_data of {dtype.value} end inside a number")
    return dtype, memoryview(bytearray(blob.raw_data))


def _from_caffemodel(path: Path, beginning: bytes) -> StoredWeights:
    refuse_other_files(beginning, "a caffemodel")
    net = _parse_net(path)
    notes = _notes(net)
    layers = tuple(_layer(index, *fields) for index, fields in enumerate(_layers(net)))
    raw_name: object = net.name  # of no use but in messages, so it may be in any encoding
    name = raw_name.decode("utf-8", "replace") if isinstance(raw_name, bytes) else str(raw_name)
    return _weights(path, "caffemodel", name, layers, notes)


def _weights(
    path: Path, kind: Literal["caffemodel", "hdf5"], name: str, layers: tuple[StoredLayer, ...], notes: list[str]
) -> StoredWeights:
    for layer, times in Counter(layer.name for layer in layers if layer.blobs).items():
        if times > 1:
            notes.append(f"layer {layer[:_SHOWN]!r} is there {times} times; Caffe takes the last copy")
    return StoredWeights(file=path, kind=kind, name=name, layers=layers, notes=tuple(notes))


def _parse_net(path: Path) -> NetParameter:
    """The parsed file; the mapping ends here, so that it does not add to what the blobs need."""
    buffer = map_file(path)
    if buffer.nbytes > _LARGEST:
        raise UnsupportedError(
            "the file is too large for a protobuf message",
            expected=f"at most {_LARGEST} bytes",
            found=buffer.nbytes,
            hint="Caffe cannot read it either; save the weights as HDF5",
        )
    net = NetParameter()
    try:
        _parse(net, buffer)
    except _NO_MESSAGE as error:
        _refuse_other_messages(buffer)
        raise _broken_net(net, buffer) from error
    if not any(blobs for _, _, blobs in _layers(net)):
        _refuse_other_messages(buffer)
        raise _no_weights(len(net.layer) + len(net.layers))
    return net


def _refuse_other_messages(buffer: memoryview) -> None:
    """Names Caffe's other binaries. One message may pass for another, so they are told by what only they have."""
    state = parse_message(SolverState, buffer)
    if state and state.HasField("iter") and (state.learned_net or state.history):
        net = f", {state.learned_net[:_SHOWN]!r}" if state.learned_net else ""
        raise FormatError(
            "this is a solver's state (.solverstate), not the weights",
            hint=f"name the .caffemodel that was written with it{net}",
        )
    blob = parse_message(BlobProto, buffer)
    if blob and (len(blob.data) or len(blob.double_data) or blob.HasField("raw_data")):
        raise FormatError(
            "this is a single array (a mean image, mean.binaryproto?), not the weights of a net",
            hint="name the .caffemodel as the weights; the mean image belongs to the preprocessing",
        )


def _broken_net(net: NetParameter, buffer: memoryview) -> FormatError:
    """The error for bytes that protobuf does not parse to their end.

    protobuf leaves in the message what it had read. Whether the outermost level is whole is asked with a message that
    has no fields: it keeps everything without looking inside.
    """
    layers = len(net.layer) + len(net.layers)
    if not layers:
        return FormatError(
            "this is not a caffemodel, or it is damaged from the beginning on: it cannot be parsed",
            expected="protobuf's NetParameter",
        )
    place = f"in or after layer #{layers - 1}"
    if parse_message(Empty, buffer) is None:
        return TruncatedError("the file ends inside a layer, or is damaged there", place=place)
    return FormatError("the net is damaged inside a layer: it cannot be parsed", place=place)


_Fields = tuple[object, str, Sequence[BlobProto]]


def _layers(net: NetParameter) -> Iterator[_Fields]:
    """Name, type and blobs of each layer of any version; that is all that the blobs' upgrade (`upgrade`) comes to."""
    if net.layer and net.layers:
        raise FormatError(
            "the net has both 'layer' and 'layers' fields, and Caffe refuses to guess which is meant",
            expected="one of them",
        )
    for layer in net.layer:
        yield layer.name, str(layer.type), layer.blobs
    for v1 in net.layers:
        if v1.HasField("layer"):
            yield v1.layer.name, V1_TYPES[V0_TYPES.get(v1.layer.type, V1LayerParameter.NONE)], v1.layer.blobs
        else:
            yield v1.name, V1_TYPES.get(v1.type, ""), v1.blobs


def _layer(index: int, raw_name: object, kind: str, blobs: Sequence[BlobProto]) -> StoredLayer:
    name = _utf8(raw_name, f"the name of layer #{index}")
    tensors = []
    for number, blob in enumerate(blobs):
        where = f"layer #{index} {name[:_SHOWN]!r}, blob {number}"
        tensors.append(read_blob(blob, f"{name}[{number}]", where))
    return StoredLayer(name, kind, tuple(tensors), tuple(map(is_legacy, blobs)))


def _utf8(text: object, what: str) -> str:
    """Protobuf's compiled runtimes return bytes for a string that is not UTF-8."""
    if not isinstance(text, str):
        raise FormatError(f"{what} is not UTF-8", found=repr(text)[:_SHOWN])
    return text


def _notes(net: NetParameter) -> list[str]:
    counts = Counter({"layers of an old form (V0 or V1)": len(net.layers)})
    for _, _, blobs in _layers(net):
        for blob in blobs:
            counts["blobs with gradients (diff), which are ignored"] += len(blob.diff) > 0 or len(blob.double_diff) > 0
            counts["blobs stored as raw_data, as NVIDIA's fork does"] += blob.HasField("raw_data")
    return [f"{what}: {count}" for what, count in counts.items() if count]


def _from_hdf5(path: Path) -> StoredWeights:
    layers = tuple(StoredLayer(name, "", blobs, (False,) * len(blobs)) for name, blobs in read_hdf5(path).items())
    if not any(layer.blobs for layer in layers):
        raise _no_weights(len(layers))
    notes = [
        f"layer {layer.name[:_SHOWN]!r}: blobs that another layer owns are left out (shared weights)"
        for layer in layers
        if None in layer.blobs
    ]
    return _weights(path, "hdf5", "", layers, notes)


def _no_weights(layers: int) -> FormatError:
    return FormatError(
        "the file holds a net without weights" if layers else "this is not a caffemodel",
        expected="layers with blobs",
        found=f"{layers} layers without" if layers else "no layer",
        hint="Caffe would leave the network at its random start; name the .caffemodel that training wrote",
    )
