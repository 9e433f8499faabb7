"""The project's own fixtures are complete, small, described, and such that mistakes show."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from repository import FIXTURES, ROOT

from resnext_convert.converter.mxnet.params import read_params

MADE = [FIXTURES / "resnext-tiny", *sorted((FIXTURES / "mxnet" / "made").iterdir())]
REFUSED = {"preactivation", "dense", "octave"}
FAMILY = [folder for folder in MADE if folder.name not in REFUSED]
folders = pytest.mark.parametrize("folder", MADE, ids=lambda folder: folder.name)


def prefix(folder: Path) -> str:
    return folder.name if folder.name == "resnext-tiny" else "model"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    stored = read_params(folder / f"{prefix(folder)}-0000.params")
    return {name.split(":")[1]: tensor.float64() for name, tensor in stored.tensors.items()}


@folders
def test_folder_is_complete_and_small(folder: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert set(sizes) == {f"{prefix(folder)}-symbol.json", f"{prefix(folder)}-0000.params", "io.npz"}
    assert sum(sizes.values()) < (150_000 if folder.name == "resnext-tiny" else 100_000)


def test_made_fixtures_are_small_together() -> None:
    assert sum(file.stat().st_size for folder in MADE[1:] for file in folder.iterdir()) < 850_000


def test_readme_names_each_fixture() -> None:
    rows = [line.split("|")[1].strip() for line in (FIXTURES / "README.md").read_text().splitlines() if "|" in line]
    assert {f"`{folder.name}`" for folder in MADE} <= set(rows)


@folders
def test_recording_is_complete(folder: Path) -> None:
    with np.load(folder / "io.npz") as recorded:
        assert recorded["in:data"].dtype == np.float32
        for name, peak in (("fc1_output", 1.0), ("softmax_output", 0.1)):
            assert recorded[f"out:{name}"].dtype == np.float32
            exact = recorded[f"ref64:{name}"]
            assert exact.dtype == np.float64
            assert exact.shape == (2, 10)
            assert np.abs(exact).max() > peak
            assert np.abs(recorded[f"out:{name}"] - exact).max() < 1e-4 * np.abs(exact).max()


@folders
def test_images_and_classes_differ_in_their_logits(folder: Path) -> None:
    with np.load(folder / "io.npz") as recorded:
        logits = recorded["ref64:fc1_output"]
    assert np.abs(logits[0] - logits[1]).max() > 0.1 * np.abs(logits).max()
    assert np.diff(np.sort(logits, axis=1)).min() > 1e-4


@pytest.mark.parametrize("folder", FAMILY, ids=lambda folder: folder.name)
def test_variances_make_a_wrong_eps_visible(folder: Path) -> None:
    variances = {n: t for n, t in tensors(folder).items() if n.endswith("_var") and not n.startswith("bn_data")}
    assert variances
    for name, values in variances.items():
        assert values.min() > 0.99e-3, name
        assert values.max() < 1.01e-1, name


@folders
def test_no_value_is_one_that_hides_a_mistake(folder: Path) -> None:
    found = tensors(folder)
    for name, values in found.items():
        if name.endswith("_gamma"):
            assert not np.any(values == 1), name
            assert np.abs(np.abs(values) - 1).mean() > 0.1, name
        if name.endswith(("_beta", "_bias", "_mean")):
            assert np.all(values != 0), name
        if name.endswith("_weight"):
            assert not np.array_equal(values, values.astype(np.float16)), name
    assert [name for name in found if name.endswith("_gamma")]
    assert [name for name in found if name.endswith("_mean")]


@folders
def test_no_two_tensors_are_equal(folder: Path) -> None:
    for (one, left), (other, right) in itertools.combinations(tensors(folder).items(), 2):
        assert left.shape != right.shape or not np.allclose(left, right, rtol=0.01), f"{one} and {other}"


def test_running_names_disagree_with_the_symbol() -> None:
    folder = FIXTURES / "mxnet" / "made" / "running_names"
    assert any(name.endswith("_running_mean") for name in tensors(folder))
    assert not any(name.endswith("_moving_mean") for name in tensors(folder))
    assert "moving_mean" in (folder / "model-symbol.json").read_text()


@pytest.mark.mxnet
def test_the_script_makes_what_is_kept() -> None:
    script = [sys.executable, str(FIXTURES / "make_fixtures.py"), "--check"]
    checked = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    # And Caffe's two, and the image.
    assert checked.stdout == f"{len(MADE) + 3} fixtures are what the script makes\n"
