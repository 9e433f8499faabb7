"""Reads a mean image: the one blob of a `mean.binaryproto`, as Caffe's compute_image_mean writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.caffe.hdf5 import MAGIC as HDF5_MAGIC
from resnext_convert.converter.caffe.weights import look, parse_message, read_blob, refuse_other_files
from resnext_convert.converter.errors import FormatError, ValueRangeError, in_file
from resnext_convert.converter.tensors import TensorRef
from resnext_convert.schemas.caffe_pb2 import BlobProto, NetParameter

_LARGEST = 2**26  # bytes; the image of a network of 224x224 pixels takes 600 kB
_NAME_MEAN = "name the mean.binaryproto that compute_image_mean wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanImage:
    """The mean of a set of images.

    Attributes:
        file: where it was read from.
        image: (C, H, W), float32 or float64, with the channels in the order in which the network is fed.
        channels: the mean of each channel.
    """

    file: Path
    image: TensorRef
    channels: tuple[float, ...]


def read_mean(path: Path) -> MeanImage:
    """Reads a mean image of the shape (1, C, H, W) or (C, H, W).

    Raises:
        MissingFileError: there is no such file.
        ValueRangeError: it holds values that are not finite.
        FormatError: it is another kind of file, or damaged, or of another shape.
        InputError: it cannot be opened.
    """
    with in_file(path):
        _refuse_other_files(look(path))
        image = read_blob(_parse(map_file(path)), "mean", "the image")
        dims = image.shape[1:] if len(image.shape) == 4 and image.shape[0] == 1 else image.shape
        if len(dims) != 3 or not image.size:
            raise FormatError(
                "this is not one image",
                expected="the shape (1, C, H, W) or (C, H, W)",
                found=list(image.shape),
                hint=_NAME_MEAN,
            )
        image = TensorRef(image.name, image.dtype, dims, image.where, image.data)
        values = image.float64()
        if not np.isfinite(values).all():
            raise ValueRangeError("the mean image holds values that are not finite", hint=_NAME_MEAN)
        return MeanImage(file=path, image=image, channels=tuple(values.mean(axis=(1, 2)).tolist()))


def _refuse_other_files(beginning: bytes) -> None:
    if beginning.startswith(HDF5_MAGIC):
        raise FormatError("this is not a mean image: it is an HDF5 file", hint=_NAME_MEAN)
    refuse_other_files(beginning, "a mean image")


def _parse(buffer: memoryview) -> BlobProto:
    if buffer.nbytes > _LARGEST:
        raise FormatError(
            "the file is too large for a mean image",
            expected=f"at most {_LARGEST} bytes",
            found=buffer.nbytes,
            hint=_NAME_MEAN,
        )
    blob = parse_message(BlobProto, buffer)
    if blob is None or not (len(blob.data) or len(blob.double_data) or blob.HasField("raw_data")):
        net = parse_message(NetParameter, buffer)
        what = "it is a net" if net and (net.layer or net.layers) else "it holds no array"
        raise FormatError(f"this is not a mean image: {what}", expected="a BlobProto", hint=_NAME_MEAN)
    return blob
