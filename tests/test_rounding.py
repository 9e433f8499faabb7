"""Rounded weights: the independent rounding, the bound, and mistakes that must be noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import ml_dtypes
import numpy as np
import pytest
import torch
from repository import FIXTURES, ROOT

import resnext_convert as rc
from resnext_convert.converter import pipeline
from resnext_convert.converter.errors import PrecisionError, UsageError
from resnext_convert.converter.pipeline import ProofFailedError
from resnext_convert.converter.report import to_html, to_junit
from resnext_convert.converter.resnext.precision import Cast, Precision, cast
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.rounding import GRIDS, is_rounding, nearest
from resnext_convert.converter.tensors import Array
from resnext_convert.converter.torch_checkpoint import tensors_of

MXNET = FIXTURES / "resnext-tiny"
CAFFE = FIXTURES / "caffe/resnext-tiny"  # its running statistics are quotients, in float64
PRECISIONS: list[Precision] = list(get_args(Precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_ways_of_rounding_agree(precision: Precision) -> None:
    """The one that writes, and the one that checks; float64 and float32, near the middles, subnormal and zero."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal(20_000) * np.exp2(rng.uniform(-40, 10, 20_000))
    bits = GRIDS[getattr(torch, precision)].bits
    coarse = tensors_of(cast({"a": values}, precision).arrays)["a"].double().numpy()
    middles = coarse * (1 + 2.0**-bits) * (1 + rng.choice([0, 2**-40, -(2**-40)], values.size))
    for exact in (values, middles, middles.astype(np.float32), np.array([0.0, -0.0, 5e-324, -5e-324])):
        published = tensors_of(cast({"a": exact}, precision).arrays)["a"]
        assert published.dtype == getattr(torch, precision)
        assert is_rounding(torch.from_numpy(exact), published)


def test_torch_s_own_cast_agrees_from_float32() -> None:
    exact = torch.from_numpy((np.random.default_rng(2).standard_normal(100_000) * 3).astype(np.float32))
    for dtype, grid in GRIDS.items():
        assert torch.equal(nearest(exact, grid), exact.to(dtype).double())


def truncated(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Towards zero instead of to the nearest."""
    near = exact.to(dtype)
    back = near.view(torch.int16) - (near.double().abs() > exact.double().abs()).to(torch.int16)
    return back.view(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_no_rounding(dtype: torch.dtype) -> None:
    exact = torch.linspace(-1, 1, 101, dtype=torch.float32)
    right = exact.to(dtype)
    assert is_rounding(exact, right)
    assert not is_rounding(exact, truncated(exact, dtype))
    assert not is_rounding(exact, right[:-1])
    assert not is_rounding(exact, right.long())
    assert not is_rounding(torch.tensor([0.0]), torch.tensor([-0.0], dtype=dtype))
    assert not is_rounding(exact, torch.full_like(right, torch.nan))
    one = right.clone()
    one.view(torch.int16)[3] += 1
    assert not is_rounding(exact, one)
    assert is_rounding(torch.tensor(5), torch.tensor(5))
    assert not is_rounding(torch.tensor(5), torch.tensor(6))


@pytest.mark.parametrize("out", ["out.pth", "out.safetensors", "out.h5", "out/"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_conversions(tmp_path: Path, precision: Precision, out: str) -> None:
    if (precision, out) == ("bfloat16", "out.h5"):
        with pytest.raises(UsageError, match="cannot hold bfloat16"):
            rc.convert("caffe", CAFFE, f"{tmp_path}/{out}", dtype=precision, oracle="none")
        assert list(tmp_path.iterdir()) == []
        return
    report = rc.convert("caffe", CAFFE, f"{tmp_path}/{out}", dtype=precision, oracle="none")
    proof = report.verification
    assert proof is not None
    assert proof.passed
    assert proof.worst.within(1e-10)
    assert proof.rounding is not None
    assert proof.rounding.dtype == report.dtype == precision
    assert 0 < proof.rounding.worst.max_of_peak < proof.rounding.bound < 1
    model = rc.load(tmp_path / out.rstrip("/"))
    assert {value.dtype for value in model.state_dict().values()} == {getattr(torch, precision), torch.int64}
    size = report.preprocessing.channels
    assert model(torch.zeros(1, size, 64, 64, dtype=getattr(torch, precision))).dtype == getattr(torch, precision)
    again = rc.verify(tmp_path / out.rstrip("/"), "caffe", CAFFE, oracle="none")
    assert again.rounding == proof.rounding
    document = json.loads((tmp_path / ("out/report.json" if out == "out/" else "out.json")).read_bytes())
    jsonschema.validate(document, json.loads((ROOT / "schemas/report.schema.json").read_bytes()))
    assert f"tensors are the nearest {precision}".encode() in to_junit(report)
    assert b"the rounded weights, run in float64" in to_html(report)


def test_what_is_float32_already_is_not_rounded(tmp_path: Path) -> None:
    """The bytes are the same, and so is what is proven."""
    exact = rc.convert("mxnet", MXNET, tmp_path / "a.pth", oracle="none", verify=False)
    same = rc.convert("mxnet", MXNET, tmp_path / "b.pth", dtype="float32", oracle="none")
    assert exact.output.sha256 == same.output.sha256
    assert rc.verify(tmp_path / "b.pth", "mxnet", MXNET, oracle="none").rounding is None


def spoil_by(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    def spoiled(arrays: dict[str, Array], precision: Precision) -> Cast:
        right = cast(arrays, precision)
        return Cast({**right.arrays, **change(arrays, right.arrays)}, 0, 0)

    monkeypatch.setattr(pipeline, "cast", spoiled)


def truncate(exact: dict[str, Array], right: dict[str, Array]) -> dict[str, Array]:
    values = torch.from_numpy(np.array(exact["layer2.0.conv2.weight"]))
    return {
        "layer2.0.conv2.weight": truncated(values, torch.bfloat16).view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    }


def last_bit(exact: dict[str, Array], right: dict[str, Array]) -> dict[str, Array]:
    wrong = right["fc.weight"].copy()
    wrong.view(np.uint16)[1, 2] ^= 1
    return {"fc.weight": wrong}


def through_float32(exact: dict[str, Array], right: dict[str, Array]) -> dict[str, Array]:
    key = "bn1.running_var"
    assert exact[key].dtype == np.float64
    return {key: np.nextafter(right[key], ml_dtypes.bfloat16(0))}


def stays_float32(exact: dict[str, Array], right: dict[str, Array]) -> dict[str, Array]:
    return {"layer1.0.bn1.bias": exact["layer1.0.bn1.bias"]}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (truncate, "layer2.0.conv2.weight"),
        (last_bit, "fc.weight"),
        (through_float32, "bn1.running_var"),
        (stays_float32, "layer1.0.bn1.bias"),
    ],
)
def test_mistakes_that_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, key: str) -> None:
    spoil_by(monkeypatch, change)
    with pytest.raises(ProofFailedError, match=f"{key} is not the nearest bfloat16 to the proven values"):
        rc.convert("caffe", CAFFE, tmp_path / "out.safetensors", dtype="bfloat16", oracle="none")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_was_changed_later(tmp_path: Path) -> None:
    rc.convert("mxnet", MXNET, tmp_path / "out.pth", dtype="bfloat16", oracle="none", verify=False)
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    state["fc.bias"].view(torch.int16)[0] += 1
    torch.save(state, tmp_path / "out.pth")
    proof = rc.verify(tmp_path / "out.pth", "mxnet", MXNET, oracle="none")
    assert not proof.passed
    assert proof.failure == "fc.bias is not the nearest bfloat16 to the proven values"


def test_outputs_that_are_too_far_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnext_convert.converter.rounding.SAFETY", 1e-3)
    with pytest.raises(ProofFailedError, match="in float16, the weights are too far off") as error:
        rc.convert("mxnet", MXNET, tmp_path / "out.pth", dtype="float16", oracle="none")
    assert error.value.hint == "nothing was written; take a wider --dtype, or none"


def test_a_value_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*arguments: Any) -> dict[str, Array]:
        arrays = assemble(*arguments)
        return {**arrays, "bn1.running_var": arrays["bn1.running_var"] + np.float32(70000)}

    monkeypatch.setattr(pipeline, "assemble", large)
    with pytest.raises(PrecisionError, match="float16 cannot hold the weights") as error:
        rc.convert("mxnet", MXNET, tmp_path / "out.pth", dtype="float16", oracle="none")
    assert (error.value.exit_code, error.value.place) == (2, "tensor 'bn1.running_var'")
    assert list(tmp_path.iterdir()) == []
