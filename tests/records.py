"""Records of conversions and proofs made by hand, for the tests of what is shown of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from resnext_convert.converter.compare import TensorDiff
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.preprocess import InputSpec, Reading
from resnext_convert.converter.proof import (
    EngineResult,
    FileRecord,
    InputResult,
    OriginalDiff,
    VerificationReport,
)
from resnext_convert.converter.records import ConversionReport, Record, SourceRecord, StockRecord
from resnext_convert.converter.resnext.config import NormConfig, resnext
from resnext_convert.converter.resnext.ledger import Binding, Ignored, Transform

# Markup, quotes, a terminal's escape sequences, a change of the reading direction, a lone surrogate.
HOSTILE = "<script>alert(1)</script>&amp;\"' {{ 7 * 7 }}\x1b]0;title\x07\x1b[31m\u202eeman\ud800\n"


def file(role: str, name: str) -> FileRecord:
    return FileRecord(role=role, name=name, bytes=123456, sha256=role[0] * 64)


def diff(name: str = "layer1.0", value: float = 8.9e-16, **changes: Any) -> TensorDiff:
    made = TensorDiff(name=name, peak=2.5, max_abs=2.5 * value, max_of_peak=value, at=(0, 7), shape=(1, 10))
    return replace(made, **changes)


def asked(name: str, value: float) -> OriginalDiff:
    return OriginalDiff(diff=diff(name, value), precision="float32", tolerance=1.6e-5)


FED = InputDomain(colour="rgb", range=1, mean=(0.482, 0.459, 0.408), std=(0.229, 0.224, 0.225), source="the conversion")
STOCK = StockRecord(
    library="timm",
    call="timm.create_model('legacy_seresnext50_32x4d', num_classes=10)",
    architecture="legacy_seresnext50_32x4d",
    arguments={},
    legacy=True,
)


def proof(**changes: Any) -> VerificationReport:
    """A proof that passed: two inputs, the oracle not asked, one recording."""
    inputs = (
        InputResult(
            name="structured image",
            shape=(1, 3, 32, 32),
            compared=5,
            worst=diff(),
            logits=diff("fc", 1e-16),
            seconds=0.75,
        ),
        InputResult(
            name="random",
            shape=(2, 3, 8, 9),
            compared=5,
            worst=diff("fc", 4.4e-16),
            logits=diff("fc", 4e-16),
            seconds=0.5,
        ),
    )
    made = VerificationReport(
        passed=True,
        failure="",
        gate=1e-10,
        inputs=inputs,
        worst=inputs[0].worst,
        first_divergence=None,
        sensitivity=0.25,
        float32=diff("logits in float32", 1.7e-7),
        oracle=EngineResult(name="MXNet", passed=None, reason="not asked for"),
        golden=(OriginalDiff(precision="float64", diff=diff("ref64:fc1_output", 2e-16), tolerance=1e-9),),
        seconds=1.25,
    )
    return replace(made, **changes)


def failed(**changes: Any) -> VerificationReport:
    """A proof that failed in everything that can fail."""
    wrong = diff("layer2.0.bn1", 5.3e-4)
    right = proof()
    made = replace(
        right,
        passed=False,
        failure=f"first divergence at {wrong}; 1e-10 would pass",
        inputs=(replace(right.inputs[0], worst=wrong), right.inputs[1]),
        worst=wrong,
        first_divergence=wrong,
        oracle=EngineResult(name="MXNet 1.9.1", passed=False, diffs=(asked("fc1_output", 2e-2),)),
        golden=(OriginalDiff(precision="float64", diff=diff("ref64:fc1_output", 3e-2), tolerance=1e-9),),
    )
    return replace(made, **changes)


def report(**changes: Any) -> ConversionReport:
    """A conversion that was proven."""
    config = replace(
        resnext((1, 2), cardinality=4, base_width=2, classes=10), data_norm=NormConfig(channels=3, eps=2e-5)
    )
    bindings = tuple(
        Binding(target=key, sources=(), transform=Transform.ZERO)
        if key.endswith("num_batches_tracked")
        else Binding(target=key, sources=(f"arg:{key}",), transform=Transform.IDENTITY)
        for key in config.state_shapes()
    )
    made = ConversionReport(
        schema_version=1,
        tool="resnext-convert 0.1.0",
        source=SourceRecord(
            framework="mxnet",
            version="1.9.1",
            files=(file("symbol", "net-symbol.json"), file("params", "net-0000.params")),
            release=None,
            identified="",
            domain=None,
            class_order=None,
        ),
        network=config.summary,
        config=config,
        target="reference",
        stock=None,
        dtype="float32",
        dtype_note="",
        output=file("checkpoint", "out.pth"),
        preprocessing=InputSpec(
            channels=3,
            mean=(123.68, 116.779, 103.939),
            std=(58.4, 57.1, 57.4),
            source="the running statistics of bn_data",
            reading=Reading(colour="rgb", range=255, mean_subtracted=False),
        ),
        domain=None,
        class_order=None,
        bindings=bindings,
        ignored=(Ignored(source="arg:extra_weight", reason="no node of the graph names it"),),
        warnings=("moving_mean of bn1 is called running_mean",),
        verification=proof(),
    )
    return replace(made, **changes)


def hostile() -> ConversionReport:
    """A failed conversion in which every text of the files is as bad as can be."""
    base = failed()
    spoiled = replace(
        base,
        failure=f"first divergence at {HOSTILE}",
        inputs=(replace(base.inputs[0], worst=diff(HOSTILE, 1e-3)), base.inputs[1]),
        first_divergence=diff(HOSTILE, 1e-3),
        oracle=replace(base.oracle, diffs=(asked(HOSTILE, 1e-3),)),
        golden=(OriginalDiff(precision="float64", diff=diff(HOSTILE, 1e-3), tolerance=1e-9),),
    )
    return report(
        source=SourceRecord(
            framework="mxnet",
            version="1.9.1",
            files=(file("symbol", HOSTILE), file("params", HOSTILE)),
            release=HOSTILE,
            identified=HOSTILE,
            domain=None,
            class_order=None,
        ),
        output=file("checkpoint", HOSTILE),
        bindings=(Binding(target="conv1.weight", sources=(HOSTILE,), transform=Transform.IDENTITY),),
        ignored=(Ignored(source=HOSTILE, reason=HOSTILE),),
        warnings=(HOSTILE,),
        verification=spoiled,
    )


RECORDS: dict[str, Record] = {
    "proven": report(),
    "failed": report(verification=failed()),
    "not proven": report(verification=None),
    "hostile": hostile(),
    "proof alone": proof(files=(file("checkpoint", "out.pth"), file("symbol", "net-symbol.json"))),
    "failed proof alone": failed(),
    "nothing finite": failed(
        worst=diff(value=math.inf, peak=math.nan, at=(), max_abs=math.inf),
        float32=diff(value=math.inf),
        sensitivity=math.nan,
        oracle=EngineResult(
            name="MXNet 1.9.1",
            passed=False,
            diffs=(OriginalDiff(diff=diff(value=math.inf), precision="float32", tolerance=math.inf),),
        ),
    ),
}
every_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
