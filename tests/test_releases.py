"""What the name of a release means, and what happens when a source has one and holds another network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from repository import FIXTURES

from resnext_convert.converter import pipeline, releases
from resnext_convert.converter.errors import ReleaseMismatchError, UsageError
from resnext_convert.converter.releases import Expected, Release, candidates, catalogue, find
from resnext_convert.converter.resnext.config import NormConfig, PoolConfig, ResNeXtConfig, resnext

TINY = FIXTURES / "resnext-tiny"

# --- what a name means -----------------------------------------------------------------------------------------------


def test_each_name_means_its_release() -> None:
    for release in catalogue():
        assert find(release.name) is release
        assert find(release.name, release.framework) is release


def test_each_alias_means_one_release_or_is_said_to_mean_several() -> None:
    names = {release.name: release for release in catalogue()}
    owners: dict[str, list[Release]] = {}
    for release in catalogue():
        for alias in release.aliases:
            owners.setdefault(alias, []).append(release)
    several = set()
    for alias, found in owners.items():
        if alias in names:
            assert find(alias) is names[alias]
        elif len(found) == 1:
            assert find(alias) is found[0]
        else:
            several.add(alias)
            with pytest.raises(UsageError, match="several releases are called") as refusal:
                find(alias)
            assert refusal.value.expected == " or ".join(release.name for release in found)
            assert "releases list" in str(refusal.value.hint)
    assert several == {
        "resnext50_32x4d",
        "resnext101_32x4d",
        "resnext101_64x4d",
        "se_resnext101_32x4d",
        "se_resnext101_64x4d",
        "senet_154",
    }


@pytest.mark.parametrize(
    ("name", "framework", "identifier"),
    [
        ("resnext-101-64x4d", None, "M3"),
        ("simpledet/resnext-101-64x4d", None, "T1"),
        ("resnext-50", None, "M1"),
        ("ResNeXt-50", None, "C1"),
        ("RESNEXT-50", "mxnet", "M1"),
        ("resnext-50", "caffe", "C1"),
        ("senet-154", None, "C11"),
        ("cypw/resnext-152", None, "C3"),
        ("se-resnext152-32x4d", None, "M11"),
        ("OSMR/ResNeXt50_32x4d", None, "O6"),
        ("imagenet1k-rexnext-101-64x4d", "mxnet", "M3"),
    ],
)
def test_names_are_looked_up_from_exact_to_loose(name: str, framework: str | None, identifier: str) -> None:
    assert find(name, framework).id == identifier


def test_a_name_that_only_case_tells_apart_must_be_given_exactly() -> None:
    with pytest.raises(UsageError) as refusal:
        find("RESNEXT-50")
    assert refusal.value.expected == "resnext-50 or ResNeXt-50"


def test_an_unknown_name_brings_near_ones_and_the_way_to_the_list() -> None:
    with pytest.raises(UsageError, match="no release is called 'resnxt-101-64x4'") as refusal:
        find("resnxt-101-64x4")
    assert "resnext-101-64x4d" in str(refusal.value.expected)
    assert "resnext-convert releases list" in str(refusal.value.hint)
    with pytest.raises(UsageError) as refusal:
        find("alexnet")
    assert refusal.value.expected is None


def test_a_release_of_the_other_framework_is_named_as_such() -> None:
    with pytest.raises(UsageError, match="no release of mxnet, but of caffe"):
        find("SENet-154", "mxnet")
    with pytest.raises(UsageError, match="no releases of 'torch'"):
        find("SENet-154", "torch")


@pytest.mark.parametrize(
    ("prefix", "framework", "identifiers"),
    [
        ("resnext-50", "mxnet", ["M1"]),
        ("resnext-50", "caffe", []),
        ("resnext-101-64x4d", "mxnet", ["M3", "T1"]),
        ("resnext101_64x4d", "mxnet", ["M8", "G3", "D1", "O8"]),
        ("resnext50_32x4d-4ecf62e2", "mxnet", ["G1"]),
        ("senet_154", "mxnet", ["G7", "D4"]),
        ("deploy_resnext50-32x4d", "caffe", ["C5"]),
        ("resnext50-32x4d", "caffe", ["C5"]),
        ("ResNeXt-101-deploy", "caffe", ["C2"]),
        ("ResNeXt-101", "caffe", ["C2"]),
        ("my-own", "mxnet", []),
        ("model", "mxnet", []),
    ],
)
def test_a_prefix_may_be_these_releases(prefix: str, framework: str, identifiers: list[str], tmp_path: Path) -> None:
    assert [release.id for release in candidates(tmp_path / prefix, framework)] == identifiers


def test_a_file_or_a_folder_names_no_release(tmp_path: Path) -> None:
    (tmp_path / "resnext-50").mkdir()
    (tmp_path / "resnext-101").touch()
    assert candidates(tmp_path / "resnext-50", "mxnet") == ()
    assert candidates(tmp_path / "resnext-101", "mxnet") == ()


# --- what a network must be ------------------------------------------------------------------------------------------


def resnext50(eps: float = 2e-5, classes: int = 1000, *, data_norm: bool = True) -> ResNeXtConfig:
    """The network of resnext-50."""
    config = resnext((3, 4, 6, 3), cardinality=32, base_width=4, eps=eps, classes=classes)
    return replace(config, data_norm=NormConfig(channels=3, eps=eps) if data_norm else None)


def test_the_network_of_a_release_fits_it() -> None:
    releases_found = (find("resnext-50"),)
    assert releases.check(releases_found, resnext50(), "models/resnext-50", exactly=True) == releases_found


def test_eps_of_caffe_is_a_float32() -> None:
    release = replace(find("ResNeXt-50"), expected=Expected(network="ResNeXt-50 (32x4d)", eps=(2e-5,)))
    assert releases.check((release,), resnext50(eps=1.9999999494757503e-05), "x") == (release,)


@pytest.mark.parametrize(
    ("config", "expected", "found"),
    [
        (
            resnext((3, 4, 23, 3), cardinality=32, base_width=4),
            "ResNeXt-50 (32x4d)",
            "ResNeXt-101 (32x4d)",
        ),
        (
            replace(resnext50(), stem_pool=PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), ceil_mode=True)),
            "ResNeXt-50 (32x4d); stem pool: 3x3 max, stride 2, padding 1",
            "ResNeXt-50 (32x4d); stem pool: 3x3 max, stride 2, size rounded up",
        ),
        (resnext50(eps=1e-5), "ResNeXt-50 (32x4d); eps 2e-05", "ResNeXt-50 (32x4d); eps 1e-05"),
        (resnext50(data_norm=False), "ResNeXt-50 (32x4d); bn_data", "ResNeXt-50 (32x4d); no bn_data"),
    ],
    ids=["network", "stem_pool", "eps", "data_norm"],
)
def test_another_network_is_refused_and_both_are_shown(config: ResNeXtConfig, expected: str, found: str) -> None:
    with pytest.raises(ReleaseMismatchError, match=r"is called resnext-50, as a release of data\.mxnet\.io") as refusal:
        releases.check((find("resnext-50"),), config, "models/resnext-50")
    assert refusal.value.expected == expected
    assert refusal.value.found == found
    assert refusal.value.file == "models/resnext-50"


def test_only_what_was_fetched_must_have_the_number_of_classes() -> None:
    found = (find("resnext-50"),)
    assert releases.check(found, resnext50(classes=11_221), "x") == found
    with pytest.raises(ReleaseMismatchError) as refusal:
        releases.check(found, resnext50(classes=11_221), "x", exactly=True)
    assert refusal.value.expected == "ResNeXt-50 (32x4d); 1,000 classes"
    assert refusal.value.found == "ResNeXt-50 (32x4d); 11,221 classes"


def test_of_several_releases_one_must_fit() -> None:
    possible = candidates(Path("resnext-101-64x4d"), "mxnet")
    config = resnext((3, 4, 23, 3), cardinality=64, base_width=4, eps=2e-5)
    with_norm = replace(config, data_norm=NormConfig(channels=3, eps=2e-5))
    assert [release.id for release in releases.check(possible, with_norm, "x")] == ["M3"]
    assert [release.id for release in releases.check(possible, config, "x")] == ["T1"]
    with pytest.raises(ReleaseMismatchError, match=r"of data\.mxnet\.io and one of tusen-ai/simpledet is") as refusal:
        releases.check(possible, resnext50(), "x")
    assert refusal.value.expected == "ResNeXt-101 (64x4d)"
    with pytest.raises(ReleaseMismatchError) as refusal:
        releases.check(possible, replace(with_norm, data_norm=NormConfig(channels=3, eps=1e-3)), "x")
    assert refusal.value.expected == "ResNeXt-101 (64x4d); eps 2e-05 or ResNeXt-101 (64x4d); no bn_data"
    assert refusal.value.found == "ResNeXt-101 (64x4d); eps 2e-05 and 0.001; bn_data"


def test_what_is_not_known_is_not_compared() -> None:
    release = replace(find("resnext-50"), expected=Expected(network="ResNeXt-50 (32x4d)"))
    config = replace(resnext50(eps=1e-3), stem_pool=None)
    assert releases.check((release,), config, "x", exactly=True) == (release,)
    nothing = replace(release, expected=None)
    assert releases.check((nothing,), resnext((2, 2, 2, 2), cardinality=1, base_width=64), "x") == (nothing,)
    assert releases.check((), config, "x") == ()


# --- in a conversion -------------------------------------------------------------------------------------------------


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """The tiny network under the name of a published release."""
    for file, name in (("resnext-tiny-symbol.json", "resnext-101-symbol.json"),
                       ("resnext-tiny-0000.params", "resnext-101-0000.params")):  # fmt: skip
        shutil.copy(TINY / file, tmp_path / name)
    return tmp_path / "resnext-101"


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
