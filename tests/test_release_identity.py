"""Which release files are, told by their bytes and their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnext_convert.converter.errors import MissingFileError
from resnext_convert.converter.release_identity import Identity, file_digest, identify
from resnext_convert.converter.releases import Algorithm, Checksum, Reissue, Release, ReleaseFile, candidates, find
from resnext_convert.converter.tensors import DType, TensorRef

GRAPH, WEIGHTS = b'{"nodes": []}', b"the weights"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A pair under the name that M3 and T1 share, of which nothing is known but its bytes."""
    found = {
        "symbol": tmp_path / "resnext-101-64x4d-symbol.json",
        "params": tmp_path / "resnext-101-64x4d-0000.params",
    }
    found["symbol"].write_bytes(GRAPH)
    found["params"].write_bytes(WEIGHTS)
    return found


def stored(arrays: Mapping[str, list[float]]) -> dict[str, TensorRef]:
    refs = {}
    for name, values in arrays.items():
        data = np.array(values, np.float32)
        refs[name] = TensorRef(name, DType.FLOAT32, data.shape, "here", memoryview(data.tobytes()))
    return refs


def tensors(mean: float = 0.5, var: float = 2, first: str = "arg:conv0_weight") -> dict[str, TensorRef]:
    """A first convolution and a normalisation with two channels, of which the second has these statistics."""
    return stored({first: [1], "aux:bn0_moving_mean": [0, mean], "aux:bn0_moving_var": [1, var]})


AFFINE = tensors(mean=0, var=1)


def checksum(content: bytes, algorithm: Algorithm = "md5", source: str = "its publisher", **more: bool) -> Checksum:
    return Checksum(algorithm=algorithm, value=hashlib.new(algorithm, content).hexdigest(), source=source, **more)


def published(release: Release, **checksums: tuple[Checksum, ...]) -> Release:
    """The release with these checksums of its files, by their roles, and no others."""
    given = tuple(replace(file, checksums=checksums.get(file.role, ())) for file in release.files)
    return replace(release, files=given, reissues=())


M3, T1 = find("resnext-101-64x4d"), find("simpledet/resnext-101-64x4d")


def test_without_candidates_there_is_nothing_to_tell(files: dict[str, Path]) -> None:
    assert identify((), files, AFFINE) == Identity()


def test_a_published_checksum_of_the_weights_decides(files: dict[str, Path]) -> None:
    # Against the structure: the statistics are those of simpledet's weights.
    found = identify((published(M3, params=(checksum(WEIGHTS),)), T1), files, AFFINE)
    assert found.release
    assert (found.release.id, found.proof) == ("M3", "weights")
    assert found.possible == (found.release,)
    assert found.reason == (
        "taken for resnext-101-64x4d: resnext-101-64x4d-0000.params has the published MD5 of its params file (its"
        " publisher)"
    )
    assert not found.warnings


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384"])
def test_any_algorithm_will_do(algorithm: Algorithm, files: dict[str, Path]) -> None:
    assert identify((published(M3, params=(checksum(WEIGHTS, algorithm),)), T1), files, AFFINE).proof == "weights"


def test_a_reissue_s_weights_are_the_release_s(files: dict[str, Path]) -> None:
    own = published(M3, params=(checksum(b"other"),))
    reissue = Reissue(by="someone", what="", files=(replace(own.files[1], checksums=(checksum(WEIGHTS),)),))
    found = identify((replace(own, reissues=(reissue,)), T1), files, tensors())
    assert found.proof == "weights"
    assert "has the published MD5 of its params file as someone reissued it (its publisher)" in found.reason
    assert not found.warnings


def test_checksums_of_archives_are_not_those_of_files(files: dict[str, Path]) -> None:
    found = identify((published(M3, params=(checksum(WEIGHTS, archive=True),)), T1), files, AFFINE)
    assert found.release is T1
    assert not found.warnings


def test_the_statistics_tell_simpledet_s_weights(files: dict[str, Path]) -> None:
    found = identify((M3, T1), files, AFFINE)
    assert (found.release, found.proof) == (T1, "structure")
    assert found.reason == (
        "taken for simpledet/resnext-101-64x4d: its normalisations have no statistics: every mean is 0 and every"
        " variance 1"
    )


@pytest.mark.parametrize(
    "stored_tensors",
    [
        tensors(mean=0.1, var=1),
        tensors(mean=0, var=1.1),
        {**AFFINE, **stored({"aux:bn_data_moving_mean": [0], "aux:bn_data_moving_var": [1]})},
        stored({"arg:conv0_weight": [1]}),
    ],
    ids=["mean", "variance", "bn_data", "no statistics"],
)
def test_all_else_is_not_simpledet_s(stored_tensors: dict[str, TensorRef], files: dict[str, Path]) -> None:
    found = identify((M3, T1), files, stored_tensors)
    assert (found.release, found.proof) == (M3, "structure")
    assert found.reason == "taken for resnext-101-64x4d: its normalisations have statistics"


def test_a_graph_decides_where_the_weights_do_not(files: dict[str, Path]) -> None:
    possible = (published(M3, symbol=(checksum(GRAPH),), params=(checksum(b"other"),)), T1)
    found = identify(possible, files, AFFINE)
    assert (found.release, found.proof) == (possible[0], "graph")
    assert "resnext-101-64x4d-symbol.json has the published MD5 of its symbol file" in found.reason
    (warning,) = found.warnings
    assert warning.startswith("resnext-101-64x4d-0000.params is not the params file that was published for")
    assert "its MD5 is another one (its publisher)" in warning


def test_a_graph_that_two_releases_have_decides_nothing(files: dict[str, Path]) -> None:
    graph = replace(M3.files[0], checksums=(checksum(GRAPH),))
    both = (published(M3, symbol=graph.checksums), replace(T1, files=(graph,)))
    assert identify(both, files, AFFINE).proof == "structure"


@pytest.mark.parametrize(
    ("first", "identifier"),
    [
        ("arg:conv1_weight", "M8"),
        ("features.0.weight", "G3"),
        ("features.0.conv.conv.weight", "O8"),
    ],
)
def test_publishers_name_tensors_differently(first: str, identifier: str, files: dict[str, Path]) -> None:
    found = identify(candidates(Path("resnext101_64x4d"), "mxnet"), files, tensors(first=first), digest=lambda *_: "")
    assert found.release
    assert (found.release.id, found.proof) == (identifier, "structure")
    assert "its tensors have that publisher's names" in found.reason


def test_what_cannot_be_told_is_left_open(files: dict[str, Path]) -> None:
    exported = tensors(first="arg:resnext0_conv0_weight")
    found = identify(candidates(Path("resnext101_64x4d"), "mxnet"), files, exported, digest=lambda *_: "")
    assert found.release is None
    assert [release.id for release in found.possible] == ["G3", "D1"]
    assert found.proof == "none"
    assert found.reason == (
        "the files may be gluoncv/resnext101_64x4d or djl/resnext101_64x4d; nothing in them tells which"
    )
    # What all of them have is known all the same, whoever says it.
    assert found.class_order == "imagenet-2012"
    assert found.domain == find("gluoncv/resnext101_64x4d").domain


def test_names_that_nobody_has_tell_nothing(files: dict[str, Path]) -> None:
    possible = candidates(Path("resnext101_64x4d"), "mxnet")
    found = identify(possible, files, tensors(first="arg:my_weight"), digest=lambda *_: "")
    assert found.possible == possible
    assert found.domain is None  # soeaver's is another one
    assert found.class_order == "imagenet-2012"
    assert Identity(possible=(find("resnext-50"), find("resnext-101-64x4d"))).class_order is None


def test_one_release_alone_is_believed_and_checked(files: dict[str, Path]) -> None:
    found = identify((published(M3),), files, tensors(first="arg:my_weight"))
    assert (found.release, found.proof) == (published(M3), "name")
    assert found.reason == "taken for resnext-101-64x4d: by the name of its files; nothing else tells"
    assert not found.warnings
    assert identify((find("resnext-50"),), files, tensors()).warnings  # its checksums are published


def test_each_digest_is_computed_once(files: dict[str, Path]) -> None:
    asked: list[tuple[str, str]] = []

    def digest(path: Path, algorithm: Algorithm) -> str:
        asked.append((path.name, algorithm))
        return "0"

    twice = (checksum(b"1"), checksum(b"2"), checksum(b"3", "sha256"))
    identify((published(M3, params=twice, symbol=twice), published(T1, params=twice)), files, AFFINE, digest=digest)
    assert sorted(asked) == sorted((path.name, algorithm) for path in files.values() for algorithm in ("md5", "sha256"))


def test_nothing_is_computed_where_nothing_was_published(files: dict[str, Path]) -> None:
    def digest(path: Path, algorithm: Algorithm) -> str:
        raise AssertionError(path)

    assert identify((published(M3), published(T1)), files, AFFINE, digest=digest).release == published(T1)


def test_roles_that_no_release_has_are_not_looked_at(files: dict[str, Path], tmp_path: Path) -> None:
    assert identify((M3, T1), {**files, "mean": tmp_path / "absent"}, AFFINE).release is T1


def test_caffe_has_other_roles_and_names(tmp_path: Path) -> None:
    local = {"prototxt": tmp_path / "deploy.prototxt", "weights": tmp_path / "resnext50-32x4d.caffemodel"}
    for path in local.values():
        path.write_bytes(WEIGHTS)
    release = find("soeaver/resnext50-32x4d")
    weights = ReleaseFile(role="weights", name="x.caffemodel", checksums=(checksum(WEIGHTS),))
    found = identify((replace(release, files=(release.files[0], weights)),), local, stored({"conv1[0]": [1]}))
    assert found.proof == "weights"
    (warning,) = found.warnings
    assert warning.startswith("deploy.prototxt is not the prototxt file that was published")


@pytest.mark.parametrize(("algorithm", "value"), [
    ("md5", "900150983cd24fb0d6963f7d28e17f72"),
    ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
])  # fmt: skip
def test_digests(algorithm: Algorithm, value: str, tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc", algorithm) == value


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="cannot be read: No such file"):
        file_digest(tmp_path / "absent", "md5")
