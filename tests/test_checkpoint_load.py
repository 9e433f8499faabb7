"""Loading: the module that a checkpoint and its report describe, and what happens if they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save, tiny_arrays
from graph_builder import TINY
from pydantic import TypeAdapter
from single_node import ramp

import resnext_convert as rc
from resnext_convert.converter import checkpoint
from resnext_convert.converter.errors import FormatError, MissingFileError
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.tensors import Array


def as_json(config: ResNeXtConfig) -> Any:
    return TypeAdapter(ResNeXtConfig).dump_python(config, mode="json")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """A checkpoint, the report beside it, and what that holds as far as loading needs it."""
    path = save(tiny_arrays(), tmp_path / "out.pth")
    report = {"output": {"sha256": checkpoint.sha256(path)}, "config": as_json(TINY)}
    beside = tmp_path / "out.json"
    beside.write_text(json.dumps(report))
    return path, beside, report


def test_load(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, _, _ = pair
    module = rc.load(path)
    assert isinstance(module, ResNeXt)
    assert module.config == TINY
    assert not any(layer.training for layer in module.modules())
    expected = tiny_arrays()
    assert all(np.array_equal(value.numpy(), expected[key]) for key, value in module.state_dict().items())


def test_a_module_that_is_trained_leaves_the_file_as_it_is(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    """The weights are mapped from the file, and what is written to them is private."""
    path, _, _ = pair
    before = path.read_bytes()
    module = rc.load(path).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.from_numpy(ramp(2, 3, 40, 40)).float()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(module.get_parameter("fc.bias"), torch.from_numpy(np.array(tiny_arrays()["fc.bias"])))
    assert path.read_bytes() == before
    assert torch.equal(rc.load(path).get_buffer("bn1.num_batches_tracked"), torch.tensor(0))


def test_a_checkpoint_that_is_not_there(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, _, _ = pair
    path.unlink()
    with pytest.raises(MissingFileError, match="no such file") as error:
        rc.load(path)
    assert error.value.file == str(path)


def test_a_report_that_is_not_there(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, beside, _ = pair
    beside.unlink()
    with pytest.raises(MissingFileError, match="no report beside the checkpoint") as error:
        rc.load(path)
    assert error.value.file == str(beside)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"report"', "\ufeff{}", "{" * 100_000, '{"a": ' * 100_000, "<html>"]
)
def test_a_report_that_is_damaged(pair: tuple[Path, Path, dict[str, Any]], text: str) -> None:
    path, beside, _ = pair
    beside.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match="the report") as error:
        rc.load(path)
    assert error.value.file == str(beside)


def test_a_report_in_another_encoding(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, beside, _ = pair
    beside.write_bytes(b'{"output": "\xff\xfe"}')
    with pytest.raises(FormatError, match="the report cannot be read"):
        rc.load(path)


@pytest.mark.parametrize("output", [None, [], "sha256", {}, {"sha256": None}, {"sha256": "0" * 64}, {"sha256": 5}])
def test_a_report_of_another_checkpoint(pair: tuple[Path, Path, dict[str, Any]], output: object) -> None:
    path, beside, report = pair
    beside.write_text(json.dumps({**report, "output": output}))
    with pytest.raises(FormatError, match="the report beside the checkpoint is of another one") as error:
        rc.load(path)
    assert error.value.file == str(path)
    assert error.value.found == checkpoint.sha256(path)


def test_a_checkpoint_that_has_changed(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, _, _ = pair
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="of another one"):
        rc.load(path)


def test_a_checkpoint_that_is_a_folder(pair: tuple[Path, Path, dict[str, Any]]) -> None:
    path, _, _ = pair
    path.unlink()
    path.mkdir()
    with pytest.raises(MissingFileError, match="no report beside the checkpoint"):
        rc.load(path)


def edited(config: Any, path: str, value: Any) -> Any:
    """A copy of the configuration's JSON with another value at ``stages.0.0.units.1.conv.groups``."""
    copy = json.loads(json.dumps(config))
    *way, last = path.split(".")
    item = copy
    for step in way:
        item = item[int(step)] if step.isdigit() else item[step]
    item[int(last) if last.isdigit() else last] = value
    return copy


DAMAGE: list[tuple[str, Any]] = [
    ("stem", []),
    ("stem", None),
    ("stem.0.conv.kernel", [7]),
    ("stem.0.conv.kernel", [0, 0]),
    ("stem.0.conv.kernel", [-7, 7]),
    ("stem.0.conv.out_channels", 10**30),
    ("stem.0.conv.out_channels", -64),
    ("stem.0.conv.out_channels", "sixty-four"),
    ("stem.0.norm.eps", "small"),
    ("stem_pool.kind", "sum"),
    ("stem_pool.kernel", [[3], 3]),
    ("stages", []),
    ("stages", {}),
    ("stages.0", []),
    ("stages.0.0.units", []),
    ("stages.0.0.units.1.conv.groups", 0),
    ("stages.0.0.units.1.conv.groups", 3),
    ("stages.0.0.units.1.norm.channels", 9),
    ("stages.1.0.downsample", None),
    ("head.classes", 6),
    ("head.classes", 1e400),
    ("head", None),
]


@pytest.mark.parametrize(("place", "value"), DAMAGE)
def test_a_configuration_that_is_damaged(pair: tuple[Path, Path, dict[str, Any]], place: str, value: Any) -> None:
    path, beside, report = pair
    beside.write_text(json.dumps({**report, "config": edited(report["config"], place, value)}))
    with pytest.raises(FormatError, match="configuration") as error:
        rc.load(path)
    assert error.value.file in {str(path), str(beside)}


@pytest.mark.parametrize("config", [None, [], {}, "ResNeXt-50"])
def test_no_configuration(pair: tuple[Path, Path, dict[str, Any]], config: object) -> None:
    path, beside, report = pair
    beside.write_text(json.dumps({**report, "config": config}))
    with pytest.raises(FormatError, match="the configuration in the report is damaged") as error:
        rc.load(path)
    assert str(error.value.place).startswith("config")


def test_the_configuration_survives_its_json() -> None:
    report = {"config": as_json(TINY)}
    assert checkpoint.read_config(report, Path("report.json")) == TINY


Spoil = Callable[[dict[str, Array]], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.pop("bn1.num_batches_tracked"),
        lambda arrays: arrays.update({"extra": np.zeros(1)}),
        lambda arrays: arrays.update({"fc.bias": np.zeros(6, np.float32)}),
        lambda arrays: arrays.update({"fc.weight": np.zeros((5, 512), np.int64)}),
    ],
    ids=["a key less", "a key more", "another shape", "integers"],
)
def test_a_checkpoint_of_another_network(tmp_path: Path, spoil: Spoil) -> None:
    arrays = tiny_arrays()
    spoil(arrays)
    path = save(arrays, tmp_path / "out.pth")
    report = {"output": {"sha256": checkpoint.sha256(path)}, "config": as_json(TINY)}
    (tmp_path / "out.json").write_text(json.dumps(report))
    with pytest.raises(FormatError, match="not of the configuration in its report"):
        rc.load(path)
