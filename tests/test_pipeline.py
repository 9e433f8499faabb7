"""Whole conversions through the public face, and that they leave both files, the old ones, or nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disk import listing, room_for
from repository import FIXTURES

import resnext_convert as rc
from resnext_convert.converter import checkpoint, pipeline
from resnext_convert.converter.errors import ProofError, UsageError, WriteError
from resnext_convert.converter.pipeline import ProofFailedError
from resnext_convert.converter.resnext.state_dict import assemble

RECORDINGS = FIXTURES / "mxnet/recordings"
SOURCE = RECORDINGS / "1.9.1-imagenet"
OLD = {"out.pth": b"an old checkpoint", "out.json": b"an old report"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "out.pth"
    rc.convert("mxnet", SOURCE, out, oracle="none")
    return out


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with files of an earlier conversion; returns the checkpoint's path."""
    for name, data in OLD.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "out.pth"


def test_what_a_conversion_leaves(converted: Path) -> None:
    assert sorted(listing(converted.parent)) == ["out.json", "out.pth"]
    report = json.loads(converted.with_suffix(".json").read_bytes())
    assert report["output"] == {
        "role": "checkpoint",
        "name": "out.pth",
        "bytes": converted.stat().st_size,
        "sha256": hashlib.sha256(converted.read_bytes()).hexdigest(),
    }
    for record in report["source"]["files"]:
        data = (SOURCE / record["name"]).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert report["verification"]["passed"]
    assert report["dtype"] == "float32"
    targets = [binding["target"] for binding in report["bindings"]]
    assert targets == list(torch.load(converted, weights_only=True))


def test_the_same_source_gives_the_same_bytes(converted: Path, tmp_path: Path) -> None:
    first = rc.convert("mxnet", str(SOURCE), str(tmp_path / "another.pt"), oracle="none", verify=False)
    assert first.verification is None
    assert (tmp_path / "another.pt").read_bytes() == converted.read_bytes()


def test_load_gives_the_module(converted: Path) -> None:
    """The real engine's recording is what it computes."""
    module = rc.load(converted).double()
    with np.load(SOURCE / "io.npz") as recorded:
        image = torch.from_numpy(recorded["in:data"]).double()
        expected = recorded["ref64:fc1_output"]
    with torch.inference_mode():
        found = module(image).numpy()
    # The recordings' own noise: MXNet's float64 rounds elsewhere.
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


def test_verify_repeats_the_proof(converted: Path) -> None:
    assert rc.verify(converted, "mxnet", SOURCE, oracle="none").passed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("fc.bias"), "there is no fc.bias"),
        (lambda state: state.pop("bn1.num_batches_tracked"), "there is no bn1.num_batches_tracked"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra has no place"),
        (lambda state: state.update({"fc.bias": torch.zeros(3)}), r"fc.bias is \(3,\) instead of"),
        (lambda state: state.update({"fc.bias": state["fc.bias"].long()}), "fc.bias holds torch.int64"),
        (lambda state: state.update({"fc.bias": state["fc.bias"].cfloat()}), "fc.bias holds torch.complex64"),
    ],
)
def test_verify_refuses_other_state_dicts(converted: Path, tmp_path: Path, change: Any, says: str) -> None:
    state = torch.load(converted, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ProofError, match=says) as error:
        rc.verify(tmp_path / "other.pth", "mxnet", SOURCE, oracle="none")
    assert error.value.exit_code == 5
    assert error.value.found == "1 differences"


def test_verify_tells_a_spoiled_checkpoint(converted: Path, tmp_path: Path) -> None:
    state = torch.load(converted, weights_only=True)
    state["fc.bias"][0] += 1e-6
    torch.save(state, tmp_path / "other.pth")
    proof = rc.verify(tmp_path / "other.pth", "mxnet", SOURCE, oracle="none")
    assert not proof.passed
    assert proof.first_divergence is not None
    assert proof.first_divergence.name == "fc"


# What fails leaves everything as it was


def test_a_proof_that_fails_leaves_the_old_files(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> dict[str, np.ndarray[Any, Any]]:
        arrays = assemble(*arguments)
        return {**arrays, "fc.weight": np.ascontiguousarray(arrays["fc.weight"][::-1])}

    monkeypatch.setattr(pipeline, "assemble", wrong)
    with pytest.raises(ProofFailedError, match="first divergence at fc") as error:
        rc.convert("mxnet", SOURCE, old, oracle="none")
    assert error.value.exit_code == 5
    assert error.value.report.verification is not None
    assert listing(old.parent) == OLD


def test_files_that_may_not_be_replaced(old: Path) -> None:
    for name in ("out.json", "out.pth"):
        with pytest.raises(WriteError, match="is there already") as error:
            rc.convert("mxnet", SOURCE, old, oracle="none", overwrite=False)
        assert error.value.file == str(old.parent / ("out.pth" if name == "out.json" else "out.json"))
        old.unlink(missing_ok=True)
    assert listing(old.parent) == {"out.json": OLD["out.json"]}


def test_an_output_without_a_suffix_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="suffix"):
        rc.convert("mxnet", tmp_path / "absent", tmp_path / "out")


@pytest.mark.parametrize("stage", ["writing", "proof in float64", "the module in float32"])
def test_ctrl_c_while_it_works(old: Path, stage: str) -> None:
    def say(message: str) -> None:
        if message.startswith(stage):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rc.convert("mxnet", SOURCE, old, oracle="none", say=say)
    assert listing(old.parent) == OLD


@pytest.mark.parametrize("more", [1, 100_000])
def test_no_room_for_the_report(converted: Path, old: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """The checkpoint is written and proven, and then the report does not fit: neither is moved."""
    room = converted.stat().st_size
    monkeypatch.setattr(pipeline, "to_json", lambda report: bytes(room + more))
    with room_for(room), pytest.raises(WriteError, match="cannot be written: File too large") as error:
        rc.convert("mxnet", SOURCE, old, oracle="none")
    assert error.value.file == str(old.with_suffix(".json"))
    assert listing(old.parent) == OLD


# From outside


# Nothing of the checkpoint fits, half of it, all but its end.
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_full_disk_ends_with_exit_code_6(converted: Path, old: Path, share: float) -> None:
    """torch's archive writer, left half-way, must not end the process."""
    room = int(share * converted.stat().st_size)
    program = f"""
import resource, signal, sys
sys.dont_write_bytecode = True
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
from resnext_convert.cli import main
main()
"""
    command = [sys.executable, "-c", program, "mxnet", str(SOURCE), str(old), "--oracle", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert str(old) in done.stderr.replace("\n", "")
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(old.parent) == OLD


@pytest.mark.parametrize("stage", ["writing", "proof in float64"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_is_killed(old: Path, stage: str, number: signal.Signals) -> None:
    program = f"""
import resnext_convert as rc
try:
    rc.convert("mxnet", {str(SOURCE)!r}, {str(old)!r}, oracle="none", say=lambda message: print(message, flush=True))
    input()
except KeyboardInterrupt:
    raise SystemExit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert any(line.startswith(stage) for line in iter(process.stdout.readline, ""))
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGINT else -number)
    finally:
        process.kill()
        process.communicate()
    found = listing(old.parent)
    # The signal may come late, and find a conversion that has ended; nothing else is left in any case.
    assert found == OLD or json.loads(found["out.json"])["output"]["sha256"] == checkpoint.sha256(old)
    assert sorted(found) == ["out.json", "out.pth"]
