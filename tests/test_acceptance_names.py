"""Acceptance: published releases by their names, from a mirror of the publisher's server, to every target.

Weights are made for the published graphs (release_runs.py), full size. What no stock model computes is refused, for the
reason that is stated here; what one does is loaded by the real torchvision and timm, and gives the same logits.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import release_runs
import torch
from shared_data import shared

import resnext_convert as rc
from resnext_convert.converter import checkpoint, releases
from resnext_convert.converter.releases import Release
from resnext_convert.converter.targets import TargetName

pytestmark = [pytest.mark.acceptance, pytest.mark.mxnet, pytest.mark.opencv, pytest.mark.peers, pytest.mark.releases]

POOL = "pooling behind the stem (3x3 max, stride 2, size rounded up)"
SQUEEZE = "squeeze-and-excitation of layer1.0"

BOTTLENECK = "torchvision.models.resnet.Bottleneck"
RESNET = f"torchvision.models.ResNet({BOTTLENECK}, {{}}, num_classes=1000, groups=32, width_per_group=4)"
RESNEXT_26 = RESNET.format([2, 2, 2, 2])
RESNEXT_101 = RESNET.format([3, 4, 23, 3])


def tv(name: str) -> str:
    return f"torchvision.models.{name}(num_classes=1000)"


def timm_model(name: str, arguments: str = "") -> str:
    return f"timm.create_model('{name}', num_classes=1000{arguments})"


EXPECTED: dict[str, tuple[str, str]] = {
    "M1": (tv("resnext50_32x4d"), timm_model("resnext50_32x4d")),
    "M2": (RESNEXT_101, timm_model("resnext101_32x4d")),
    "M3": (tv("resnext101_64x4d"), timm_model("resnext101_64x4d")),
    "M4": (SQUEEZE, timm_model("seresnext50_32x4d", ", cardinality=64, base_width=2")),
    "M5": (RESNEXT_26, timm_model("resnext50_32x4d", ", layers=[2, 2, 2, 2]")),
    "M6": (tv("resnext50_32x4d"), timm_model("resnext50_32x4d")),
    "M7": (RESNEXT_101, timm_model("resnext101_32x4d")),
    "M8": (tv("resnext101_64x4d"), timm_model("resnext101_64x4d")),
    "M9": (SQUEEZE, timm_model("legacy_seresnext50_32x4d")),
    "M10": (SQUEEZE, timm_model("legacy_seresnext101_32x4d")),
    "M11": (SQUEEZE, timm_model("legacy_senet154")),
    "G1": (tv("resnext50_32x4d"), timm_model("resnext50_32x4d")),
    "G2": (RESNEXT_101, timm_model("resnext101_32x4d")),
    "G3": (tv("resnext101_64x4d"), timm_model("resnext101_64x4d")),
    "G4": (SQUEEZE, timm_model("seresnext50_32x4d")),
    "G5": (SQUEEZE, timm_model("seresnext101_32x4d")),
    "G6": (SQUEEZE, timm_model("seresnext101_64x4d")),
    "G7": (SQUEEZE, timm_model("legacy_senet154")),
    "G8": ("stem", "stem"),
    "D1": (tv("resnext101_64x4d"), timm_model("resnext101_64x4d")),
    "D2": (SQUEEZE, timm_model("seresnext101_32x4d")),
    "D3": (SQUEEZE, timm_model("seresnext101_64x4d")),
    "D4": (SQUEEZE, timm_model("legacy_senet154")),
    "C1": (POOL, POOL),
    "C2": (POOL, POOL),
    "C3": (POOL, POOL),
    "C4": (RESNEXT_26, timm_model("resnext50_32x4d", ", layers=[2, 2, 2, 2]")),
    "C5": (tv("resnext50_32x4d"), timm_model("resnext50_32x4d")),
    "C6": (RESNEXT_101, timm_model("resnext101_32x4d")),
    "C7": (tv("resnext101_64x4d"), timm_model("resnext101_64x4d")),
    "C9": (SQUEEZE, timm_model("legacy_seresnext50_32x4d")),
    "C10": (SQUEEZE, timm_model("legacy_seresnext101_32x4d")),
    "C11": (SQUEEZE, timm_model("legacy_senet154")),
}
"""For each release with a graph: the stock model of torchvision, of timm; or the reason why there is none."""

RELEASES = {release.id: release for release in releases.catalogue()}


def test_all_graphs_are_here() -> None:
    assert set(EXPECTED) == set(release_runs.GRAPHS)
    assert set(release_runs.GRAPHS) < set(RELEASES)


@pytest.fixture(params=EXPECTED, ids=lambda number: f"{number}-{RELEASES[number].bare_name}")
def mirrored(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Release, Path]]:
    """A release and the mirror that has it."""
    release = release_runs.unchecked(RELEASES[request.param])
    shared(f"releases/{release_runs.GRAPHS[release.id]}")
    patched = tuple(release if other.id == release.id else other for other in RELEASES.values())
    monkeypatch.setattr(releases, "catalogue", lambda: patched)
    release_runs.make_mirror(release, tmp_path / "mirror")
    yield release, tmp_path / "mirror"
    shutil.rmtree(tmp_path / "mirror")


def test_to_each_target(mirrored: tuple[Release, Path], torchvision: Any, timm: Any) -> None:
    release, mirror = mirrored
    out = mirror / "out.pth"
    reference = release_runs.run(release, "reference", mirror, out)
    assert reference.exact, reference.refusal
    assert reference.worst < 1e-10
    names = {"torchvision": torchvision, "timm": timm}
    targets: tuple[TargetName, TargetName] = ("torchvision", "timm")
    for target, expected in zip(targets, EXPECTED[release.id], strict=True):
        found = release_runs.run(release, target, mirror, out)
        print(f"{release.name} to {target}: {found}")
        if "num_classes=" not in expected:
            assert not found.exact
            assert expected in found.problem
            continue
        assert found.exact, found.refusal
        assert found.model == expected
        assert found.worst < 1e-9
        compare_with_stock(out, eval(found.model, names))


@pytest.mark.parametrize(
    ("mirrored", "target", "engine"),
    [("M1", "torchvision", "mxnet"), ("C9", "timm", "opencv")],
    indirect=["mirrored"],
)
def test_the_original_engine_agrees_with_a_stock_model(
    mirrored: tuple[Release, Path], target: TargetName, engine: str
) -> None:
    """It is fed what the source is fed, and MXNet in float64 too: nothing is rounded on the way."""
    release, mirror = mirrored
    assert release_runs.convert_by_name(release, target, mirror, mirror / "out.pth", oracle=engine).exact


def compare_with_stock(out: Path, model: torch.nn.Module) -> None:
    """The real stock model loads the checkpoint strictly, and gives the logits that ours gives."""
    model.load_state_dict(checkpoint.read(out), strict=True)
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    image = (image - 0.45) / 0.22
    with torch.inference_mode():
        theirs, ours = model.eval()(image), rc.load(out)(image)
    assert torch.isfinite(theirs).all()
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()
