"""Acceptance: published prototxts, with full-size weights made for them, convert, are proven, and agree with OpenCV.

The weights are random but calibrated (tests/calibrated_caffe.py). The prototxts are other people's files and are not
part of the repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import calibrated_caffe
import numpy as np
import pytest
from shared_data import shared

from resnext_convert.converter import pipeline
from resnext_convert.converter.records import ConversionReport
from resnext_convert.converter.resnext.overview import norms

pytestmark = [pytest.mark.acceptance, pytest.mark.opencv]

CYPW = "cypw+ResNeXt-1"
SOEAVER = "soeaver+caffe-model/cls/resnext"
SENET = "hujie-frank+SENet/models"


@dataclass(frozen=True)
class Release:
    """A published prototxt, the network that it is, and the moving-average factor of the weights made for it."""

    path: str
    network: str
    factor: float

    @property
    def name(self) -> str:
        return Path(self.path).stem


RELEASES = [
    Release(f"{CYPW}/ResNeXt-50-deploy.prototxt", "ResNeXt-50 (32x4d)", 999.98),
    Release(f"{CYPW}/ResNeXt-101-deploy.prototxt", "ResNeXt-101 (32x4d)", 1),
    Release(f"{CYPW}/ResNeXt-152-deploy.prototxt", "ResNeXt-152 (32x4d)", 999.98),
    Release(f"{SOEAVER}/deploy_resnext26-32x4d-priv.prototxt", "ResNeXt-26 (32x4d)", 999.98),
    Release(f"{SOEAVER}/deploy_resnext50-32x4d.prototxt", "ResNeXt-50 (32x4d)", 1),
    Release(f"{SOEAVER}/deploy_resnext101-32x4d.prototxt", "ResNeXt-101 (32x4d)", 999.98),
    Release(f"{SOEAVER}/deploy_resnext101-64x4d.prototxt", "ResNeXt-101 (64x4d)", 1),
    Release(f"{SENET}/SE-ResNeXt-50.prototxt", "SE-ResNeXt-50 (32x4d)", 999.98),
    Release(f"{SENET}/SE-ResNeXt-101.prototxt", "SE-ResNeXt-101 (32x4d)", 1),
    Release(f"{SENET}/SENet-154.prototxt", "SE-ResNeXt-152 (64x4d)", 999.98),
]
SOEAVERS = [release for release in RELEASES if release.path.startswith(SOEAVER)]

DELETED = "    ceil_mode: false\n"


def convert(prototxt: Path, weights: Path, out: Path) -> ConversionReport:
    """Converts, asks OpenCV, and checks and prints what the proof says."""
    report = pipeline.convert("caffe", prototxt, out, weights=weights, oracle="opencv")
    proof = report.verification
    assert proof is not None
    assert proof.passed, proof.failure
    assert proof.worst.within(1e-10)
    assert proof.sensitivity > 0.01
    assert proof.oracle.passed
    asked = {found.diff.name: found for found in proof.oracle.diffs}
    assert set(asked) == {"fc1" if "bn_data" in prototxt.read_text() else "classifier", "prob"}
    print(
        f"{prototxt.stem}: {report.network}, worst {proof.worst.max_of_peak:.1e},"
        f" float32 {proof.float32.max_of_peak:.1e},"
        f" OpenCV {max(found.diff.max_of_peak for found in asked.values()):.1e}, proof {proof.seconds:.1f} s"
    )
    return report


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_converts_and_agrees_with_opencv(release: Release, tmp_path: Path) -> None:
    prototxt, weights = shared(f"releases/{release.path}"), tmp_path / "weights.caffemodel"
    calibrated_caffe.make(prototxt, weights, factor=release.factor)
    report = convert(prototxt, weights, tmp_path / "out.pth")
    assert report.network == release.network
    assert not report.ignored
    assert not [warning for warning in report.warnings if "8x8" in warning]
    pool = report.config.stem_pool
    assert pool is not None
    assert (pool.padding, pool.ceil_mode) == (((1, 1), False) if release in SOEAVERS else ((0, 0), True))
    assert (report.config.data_norm is not None) == release.path.startswith(CYPW)
    every_eps = {norm.eps for norm in norms(report.config)}
    assert every_eps == {
        float(np.float32(2e-5 if release.path.startswith(CYPW) else 1e-5))
    }  # a float in Caffe's schema
    final = report.config.head.pool
    assert final is not None
    assert (final.global_pool, final.kernel) == ((True, final.kernel) if SENET not in release.path else (False, (7, 7)))
    weights.unlink()
    (tmp_path / "out.pth").unlink()


@pytest.mark.parametrize("release", SOEAVERS, ids=lambda release: release.name)
def test_soeavers_without_their_line_are_another_network_and_exact(release: Release, tmp_path: Path) -> None:
    """The same weights, pooled to 57x57: what mirrors of these files publish, because BVLC Caffe knows no ceil_mode."""
    published = shared(f"releases/{release.path}")
    text = published.read_text()
    assert text.count(DELETED) == 1
    prototxt, weights = tmp_path / f"{release.name}.prototxt", tmp_path / "weights.caffemodel"
    prototxt.write_text(text.replace(DELETED, ""))
    calibrated_caffe.make(published, weights, factor=release.factor)
    report = convert(prototxt, weights, tmp_path / "out.pth")
    assert report.network == release.network
    (warning,) = [warning for warning in report.warnings if "8x8" in warning]
    assert "7x7" in warning
    assert "`ceil_mode: false`" in warning
    assert "round_mode: FLOOR" in warning
    weights.unlink()
    (tmp_path / "out.pth").unlink()
