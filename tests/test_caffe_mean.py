"""The reader of mean images: what compute_image_mean and pycaffe write, and what is no mean image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from caffe_writer import RAMP, blob, hdf5, layer, legacy, message, net, packed, raw, shape, solver_state, unpacked
from shared_data import shared

from resnext_convert.converter.caffe.mean import MeanImage, read_mean
from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingFileError,
    UnsupportedError,
    ValueRangeError,
)
from resnext_convert.converter.tensors import DType

IMAGE = (np.arange(24, dtype=np.float32).reshape(3, 2, 4) - 2.5) ** 2
MEANS = tuple(IMAGE.astype(np.float64).mean(axis=(1, 2)).tolist())
FOUR = legacy(num=1, channels=3, height=2, width=4)


def read(data: bytes, folder: Path) -> MeanImage:
    path = folder / "evil.binaryproto"
    path.write_bytes(data)
    return read_mean(path)


WRITTEN = {
    "compute_image_mean": packed(IMAGE) + FOUR,
    "pycaffe": blob(IMAGE[None]),
    "three dimensions": blob(IMAGE),
    "raw": raw(IMAGE) + FOUR,
    "gradients beside": packed(IMAGE) + FOUR + packed(-IMAGE, field=6),
}


@pytest.mark.parametrize("writer", WRITTEN)
def test_a_mean_image(writer: str, tmp_path: Path) -> None:
    mean = read(WRITTEN[writer], tmp_path)
    assert mean.file == tmp_path / "evil.binaryproto"
    assert (mean.image.shape, mean.image.dtype) == ((3, 2, 4), DType.FLOAT32)
    assert mean.image.numpy().tobytes() == IMAGE.tobytes()
    assert mean.channels == MEANS


def test_a_mean_image_of_doubles(tmp_path: Path) -> None:
    double = IMAGE.astype(np.float64) / 3
    mean = read(blob(double), tmp_path)
    assert mean.image.dtype is DType.FLOAT64
    assert mean.image.numpy().tobytes() == double.tobytes()
    assert mean.channels == tuple(double.mean(axis=(1, 2)).tolist())


def test_a_mean_of_single_pixels_and_of_one_channel(tmp_path: Path) -> None:
    assert read(blob(np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1)), tmp_path).channels == (104, 117, 123)
    assert read(blob(np.full((1, 1, 2, 2), 7, np.float32)), tmp_path).channels == (7,)


REFUSED: dict[str, tuple[bytes, str, type[InputError]]] = {
    "nothing": (b"", "the file is empty", FormatError),
    "HTML": (b"<html>", "not a mean image: it is a web page", FormatError),
    "prototxt": (b'name: "net"\nlayer { }\n', "not a mean image: it is a prototxt", FormatError),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "not a mean image: it is a Git LFS",
        FormatError,
    ),
    "a caffemodel": (net(layer("a", [blob(IMAGE)])), "not a mean image: it is a net", FormatError),
    "a solver's state": (
        solver_state("a.caffemodel", [blob(IMAGE)]),
        "not a mean image: it holds no array",
        FormatError,
    ),
    "gradients alone": (packed(IMAGE, field=6) + FOUR, "not a mean image: it holds no array", FormatError),
    "noise": (b"\xff\xfe\xfd\x00\x01\x02", "not a mean image: it holds no array", FormatError),
    "unpacked": (unpacked(IMAGE) + FOUR, "not a mean image: it holds no array", FormatError),
    "cut off": ((packed(IMAGE) + FOUR)[:50], "not a mean image: it holds no array", FormatError),
    "cut off before its shape": (packed(IMAGE), "the number of values is not what the shape says", FormatError),
    "too few values": (packed(IMAGE[:2]) + FOUR, "the number of values is not what the shape says", FormatError),
    "two images": (blob(np.stack([IMAGE, IMAGE])), r"not one image .*found \[2, 3, 2, 4\]", FormatError),
    "a matrix": (blob(RAMP), r"not one image .*found \[2, 3\]", FormatError),
    "five dimensions": (blob(IMAGE[None, None]), "not one image", FormatError),
    "no pixel": (packed(IMAGE) + legacy(num=1), "the number of values", FormatError),
    "no pixel and no value": (message(5, b"") + legacy(num=1, channels=3), "not one image", FormatError),
    "NaN": (blob(np.where(IMAGE > 300, np.float32(np.nan), IMAGE)), "not finite", ValueRangeError),
    "infinity": (blob(np.full((3, 2, 4), np.inf, np.float32)), "not finite", ValueRangeError),
    "raw integers": (raw(IMAGE.astype(np.int32)) + FOUR, "raw_data that are no floats", UnsupportedError),
    "two ways at once": (packed(IMAGE[:1]) + unpacked(IMAGE[1:]) + FOUR, "packed and unpacked", UnsupportedError),
    "a negative size": (packed(IMAGE) + shape((-3, -2, 4)), "a shape that no array can have", FormatError),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str, tmp_path: Path) -> None:
    data, says, kind = REFUSED[what]
    with pytest.raises(kind, match=says) as caught:
        read(data, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'evil.binaryproto'}: ")
    assert caught.value.hint


def test_an_hdf5_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a mean image: it is an HDF5 file"):
        read_mean(hdf5(tmp_path / "mean.h5", {"mean": [IMAGE]}))


def test_a_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    with path.open("wb") as file:
        file.write(b"\x08\x01")
        file.truncate(2**26 + 1)  # no byte of it is stored
    with pytest.raises(FormatError, match="too large for a mean image"):
        read_mean(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_mean(tmp_path / "absent.binaryproto")


@pytest.mark.acceptance
def test_the_mean_of_cifar10() -> None:
    """Published numbers: 125.3, 123.0, 113.9 in RGB."""
    mean = read_mean(shared("weights/cifar10_quick_h5/mean.binaryproto"))
    assert mean.image.shape == (3, 32, 32)
    assert np.allclose(mean.channels, (125.3, 123.0, 113.9), atol=0.06)
