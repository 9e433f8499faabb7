"""Acceptance: published graphs, with full-size weights made for them, convert, are proven, and agree with real MXNet.

The weights are random but calibrated (tests/calibrated_weights.py), and saved by MXNet itself. The graphs are other
people's files and are not part of the repository.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from shared_data import shared

from resnext_convert.converter import pipeline

pytestmark = [pytest.mark.acceptance, pytest.mark.mxnet]

DJL = (
    "deepjavalibrary+djl/engines/mxnet/mxnet-model-zoo/src/test/resources/mlrepo/model/cv/"
    "image_classification/ai/djl/mxnet"
)
SCRIPT = "apache+mxnet/generated/resnext-152-num_group32-script_266cf3a60a-mxnet1.9.1-symbol.json"


@dataclass(frozen=True)
class Graph:
    """A published graph and the network that it is."""

    path: str
    network: str
    image_size: int = 224


GRAPHS = [
    Graph("wnagchenghku+mxnet-lambda/models/resnext-50-symbol.json", "ResNeXt-50 (32x4d)"),
    Graph("data.mxnet.io/models/imagenet/resnext/101-layers/resnext-101-symbol.json", "ResNeXt-101 (32x4d)"),
    Graph(
        "Ldpe2G+DeepLearningForFun/MXNet-Python/CalculateFlopsTool/symbols/resnext-101-64x4d-symbol.json",
        "ResNeXt-101 (64x4d)",
    ),
    Graph("soeaver+mxnet-model/cls/resnext/resnext26_32x4d-priv-symbol.json", "ResNeXt-26 (32x4d)"),
    Graph("soeaver+mxnet-model/cls/resnext/resnext50_32x4d-symbol.json", "ResNeXt-50 (32x4d)"),
    Graph("soeaver+mxnet-model/cls/resnext/resnext101_32x4d-symbol.json", "ResNeXt-101 (32x4d)"),
    Graph("soeaver+mxnet-model/cls/resnext/resnext101_64x4d-symbol.json", "ResNeXt-101 (64x4d)"),
    Graph("soeaver+mxnet-model/cls/senet/se-resnext50-32x4d-symbol.json", "SE-ResNeXt-50 (32x4d)"),
    Graph("soeaver+mxnet-model/cls/senet/se-resnext101-32x4d-symbol.json", "SE-ResNeXt-101 (32x4d)"),
    Graph("soeaver+mxnet-model/cls/senet/se-resnext152-64x4d-symbol.json", "SE-ResNeXt-152 (64x4d)"),
    Graph("bruinxiong+SENet.mxnet/se-resnext-imagenet-50-0-symbol.json", "SE-ResNeXt-50 (64x2d)"),
    Graph("dmlc+gluon-cv/generated/resnext50_32x4d-symbol-mxnet1.9.1.json", "ResNeXt-50 (32x4d)"),
    Graph("dmlc+gluon-cv/generated/resnext101_32x4d-symbol-mxnet1.9.1.json", "ResNeXt-101 (32x4d)"),
    Graph("dmlc+gluon-cv/generated/resnext101_64x4d-symbol-mxnet1.9.1.json", "ResNeXt-101 (64x4d)"),
    Graph("dmlc+gluon-cv/generated/se_resnext50_32x4d-symbol-mxnet1.9.1.json", "SE-ResNeXt-50 (32x4d)"),
    Graph("dmlc+gluon-cv/generated/se_resnext101_32x4d-symbol-mxnet1.9.1.json", "SE-ResNeXt-101 (32x4d)"),
    Graph("dmlc+gluon-cv/generated/se_resnext101_64x4d-symbol-mxnet1.9.1.json", "SE-ResNeXt-101 (64x4d)"),
    Graph("dmlc+gluon-cv/generated/senet_154-symbol-mxnet1.9.1.json", "SE-ResNeXt-152 (64x4d)"),
    Graph("dmlc+gluon-cv/generated/cifar_resnext29_16x64d-symbol-mxnet1.9.1.json", "ResNeXt-29 (16x64d)", 32),
    Graph(f"{DJL}/resnext/0.0.1/resnext101_64x4d-symbol.json", "ResNeXt-101 (64x4d)"),
    Graph(f"{DJL}/se_resnext/0.0.1/se_resnext101_32x4d-symbol.json", "SE-ResNeXt-101 (32x4d)"),
    Graph(f"{DJL}/se_resnext/0.0.1/se_resnext101_64x4d-symbol.json", "SE-ResNeXt-101 (64x4d)"),
    Graph(f"{DJL}/senet/0.0.1/senet_154-symbol.json", "SE-ResNeXt-152 (64x4d)"),
    Graph(SCRIPT, "ResNeXt-152 (32x4d)"),
]


def _name(graph: Graph) -> str:
    return graph.path.split("/")[0].split("+")[-1] + "/" + Path(graph.path).name.partition("-symbol")[0]


@pytest.mark.parametrize("graph", GRAPHS, ids=_name)
def test_converts_and_agrees_with_mxnet(graph: Graph, tmp_path: Path) -> None:
    symbol = shared(f"releases/{graph.path}")
    params = tmp_path / "weights-0000.params"
    # In a process of its own: MXNet in this one would take half of torch's threads.
    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("calibrated_weights.py")),
            str(symbol),
            str(params),
            f"--image-size={graph.image_size}",
        ],
        check=True,
        capture_output=True,
    )
    report = pipeline.convert(
        "mxnet", symbol, tmp_path / "out.pth", params=params, image_size=graph.image_size, oracle="mxnet"
    )
    assert report.network == graph.network
    proof = report.verification
    assert proof is not None
    assert proof.passed, proof.failure
    assert proof.oracle.passed
    worst = dict.fromkeys(("float32", "float64"), 0.0)
    for asked in proof.oracle.diffs:
        worst[asked.precision] = max(worst[asked.precision], asked.diff.max_of_peak)
    print(
        f"{_name(graph)}: {report.network}, worst {proof.worst.max_of_peak:.1e},"
        f" float32 {proof.float32.max_of_peak:.1e}, MXNet in float32 {worst['float32']:.1e},"
        f" in float64 {worst['float64']:.1e}, proof {proof.seconds:.1f} s"
    )
    params.unlink()
    (tmp_path / "out.pth").unlink()
