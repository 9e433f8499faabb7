"""What `inspect` says about Caffe's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inspecting import inspected, lines
from repository import FIXTURES

from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.findings import (
    CaffeWeightsInspection,
    MeanInspection,
    PairInspection,
    PrototxtInspection,
    SymbolInspection,
)
from resnext_convert.converter.inspection import inspect
from resnext_convert.schemas.caffe_pb2 import BlobProto

RECORDINGS = FIXTURES / "caffe" / "recordings"


def test_a_prototxt(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDINGS / "b_soeaver_floor" / "deploy.prototxt"
    found = inspected(PrototxtInspection, path)
    assert found.inputs == {"data": (1, 3, 64, 64)}
    assert found.layers == len(found.nodes)
    assert found.operators["Convolution"] == found.operators["BatchNorm"] == found.operators["Scale"]
    assert [(default.op, default.attribute) for default in found.defaults] == [("BatchNorm", "eps")]
    said = lines(found, capsys)
    assert said[0] == f"{path}: Caffe prototxt"
    assert "  input      data, declared as 1x3x64x64" in said
    assert any(line.startswith("  default    BatchNorm: no eps in ") and "Caffe takes 1e-05" in line for line in said)


def test_a_training_net_shows_the_phase_test() -> None:
    found = inspected(PrototxtInspection, RECORDINGS / "k_train" / "train_val.prototxt")
    assert found.layers > len(found.nodes)
    assert "SoftmaxWithLoss" in found.operators


def test_weights(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDINGS / "b_soeaver_floor" / "weights.caffemodel"
    found = inspected(CaffeWeightsInspection, path)
    assert found.container == "caffemodel"
    assert found.layers[0] > found.layers[1] > 0
    assert found.tensors[0].name == "conv1[0]"
    said = lines(found, capsys)
    assert said[0] == f"{path}: Caffe weights"
    assert "  container  caffemodel" in said


def test_hdf5() -> None:
    found = inspected(CaffeWeightsInspection, RECORDINGS / "m_shared_params" / "weights.caffemodel.h5")
    assert found.container == "hdf5"
    assert found.tensors


def test_a_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    proto = BlobProto(num=1, channels=3, height=2, width=2, data=[image.tobytes()])
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(proto.SerializeToString())
    found = inspected(MeanInspection, path)
    assert found.shape == (3, 2, 2)
    assert found.channels == (1.5, 5.5, 9.5)
    assert "  channels   1.5, 5.5, 9.5" in lines(found, capsys)


def test_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(PairInspection, RECORDINGS / "a_cypw")
    assert isinstance(found.graph, PrototxtInspection)
    assert isinstance(found.weights, CaffeWeightsInspection)
    assert found.network is not None
    assert found.network.summary == "ResNeXt-23 (4x4d)"
    said = lines(found, capsys)
    assert said[0].endswith(": ResNeXt-23 (4x4d)")
    assert any(line.startswith("  input mean ") for line in said)


def test_a_pair_that_is_no_resnext() -> None:
    found = inspected(PairInspection, RECORDINGS / "n_bn_batchstats")
    assert found.network is None
    assert found.refusal


def test_a_symbol_file_is_still_told_by_its_content() -> None:
    assert inspect(FIXTURES / "resnext-tiny" / "resnext-tiny-symbol.json").kind == "symbol"
    assert isinstance(inspected(PairInspection, FIXTURES / "resnext-tiny").graph, SymbolInspection)


@pytest.mark.parametrize("content", [b"layer { name: ", b"\x0a\x05abc", b"\x08\x01", b"name: 'x'"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FormatError) as refusal:
        inspect(path)
    assert refusal.value.file == str(path)
