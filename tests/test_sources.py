"""What a user names: files of one's own, or a release by its name; and what is known of the network then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gluon_networks import made
from mxnet_params_writer import dense, params_list
from repository import FIXTURES

from resnext_convert.converter import checkpoint, pipeline, releases
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import (
    ConvertError,
    FetchError,
    MissingFactsError,
    MissingFileError,
    ReleaseMismatchError,
    UsageError,
)
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.releases import Checksum, Expected, Location, Release, ReleaseFile
from resnext_convert.converter.sources import facts_of, locate, understand

TINY = FIXTURES / "resnext-tiny"
FED = InputDomain(colour="rgb", mean=(1.0, 2.0, 3.0), source="its publisher")
NETWORK = "ResNeXt-17 (4x2d)"


def tiny(name: str = "publisher/tiny", **changes: Any) -> Release:
    """The tiny network as if it had been published."""
    files = (
        ReleaseFile(
            role="symbol",
            name="tiny-symbol.json",
            locations=(Location(url="http://127.0.0.1:9/models/tiny/tiny-symbol.json"),),
            checksums=(
                Checksum(
                    algorithm="sha256",
                    value=checkpoint.sha256(TINY / "resnext-tiny-symbol.json"),
                    source="its publisher",
                ),
            ),
        ),
        ReleaseFile(
            role="params",
            name="tiny-0000.params",
            locations=(Location(url="http://127.0.0.1:9/models/tiny/tiny-0000.params"),),
        ),
    )
    made = Release(
        id="X1",
        name=name,
        aliases=("tiny",),
        framework="mxnet",
        publisher="a publisher",
        files=files,
        expected=Expected(network=NETWORK, classes=10),
        domain=FED,
        class_order="cifar-10",
    )
    return replace(made, **changes)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """The publisher's server, as a folder."""
    folder = tmp_path / "mirror" / "models" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(TINY / "resnext-tiny-symbol.json", folder / "tiny-symbol.json")
    shutil.copy(TINY / "resnext-tiny-0000.params", folder / "tiny-0000.params")
    return tmp_path / "mirror"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Release]:
    """A catalogue of one release; tests may add to it."""
    known = [tiny()]
    monkeypatch.setattr(releases, "catalogue", lambda: tuple(known))
    monkeypatch.setenv("RESNEXT_CONVERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNEXT_CONVERT_FROM", raising=False)
    monkeypatch.chdir(tmp_path)
    return known


@pytest.mark.parametrize("name", ["publisher/tiny", "tiny", "Publisher/Tiny"])
def test_a_release_by_its_name(published: list[Release], mirror: Path, name: str) -> None:
    located = locate("mxnet", name, mirror=mirror)
    assert located.release is published[0]
    assert located.options.params == mirror / "models/tiny/tiny-0000.params"
    source = understand(located)
    assert source.release is published[0]
    assert (source.domain, source.class_order) == (FED, "cifar-10")
    assert source.match.config.summary == NETWORK


def test_the_whole_way_by_name(published: list[Release], mirror: Path, tmp_path: Path) -> None:
    report = pipeline.convert("mxnet", "tiny", tmp_path / "out.pth", mirror=mirror, oracle="none")
    assert report.source.release == "publisher/tiny"
    assert (report.source.domain, report.domain, report.class_order) == (FED, FED, "cifar-10")
    assert report.verification is not None
    assert report.verification.passed
    # The framework of a name is in the catalogue.
    assert pipeline.verify(tmp_path / "out.pth", None, "tiny", mirror=mirror, oracle="none").passed


def test_files_that_are_here_come_before_a_name(published: list[Release], mirror: Path, tmp_path: Path) -> None:
    for file in (mirror / "models/tiny").iterdir():
        shutil.copy(file, tmp_path)
    located = locate("mxnet", "tiny")
    assert located.release is None
    source = understand(located)
    assert source.release is published[0]
    assert "has the published SHA-256 of its symbol file" in source.identified
    # Whoever says where the release's files are means the release.
    assert locate("mxnet", "tiny", mirror=mirror).release is published[0]


def test_a_folder_or_files_by_option_are_no_release(published: list[Release], mirror: Path) -> None:
    folder = mirror / "models/tiny"
    assert understand(locate("mxnet", folder)).release is None
    named = locate("mxnet", "tiny", symbol=folder / "tiny-symbol.json", params=folder / "tiny-0000.params")
    source = understand(named)
    assert (source.release, source.domain, source.class_order) == (None, None, None)


def test_what_is_stated_comes_before_what_is_declared(published: list[Release], mirror: Path) -> None:
    published[0] = tiny(domain=replace(FED, resize=256, crop=224))
    own = InputDomain(colour="bgr", source="the user")
    source = understand(locate("mxnet", "tiny", mirror=mirror, domain=own, source_class_order="imagenet-2012"))
    assert (source.domain, source.class_order) == (replace(own, resize=256, crop=224), "imagenet-2012")


def test_an_order_of_other_classes_says_nothing_of_a_fine_tuned_network(
    published: list[Release], mirror: Path, tmp_path: Path
) -> None:
    published[0] = tiny(class_order="imagenet-2015")
    shutil.copytree(mirror / "models/tiny", tmp_path / "here")
    source = understand(locate("mxnet", tmp_path / "here" / "tiny"))
    assert source.release is published[0]
    assert source.class_order is None


def test_a_release_must_be_what_the_catalogue_says(published: list[Release], mirror: Path) -> None:
    published[0] = tiny(expected=Expected(network=NETWORK, classes=1000))
    with pytest.raises(ReleaseMismatchError) as refusal:
        understand(locate("mxnet", "tiny", mirror=mirror))
    assert "1,000 classes" in str(refusal.value.expected)
    assert "10 classes" in str(refusal.value.found)


def test_a_file_of_another_release_of_the_same_name_is_told(published: list[Release], mirror: Path) -> None:
    weights = checkpoint.sha256(mirror / "models/tiny/tiny-0000.params")
    other = tiny("other/tiny", id="X2", publisher="another publisher")
    params = replace(
        other.files[1], checksums=(Checksum(algorithm="sha256", value=weights, source="another publisher"),)
    )
    published.append(replace(other, files=(other.files[0], params)))
    with pytest.raises(ReleaseMismatchError, match="another release of the same name") as refusal:
        understand(locate("mxnet", "publisher/tiny", mirror=mirror))
    assert (refusal.value.expected, refusal.value.found) == ("publisher/tiny", "other/tiny")
    assert understand(locate("mxnet", "other/tiny", mirror=mirror)).release is published[1]


def test_a_name_of_several_is_ambiguous(published: list[Release]) -> None:
    published.append(tiny("other/tiny", id="X2"))
    with pytest.raises(UsageError, match="several releases are called 'tiny'") as refusal:
        locate("mxnet", "tiny")
    assert str(refusal.value.expected) == "publisher/tiny or other/tiny"


def test_neither_a_file_nor_a_release(published: list[Release]) -> None:
    with pytest.raises(MissingFileError) as refusal:
        understand(locate("mxnet", "tinny"))
    (note,) = refusal.value.__notes__
    assert "no release is called 'tinny'" in note
    assert "publisher/tiny" in note
    with pytest.raises(MissingFileError) as refusal:
        understand(locate("mxnet", "folder/of/mine"))
    assert not hasattr(refusal.value, "__notes__")


def test_a_mirror_is_for_releases(published: list[Release], mirror: Path) -> None:
    with pytest.raises(UsageError, match="no release is called"):
        locate("mxnet", "nothing", mirror=mirror)


def test_a_release_s_files_are_not_to_be_named_as_well(published: list[Release], mirror: Path) -> None:
    with pytest.raises(UsageError, match="files of one's own"):
        locate("mxnet", "tiny", epoch=3)


def test_there_is_no_other_framework(published: list[Release]) -> None:
    with pytest.raises(UsageError, match="no reader for 'torch7'"):
        locate("torch7", "tiny")  # type: ignore[arg-type]


def test_a_release_without_files(published: list[Release]) -> None:
    published[0] = tiny(files=())
    with pytest.raises(FetchError, match="in no form that can be converted"):
        locate("mxnet", "tiny")


def test_offline_without_the_files(published: list[Release]) -> None:
    with pytest.raises(FetchError, match="--offline asks no server") as refusal:
        locate("mxnet", "tiny", offline=True)
    assert refusal.value.exit_code == 7


def test_fetching_is_shown(published: list[Release], mirror: Path) -> None:
    seen: list[str] = []

    @contextmanager
    def watch() -> Iterator[Any]:
        yield (lambda name, done, total: None), seen.append

    locate("mxnet", "tiny", mirror=mirror, watch=watch)
    assert any("it is unverified" in text for text in seen)


def test_simpledet_s_file_of_a_name_that_data_mxnet_io_used_as_well(tmp_path: Path) -> None:
    """The file names are the same; the tensors are not: its normalisations only scale, and it has no bn_data."""
    stored = {
        "arg:conv0_weight": np.ones((64, 3, 7, 7), np.float32),
        "arg:stage1_unit1_conv1_weight": np.ones((256, 64, 1, 1), np.float32),
        "arg:bn0_gamma": np.full(64, 2, np.float32),
        "arg:bn0_beta": np.ones(64, np.float32),
        "aux:bn0_moving_mean": np.zeros(64, np.float32),
        "aux:bn0_moving_var": np.ones(64, np.float32),
    }
    params = tmp_path / "resnext-101-64x4d-0000.params"
    params.write_bytes(params_list([dense(values) for values in stored.values()], list(stored)))
    for source in (tmp_path / "resnext-101-64x4d", params):
        with pytest.raises(ConvertError) as refusal:
            understand(locate("mxnet", source))
        (note,) = refusal.value.__notes__
        assert note.startswith("taken for simpledet/resnext-101-64x4d")
        assert "no statistics" in note


# --- weights without a graph ------------------------------------------------------------------------------------------

FACTS = Expected(network=NETWORK, eps=(1e-5,), stem_pool="3x3 max, stride 2, padding 1")


def test_facts_of_a_release() -> None:
    assert facts_of(tiny(expected=FACTS)) == GraphFacts(eps=1e-5, stem_pool="3x3 max, stride 2, padding 1")
    for unknown in (None, replace(FACTS, eps=()), replace(FACTS, eps=(1e-5, 2e-5)), replace(FACTS, stem_pool=None)):
        with pytest.raises(UsageError, match="does not know the eps"):
            facts_of(tiny(expected=unknown))


def test_like_a_release(published: list[Release], tmp_path: Path) -> None:
    published[0] = tiny(expected=FACTS)
    (tmp_path / "own.params").write_bytes(b"")
    located = locate("mxnet", tmp_path / "own.params", like="tiny")
    assert located.options.facts == facts_of(published[0])
    with pytest.raises(UsageError, match="stated twice"):
        locate("mxnet", tmp_path / "own.params", like="tiny", facts=facts_of(published[0]))


def test_a_release_without_a_graph_brings_its_facts(published: list[Release], tmp_path: Path) -> None:
    expected = Expected(network="ResNeXt-11 (2x3d)", eps=(1e-5,), stem_pool="3x3 max, stride 2, padding 1")
    published[0] = tiny(expected=expected, layout="gluoncv", files=(tiny().files[1],), class_order=None)
    made("gluon").write(tmp_path).rename(tmp_path / "tiny-0000.params")
    located = locate("mxnet", "publisher/tiny", mirror=tmp_path)
    assert located.options.facts == facts_of(published[0])
    assert understand(located).release is published[0]


def test_without_facts_a_lone_params_file_is_refused(tmp_path: Path) -> None:
    source = made("gluon").write(tmp_path)
    with pytest.raises(MissingFactsError):
        understand(locate("mxnet", source))
