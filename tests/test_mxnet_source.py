"""From what the user names to a `SourceModel`: finding the pair of files, and reading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_graphs import BASE, CHECKPOINTS, document, variables, written
from mxnet_params_writer import params_list
from repository import FIXTURES
from shared_data import shared

from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingFileError,
    UsageError,
    ValueRangeError,
)
from resnext_convert.converter.graph import BatchNorm, Pool, PoolKind, Role, Unknown
from resnext_convert.converter.mxnet.source import locate, read_pair, read_source

RECORDINGS = FIXTURES / "mxnet" / "recordings"
SYMBOL, PARAMS = "model-symbol.json", "model-0000.params"
OUTCOMES = json.loads((CHECKPOINTS / "outcomes.json").read_bytes())


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def located(source: Path, **options: Any) -> tuple[str, str]:
    symbol, weights = locate(source, **{"symbol": None, "params": None, "epoch": None} | options)
    return symbol.name, weights.name


# Finding the pair


def test_a_folder_with_one_pair(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0007.params", "readme.txt")
    assert located(tmp_path) == ("net-symbol.json", "net-0007.params")


def test_a_folder_with_one_pair_of_other_names(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "weights.params")
    assert located(tmp_path) == ("net-symbol.json", "weights.params")


def test_of_several_params_files_the_one_with_the_prefix(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "net.params", "other-0000.params")
    assert located(tmp_path) == ("net-symbol.json", "net-0000.params")


def test_a_prefix(tmp_path: Path) -> None:
    touch(tmp_path, "a-symbol.json", "a-0000.params", "ab-symbol.json", "ab-0001.params", "a-b-0002.params")
    assert located(tmp_path / "a") == ("a-symbol.json", "a-0000.params")
    assert located(tmp_path / "ab") == ("ab-symbol.json", "ab-0001.params")


def test_a_prefix_may_end_in_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "se-50-0-symbol.json", "se-50-0-0125.params")
    assert located(tmp_path / "se-50-0") == ("se-50-0-symbol.json", "se-50-0-0125.params")


@pytest.mark.parametrize("name", ["net-symbol.json", "net-0003.params"])
def test_one_file_of_the_pair(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "net-symbol.json", "net-0003.params", "other-symbol.json", "other-0003.params")
    assert located(tmp_path / name) == ("net-symbol.json", "net-0003.params")


def test_a_params_file_of_one_epoch_among_several(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0003.params", "net-0004.params")
    assert located(tmp_path / "net-0003.params") == ("net-symbol.json", "net-0003.params")
    assert located(tmp_path / "net-0003.params", epoch=3) == ("net-symbol.json", "net-0003.params")


def test_a_params_file_without_epoch(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net.params")
    assert located(tmp_path / "net.params") == ("net-symbol.json", "net.params")


def test_both_named(tmp_path: Path) -> None:
    touch(tmp_path, "graph.json", "weights.bin")
    named = {"symbol": tmp_path / "graph.json", "params": tmp_path / "weights.bin"}
    assert located(tmp_path / "nowhere", **named) == ("graph.json", "weights.bin")


def test_one_named_beside_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "other.json", "net-0001.params")
    assert located(tmp_path, params=tmp_path / "net-0001.params") == ("net-symbol.json", "net-0001.params")
    assert located(tmp_path, symbol=tmp_path / "net-symbol.json", epoch=1) == ("net-symbol.json", "net-0001.params")


def test_one_named_beside_the_other_as_source(tmp_path: Path) -> None:
    touch(tmp_path, "graph.json", "weights.params")
    assert located(tmp_path / "graph.json", params=tmp_path / "weights.params") == ("graph.json", "weights.params")
    assert located(tmp_path / "weights.params", symbol=tmp_path / "graph.json") == ("graph.json", "weights.params")


def test_an_epoch_is_chosen_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "net-0010.params", "net-12345.params")
    for source in (tmp_path, tmp_path / "net", tmp_path / "net-symbol.json"):
        assert located(source, epoch=0)[1] == "net-0000.params"
        assert located(source, epoch=12345)[1] == "net-12345.params"


def test_no_epoch_is_preferred(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "net-0010.params")
    for source in (tmp_path, tmp_path / "net", tmp_path / "net-symbol.json"):
        with pytest.raises(MissingFileError, match="the epoch must be named") as refusal:
            located(source)
        assert refusal.value.found == "epochs 0, 10"
        assert refusal.value.hint is not None
        assert "--epoch" in refusal.value.hint


def test_an_epoch_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "net-0010.params")
    with pytest.raises(MissingFileError, match="no params of that epoch") as refusal:
        located(tmp_path, epoch=5)
    assert refusal.value.expected == "net-0005.params"
    assert refusal.value.found == "epochs 0, 10"


def test_one_epoch_under_two_names(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0001.params", "net-00001.params")
    with pytest.raises(MissingFileError, match="more than one params file"):
        located(tmp_path, epoch=1)


def test_several_graphs_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a-symbol.json", "a-0000.params", "b-symbol.json", "b-0000.params")
    with pytest.raises(MissingFileError, match="more than one symbol file") as refusal:
        located(tmp_path)
    assert refusal.value.found == "a-0000.params, a-symbol.json, b-0000.params, b-symbol.json"


@pytest.mark.parametrize(
    ("files", "source", "expected"),
    [
        ([], "", "*-symbol.json"),
        ([], "net", "net-symbol.json"),
        (["net.json", "net-0000.params"], "net", "net-symbol.json"),
        (["net-0000.params"], "net-0000.params", "net-symbol.json"),
        (["other-symbol.json", "net-0000.params"], "net-0000.params", "net-symbol.json"),
        (["net-symbol.json"], "", "net-NNNN.params"),
        (["net-symbol.json", "net-0000.params.gz"], "net", "net-NNNN.params"),
        (["net-symbol.json", "a.params", "b.params"], "", "net-NNNN.params"),
        (["net-symbol.json", "other-0000.params"], "net", "net-NNNN.params"),
        (["net-symbol.json", "other-0000.params"], "net-symbol.json", "net-NNNN.params"),
        (["net-symbol.json", "other.params"], "", "net-0003.params"),
    ],
)
def test_what_is_missing_is_named_beside_what_is_there(
    tmp_path: Path, files: list[str], source: str, expected: str
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(MissingFileError) as refusal:
        located(tmp_path / source, epoch=3 if expected == "net-0003.params" else None)
    assert refusal.value.expected == expected
    assert refusal.value.found == (", ".join(sorted(files)) or "no .json or .params file among 0 files")
    assert refusal.value.hint


def test_a_long_list_is_cut_short(tmp_path: Path) -> None:
    touch(tmp_path, *(f"net{item:02d}-0000.params" for item in range(20)))
    with pytest.raises(MissingFileError) as refusal:
        located(tmp_path)
    assert refusal.value.found is not None
    assert refusal.value.found.endswith("net11-0000.params and 8 more")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "net-symbol.json").mkdir()
    with pytest.raises(MissingFileError):
        located(tmp_path)


@pytest.mark.parametrize("source", ["nowhere/net", "nowhere/net-symbol.json", "x" * 3000, "a\0b"])
def test_a_source_that_is_not_there(tmp_path: Path, source: str) -> None:
    with pytest.raises(MissingFileError):
        located(tmp_path / source)


@pytest.mark.parametrize(
    "options",
    [
        {"symbol": "net-symbol.json", "params": "net-0000.params", "epoch": 1},
        {"params": "net-0000.params", "epoch": 1},
        {"params": "weights.params", "epoch": 0},
    ],
)
def test_an_epoch_that_contradicts_the_name(tmp_path: Path, options: dict[str, Any]) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params", "weights.params")
    named = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UsageError, match="epoch"):
        located(tmp_path, **named)


def test_the_same_file_named_twice(tmp_path: Path) -> None:
    touch(tmp_path, "net-symbol.json", "net-0000.params")
    with pytest.raises(UsageError, match="twice"):
        located(tmp_path / "net-symbol.json", symbol=tmp_path / "net-symbol.json")
    with pytest.raises(UsageError, match="twice"):
        located(tmp_path / "net-0000.params", params=tmp_path / "net-0000.params")


def test_without_a_source_both_must_be_named() -> None:
    with pytest.raises(UsageError, match="neither"):
        read_source(None, symbol=BASE / SYMBOL)
    model = read_source(None, symbol=BASE / SYMBOL, params=BASE / PARAMS)
    assert model.origin.files == {"symbol": BASE / SYMBOL, "params": BASE / PARAMS}


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_source(BASE, params=tmp_path / "weights.params")


# Whole recordings


@pytest.mark.parametrize("folder", sorted(RECORDINGS.iterdir()), ids=lambda folder: folder.name)
def test_recording(folder: Path) -> None:
    model = read_source(folder)
    assert model.graph.inputs == ("data",)
    assert model.origin.framework == "mxnet"
    assert model.origin.version == folder.name.partition("-")[0].partition(".post")[0].replace("0.8.0", "0.8 or before")
    assert model.origin.warnings == ()
    used = [name for item in model.graph.nodes for name in item.params.values()]
    assert sorted(used) == sorted(model.tensors)  # each tensor once: nothing is left over, nothing is shared


def test_value_names_are_those_of_mxnet() -> None:
    with np.load(BASE / "io.npz") as stored:
        internals = set(map(str, stored["stat_names"]))
    graph = read_source(BASE).graph
    assert {value for item in graph.nodes for value in item.outputs} == internals
    assert graph.outputs == ("softmax_output",)


def test_one_node_in_full() -> None:
    found = read_source(BASE).graph.producers["bn0_output"]
    assert (found.name, found.op, found.inputs) == ("bn0", "BatchNorm", ("conv0_output",))
    assert found.attrs == BatchNorm(eps=2e-5, momentum=0.9, fix_gamma=False)
    assert found.params == {
        Role.GAMMA: "arg:bn0_gamma",
        Role.BETA: "arg:bn0_beta",
        Role.MEAN: "aux:bn0_moving_mean",
        Role.VAR: "aux:bn0_moving_var",
    }


def test_statistics_that_0_8_leaves_out_of_the_graph() -> None:
    found = read_source(RECORDINGS / "0.8.0-imagenet").graph.producers["bn_data_output"]
    assert found.params[Role.VAR] == "aux:bn_data_moving_var"


def test_heads_keep_their_order() -> None:
    assert read_source(RECORDINGS / "0.8.0-two_heads").graph.outputs == ("softmax_output", "pool1_output")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path, dirs_exist_ok=True)
    (tmp_path / SYMBOL).write_bytes((BASE / SYMBOL).read_bytes()[:1000])
    with pytest.raises(FormatError) as refusal:
        read_source(tmp_path)
    assert refusal.value.file == str(tmp_path / SYMBOL)


# Rules that MXNet changed


def warnings(tmp_path: Path, *nodes: tuple[Any, ...], version: int | None) -> tuple[str, ...]:
    (tmp_path / SYMBOL).write_bytes(written(document(*variables("data"), *nodes, version=version)))
    (tmp_path / PARAMS).write_bytes(params_list([]))
    return read_source(tmp_path).origin.warnings


AVERAGE_FULL = {"kernel": "(3, 3)", "pool_type": "avg", "pooling_convention": "full"}
MAX_PADDED = {"kernel": "(3, 3)", "pad": "(1, 1)"}


def test_averages_of_0_8(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, ("Pooling", "pool", [0], AVERAGE_FULL), version=None)
    assert warning.startswith("node 'pool' (Pooling): MXNet 0.8 divided")
    assert warnings(tmp_path, ("Pooling", "pool", [0], AVERAGE_FULL), version=900) == ()
    assert warnings(tmp_path, ("Pooling", "pool", [0], AVERAGE_FULL | {"global_pool": "1"}), version=None) == ()


@pytest.mark.parametrize(("op", "version"), [("Pooling", 800), ("Pooling_v1", 10901)])
def test_padding_that_counted_as_zero(tmp_path: Path, op: str, version: int) -> None:
    (warning,) = warnings(tmp_path, (op, "pool", [0], MAX_PADDED), version=version)
    assert "padding counted as 0" in warning
    after_relu = [("relu", "r", [0]), (op, "pool", [1], MAX_PADDED)]
    assert warnings(tmp_path, *after_relu, version=version) == ()
    assert warnings(tmp_path, (op, "pool", [0], {"kernel": "(3, 3)"}), version=version) == ()


def test_padding_is_ignored_since(tmp_path: Path) -> None:
    assert warnings(tmp_path, ("Pooling", "pool", [0], MAX_PADDED), version=900) == ()


@pytest.mark.parametrize(("version", "expected"), [(10100, 1), (10200, 0)])
def test_padding_of_global_pooling(tmp_path: Path, version: int, expected: int) -> None:
    pool = ("Pooling", "pool", [0], MAX_PADDED | {"global_pool": "True"})
    assert len(warnings(tmp_path, pool, version=version)) == expected


# The acceptance data


@pytest.mark.acceptance
def test_every_checkpoint_ends_as_in_mxnet() -> None:
    """Every recorded oddity is read or refused as MXNet 1.9.1 does, but for what is listed."""
    more = {"no_prefix", "json_bom", "json_unknown_op"}  # Gluon's names; a mark that editors add; kept as Unknown
    less = {"negative_var": ValueRangeError}  # MXNet computes NaN and hides it in a ReLU
    folders = [folder for folder in shared("golden/mxnet/checkpoints").iterdir() if folder.is_dir()]
    assert len(folders) == 53
    for folder in folders:
        symbol, weights = (folder / name if (folder / name).exists() else BASE / name for name in (SYMBOL, PARAMS))
        ok = OUTCOMES[folder.name]["mxnet_1.9.1"]["ok"]
        if (ok or folder.name in more) and folder.name not in less:
            read_pair(symbol, weights)
            continue
        with pytest.raises(less.get(folder.name, InputError)) as refusal:
            read_pair(symbol, weights)
        assert refusal.value.file in {str(symbol), str(weights)}, folder.name
        assert refusal.value.hint, folder.name


@pytest.mark.acceptance
def test_every_recording_in_full() -> None:
    folders = sorted(path.parent for path in shared("golden/mxnet").glob("*/io.npz"))
    assert len(folders) == 138
    for folder in folders:
        model = read_source(folder)
        used = [name for item in model.graph.nodes for name in item.params.values()]
        assert sorted(used) == sorted(model.tensors), folder.name
        assert bool(model.origin.warnings) == (folder.name == "0.8.0-pool_avg_full"), folder.name


@pytest.mark.acceptance
def test_the_published_model_whose_files_disagree_on_names() -> None:
    model = read_source(shared("weights/charrin_retinaface_mnet25"))
    (warning,) = model.origin.warnings
    assert warning.startswith("54 moving statistics have other names")
    assert {item.op for item in model.graph.nodes if isinstance(item.attrs, Unknown)} == {"UpSampling", "Crop"}
    pools = [item.attrs for item in model.graph.nodes if isinstance(item.attrs, Pool)]
    assert not [pool for pool in pools if pool.kind is not PoolKind.MAX]


@pytest.mark.acceptance
def test_two_networks_in_one_folder() -> None:
    folder = shared("weights/mentalblood_mnist")
    with pytest.raises(MissingFileError, match="more than one symbol file"):
        read_source(folder)
    assert read_source(folder / "mnist").origin.files["params"].name == "mnist-0035.params"
    assert read_source(folder / "fashion-mnist").origin.files["params"].name == "fashion-mnist-0039.params"
