"""What Caffe's files say about how pixels become the network's input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe_writer
import numpy as np
import pytest
from caffe_base import PROTOTXT, SMALL, conv, layer, small_pair, write_pair
from shared_data import shared
from single_node import ramp

from resnext_convert.converter.caffe.source import read_source
from resnext_convert.converter.errors import FormatError, ShapeError


def transform(text: str) -> str:
    return f'layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ {text} }} }}'


def mean(path: Path, *channels: float) -> Path:
    """A mean image of 2x2 pixels around the mean of each channel."""
    image = np.array(channels, np.float32).reshape(1, -1, 1, 1) + np.array([[-1, 1], [2, -2]], np.float32)
    path.write_bytes(caffe_writer.legacy(num=1, channels=len(channels), height=2, width=2) + caffe_writer.packed(image))
    return path


def test_the_transform_of_the_data_layer(tmp_path: Path) -> None:
    model = small_pair(
        tmp_path, transform("scale: 0.5 crop_size: 24 mean_value: 104 mean_value: 117 mean_value: 123 mirror: true")
    )
    found = model.origin.transform
    assert found is not None
    assert (found.mean, found.scale, found.crop) == ((104.0, 117.0, 123.0), 0.5, 24)
    assert found.source == "transform_param of layer 'data' (Data)"
    assert model.origin.input_shape == (0, 3, 24, 24)


def test_one_mean_value_is_for_all_channels(tmp_path: Path) -> None:
    found = small_pair(tmp_path, transform("mean_value: 128")).origin.transform
    assert found is not None
    assert (found.mean, found.scale, found.crop) == ((128.0,) * 3, 1.0, None)


GROUPED = "convolution_param { num_output: 3 kernel_size: 3 group: 3 }"
STATISTICS = [ramp(3), ramp(3) + 2, np.ones(1)]
FIRST: dict[str, tuple[list[str], dict[str, list[Any]], int]] = {
    "convolution": ([conv("c", "data")], SMALL, 3),
    "groups": ([conv("c", "data", kind=GROUPED)], {"c": [ramp(3, 1, 3, 3), ramp(3)]}, 3),
    "norm": ([layer("BatchNorm", "bn", "data")], {"bn": STATISTICS}, 3),
    "scale": ([layer("Scale", "s", "data")], {"s": [ramp(3)]}, 3),
    "scale by a blob": ([layer("Input", "g"), layer("Scale", "s", "data g"), conv("c", "data")], SMALL, 3),
    "scale along another axis": (
        [layer("Scale", "s", "data", text="scale_param { axis: 2 }"), conv("c", "s")],
        SMALL | {"s": [ramp(8)]},
        1,
    ),
    "dropout": ([layer("Dropout", "d", "data", "data"), layer("Dropout", "e", "data"), conv("c", "e")], SMALL, 3),
    "dropout beside it": ([layer("Dropout", "d", "data"), conv("c", "data")], SMALL, 3),
    "split": ([layer("Split", "s", "data", "a b"), conv("c", "b")], SMALL, 1),
    "tanh": ([layer("TanH", "t", "data"), conv("c", "t")], SMALL, 1),
}


@pytest.mark.parametrize(("net", "blobs", "channels"), FIRST.values(), ids=FIRST)
def test_how_many_channels_the_first_layer_takes(
    net: list[str], blobs: dict[str, list[Any]], channels: int, tmp_path: Path
) -> None:
    """Where something else comes first, that is not known, and the mean stays alone."""
    text = transform("mean_value: 128 crop_size: 8") + "".join(net)
    found = read_source(write_pair(tmp_path, text, blobs)).origin.transform
    assert found is not None
    assert found.mean == (128.0,) * channels


def test_a_transform_that_says_nothing(tmp_path: Path) -> None:
    found = small_pair(tmp_path, transform("mirror: false")).origin.transform
    assert found is not None
    assert (found.mean, found.scale, found.crop) == ((), 1.0, None)
    assert small_pair(tmp_path / "none", layer("Data", "data")).origin.transform is None


@pytest.mark.parametrize("name", ["mean.binaryproto", "../../data/mean.binaryproto", "C:\\\\data\\\\mean.binaryproto"])
def test_a_mean_image_is_looked_for_beside_the_prototxt(name: str, tmp_path: Path) -> None:
    path = mean(tmp_path / "mean.binaryproto", 104, 117, 123)
    model = small_pair(tmp_path, transform(f'mean_file: "{name}" scale: 0.5'))
    found = model.origin.transform
    assert found is not None
    assert (found.mean, found.scale) == ((104.0, 117.0, 123.0), 0.5)
    assert found.source == "transform_param of layer 'data' (Data) with mean.binaryproto"
    assert list(model.origin.files.items())[2:] == [("mean", path)]
    assert "the mean of each channel is recorded" in model.origin.warnings[-1]


@pytest.mark.parametrize("name", ["data/other.binaryproto", "data/", "..", "", "x\\000y", "\\\\", "x" * 5000])
def test_a_mean_image_that_is_not_there(name: str, tmp_path: Path) -> None:
    mean(tmp_path / "mean.binaryproto", 104, 117, 123)
    model = small_pair(tmp_path, transform(f'mean_file: "{name}"'))
    assert model.origin.transform is None
    assert "is not beside the prototxt: how pixels become the input is not recorded" in model.origin.warnings[-1]
    assert "mean" not in model.origin.files


def test_a_mean_image_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "mean.binaryproto").write_bytes(b"\xff" * 40)
    with pytest.raises(FormatError) as refusal:
        small_pair(tmp_path, transform('mean_file: "mean.binaryproto"'))
    assert refusal.value.file == str(tmp_path / "mean.binaryproto")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('mean_file: "m" mean_value: 1', "mean_file and mean_value at the same time"),
        ("scale: nan", "no number"),
        ("mean_value: inf", "no number"),
    ],
)
def test_transforms_that_caffe_refuses(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=words) as refusal:
        small_pair(tmp_path, transform(text))
    assert refusal.value.file == str(tmp_path / PROTOTXT)
    assert refusal.value.place == "layer 'data' (Data)"


def test_a_mean_of_other_channels_than_the_network(tmp_path: Path) -> None:
    """Mean values say how many channels there are, a mean image does not: it is read behind the weights."""
    with pytest.raises(ShapeError, match="Cannot copy param 0 weights"):
        small_pair(tmp_path / "values", transform("mean_value: 1 mean_value: 2"))
    (tmp_path / "image").mkdir()
    mean(tmp_path / "image" / "m", 1, 2)
    with pytest.raises(FormatError, match="as many as channels"):
        small_pair(tmp_path / "image", transform('mean_file: "m"'))


def test_a_mean_image_beside_a_net_that_is_fed(tmp_path: Path) -> None:
    path = mean(tmp_path / "imagenet_mean.binaryproto", 104, 117, 123)
    model = small_pair(tmp_path)
    assert model.origin.transform is not None
    assert model.origin.transform.mean == (104.0, 117.0, 123.0)
    assert model.origin.files["mean"] == path
    assert "no file says that it is" in model.origin.warnings[-1]


def test_mean_images_that_may_be_anothers(tmp_path: Path) -> None:
    """Two of them, one of other channels, one that is none: nothing is said about the net's input."""
    spoilers: tuple[Callable[[Path], object], ...] = (
        lambda folder: [mean(folder / f"{name}.binaryproto", 1, 2, 3) for name in "ab"],
        lambda folder: mean(folder / "gray.binaryproto", 1),
        lambda folder: (folder / "broken.binaryproto").write_bytes(b"\xff"),
        lambda folder: os.mkfifo(folder / "pipe.binaryproto"),
        lambda folder: (folder / "folder.binaryproto").mkdir(),
    )
    for number, spoil in enumerate(spoilers):
        folder = tmp_path / str(number)
        folder.mkdir()
        spoil(folder)
        model = small_pair(folder)
        assert model.origin.transform is None
        assert model.origin.warnings == ()


@pytest.mark.acceptance
def test_a_mean_image_of_other_people() -> None:
    """That of CIFAR-10, in the order of its channels: RGB."""
    found = read_source(shared("weights/cifar10_quick_h5")).origin.transform
    assert found is not None
    assert found.mean == pytest.approx((125.307, 122.950, 113.865), abs=1e-3)
