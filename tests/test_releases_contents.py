"""The contents of the catalogue: that every release is there, and that what it says is well-formed and consistent."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator
from repository import ROOT

from resnext_convert.converter import release_schema
from resnext_convert.converter.releases import Checksum, Release, ReleaseFile, catalogue, find

SCHEMA = ROOT / "schemas/releases.schema.json"
IDS = [
    *(f"M{number}" for number in range(1, 12)),
    *(f"G{number}" for number in range(1, 9)),
    *(f"D{number}" for number in range(1, 5)),
    *(f"O{number}" for number in range(1, 12)),
    *(f"T{number}" for number in range(1, 4)),
    *(f"C{number}" for number in range(1, 12)),
]
NAMES = [
    "resnext-50",
    "resnext-101",
    "resnext-101-64x4d",
    "se-resnext-imagenet-50-0",
    "soeaver/resnext26_32x4d-priv",
    "soeaver/resnext50_32x4d",
    "soeaver/resnext101_32x4d",
    "soeaver/resnext101_64x4d",
    "soeaver/se-resnext50-32x4d",
    "soeaver/se-resnext101-32x4d",
    "soeaver/se-resnext152-64x4d",
    "gluoncv/resnext50_32x4d",
    "gluoncv/resnext101_32x4d",
    "gluoncv/resnext101_64x4d",
    "gluoncv/se_resnext50_32x4d",
    "gluoncv/se_resnext101_32x4d",
    "gluoncv/se_resnext101_64x4d",
    "gluoncv/senet_154",
    "gluoncv/cifar_resnext29_16x64d",
    "djl/resnext101_64x4d",
    "djl/se_resnext101_32x4d",
    "djl/se_resnext101_64x4d",
    "djl/senet_154",
    "osmr/resnext14_16x4d",
    "osmr/resnext14_32x2d",
    "osmr/resnext14_32x4d",
    "osmr/resnext26_32x2d",
    "osmr/resnext26_32x4d",
    "osmr/resnext50_32x4d",
    "osmr/resnext101_32x4d",
    "osmr/resnext101_64x4d",
    "osmr/seresnext50_32x4d",
    "osmr/seresnext101_32x4d",
    "osmr/seresnext101_64x4d",
    "simpledet/resnext-101-64x4d",
    "simpledet/resnext-101-32x8d",
    "simpledet/resnext-152-32x8d-IN5k",
    "ResNeXt-50",
    "ResNeXt-101",
    "ResNeXt-152",
    "soeaver/resnext26-32x4d-priv",
    "soeaver/resnext50-32x4d",
    "soeaver/resnext101-32x4d",
    "soeaver/resnext101-64x4d",
    "soeaver/resnext-merge",
    "SE-ResNeXt-50",
    "SE-ResNeXt-101",
    "SENet-154",
]
DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96}
ROLES = {"mxnet": {"symbol", "params"}, "caffe": {"prototxt", "weights"}}


def files() -> Iterator[tuple[Release, ReleaseFile]]:
    """Every file of every release, those that others made of it among them."""
    for release in catalogue():
        for file in (*release.files, *(file for reissue in release.reissues for file in reissue.files)):
            yield release, file


def checksums() -> Iterator[tuple[ReleaseFile, Checksum]]:
    for _, file in files():
        for checksum in file.checksums:
            yield file, checksum


def test_every_release_is_there_once_and_in_its_order() -> None:
    assert [release.id for release in catalogue()] == IDS
    assert len(IDS) == 48
    assert [release.name for release in catalogue()] == NAMES


def test_the_toml_is_what_its_schema_says() -> None:
    schema = json.loads(SCHEMA.read_bytes())
    Draft202012Validator.check_schema(schema)
    document = json.loads(json.dumps(tomllib.loads((ROOT / "schemas/releases.toml").read_text(encoding="utf-8"))))
    validator = Draft202012Validator(schema)
    validator.validate(document)
    for spoil in (
        {"release": [{**document["release"][0], "licence_": "MIT"}]},
        {"release": [{**document["release"][0], "framework": "torch"}]},
        {"release": [{key: value for key, value in document["release"][0].items() if key != "publisher"}]},
        {"releases": document["release"]},
    ):
        assert not validator.is_valid(spoil)


def test_the_schema_in_the_repository_is_that_of_the_types() -> None:
    made = SCHEMA.read_bytes()
    assert release_schema.schema() == made, (
        "python -m resnext_convert.converter.release_schema > schemas/releases.schema.json"
    )


def test_no_name_is_an_alias_of_the_same_release_or_given_twice() -> None:
    for release in catalogue():
        names = [release.name, *release.aliases]
        assert len(set(names)) == len(names)
        assert all(name == name.strip() and name.isascii() and name.isprintable() for name in names)


def test_files_have_the_roles_of_their_framework() -> None:
    for release in catalogue():
        roles = [file.role for file in release.files]
        if release.id == "C8":
            assert release.expected is None
            assert roles == []
        elif release.layout:
            assert roles == ["params"]
        else:
            assert set(roles) == ROLES[release.framework]
            assert len(roles) == 2
        for reissue in release.reissues:
            assert {file.role for file in reissue.files} == ROLES[release.framework]
            assert reissue.by
            assert reissue.what
    assert Counter(release.layout for release in catalogue() if release.layout) == {
        "gluoncv": 8,
        "osmr": 11,
        "simpledet": 3,
    }


def test_checksums_are_well_formed_and_name_their_source() -> None:
    found = list(checksums())
    assert len(found) > 80
    for file, checksum in found:
        assert re.fullmatch(rf"[0-9a-f]{{{DIGITS[checksum.algorithm]}}}", checksum.value), file.name
        assert checksum.source
        assert file.archive or not checksum.archive, "a checksum of an archive, for a file that is none"
    assert {checksum.algorithm for _, checksum in found} == set(DIGITS)


def test_no_two_weights_have_one_checksum() -> None:
    owners: dict[str, set[str]] = {}
    for release, file in files():
        for checksum in file.checksums:
            owners.setdefault(checksum.value, set()).add(release.id)
    assert {value: ids for value, ids in owners.items() if len(ids) > 1} == {}


def test_urls_are_well_formed() -> None:
    seen = 0
    for _, file in files():
        assert file.locations, file.name
        for location in file.locations:
            parts = urlsplit(location.url)
            assert parts.scheme in {"http", "https"}
            assert "." in parts.netloc
            assert " " not in location.url
            if not location.page:
                assert Path(parts.path).suffix, location.url
            seen += 1
        urls = [location.url for location in file.locations]
        assert len(set(urls)) == len(urls)
    assert seen > 100


def test_pages_for_people_are_marked() -> None:
    hosts = {"drive.google.com", "pan.baidu.com", "1drv.ms"}
    for _, file in files():
        for location in file.locations:
            if urlsplit(location.url).netloc in hosts:
                assert location.page, location.url


def test_hosts_that_are_gone_are_marked_with_a_source() -> None:
    for _, file in files():
        for location in file.locations:
            if urlsplit(location.url).netloc in {"data.mxnet.io", "data.dmlc.ml", "1drv.ms"}:
                assert re.search(r"20[0-9]{2}.*#[0-9]+", location.dead), location.url


def test_archives_are_named_as_such() -> None:
    for _, file in files():
        for location in file.locations:
            suffix = {"zip": ".zip", "gz": ".gz"}.get(file.archive, Path(file.name).suffix)
            assert location.page or location.url.endswith(suffix), location.url


@pytest.mark.parametrize(("part", "source"), [("sha1", "model_store.py")])
def test_the_hash_in_a_file_s_name_is_that_of_its_checksum(part: str, source: str) -> None:
    named = [(file, checksum) for file, checksum in checksums() if source in checksum.source]
    assert len(named) == 19
    for file, checksum in named:
        assert checksum.algorithm == part
        assert file.name.endswith(f"-{checksum.value[:8]}.params")
        assert all(checksum.value[:8] in location.url for location in file.locations)


def test_an_accuracy_has_a_source_and_is_one() -> None:
    for release in catalogue():
        assert (release.top1 is None) == (not release.accuracy_source), release.name
        if release.top1 is not None and release.id != "G8":
            assert release.top5 is not None
            assert 60 < release.top1 < release.top5 < 100


# Released accuracies, as (top-1, top-5); errors were published where the sum shows one.
@pytest.mark.parametrize(
    ("name", "top1", "top5"),
    [
        ("resnext-50", 76.89, 93.32),
        ("soeaver/resnext26_32x4d-priv", 100 - 25.62, 100 - 8.12),
        ("osmr/seresnext101_64x4d", 100 - 18.43, 100 - 4.08),
        ("gluoncv/senet_154", 81.26, 95.51),
        ("ResNeXt-152", 100 - 21.3, 100 - 5.6),
        ("SENet-154", 100 - 18.68, 100 - 4.47),
    ],
)
def test_accuracies(name: str, top1: float, top5: float) -> None:
    release = find(name)
    assert release.top1 == pytest.approx(top1)
    assert release.top5 == pytest.approx(top5)


def test_weights_without_a_graph_say_what_a_graph_needs() -> None:
    for release in catalogue():
        if release.layout:
            assert release.expected
            assert release.expected.stem_pool
            assert release.expected.data_norm is False
            assert len(release.expected.eps) == (0 if release.layout == "simpledet" else 1)


ORDERS = {
    "imagenet-2015": {"M1", "M2", "M9", "M10", "M11", "C9", "C10", "C11"},
    "cifar-10": {"G8"},
    None: {"M4", "T1", "T2", "T3", "C1", "C2", "C3", "C8"},
}


def test_the_orders_of_the_classes() -> None:
    for release in catalogue():
        others = {order for order, ids in ORDERS.items() if release.id in ids}
        assert release.class_order == (others.pop() if others else "imagenet-2012"), release.name


def test_inputs() -> None:
    unknown = {release.id for release in catalogue() if release.domain is None}
    assert unknown == {"C1", "C2", "C3", "C8", "T1", "T2", "T3"}
    assert all(release.uncertain for release in catalogue() if release.id in unknown)
    for release in catalogue():
        if release.domain:
            bgr = release.id in {"C4", "C5", "C6", "C7", "C9", "C10", "C11"}
            assert release.domain.colour == ("bgr" if bgr else "rgb")
            # The means of red are the largest everywhere.
            mean = release.domain.mean[::-1] if bgr else release.domain.mean
            assert sorted(mean, reverse=True) == list(mean)
            assert release.domain.range == (1 if release.id[0] in "GDO" else 255)
            assert all(value > 0 for value in release.domain.std)
            assert (max(mean) < 1) == (release.domain.range == 1 or not any(mean))


def test_sentences_end_as_sentences_do() -> None:
    for release in catalogue():
        for sentence in (*release.uncertain, *release.notes):
            assert re.match(r"[A-Z0-9]|timm|simpledet|data\.mxnet\.io|deepdetect", sentence), sentence
            assert sentence.endswith("."), sentence
