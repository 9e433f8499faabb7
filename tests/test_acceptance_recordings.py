"""Acceptance: every network that was recorded from a real MXNet, 0.8.0 to 1.9.1, converts and reproduces the recording.

All of them are ResNet or ResNeXt networks with one thing changed. The pre-activation ones are read and refused.
"""

from __future__ import annotations

import numpy as np
import pytest
from repository import SHARED
from shared_data import shared

from resnext_convert.converter import pipeline
from resnext_convert.converter.errors import NotResNeXtError
from resnext_convert.converter.proof import VerificationReport

pytestmark = pytest.mark.acceptance

GOLDEN = "golden/mxnet"
CASES = sorted(path.parent.name for path in (SHARED / GOLDEN).glob("*/model-symbol.json")) or ["none"]
CONVERTED = [case for case in CASES if "resnet_v2" not in case]

# MXNet 0.8.0 divided averages by the whole kernel: its own outputs are of another rule, ref64 is of today's.
OTHER_RULE = "0.8.0-pool_avg_full"


def convert(case: str, tmp_path_factory: pytest.TempPathFactory) -> VerificationReport:
    folder = shared(f"{GOLDEN}/{case}")
    out = tmp_path_factory.mktemp(case) / "out.pth"
    arrays = np.load(folder / "io.npz")
    kept = [name for name in arrays.files if not (case == OTHER_RULE and name.startswith("out:"))]
    recordings = out.with_suffix(".npz")
    np.savez(recordings, **{name: arrays[name] for name in kept if name.startswith(("in:", "out:", "ref64:"))})
    report = pipeline.convert("mxnet", folder / "model", out, oracle="none", golden=recordings)
    assert report.verification is not None
    return report.verification


@pytest.mark.parametrize("case", CONVERTED)
def test_converts_and_reproduces_the_recording(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    proof = convert(case, tmp_path_factory)
    assert proof.passed, proof.failure
    assert proof.worst.max_of_peak < 1e-13
    exact = [recording for recording in proof.golden if recording.diff.name.startswith("ref64:")]
    assert exact
    assert all(recording.diff.within(1e-9) for recording in exact)


@pytest.mark.parametrize("case", sorted(set(CASES) - set(CONVERTED)))
def test_pre_activation_networks_are_refused(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(NotResNeXtError, match="pre-activation") as refusal:
        convert(case, tmp_path_factory)
    assert refusal.value.exit_code == 4
    assert refusal.value.place is not None
    assert "BatchNorm" in refusal.value.place
