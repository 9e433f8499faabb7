"""The names of published releases, and what happens when a source has one and holds another network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from repository import FIXTURES

from resnext_convert.converter import pipeline, releases
from resnext_convert.converter.errors import ReleaseMismatchError

TINY = FIXTURES / "resnext-tiny"


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """The tiny network under the name of a published release."""
    for file, name in (("resnext-tiny-symbol.json", "resnext-101-symbol.json"),
                       ("resnext-tiny-0000.params", "resnext-101-0000.params")):  # fmt: skip
        shutil.copy(TINY / file, tmp_path / name)
    return tmp_path / "resnext-101"


def test_the_catalogue_has_each_name_once() -> None:
    names = [(release.name, release.framework) for release in releases.catalogue()]
    assert names
    assert len(set(names)) == len(names)


def test_a_prefix_that_is_a_release_s_name_must_be_that_network(impostor: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseMismatchError) as refusal:
        pipeline.convert("mxnet", impostor, tmp_path / "out.pth", oracle="none")
    assert refusal.value.exit_code == 4
    assert refusal.value.expected == "ResNeXt-101 (32x4d)"
    assert refusal.value.found == "ResNeXt-17 (4x2d)"
    assert not (tmp_path / "out.pth").exists()


def test_files_named_one_by_one_claim_no_release(impostor: Path, tmp_path: Path) -> None:
    report = pipeline.convert(
        "mxnet",
        impostor,
        tmp_path / "out.pth",
        symbol=impostor.with_name("resnext-101-symbol.json"),
        params=impostor.with_name("resnext-101-0000.params"),
        verify=False,
    )
    assert report.source.release is None


@pytest.mark.parametrize("name", ["resnext-50", "se_resnext101_64x4d", "senet_154", "cifar_resnext29_16x64d"])
def test_known_names(name: str) -> None:
    release = releases.named(Path("models") / name, "mxnet")
    assert release is not None
    assert release.name == name
    assert releases.named(Path("models") / name, "caffe") is None
