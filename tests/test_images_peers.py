"""The real torchvision prepares photographs to the same bits."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shared_data import shared

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.images import geometry, read_image

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torchvision")]

DOMAIN = InputDomain(
    colour="rgb",
    range=1,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    source="torchvision",
)
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "china.jpg",
    "coffee.png",
    "flower.jpg",
    "grace_hopper.jpg",
    "rocket.jpg",
)


def prepared(path: Path, resize: int, crop: int) -> np.ndarray[Any, Any]:
    transforms = importlib.import_module("torchvision.transforms")
    way = transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(DOMAIN.mean, DOMAIN.std),
        ]
    )
    with Image.open(path) as image:
        found: np.ndarray[Any, Any] = way(image.convert("RGB")).numpy()
    return found


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    return found.dtype == expected.dtype == np.float32 and np.array_equal(found[0], expected)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs(name: str) -> None:
    path = shared(f"weights/images/{name}")
    found = read_image(path, DOMAIN, geometry(DOMAIN, (224, 224)))
    assert same(found.values, prepared(path, 256, 224))


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((300, 200), 256, 224),
        ((200, 301), 256, 224),
        ((257, 1000), 256, 224),
        ((999, 333), 256, 225),
        ((31, 47), 37, 32),
        ((32, 32), 33, 32),
        ((224, 224), 224, 224),
    ],
)
def test_every_size_and_rounding(
    torchvision: Any, tmp_path: Path, size: tuple[int, int], resize: int, crop: int
) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    domain = replace(DOMAIN, resize=resize, crop=crop)
    found = read_image(path, domain, geometry(domain, (crop, crop)))
    assert same(found.values, prepared(path, resize, crop))
