"""Weights without a graph file, all the way: converted, proven, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gluon_networks import CEIL, CIFAR, NAMINGS, SENET, Naming, Plan, made

from resnext_convert.converter import checkpoint, pipeline
from resnext_convert.converter.errors import MissingFactsError
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.reference import ReferenceExecutor


@pytest.mark.parametrize(
    ("naming", "plan"),
    [*((naming, Plan()) for naming in NAMINGS), ("prefix", SENET), ("gluoncv2", CIFAR), ("gluon", Plan(facts=CEIL))],
)
def test_converted_and_proven(naming: Naming, plan: Plan, tmp_path: Path) -> None:
    source, out = made(naming, plan).write(tmp_path), tmp_path / "out.pth"
    report = pipeline.convert("mxnet", source, out, facts=plan.facts)
    proof = report.verification
    assert proof is not None
    assert proof.passed
    assert not proof.oracle.passed
    assert "there is no symbol file to give to MXNet" in (proof.oracle.reason or "")
    assert [record.role for record in report.source.files] == ["params"]
    assert any("the proof cannot tell" in warning for warning in report.warnings)
    assert pipeline.verify(out, None, source, facts=plan.facts, oracle="none").passed

    model = read_source(source, facts=plan.facts)
    size = 32 if plan.stem == "cifar" else 56
    image = np.random.default_rng(3).standard_normal((1, 3, size, size)).astype(np.float32)
    (output,) = model.graph.outputs
    expected = ReferenceExecutor(model.graph, model.tensors).run({"data": image}, [output])[output]
    with torch.no_grad():
        found = checkpoint.load(out)(torch.from_numpy(image)).numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_nothing_is_written_where_facts_are_missing(tmp_path: Path) -> None:
    source = made("gluon").write(tmp_path)
    with pytest.raises(MissingFactsError):
        pipeline.convert("mxnet", source, tmp_path / "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["net.params"]
