"""The forms of a report: JSON and its schema, JUnit XML; and how a report becomes a file."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from records import HOSTILE, RECORDS, every_record, failed, hostile, proof, report
from repository import ROOT

from resnext_convert.converter import report as module
from resnext_convert.converter.errors import UsageError, WriteError
from resnext_convert.converter.records import Record, verdict
from resnext_convert.converter.report import schema, to_html, to_json, to_junit, write
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.text import printable

SCHEMA = ROOT / "schemas/report.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_bytes()))

# --- JSON -------------------------------------------------------------------------------------------------------


def test_the_schema_in_the_repository_is_that_of_the_records() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "resnext_convert.converter.report"], check=True, capture_output=True
    ).stdout
    assert made == schema()
    assert SCHEMA.read_bytes() == made, "python -m resnext_convert.converter.report > schemas/report.schema.json"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(SCHEMA.read_bytes()))


@every_record
def test_json_is_valid(record: Record) -> None:
    VALIDATOR.validate(json.loads(to_json(record)))


def spoiled() -> dict[str, Any]:
    """Reports with one thing wrong each."""
    good = json.loads(to_json(report()))
    block = good["config"]["stages"][0][0]
    return {
        "a field too few": {key: value for key, value in good.items() if key != "bindings"},
        "a field too many": {**good, "note": "?"},
        "another version": {**good, "schema_version": 2},
        "a transform that there is not": {**good, "bindings": [{**good["bindings"][0], "transform": "half"}]},
        "a number as text": {**good, "output": {**good["output"], "bytes": "12"}},
        "a pair of three": {
            **good,
            "config": {
                **good["config"],
                "stages": [[{**block, "units": [{**block["units"][0], "conv": {"kernel": [1, 1, 1]}}]}]],
            },
        },
        "no eps": {**good, "config": {**good["config"], "data_norm": {**good["config"]["data_norm"], "eps": None}}},
        "no gate": {**good, "verification": {**good["verification"], "inputs": None}},
        "a list": [],
    }


@pytest.mark.parametrize("document", spoiled().values(), ids=spoiled().keys())
def test_the_schema_refuses(document: Any) -> None:
    assert not VALIDATOR.is_valid(document)


def test_json_holds_the_whole_configuration() -> None:
    record = report()
    stored = json.dumps(json.loads(to_json(record))["config"])
    assert TypeAdapter(ResNeXtConfig).validate_json(stored) == record.config


def test_json_keeps_every_name_as_it_is() -> None:
    read = json.loads(to_json(hostile()))
    assert read["warnings"] == [HOSTILE]
    assert read["ignored"] == [{"source": HOSTILE, "reason": HOSTILE}]


def test_json_has_null_where_a_figure_is_not_finite() -> None:
    read = json.loads(to_json(RECORDS["nothing finite"]))
    assert read["worst"]["max_abs"] is None
    assert read["worst"]["peak"] is None
    assert read["sensitivity"] is None
    assert read["oracle"]["diffs"][0]["tolerance"] is None
    assert read["gate"] == 1e-10


# --- JUnit ------------------------------------------------------------------------------------------------------


def suite(record: Record) -> ET.Element:
    root = ET.fromstring(to_junit(record))
    assert root.tag == "testsuites"
    (found,) = root
    return found


def failures(found: ET.Element) -> dict[str, str]:
    return {
        case.attrib["name"]: failure.attrib["message"]
        for case in found.iter("testcase")
        for failure in case.iter("failure")
    }


@every_record
def test_junit_counts_its_cases(record: Record) -> None:
    found = suite(record)
    cases = found.findall("testcase")
    assert int(found.attrib["tests"]) == len(cases) > 0
    assert int(found.attrib["failures"]) == len(found.findall("testcase/failure"))
    assert int(found.attrib["skipped"]) == len(found.findall("testcase/skipped"))
    assert int(found.attrib["errors"]) == 0
    assert float(found.attrib["time"]) >= 0
    assert bool(failures(found)) == (verdict(record) == "failed")


@every_record
def test_junit_has_the_elements_that_its_readers_know(record: Record) -> None:
    # Jenkins' junit-10.xsd, to which GitLab, GitHub's reporters and Azure keep as well.
    children = {
        "testsuites": {"testsuite"},
        "testsuite": {"properties", "testcase"},
        "properties": {"property"},
        "testcase": {"failure", "skipped", "system-out"},
    }
    attributes = {
        "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
        "property": {"name", "value"},
        "testcase": {"classname", "name", "time"},
        "failure": {"message", "type"},
        "skipped": {"message"},
    }
    for element in ET.fromstring(to_junit(record)).iter():
        assert {child.tag for child in element} <= children.get(element.tag, set())
        optional = {"time"} if element.tag == "testcase" else set()
        assert set(element.attrib) | optional == attributes.get(element.tag, set())
    for case in suite(record).iter("testcase"):
        assert not (case.findall("failure") and case.findall("skipped"))


def test_junit_has_a_case_for_all_that_was_compared() -> None:
    names = [(case.attrib["classname"], case.attrib["name"]) for case in suite(report()).iter("testcase")]
    assert names == [
        ("resnext-convert.float64", "structured image (1x3x32x32)"),
        ("resnext-convert.float64", "random (2x3x8x9)"),
        ("resnext-convert.float32", "logits in float32"),
        ("resnext-convert.oracle", "MXNet"),
        ("resnext-convert.recording", "ref64:fc1_output"),
        ("resnext-convert.proof", "verdict"),
    ]


def test_junit_says_how_long_an_input_took() -> None:
    times = {case.attrib["name"]: case.get("time") for case in suite(report()).iter("testcase")}
    assert times["structured image (1x3x32x32)"] == "0.750"
    assert times["verdict"] is None


def test_junit_says_what_failed() -> None:
    found = failures(suite(report(verification=failed())))
    assert found == {
        "structured image (1x3x32x32)": "largest difference at layer2.0.bn1: 5.3e-04 of peak 2.5, at [0, 7]; "
        "1.0e-10 would pass",
        "MXNet 1.9.1, float32: fc1_output": "largest difference at fc1_output: 2.0e-02 of peak 2.5, at [0, 7]; "
        "1.6e-05 would pass",
        "ref64:fc1_output": "largest difference at ref64:fc1_output: 3.0e-02 of peak 2.5, at [0, 7]; "
        "1.0e-09 would pass",
        "verdict": failed().failure,
    }


def test_junit_fails_for_a_reason_that_no_comparison_shows() -> None:
    blind = proof(passed=False, failure="the logits do not vary between inputs", sensitivity=0.0)
    assert failures(suite(blind)) == {"verdict": "the logits do not vary between inputs"}


def test_junit_says_why_something_was_skipped() -> None:
    (skipped,) = suite(report()).findall("testcase/skipped")
    assert skipped.attrib == {"message": "not asked for"}
    (skipped,) = suite(report(verification=None)).findall("testcase/skipped")
    assert skipped.attrib == {"message": "not proven: --no-verify was given"}


def test_junit_names_the_files() -> None:
    properties = {p.attrib["name"]: p.attrib["value"] for p in suite(report()).iter("property")}
    assert properties["params.name"] == "net-0000.params"
    assert properties["checkpoint.sha256"] == "c" * 64
    assert properties["network"] == "ResNeXt-11 (4x2d)"


def test_junit_escapes_what_xml_cannot_hold() -> None:
    messages = [failure.attrib["message"] for failure in suite(hostile()).iter("failure")]
    assert f"first divergence at {printable(HOSTILE)}" in messages


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "form"), [(".json", to_json), (".xml", to_junit), (".html", to_html)])
def test_the_suffix_chooses_the_form(tmp_path: Path, suffix: str, form: Any) -> None:
    path = tmp_path / f"report{suffix}"
    path.write_text("old")
    write(report(), path)
    assert path.read_bytes() == form(report())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected .json or .html or .xml, found .txt"):
        write(report(), tmp_path / "report.txt")
    with pytest.raises(UsageError, match="found no suffix"):
        write(report(), tmp_path / "report")
    assert [entry.name for entry in tmp_path.iterdir()] == []


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written: No such file or directory"):
        write(report(), tmp_path / "absent" / "report.json")
    folder = tmp_path / "report.html"
    folder.mkdir()
    with pytest.raises(WriteError, match="there is a folder of this name"):
        write(report(), folder)


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(files: object) -> None:
        raise WriteError("the disk is full")

    path = tmp_path / "report.xml"
    path.write_text("old")
    monkeypatch.setattr(module, "commit", full)
    with pytest.raises(WriteError):
        write(report(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
