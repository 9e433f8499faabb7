"""The maker of calibrated weights is repeatable and delivers what it promises, on a small graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import calibrated_weights
import numpy as np
import pytest
from repository import FIXTURES, ROOT

from resnext_convert.converter.mxnet.params import read_params

SYMBOL = FIXTURES / "mxnet" / "recordings" / "0.8.0-imagenet" / "model-symbol.json"  # without auxiliary states


def make(out: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, str(ROOT / "tests" / "calibrated_weights.py"), str(SYMBOL), str(out), *options]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    summary: dict[str, object] = json.loads(made.stdout)
    return summary


def test_images_are_smooth_different_and_of_the_right_range() -> None:
    images = calibrated_weights.images(4, 96, np.random.default_rng(5))
    assert images.dtype == np.float32
    assert np.array_equal(images, images.round())
    assert 0 <= images.min() < 40
    assert 215 < images.max() <= 255
    assert 90 < images.mean() < 150
    assert np.abs(np.diff(images, axis=3)).mean() < 0.2 * images.std()
    assert images.mean(axis=(1, 2, 3)).std() > 5
    assert abs(calibrated_weights.normalised(images).mean()) < 0.6


@pytest.mark.mxnet
def test_weights_are_repeatable_and_in_range(tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{name}.params" for name in ("first", "again", "other"))
    summary = make(first, "--image-size", "64")
    make(again, "--image-size", "64")
    make(other, "--image-size", "64", "--seed", "1")
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()

    tensors = {name: tensor.float64() for name, tensor in read_params(first).tensors.items()}
    assert summary["logits_std"] == pytest.approx(calibrated_weights.LOGITS_STD, rel=0.1)
    assert summary["in_range"] > 0.95  # type: ignore[operator]
    assert summary["largest"] < 40  # type: ignore[operator]
    variances = [values for name, values in tensors.items() if name.endswith("_var") and "bn_data" not in name]
    assert all(0.99e-3 < values.min() <= values.max() < 1.01e-1 for values in variances)
    assert np.all(tensors["arg:bn_data_gamma"] != 1)
