"""The records of an inspection: their JSON can be read back, and says which kind it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspecting import CONTAINER, RECORDINGS
from pydantic import TypeAdapter
from records import failed, report

from resnext_convert.converter.findings import CheckpointInspection, InspectedFile, Inspection, TensorEntry
from resnext_convert.converter.inspection import inspect, to_json
from resnext_convert.converter.report import to_json as report_json

TENSOR = TensorEntry(name="a.weight", dtype="float32", shape=(), bytes=4, where="data/0")


@pytest.fixture
def found(tmp_path: Path) -> list[Inspection]:
    """One of each kind, and a pair that is no ResNeXt."""
    stored = tmp_path / "out.json"
    stored.write_bytes(report_json(report(verification=failed())))
    in_short = inspect(stored)
    assert in_short.kind == "report"
    checkpoint = CheckpointInspection(
        file=InspectedFile(path="out.pth", bytes=1, sha256="0"),
        tensors=(TENSOR,),
        report=in_short,
        belongs=False,
        note="",
    )
    return [
        inspect(CONTAINER / "1.9.1/row_sparse.params"),
        inspect(RECORDINGS / "1.9.1-bn_defaults/model-symbol.json"),
        inspect(RECORDINGS / "0.8.0-two_heads"),
        inspect(RECORDINGS / "1.9.1-resnet_v2"),
        in_short,
        checkpoint,
    ]


def test_json_can_be_read_back(found: list[Inspection]) -> None:
    adapter: TypeAdapter[list[Any]] = TypeAdapter(list[Inspection])
    assert adapter.validate_json(to_json(found)) == found


def test_json_says_the_kind(found: list[Inspection]) -> None:
    kinds = [entry["kind"] for entry in json.loads(to_json(found))]
    assert kinds == ["params", "symbol", "pair", "pair", "report", "checkpoint"]
