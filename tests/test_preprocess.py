"""What the statistics of ``bn_data`` say about the input, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from resnext_convert.converter.preprocess import IMAGENET_RGB, announced_input

RGB = np.array(IMAGENET_RGB)
STD = np.array([58.4, 57.1, 57.4])


def test_without_statistics_nothing_is_known() -> None:
    spec = announced_input(4, None, None)
    assert (spec.channels, spec.mean, spec.std, spec.note) == (4, (0.0,) * 4, (1.0,) * 4, "")
    assert spec.source.startswith("assumed")
    assert announced_input(3, RGB, None) == announced_input(3, None, None)


def test_the_distribution_is_that_of_the_statistics() -> None:
    spec = announced_input(2, np.array([1.5, -2.0]), np.array([4.0, 0.25]))
    assert spec.mean == (1.5, -2.0)
    assert spec.std == (2.0, 0.5)
    assert spec.source == "the running statistics of bn_data"
    assert all(type(value) is float for value in (*spec.mean, *spec.std))


def test_a_variance_below_zero_counts_as_none() -> None:
    """Legal where eps makes up for it."""
    assert announced_input(1, np.array([1.0]), np.array([-1e-9])).std == (0.0,)


@pytest.mark.parametrize(
    ("mean", "std", "note"),
    [
        (RGB, STD, "raw RGB images in 0..255, no mean subtracted"),
        (RGB[::-1], STD, "raw BGR images in 0..255, no mean subtracted"),
        (RGB + np.array([4, -3, 2]), STD, "raw RGB images in 0..255, no mean subtracted"),
        (RGB / 255, STD / 255, "raw RGB images in 0..1, no mean subtracted"),
        (RGB[::-1] / 255, STD / 255, "raw BGR images in 0..1, no mean subtracted"),
        (np.array([0.3, -1.2, 2.0]), STD, "images in 0..255 after the mean was subtracted"),
        (np.array([0.01, 0.0, -0.02]), STD / 255, "images in 0..1 after the mean was subtracted"),
        (np.zeros(3), np.ones(3), ""),
        (RGB, STD / 255, ""),
        (RGB / 255, STD, "images in 0..255 after the mean was subtracted"),
        (np.array([120.0, 20.0, 103.0]), STD, ""),
        (np.array([115.0, 115.0, 115.0]), STD, ""),
        (np.array([250.0, 250.0, 250.0]), STD, ""),
        (np.array([0.1]), np.array([0.3]), ""),
        (np.full(4, 110.0), np.full(4, 57.0), ""),
    ],
)
def test_what_a_person_would_conclude(mean: np.ndarray, std: np.ndarray, note: str) -> None:
    assert announced_input(len(mean), mean, std**2).note == note
