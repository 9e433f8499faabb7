"""The command line: arguments, help, exit codes, and what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from records import HOSTILE
from repository import FIXTURES, ROOT
from running import Result, run

from resnext_convert import __version__
from resnext_convert.converter.errors import WriteError
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.text import printable

RECORDINGS = FIXTURES / "mxnet/recordings"
SOURCE = RECORDINGS / "1.9.1-bn_all_fixed"
OTHER = RECORDINGS / "0.8.0-two_heads"  # the same shapes, other weights; it has a warning
VALIDATOR = Draft202012Validator(json.loads((ROOT / "schemas/report.schema.json").read_bytes()))


def convert(*arguments: object) -> Result:
    return run("mxnet", *arguments, "--oracle", "none")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `SOURCE`."""
    out = tmp_path_factory.mktemp("converted") / "out.pth"
    assert convert(SOURCE, out).exit_code == 0
    return out


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the mapping wrong: the rows of the classifier are the wrong way round."""

    def wrong(*arguments: Any) -> dict[str, np.ndarray[Any, Any]]:
        arrays = assemble(*arguments)
        return {**arrays, "fc.weight": np.ascontiguousarray(arrays["fc.weight"][::-1])}

    monkeypatch.setattr("resnext_convert.converter.pipeline.assemble", wrong)


# --- help and usage ---------------------------------------------------------------------------------------------


def test_the_version() -> None:
    assert run("--version").stdout == f"resnext-convert {__version__}\n"


def test_help_names_the_commands_and_the_exit_codes() -> None:
    said = run("--help").stdout
    for line in (
        "  mxnet     Convert an MXNet network to PyTorch and prove the result.",
        "  verify    Repeat the proof on a checkpoint that exists.",
        "  inspect   Say what is in a file, or which network a pair of files holds.",
        "  releases  Show which networks were published, and how to have them.",
        "    0  done; proven, unless --no-verify was given",
        "    2  wrong usage",
        "    3  a file is absent, damaged or unreadable",
        "    4  no network of the family, or not the one named",
        "    5  the proof failed",
        "    6  a file could not be written",
    ):
        assert line in said.splitlines()


PROVING = "--symbol --params --epoch --image-size --oracle --golden --report --json --verbose --quiet"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("mxnet", f"{PROVING} --verify --no-verify --overwrite --no-overwrite"),
        ("verify", PROVING),
        ("inspect", "--json --verbose"),
        (
            "classify",
            "--top --input-colour --input-range --input-mean --input-std --class-order --labels --json",
        ),
    ],
)
def test_help_of_a_command(command: str, options: str) -> None:
    said = run(command, "--help").stdout
    assert all(len(line) <= 80 for line in said.splitlines())
    listed = {word.strip(",") for word in said.split() if word.startswith("--")}
    assert {*options.split(), "--help"} <= listed
    if command == "mxnet":
        for default in ("[default: verify]", "[default: auto]", "[default: overwrite]"):
            assert default in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("convert",), "No such command 'convert'"),
        (("mxnet",), "Missing argument 'SOURCE'"),
        (("mxnet", "a"), "Missing argument 'OUT'"),
        (("mxnet", "a", "b.pth", "--oracle", "caffe"), "'caffe' is not one of 'auto', 'none', 'mxnet'"),
        (("mxnet", "a", "b.pth", "--image-size", "0"), "Invalid value for '--image-size'"),
        (("mxnet", "a", "b.pth", "--epoch", "-1"), "Invalid value for '--epoch'"),
        (("mxnet", "a", "b.pth", "--top", "5"), "No such option"),
        (
            ("mxnet", "a", "b.npz"),
            "expected .pth, .pt, .safetensors, .h5, or a folder: a name that ends in /, found .npz",
        ),
        (("mxnet", "a", "b.pth", "--report", "c.pdf"), "expected .json or .html or .xml, found .pdf"),
        (("verify", "a.pth"), "Missing argument 'SOURCE'"),
        (("verify", "a.pth", "b", "--report", "c"), "found no suffix"),
        (("inspect",), "Missing argument 'FILE'"),
        (("classify", "a.pth"), "Missing argument 'IMAGE'"),
        (("classify", "a.pth", "b.png", "--top", "0"), "Invalid value for '--top'"),
        (("classify", "a.pth", "b.png", "--input-colour", "grey"), "'grey' is not one of 'rgb', 'bgr'"),
        (("classify", "a.pth", "b.png", "--input-mean", "1,2,3"), "the input is stated in part"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], says: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert says in found.stderr
    assert found.stdout == ""


def test_a_newcomer_is_shown_the_help() -> None:
    found = run()  # where it goes and the exit code are typer's own, and differ with its version
    assert "Exit codes:" in found.stdout + found.stderr


# --- conversions ------------------------------------------------------------------------------------------------


def test_a_conversion(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", "--golden", SOURCE / "io.npz")
    assert (found.exit_code, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0].startswith("ResNeXt-11 (4x2d), 10 classes, ")
    assert [line for line in lines if line.startswith("  recording  ref64:")]
    assert lines[-1].startswith("PROVEN: the largest difference is ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.pth"]


def test_json_is_alone_on_stdout(tmp_path: Path) -> None:
    found = convert(OTHER, tmp_path / "out.pth", "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout == (tmp_path / "out.json").read_text(encoding="utf-8")
    VALIDATOR.validate(json.loads(found.stdout))


def test_warnings_go_to_stderr(tmp_path: Path) -> None:
    found = convert(OTHER, tmp_path / "out.pth")
    assert found.exit_code == 0
    assert found.stderr == "warning: the head 'pool1_output' is not the classifier and is not converted\n"


def test_quiet_says_nothing(tmp_path: Path) -> None:
    found = convert(OTHER, tmp_path / "out.pth", "--quiet")
    assert (found.exit_code, found.stdout, found.stderr) == (0, "", "")


def test_verbose_shows_every_binding(tmp_path: Path) -> None:
    lines = convert(SOURCE, tmp_path / "out.pth", "-v").stdout.splitlines()
    bindings = json.loads((tmp_path / "out.json").read_bytes())["bindings"]
    shown = {line.split()[0] for line in lines if " " in line}
    assert {binding["target"] for binding in bindings} <= shown


def test_a_conversion_without_a_proof(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", "--no-verify")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[-1].startswith("NOT PROVEN: ")
    assert json.loads((tmp_path / "out.json").read_bytes())["verification"] is None


def test_reports_in_every_form(tmp_path: Path) -> None:
    reports = [tmp_path / f"report.{suffix}" for suffix in ("json", "html", "xml")]
    options = [option for report in reports for option in ("--report", report)]
    assert convert(SOURCE, tmp_path / "out.pth", *options).exit_code == 0
    assert reports[0].read_bytes() == (tmp_path / "out.json").read_bytes()
    assert b"Proven" in reports[1].read_bytes()
    assert ET.parse(reports[2]).getroot()[0].attrib["failures"] == "0"


@pytest.mark.usefixtures("spoiled")
def test_a_conversion_that_fails(tmp_path: Path) -> None:
    out, page, junit = (tmp_path / name for name in ("out.pth", "report.html", "report.xml"))
    out.write_text("old")
    found = convert(SOURCE, out, "--report", page, "--report", junit)
    assert found.exit_code == 5
    assert found.stdout.splitlines()[-1].startswith("FAILED: first divergence at fc: ")
    assert found.stderr.startswith("error: the converted network does not compute what the source computes: first ")
    assert out.read_text() == "old"
    assert b"Failed" in page.read_bytes()
    assert int(ET.parse(junit).getroot()[0].attrib["failures"]) >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pth", "report.html", "report.xml"]


@pytest.mark.usefixtures("spoiled")
def test_json_of_a_conversion_that_fails(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", "--json")
    assert found.exit_code == 5
    read = json.loads(found.stdout)
    VALIDATOR.validate(read)
    assert read["verification"]["first_divergence"]["name"] == "fc"
    assert list(tmp_path.iterdir()) == []


def no_report(tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "report.xml").mkdir()
    return "--report", tmp_path / "report.xml"


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", *no_report(tmp_path))
    assert found.exit_code == WriteError.exit_code == 6
    assert found.stdout.splitlines()[-1].startswith("PROVEN")
    assert "report.xml: cannot be written" in found.stderr
    assert (tmp_path / "out.pth").exists()


@pytest.mark.usefixtures("spoiled")
def test_a_failed_proof_counts_more_than_a_report(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", *no_report(tmp_path))
    assert found.exit_code == 5
    assert "report.xml: cannot be written" in found.stderr


def test_the_folder_of_a_report_is_looked_at_first(tmp_path: Path) -> None:
    found = convert(SOURCE, tmp_path / "out.pth", "--report", tmp_path / "absent/report.xml")
    assert found.exit_code == 6
    assert found.stderr == f"error: {tmp_path / 'absent'}: there is no such folder\nhint: make the folder first\n"
    assert list(tmp_path.iterdir()) == []


def fail_absent(folder: Path) -> list[object]:
    return [folder / "absent", folder / "out.pth"]


def fail_family(folder: Path) -> list[object]:
    return [RECORDINGS / "1.9.1-resnet_v2", folder / "out.pth"]


def fail_folder(folder: Path) -> list[object]:
    return [SOURCE, folder / "absent/out.pth"]


def fail_overwrite(folder: Path) -> list[object]:
    (folder / "out.pth").touch()
    return [SOURCE, folder / "out.pth", "--no-overwrite"]


def fail_size(folder: Path) -> list[object]:
    return [RECORDINGS / "1.9.1-pool_fixed_kernel", folder / "out.pth", "--image-size", 7]


@pytest.mark.parametrize(
    ("arguments", "code"), [(fail_absent, 3), (fail_family, 4), (fail_folder, 6), (fail_overwrite, 6), (fail_size, 2)]
)
def test_exit_codes(tmp_path: Path, arguments: Callable[[Path], list[object]], code: int) -> None:
    found = convert(*arguments(tmp_path))
    assert found.exit_code == code
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")


def test_errors_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "").replace("\ud800", "").replace("\n", "")
    found = convert(tmp_path / name / "net", tmp_path / "out.pth")
    assert found.exit_code == 3
    assert printable(name) in found.stderr
    assert all(line.isprintable() for line in found.stderr.split("\n"))


# --- verification -----------------------------------------------------------------------------------------------


def test_a_verification(converted: Path, tmp_path: Path) -> None:
    found = run("verify", converted, SOURCE, "--oracle", "none", "--report", tmp_path / "r.html")
    assert (found.exit_code, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0] == "out.pth against model-symbol.json, model-0000.params"
    assert lines[-1].startswith("PROVEN: ")
    assert b"model-0000.params" in (tmp_path / "r.html").read_bytes()


def test_json_of_a_verification(converted: Path) -> None:
    found = run("verify", converted, SOURCE, "--oracle", "none", "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    read = json.loads(found.stdout)
    VALIDATOR.validate(read)
    assert [file["role"] for file in read["files"]] == ["checkpoint", "symbol", "params"]


def test_a_verification_that_fails(converted: Path, tmp_path: Path) -> None:
    found = run("verify", converted, OTHER, "--oracle", "none", "--report", tmp_path / "r.xml")
    assert found.exit_code == 5
    assert found.stdout.splitlines()[-1].startswith("FAILED: first divergence at ")
    assert "the checkpoint does not compute what the source computes: first divergence" in found.stderr
    assert int(ET.parse(tmp_path / "r.xml").getroot()[0].attrib["failures"]) >= 2


def test_a_checkpoint_of_another_network(converted: Path) -> None:
    found = run("verify", converted, RECORDINGS / "1.9.1-imagenet", "--oracle", "none")
    assert found.exit_code == 5
    assert "the checkpoint is not of the source network" in found.stderr


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_text("text")
    assert run("verify", tmp_path / "out.pth", SOURCE).exit_code == 3
    assert run("verify", tmp_path / "absent.pth", SOURCE).exit_code == 3


# --- inspection -------------------------------------------------------------------------------------------------


def test_inspections(converted: Path) -> None:
    found = run("inspect", SOURCE, SOURCE / "model-symbol.json", converted)
    assert (found.exit_code, found.stderr) == (0, "")
    blocks = [block.splitlines()[0] for block in found.stdout.split("\n\n")]
    assert blocks == [
        f"{SOURCE}: ResNeXt-11 (4x2d)",
        f"{SOURCE / 'model-symbol.json'}: MXNet symbol file",
        f"{converted}: PyTorch checkpoint, a plain state dict",
    ]


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.params").write_text("text")
    found = run("inspect", tmp_path / "absent", SOURCE / "model-symbol.json", tmp_path / "bad.params")
    assert found.exit_code == 3
    assert found.stdout.splitlines()[0].endswith("model-symbol.json: MXNet symbol file")
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert [str(tmp_path / name) in error for name, error in zip(("absent", "bad.params"), errors, strict=True)]


def test_json_of_inspections(tmp_path: Path) -> None:
    found = run("inspect", "--json", tmp_path / "absent", SOURCE)
    assert found.exit_code == 3
    (pair,) = json.loads(found.stdout)
    assert pair["network"]["summary"] == "ResNeXt-11 (4x2d)"
    assert found.stderr.startswith("error: ")


# --- the console script -----------------------------------------------------------------------------------------


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from resnext_convert.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


def test_a_name_that_the_terminal_cannot_encode(tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    shutil.copytree(SOURCE, folder)
    found = script("inspect", folder / "model-symbol.json", PYTHONIOENCODING="ascii")
    assert found.returncode == 0
    assert b"gr\\xf6\\xdfe/model-symbol.json: MXNet symbol file" in found.stdout


def test_a_reader_that_goes_away_is_no_crash() -> None:
    command = [sys.executable, "-c", "from resnext_convert.cli import main; main()", "inspect", "-v", str(SOURCE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in said
