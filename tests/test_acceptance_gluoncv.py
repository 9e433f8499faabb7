"""Acceptance: weights without a graph, as GluonCV and gluoncv2 save them, are the networks that these themselves build.

The proof of a conversion cannot tell whether the graph that was made of names is the right one: both of its sides run
it. So the program that has these names is asked for its outputs, and for the graph that it exports.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from resnext_convert.converter import checkpoint, pipeline
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.tensors import Array

pytestmark = [pytest.mark.acceptance, pytest.mark.gluoncv]

PYTHON = "RESNEXT_CONVERT_GLUONCV"
"""The environment variable that names the interpreter which has GluonCV; `make gluoncv` sets it."""

FLOOR = GraphFacts(eps=1e-5, stem_pool="3x3 max, stride 2, padding 1")
CEIL = GraphFacts(eps=1e-5, stem_pool="3x3 max, stride 2, size rounded up")
NONE = GraphFacts(eps=1e-5, stem_pool="none")

# The largest difference as a part of the largest logit. On ResNeXt-50 an eps that is wrong by 1 % is at 3e-4 in
# float64, a pooling behind the stem that rounds up at 0.4. The worst of the right ones is SENet-154: 5e-14 in float64,
# 3e-5 in float32.
GATE64, GATE32 = 1e-11, 2e-4


@dataclass(frozen=True)
class Model:
    """A network of either package, and what must come of it."""

    name: str
    network: str
    facts: GraphFacts = FLOOR
    package: str = "gluoncv"
    averages: bool = False  # projections average first, which prefixed names do not tell

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are converted without a graph; gluoncv2's prefixed names are of no scheme that is known."""
        prefixed = self.package == "gluoncv" and not self.averages
        return ("structural", *(("prefixed", "exported") if prefixed else ()))


MODELS = [
    Model("resnext50_32x4d", "ResNeXt-50 (32x4d)"),
    Model("resnext101_32x4d", "ResNeXt-101 (32x4d)"),
    Model("resnext101_64x4d", "ResNeXt-101 (64x4d)"),
    Model("se_resnext50_32x4d", "SE-ResNeXt-50 (32x4d)"),
    Model("se_resnext101_32x4d", "SE-ResNeXt-101 (32x4d)"),
    Model("se_resnext101_64x4d", "SE-ResNeXt-101 (64x4d)"),
    Model("senet_154", "SE-ResNeXt-152 (64x4d)", CEIL),
    Model("resnext101e_64x4d", "ResNeXt-101 (64x4d)", averages=True),
    Model("cifar_resnext29_16x64d", "ResNeXt-29 (16x64d)", NONE),
    Model("resnext14_32x4d", "ResNeXt-14 (32x4d)", package="gluoncv2"),
    Model("resnext26_32x2d", "ResNeXt-26 (32x2d)", package="gluoncv2"),
    Model("resnext50_32x4d", "ResNeXt-50 (32x4d)", package="gluoncv2"),
    Model("seresnext50_32x4d", "SE-ResNeXt-50 (32x4d)", package="gluoncv2"),
    Model("senet28", "SE-ResNeXt-26 (32x4d)", package="gluoncv2"),
    Model("resnext20_1x64d_cifar10", "ResNet-20", NONE, package="gluoncv2"),
    Model("resnext29_32x4d_cifar10", "ResNeXt-29 (32x4d)", NONE, package="gluoncv2"),
]


def made_by(model: Model, folder: Path) -> dict[str, Array]:
    """Has the package save its files into a folder; its images and outputs."""
    interpreter = os.environ.get(PYTHON)
    assert interpreter, f"{PYTHON} must name an interpreter with GluonCV: run `make gluoncv`"
    script = Path(__file__).with_name("gluoncv_weights.py")
    command = [interpreter, str(script), model.name, str(folder), f"--package={model.package}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as stored:
        return {name: stored[name] for name in ("images", "float32", "float64")}


def apart(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.package}/{model.name}")
def test_is_what_the_package_builds(model: Model, tmp_path: Path) -> None:
    theirs = made_by(model, tmp_path)
    out, usual = tmp_path / "out.pth", tmp_path / "usual.pth"
    expected = pipeline.convert("mxnet", tmp_path / "pair", usual, oracle="none", verify=False)
    assert expected.network == model.network
    state = checkpoint.read(usual)
    for name in model.files:
        # One proof is enough: the others have the same graph and the same weights, which is looked at.
        report = pipeline.convert(
            "mxnet", tmp_path / f"{name}.params", out, facts=model.facts, oracle="none", verify=name == "structural"
        )
        assert report.verification is None or report.verification.passed
        assert report.config == expected.config
        found = checkpoint.read(out)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)
    images = torch.from_numpy(theirs["images"])
    module = checkpoint.load(out)
    with torch.no_grad():
        single = apart(module(images).numpy(), theirs["float32"])
        double = apart(module.double()(images.double()).numpy(), theirs["float64"])
    print(f"{model.package}/{model.name}: {model.network}, float64 {double:.1e}, float32 {single:.1e}")
    assert np.ptp(theirs["float64"], axis=0).max() > 1  # the two images are not alike to it
    assert double < GATE64
    assert single < GATE32
    for path in tmp_path.iterdir():
        path.unlink()
