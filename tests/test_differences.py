"""The places in which two configurations differ, and their words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resnext_convert.converter.resnext.config import (
    STEM_POOL,
    ConvConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.differences import differences, place_text, value_text

RESNEXT_50: dict[str, Any] = {"depths": (3, 4, 6, 3), "cardinality": 32, "base_width": 4}


def test_differences_name_the_places() -> None:
    ours, theirs = resnext(**RESNEXT_50), resnext(**RESNEXT_50 | {"classes": 10})
    assert list(differences(ours, theirs)) == [("head.classes", 1000, 10)]
    assert list(differences(ours, ours)) == []
    conv = ConvConfig(in_channels=3, out_channels=64, kernel=(3, 3))
    other = replace(ours, stem=(UnitConfig(conv=conv, norm=None, relu=True),))
    assert [place for place, _, _ in differences(ours, other)] == ["stem[0].conv", "stem[0].norm"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stem_pool", "pooling behind the stem"),
        ("stages[1][0].units[2].conv", "layer2.0.conv3"),
        ("stages[0][3].squeeze_excitation", "squeeze-and-excitation of layer1.3"),
        ("stages[0][0].downsample.unit.conv", "layer1.0.downsample.unit.conv"),
        ("stages[3]", "layer4"),
        ("stem[1].conv", "stem.1.conv"),
    ],
)
def test_places(path: str, text: str) -> None:
    assert place_text(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (STEM_POOL, "3x3 max, stride 2, padding 1"),
        (ConvConfig(in_channels=3, out_channels=8, kernel=(3, 3)), "3x3 convolution, 3 to 8 channels"),
        (SqueezeExcitationConfig(channels=8, reduced=2), "squeeze-and-excitation through 2 channels"),
        ((1, 2, 3), "3 of them"),
        (None, "none"),
        (1, "1"),
    ],
)
def test_values(value: object, text: str) -> None:
    assert value_text(value) == text
