"""What is in checkpoints and reports, how a file is told, and inspections as JSON."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inspecting import CONTAINER, RECORDINGS, inspected, lines
from records import failed, proof, report

from resnext_convert.converter import checkpoint
from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, TruncatedError, UnsupportedError
from resnext_convert.converter.findings import CheckpointInspection, ReportInspection
from resnext_convert.converter.inspection import inspect, to_json
from resnext_convert.converter.proof import FileRecord
from resnext_convert.converter.records import ConversionReport
from resnext_convert.converter.report import to_html
from resnext_convert.converter.report import to_json as report_json

# --- reports and checkpoints ------------------------------------------------------------------------------------


def write_pair(folder: Path) -> tuple[Path, ConversionReport]:
    """A checkpoint and the report of its conversion beside it."""
    path = folder / "out.pth"
    with path.open("wb") as file:
        checkpoint.write({"conv1.weight": np.ones((2, 3), np.float32), "bn1.num_batches_tracked": np.array(0)}, file)
    content = path.read_bytes()
    output = FileRecord(
        role="checkpoint", name="out.pth", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    record = report(output=output)
    (folder / "out.json").write_bytes(report_json(record))
    return path, record


def test_a_checkpoint_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, record = write_pair(tmp_path)
    found = inspected(CheckpointInspection, path)
    assert [(t.name, t.dtype, t.shape, t.bytes, t.where) for t in found.tensors] == [
        ("conv1.weight", "float32", (2, 3), 24, "data/0"),
        ("bn1.num_batches_tracked", "int64", (), 8, "data/1"),
    ]
    assert found.belongs is True
    assert found.report == inspected(ReportInspection, tmp_path / "out.json")
    assert found.report.network == record.network
    said = lines(found, capsys)
    assert said[0] == f"{path}: PyTorch checkpoint, a plain state dict"
    assert "  shapes     2-D: 1, scalars: 1" in said
    assert "  report     out.json is its report" in said
    assert "  network    ResNeXt-11 (4x2d)" in said
    assert said[-2] == "  verdict    proven: the largest difference is 8.9e-16 of peak, 1e-10 would pass"
    assert said[-1] == "  warning    moving_mean of bn1 is called running_mean"


def test_a_checkpoint_with_the_report_of_another(tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    torch.save({"a": torch.ones(2)}, path)
    found = inspected(CheckpointInspection, path)
    assert found.belongs is False
    assert found.note == "out.json is the report of another checkpoint"


def test_a_checkpoint_alone(tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    (tmp_path / "out.json").unlink()
    found = inspected(CheckpointInspection, path)
    assert (found.report, found.belongs) == (None, None)
    assert found.note == "there is no report of its conversion beside it (out.json)"
    (tmp_path / "out.json").write_bytes(report_json(proof()))  # a report, but of a proof alone
    assert inspected(CheckpointInspection, path).note == found.note


def test_a_checkpoint_with_a_damaged_report(tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    (tmp_path / "out.json").write_text('{"tool": 3}')
    found = inspected(CheckpointInspection, path)
    assert found.note.startswith("the report beside it cannot be read: ")
    assert (found.report, found.belongs) == (None, None)


def test_a_report_of_a_failed_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(report_json(report(verification=failed())))
    found = inspected(ReportInspection, path)
    assert (found.verdict, found.failure, found.gate, found.worst) == ("failed", failed().failure, 1e-10, 5.3e-4)
    assert f"  verdict    failed: {failed().failure}" in lines(found, capsys)


def test_a_report_without_a_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(report_json(report(verification=None)))
    found = inspected(ReportInspection, path)
    assert (found.verdict, found.gate, found.worst) == ("not proven", None, None)
    assert "  verdict    not proven" in lines(found, capsys)


def test_a_report_of_a_proof_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(report_json(proof()))
    found = inspected(ReportInspection, path)
    assert (found.tool, found.network, found.verdict, found.worst) == (None, None, "proven", 8.9e-16)
    assert lines(found, capsys)[0] == f"{path}: report of a proof"


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "resnext-convert 0.1.0"}',
        '{"tool": "resnext-convert 0.1.0", "source": []}',
        '{"gate": "small"}',
        '{"gate": 1e-10, "passed": true, "failure": "", "worst": {}}',
    ],
)
def test_a_damaged_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FormatError, match="no report of this program, or it is damaged"):
        inspect(path)


# --- how a file is told -----------------------------------------------------------------------------------------


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    checkpoint_path, _ = write_pair(tmp_path)
    kinds = {
        RECORDINGS / "1.9.1-basic/model-symbol.json": "symbol",
        RECORDINGS / "1.9.1-basic/model-0000.params": "params",
        CONTAINER / "2.0.0b1/npx_savez.params": "params",
        checkpoint_path: "checkpoint",
        tmp_path / "out.json": "report",
    }
    for path, kind in kinds.items():
        for name in ("file", "file.pth", "file.params", "file-symbol.json", "file.html"):
            copy = tmp_path / "copies" / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
            assert inspect(copy).kind == kind


def test_a_symbol_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "net-symbol.json"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + (RECORDINGS / "1.9.1-basic/model-symbol.json").read_bytes())
    assert inspect(path).kind == "symbol"


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", FormatError, "empty"),
        (b"<!doctype html>", FormatError, "web page"),
        (to_html(report()), FormatError, "web page"),
        (b"\x80\x04\x95", FormatError, "bare pickle"),
        (b"PK\x03\x04", TruncatedError, "zip"),
        (b"{}", FormatError, "no list 'nodes'"),
        (b'{"nodes": 3}', FormatError, "no list 'nodes'"),
        (b'{"nodes"', FormatError, "not JSON"),
        (b"[" * 100000, FormatError, "not an MXNet .params file"),
        (b'{"a":' * 100000, FormatError, "nested too deeply"),
        (b"\x12\x01\0\0\0\0\0\0", TruncatedError, "ends inside"),
    ],
)
def test_files_of_no_kind(tmp_path: Path, content: bytes, error: type[InputError], says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error, match=says) as refusal:
        inspect(path)
    assert str(path) in str(refusal.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.ReLU()).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedError, match="TorchScript"):
        inspect(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="net: no file of an MXNet or Caffe network is there"):
        inspect(tmp_path / "net")
    with pytest.raises(MissingFileError, match="no file of an MXNet or Caffe network is there"):
        inspect(tmp_path / "absent/net")
    with pytest.raises(MissingFileError, match="no file of an MXNet or Caffe network is there"):
        inspect(tmp_path)
    shutil.copyfile(RECORDINGS / "1.9.1-basic/model-0000.params", tmp_path / "net-0000.params")
    with pytest.raises(MissingFileError, match="net: the symbol file is not found"):
        inspect(tmp_path / "net")
    with pytest.raises(MissingFileError, match="cannot be looked at: File name too long"):
        inspect(tmp_path / ("x" * 300))


# --- JSON -------------------------------------------------------------------------------------------------------


def test_json_is_complete(tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    paths = [
        RECORDINGS / "1.9.1-basic/model-symbol.json",
        RECORDINGS / "1.9.1-basic/model-0000.params",
        RECORDINGS / "1.9.1-basic",
        RECORDINGS / "1.9.1-resnet_v2",
        tmp_path / "out.json",
        path,
    ]
    found = [inspect(path) for path in paths]
    read = json.loads(to_json(found))
    assert [entry["kind"] for entry in read] == ["symbol", "params", "pair", "pair", "report", "checkpoint"]
    symbol, params, pair, other, stored, saved = read
    assert pair["graph"] == {**symbol, "file": pair["graph"]["file"]}
    assert pair["weights"] == {**params, "file": pair["weights"]["file"]}
    assert pair["network"]["config"]["head"]["classes"] == 10
    assert other["network"] is None
    assert saved["report"] == {**stored, "file": saved["report"]["file"]}
    assert params["tensors"][0].keys() == {"name", "dtype", "shape", "bytes", "where"}
    assert json.loads(to_json([])) == []


def test_it_needs_no_torch() -> None:
    program = f"""
import sys
import resnext_convert as rc
from resnext_convert.converter import terminal
from resnext_convert.converter.inspection import to_json
found = [rc.inspect({str(RECORDINGS / "1.9.1-imagenet")!r}), rc.inspect({str(CONTAINER / "1.9.1/float32.params")!r})]
terminal.print_inspections(found, verbose=True)
to_json(found)
sys.exit(bool({{"torch", "mxnet", "jinja2"}} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
