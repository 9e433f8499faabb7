"""What a person sees in the terminal, line by line; and what a pipe gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from records import FED, HOSTILE, STOCK, asked, failed, file, hostile, proof, report

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.findings import CheckpointInspection, InspectedFile, ParamsInspection, TensorEntry
from resnext_convert.converter.proof import EngineResult
from resnext_convert.converter.resnext.ledger import Binding, Transform
from resnext_convert.converter.terminal import print_conversion, print_inspections, print_proof
from resnext_convert.converter.text import printable

OUT = Path("out.pth")


def test_a_conversion(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(report(), OUT, verbose=False)
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "ResNeXt-11 (4x2d), 10 classes, 198,912 parameters",
        "  read       net-symbol.json, net-0000.params (MXNet 1.9.1)",
        "  matched    66 tensors bound to 79 keys, 1 ignored",
        "  ignored    arg:extra_weight: no node of the graph names it",
        "  input      raw RGB images in 0..255, no mean subtracted, as bn_data says",
        "  proof      float64 on both sides, gate 1e-10 of peak, 1.2 s",
        "    input             shape      compared    worst  at",
        "    structured image  1x3x32x32         5  8.9e-16  layer1.0",
        "    random            2x3x8x9           5  4.4e-16  fc",
        "  float32    1.7e-07 of peak from the float64 reference (rounding)",
        "  oracle     MXNet was not run: not asked for",
        "  recording  ref64:fc1_output agrees, 2e-16 (gate 1e-09)",
        "  wrote      out.pth (123,456 bytes, float32) and out.json",
        "PROVEN: the largest difference is 8.9e-16 of peak, 1e-10 would pass",
    ]
    assert said.err == "warning: moving_mean of bn1 is called running_mean\n"


def test_what_is_known_of_input_and_classes(capsys: pytest.CaptureFixture[str]) -> None:
    declared = InputDomain(colour="bgr", source="the release x")
    spec = replace(report().preprocessing, declared=declared)
    print_conversion(report(preprocessing=spec, class_order="imagenet-2015"), OUT, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  input      BGR of 0..255, as the release x says" in lines
    assert "  classes    in the order imagenet-2015" in lines


def test_a_stock_model_and_what_it_is_fed(capsys: pytest.CaptureFixture[str]) -> None:
    source = replace(report().source, release="publisher/net", identified="taken for publisher/net: by its name")
    print_conversion(report(stock=STOCK, domain=FED, source=source), OUT, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  release    taken for publisher/net: by its name" in lines
    assert f"  model      {STOCK.call}" in lines
    (fed,) = [line for line in lines if line.startswith("  feed ")]
    assert "RGB of 0..1" in fed
    assert "Normalize(mean=(0.482, 0.459, 0.408), std=(0.229, 0.224, 0.225))" in fed


def test_more_of_a_conversion(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(report(), OUT, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    for binding in report().bindings:
        (line,) = [line for line in lines if line.split()[:1] == [binding.target]]
        assert line.split(maxsplit=2)[1:] == [binding.origin or "-", binding.how]
    assert "  worst      layer1.0: 8.9e-16 of peak 2.5, at [0, 7]" in lines
    assert "  spread     between inputs, the logits differ by 0.25 of peak" in lines


def test_values_wider_than_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(report(dtype_note="float64 for two"), OUT, verbose=False)
    assert "  precision  float64 for two" in capsys.readouterr().out.splitlines()
    print_conversion(report(), OUT, verbose=False)
    assert "precision" not in capsys.readouterr().out


def test_branches_are_shown_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    stacked = Binding(target="layer1.0.conv1.weight", sources=("a", "b", "c"), transform=Transform.IDENTITY, axis=0)
    print_conversion(report(bindings=(stacked,)), OUT, verbose=True)
    said = capsys.readouterr().out
    assert "3 tensors bound to 1 key, 1 ignored" in said
    assert "layer1.0.conv1.weight  a and 2 more  identity; the 3 branches stacked along axis 0" in said


def test_a_conversion_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(report(verification=failed()), OUT, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"FAILED: {failed().failure}"
    assert "  oracle     MXNet 1.9.1, float32: fc1_output DIFFERS, 2e-02 (gate 1.6e-05)" in lines
    assert "  recording  ref64:fc1_output DIFFERS, 3e-02 (gate 1e-09)" in lines
    assert not [line for line in lines if "wrote" in line]


def test_a_conversion_without_a_proof(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(report(verification=None), OUT, verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("NOT PROVEN: --no-verify was given")
    assert lines[-2].startswith("  wrote")


def test_a_proof_alone(capsys: pytest.CaptureFixture[str]) -> None:
    files = (file("checkpoint", "out.pth"), file("symbol", "net-symbol.json"), file("params", "net-0000.params"))
    oracle = EngineResult(name="MXNet 1.9.1", passed=True, reason="it was given", diffs=(asked("fc1_output", 1.8e-7),))
    print_proof(proof(files=files, oracle=oracle), verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "out.pth against net-symbol.json, net-0000.params"
    assert "  oracle     MXNet 1.9.1, float32: fc1_output agrees, 1.8e-07 (gate 1.6e-05)" in lines
    assert "  oracle     it was given" in lines
    assert lines[-1] == "PROVEN: the largest difference is 8.9e-16 of peak, 1e-10 would pass"


def test_a_pipe_gets_plain_lines_of_any_length(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 3000 + " [bold]:smile:[/bold] 12"
    record = report(warnings=(long,), ignored=(replace(report().ignored[0], source=long),))
    print_conversion(record, OUT, verbose=True)
    said = capsys.readouterr()
    assert f"  ignored    {long}: no node of the graph names it" in said.out.splitlines()
    assert said.err == f"warning: {long}\n"
    assert "\x1b" not in said.out + said.err


def test_names_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversion(hostile(), OUT, verbose=True)
    tensor = TensorEntry(name=HOSTILE, dtype="float32", shape=(2,), bytes=8, where="V2 record at byte 0x18")
    stored = InspectedFile(path=HOSTILE, bytes=1, sha256="0")
    print_inspections(
        [
            ParamsInspection(file=stored, layouts=("V2",), named=True, tensors=(tensor,), notes=(HOSTILE,)),
            CheckpointInspection(file=stored, tensors=(tensor,), report=None, belongs=None, note=HOSTILE),
        ],
        verbose=True,
    )
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert printable(HOSTILE) in text
        assert all(line.isprintable() for line in text.split("\n"))


def test_columns_are_aligned_whatever_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tuple(
        TensorEntry(name=name, dtype="float32", shape=(2,), bytes=8, where="here") for name in ("重み", "bias", "é")
    )
    stored = InspectedFile(path="a.params", bytes=1, sha256="0")
    found = ParamsInspection(file=stored, layouts=("V2",), named=True, tensors=tensors, notes=())
    print_inspections([found], verbose=True)
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines == [
        "    tensor  dtype    shape  place",
        "    重み    float32  2      here",
        "    bias    float32  2      here",
        "    é       float32  2      here",
    ]


# --- on a terminal ----------------------------------------------------------------------------------------------


def on_a_terminal(program: str, **environment: str) -> bytes:
    """What a program writes to a terminal of 80 columns that is its stdout and stderr."""
    theirs, ours = os.openpty()
    tests = str(Path(__file__).parent)
    variables = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "CI"}}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})\n{program}"]
    process = subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours, env=variables)
    os.close(ours)
    said = b""
    with open(theirs, "rb", buffering=0) as terminal:  # noqa: PTH123  # a descriptor
        try:
            while chunk := terminal.read(4096):
                said += chunk
        except OSError:  # how Linux tells that the other side is closed
            pass
    assert process.wait() == 0, said.decode()
    return said


PRINT = """
from pathlib import Path
from records import report
from resnext_convert.converter.terminal import print_conversion
print_conversion(report(), Path("out.pth"), verbose=False)
"""


def test_a_terminal_gets_colours_unless_it_asks_for_none() -> None:
    coloured, plain = on_a_terminal(PRINT), on_a_terminal(PRINT, NO_COLOR="1")
    assert b"\x1b[1;32mPROVEN" in coloured
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", plain)
    escapes = re.compile(rb"\x1b\[[0-9;]*m")
    assert escapes.sub(b"", coloured) == escapes.sub(b"", plain)


PROGRESS = """
import time
from resnext_convert.converter import terminal
terminal.PATIENCE = {patience}
with terminal.progress() as say:
    say("half way \\x1b[31m[red]")
    time.sleep({work})
print("done")
"""


def test_short_work_shows_no_progress() -> None:
    assert on_a_terminal(PROGRESS.format(patience="terminal.PATIENCE", work=0.3)) == b"done\r\n"


def test_long_work_shows_progress_and_takes_it_away() -> None:
    said = on_a_terminal(PROGRESS.format(patience=0.05, work=1.0))
    assert b"half way \\x1b[31m[red]" in said
    assert said.endswith(b"\x1b[2Kdone\r\n")  # the line was erased
    assert said.count(b"\x1b[?25l") == said.count(b"\x1b[?25h") == 1  # the cursor is back


def test_a_dumb_terminal_shows_no_progress() -> None:
    assert on_a_terminal(PROGRESS.format(patience=0.05, work=0.3), TERM="dumb") == b"done\r\n"
