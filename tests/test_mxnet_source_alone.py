"""A params file without a symbol file: which one is meant, what must be stated, and what is said about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gluon_networks import CIFAR, EPS, FACTS, NAMINGS, NONE, Naming, Plan, made
from inspecting import inspected
from mxnet_graphs import BASE
from mxnet_params_writer import Array, dense, npy, params_list, zip_of

from resnext_convert.converter import readers
from resnext_convert.converter.engines import ENGINES
from resnext_convert.converter.errors import (
    FormatError,
    MissingFactsError,
    MissingFileError,
    MissingTensorError,
    NotResNeXtError,
    ShapeError,
    UsageError,
    ValueRangeError,
)
from resnext_convert.converter.findings import PairInspection, ParamsInspection
from resnext_convert.converter.inspection import inspect
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.readers import SourceOptions
from resnext_convert.converter.resnext.match import match


def other(path: Path) -> Path:
    """A params file whose names are of no scheme that is known."""
    path.write_bytes(params_list([dense(np.ones(3, np.float32))], ["arg:conv1_weight"]))
    return path


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_file_itself_its_folder_and_its_prefix(naming: Naming, tmp_path: Path) -> None:
    path = made(naming).write(tmp_path)
    for source in (path, tmp_path, tmp_path / "net"):
        model = read_source(source, facts=FACTS)
        assert model.origin.files == {"params": path}
        assert model.origin.graph_file == path
    assert read_source(None, params=path, facts=FACTS).origin.files == {"params": path}
    assert read_source(tmp_path / "elsewhere", params=path, facts=FACTS).origin.files == {"params": path}


def test_what_is_known_of_its_origin(tmp_path: Path) -> None:
    origin = read_source(made("gluon").write(tmp_path), facts=FACTS).origin
    assert (origin.framework, origin.version, origin.input_shape, origin.renamed) == ("mxnet", None, None, {})
    (warning,) = origin.warnings
    assert "GluonCV's structural names (save_parameters): a stem of 1 convolution, stages of 2-1 blocks" in warning
    assert "eps 0.001 and the stem's pooling '3x3 max, stride 2, padding 1'" in warning


@pytest.mark.parametrize("name", ["resnext50_32x4d-4ecf62e2.params", "net-0003.params", "weights.bin"])
def test_it_may_be_called_anything(name: str, tmp_path: Path) -> None:
    path = made("gluon").write(tmp_path).rename(tmp_path / name)
    assert read_source(path, facts=FACTS).origin.files == {"params": path}


def test_an_epoch_among_several(tmp_path: Path) -> None:
    path = made("gluon").write(tmp_path)
    for epoch in (1, 2):
        (tmp_path / f"net-{epoch:04d}.params").write_bytes(path.read_bytes())
    for source in (tmp_path, tmp_path / "net"):
        found = read_source(source, epoch=2, facts=FACTS).origin.files["params"]
        assert found.name == "net-0002.params"
        with pytest.raises(MissingFileError, match="the symbol file is not found") as refusal:
            read_source(source, facts=FACTS)
        assert "name the .params file itself" in (refusal.value.hint or "")
    with pytest.raises(UsageError, match="not of that epoch"):
        read_source(tmp_path / "net-0002.params", epoch=1, facts=FACTS)


def test_files_beside_it_do_not_matter(tmp_path: Path) -> None:
    path = made("gluon").write(tmp_path)
    (tmp_path / "other-symbol.json").touch()
    other(tmp_path / "other-0000.params")
    for source in (path, tmp_path / "net"):
        assert read_source(source, facts=FACTS).origin.files == {"params": path}


def test_a_zip_of_arrays(tmp_path: Path) -> None:
    # MXNet 2.0's save_parameters, which has structural names as well.
    path = tmp_path / "net.params"
    arrays = {name: array.astype(np.float32) for name, array in made("gluon").tensors.items()}
    path.write_bytes(zip_of({f"{name}.npy": npy(array) for name, array in arrays.items()}))
    assert match(read_source(path, facts=FACTS)).config.summary == "ResNeXt-11 (2x3d)"


@pytest.mark.parametrize(("naming", "plan"), [("prefix", Plan(gate=True)), ("gluoncv2", CIFAR)])
def test_it_goes_the_common_way(naming: Naming, plan: Plan, tmp_path: Path) -> None:
    found = match(readers.read("mxnet", made(naming, plan).write(tmp_path), SourceOptions(facts=plan.facts)))
    assert not found.ignored
    assert found.config.head.classes == 5


# What must be stated


def test_facts_must_be_stated(tmp_path: Path) -> None:
    with pytest.raises(MissingFactsError, match="there is no symbol file") as refusal:
        read_source(made("gluon").write(tmp_path))
    assert refusal.value.exit_code == 2
    assert refusal.value.file == str(tmp_path / "net.params")
    assert "stages of 2-1 blocks" in (refusal.value.found or "")
    for option in ("--like", "--bn-eps", "--stem-pool"):
        assert option in (refusal.value.hint or "")


def test_facts_beside_a_symbol_file_are_refused(tmp_path: Path) -> None:
    made("gluon").write(tmp_path, symbol=True)
    assert read_source(tmp_path).origin.files.keys() == {"symbol", "params"}
    with pytest.raises(UsageError, match="what the symbol file says"):
        read_source(tmp_path, facts=FACTS)


def test_facts_are_for_one_framework() -> None:
    assert SourceOptions(facts=FACTS).mxnet
    assert not SourceOptions(facts=FACTS).names_files
    with pytest.raises(UsageError, match="another framework"):
        readers.read("caffe", BASE, SourceOptions(facts=FACTS))


# What is refused


@pytest.mark.parametrize("facts", [None, FACTS])
def test_other_names_need_a_symbol_file(tmp_path: Path, facts: object) -> None:
    path = other(tmp_path / "net-0000.params")
    stated = None if facts is None else FACTS
    for source in (path, tmp_path, tmp_path / "net"):
        with pytest.raises(MissingFileError, match="the symbol file is not found"):
            read_source(source, facts=stated)


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = made("gluon").write(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError) as refusal:
        read_source(path, facts=FACTS)
    assert refusal.value.file == str(path)


def test_a_symbol_file_without_params_is_no_source(tmp_path: Path) -> None:
    made("gluon").write(tmp_path, symbol=True).unlink()
    for source in (tmp_path, tmp_path / "net-symbol.json"):
        with pytest.raises(MissingFileError, match="the params file is not found"):
            read_source(source, facts=FACTS)


REFUSED: list[tuple[dict[str, Array | None], type[Exception]]] = [
    ({"features.0.weight": None}, MissingTensorError),
    ({"output.weight": None, "output.bias": None}, NotResNeXtError),
    ({"features.4.0.body.0.weight": np.ones((4, 9, 1, 1))}, ShapeError),
    ({"features.1.gamma": np.ones(5)}, ShapeError),
    ({"features.1.running_var": np.full(4, -1.0)}, ValueRangeError),
    ({"output.bias": np.full(5, np.nan)}, ValueRangeError),
    ({"output.bias": np.ones(6)}, ShapeError),
]


@pytest.mark.parametrize(("changes", "error"), REFUSED)
def test_what_is_refused_names_the_file(
    changes: dict[str, Array | None], error: type[Exception], tmp_path: Path
) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(made("gluon").content(changes))
    with pytest.raises(error) as refusal:
        read_source(path, facts=FACTS)
    assert str(path) in str(refusal.value)


def test_structural_names_beside_another_graph(tmp_path: Path) -> None:
    made("prefix").write(tmp_path, symbol=True)
    (tmp_path / "net.params").write_bytes(made("gluon").content())
    with pytest.raises(MissingTensorError) as refusal:
        read_source(tmp_path)
    assert "leave the symbol file out" in (refusal.value.hint or "")


# Who else asks


def test_mxnet_has_nothing_to_read(tmp_path: Path) -> None:
    model = read_source(made("gluon").write(tmp_path), facts=FACTS)
    assert ENGINES["mxnet"].cannot_be_asked(model) == "there is no symbol file to give to MXNet"


@pytest.mark.parametrize("naming", NAMINGS)
def test_inspection_says_what_it_is(naming: Naming, tmp_path: Path) -> None:
    path = made(naming).write(tmp_path)
    for source in (path, tmp_path, tmp_path / "net"):
        found = inspect(source)
        assert isinstance(found, ParamsInspection)
        assert found.file.path == str(path)
        (note,) = found.notes
        assert "stages of 2-1 blocks, 5 classes); without a symbol file it can be converted with --like" in note


def test_inspection_says_what_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(made("gluon").content({"output.weight": None, "output.bias": None}))
    (note,) = inspected(ParamsInspection, path).notes
    assert "its symbol file is needed: the file holds a backbone without a classifier" in note


def test_inspection_of_a_pair_is_as_ever(tmp_path: Path) -> None:
    made("gluon", replace(Plan(), facts=FACTS)).write(tmp_path, symbol=True)
    found = inspected(PairInspection, tmp_path)
    assert found.network is not None
    assert {norm.eps for norm in (found.network.config.stem[0].norm,) if norm} == {EPS}


def test_a_stated_pooling_that_contradicts_names_the_file(tmp_path: Path) -> None:
    path = made("gluon").write(tmp_path)
    with pytest.raises(UsageError, match="contradicts the stem") as refusal:
        read_source(path, facts=NONE)
    assert refusal.value.file == str(path)
