"""Stock models, all the way: from files to a checkpoint, its report, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stock_nets import BGR, PLAIN, gluon_file

import resnext_convert as rc
from resnext_convert.converter import checkpoint
from resnext_convert.converter.classes import places
from resnext_convert.converter.errors import ProofError, TargetError
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.records import ConversionReport
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.config import resnext
from resnext_convert.converter.resnext.ledger import Fold

FLOOR = GraphFacts(eps=2e-5, stem_pool="3x3 max, stride 2, padding 1")
CEIL = GraphFacts(eps=1e-4, stem_pool="3x3 max, stride 2, size rounded up")
SE = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=1000, reduction=16)
SAID: dict[str, Any] = {
    "facts": FLOOR,
    "domain": replace(BGR, resize=73, crop=64),
    "source_class_order": "imagenet-2015",
    "image_size": 64,
    "oracle": "none",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gluon_file(PLAIN, tmp_path_factory.mktemp("plain") / "net.params")


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gluon_file(SE, tmp_path_factory.mktemp("squeezed") / "net.params")


def converted(source: Path, out: Path | str, **changes: Any) -> ConversionReport:
    report = rc.convert("mxnet", source, out, **SAID | changes)
    assert report.verification is not None
    assert report.verification.passed
    return report


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5"])
def test_a_stock_checkpoint_of_every_form(plain: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    report = converted(plain, out, target="torchvision")
    assert report.stock is not None
    assert report.stock.architecture == "ResNet"
    assert (report.target, report.class_order) == ("torchvision", "imagenet-2012")
    assert (report.source.domain, report.source.class_order) == (SAID["domain"], "imagenet-2015")
    assert report.domain is not None
    assert (report.domain.colour, report.domain.range, report.domain.crop) == ("rgb", 1, 64)
    assert report.dtype == "float32"
    assert "folded for the stock model" in report.dtype_note
    hows = {binding.target: binding.folds for binding in report.bindings}
    assert hows["conv1.weight"] == (Fold.STD_TO_WEIGHT, Fold.REVERSED)
    assert hows["fc.bias"] == (Fold.CLASS_ORDER,)
    assert hows["bn1.running_var"] == (Fold.EPS_TO_VAR,)
    assert hows["bn1.weight"] == ()
    state = checkpoint.read(out)
    assert set(state) == {binding.target for binding in report.bindings}
    # The report beside it tells what it is; without one, it has to be said.
    assert rc.verify(out, "mxnet", plain, facts=FLOOR, image_size=64, oracle="none").passed
    out.with_suffix(".json").unlink()
    assert rc.verify(out, "mxnet", plain, target="torchvision", **SAID).passed


def test_loaded_it_computes_what_the_source_does(squeezed: Path, tmp_path: Path) -> None:
    report = converted(squeezed, tmp_path / "out.pth", target="timm", facts=CEIL)
    assert report.stock is not None
    assert report.stock.legacy
    assert report.bindings[0].target == "layer0.conv1.weight"
    original = read_source(squeezed, facts=CEIL)
    (head,) = original.graph.outputs
    pixels = np.random.default_rng(1).random((1, 3, 64, 64))
    fed = {"data": BGR.prepare(pixels)}
    expected = ReferenceExecutor(original.graph, original.tensors).run(fed, [head])[head]
    assert report.domain is not None
    with torch.inference_mode():
        found = rc.load(tmp_path / "out.pth")(torch.from_numpy(report.domain.prepare(pixels)).float()).numpy()
    rows = list(places("imagenet-2012", "imagenet-2015"))
    assert np.abs(found - expected[:, rows]).max() < 1e-5 * np.abs(expected).max()


def test_a_report_of_other_bytes_tells_nothing(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pth"
    converted(plain, out, target="torchvision")
    beside = out.with_suffix(".json")
    report = json.loads(beside.read_bytes())
    report["output"]["sha256"] = "0" * 64
    beside.write_text(json.dumps(report))
    proof = rc.verify(out, "mxnet", plain, facts=FLOOR, image_size=64, oracle="none")
    assert not proof.passed  # as a reference it is another network


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_class_order": "imagenet-2012"},
        {"class_order": "source"},
        {"domain": replace(BGR, colour="rgb")},
        {"domain": replace(BGR, range=1)},
        {"facts": GraphFacts(eps=1e-5, stem_pool=FLOOR.stem_pool)},
    ],
)
def test_what_is_stated_wrongly_does_not_verify(plain: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    converted(plain, tmp_path / "out.pth", target="torchvision")
    proof = rc.verify(tmp_path / "out.pth", "mxnet", plain, target="torchvision", **SAID | wrong)
    assert not proof.passed


def test_another_target_has_other_keys(squeezed: Path, tmp_path: Path) -> None:
    converted(squeezed, tmp_path / "out.pth", target="timm", facts=CEIL)
    with pytest.raises(ProofError, match="not of the source network") as refusal:
        rc.verify(tmp_path / "out.pth", "mxnet", squeezed, target="reference", **SAID | {"facts": CEIL})
    assert "--target" in str(refusal.value.hint)


def test_nothing_is_written_where_no_stock_model_fits(squeezed: Path, tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_bytes(b"old")
    with pytest.raises(TargetError, match="squeeze-and-excitation") as refusal:
        converted(squeezed, tmp_path / "out.pth", target="torchvision", facts=CEIL)
    assert "--target timm has a model that does" in str(refusal.value.hint)
    assert (tmp_path / "out.pth").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_stock_model_in_one_precision(plain: Path, tmp_path: Path, dtype: Any) -> None:
    out = tmp_path / "out.safetensors"
    report = converted(plain, out, target="torchvision", dtype=dtype)
    assert report.dtype == dtype
    assert report.verification is not None
    rounding = report.verification.rounding
    assert rounding is not None
    assert rounding.passed
    kinds = {tensor.dtype for tensor in checkpoint.read(out).values() if tensor.is_floating_point()}
    assert kinds == {getattr(torch, dtype)}
    assert rc.verify(out, "mxnet", plain, facts=FLOOR, image_size=64, oracle="none").passed


def test_the_reference_in_the_order_of_2012(plain: Path, tmp_path: Path) -> None:
    kept = converted(plain, tmp_path / "kept.pth")
    moved = converted(plain, tmp_path / "moved.pth", class_order="imagenet-2012")
    assert (kept.class_order, moved.class_order) == ("imagenet-2015", "imagenet-2012")
    assert (kept.domain, moved.domain) == (SAID["domain"], SAID["domain"])
    rows = list(places("imagenet-2012", "imagenet-2015"))
    states = [checkpoint.read(tmp_path / name) for name in ("kept.pth", "moved.pth")]
    assert {key for key in states[0] if not torch.equal(states[0][key], states[1][key])} == {"fc.weight", "fc.bias"}
    assert torch.equal(states[1]["fc.weight"], states[0]["fc.weight"][rows])
    assert rc.verify(tmp_path / "moved.pth", "mxnet", plain, facts=FLOOR, image_size=64, oracle="none").passed
    wrong = rc.verify(tmp_path / "moved.pth", "mxnet", plain, target="reference", **SAID)
    assert not wrong.passed
    assert wrong.first_divergence is not None
    assert wrong.first_divergence.name == "fc"
