"""The forms in which the record of a conversion is written: JSON, JUnit XML, HTML."""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from resnext_convert import __version__
from resnext_convert.converter.compare import TensorDiff
from resnext_convert.converter.errors import UsageError
from resnext_convert.converter.proof import FileRecord, VerificationReport
from resnext_convert.converter.records import SCHEMA_VERSION, ConversionReport, Record, proof_of, verdict
from resnext_convert.converter.resnext import overview
from resnext_convert.converter.resnext.ledger import used
from resnext_convert.converter.staging import StagedFile, commit, writing
from resnext_convert.converter.text import counted, printable, shape_text


def write(record: Record, path: Path) -> None:
    """Writes a report in the form that its suffix names; it appears whole or not at all.

    Args:
        record: of a conversion, or of a proof alone.
        path: ``.json``, ``.html`` or ``.xml`` (JUnit).

    Raises:
        UsageError: the suffix is another one.
        WriteError: the file cannot be written; what was there is untouched.
    """
    content = form(path)(record)
    with StagedFile(path) as staged:
        with writing(path):
            staged.file.write(content)
        commit([staged])


def form(path: Path) -> Callable[[Record], bytes]:
    """The function that makes the form which a report's suffix names.

    Raises:
        UsageError: no form has this suffix.
    """
    if path.suffix not in FORMS:
        raise UsageError(
            "the suffix of a report says which form is wanted, and this one says none",
            file=path,
            expected=" or ".join(FORMS),
            found=path.suffix or "no suffix",
        )
    return FORMS[path.suffix]


# --- JSON ---------------------------------------------------------------------------------------------------------


def to_json(record: Record) -> bytes:
    """The record as JSON, indented, ending in a newline; a figure that is not finite becomes ``null``."""
    return encode(record, type(record))


def encode(value: object, kind: Any) -> bytes:
    """A value of dataclasses as JSON in UTF-8. ``kind`` is its type.

    Names with lone surrogates, which UTF-8 lacks, keep JSON's own escape for them.
    """
    plain = _finite(TypeAdapter(kind).dump_python(value, mode="json"))
    return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> bytes:
    """The JSON Schema of what `to_json` writes; ``schemas/report.schema.json`` holds it."""
    made = TypeAdapter(ConversionReport | VerificationReport).json_schema(
        mode="serialization", schema_generator=_Schema
    )
    for name, definition in made["$defs"].items():
        if definition["type"] != "object":
            continue
        definition["additionalProperties"] = False
        definition.pop("description", None)  # the docstring, which pydantic puts here since 2.13
        if name in {"TensorDiff", "EngineResult", "OriginalDiff", "RoundingRecord", "VerificationReport"}:
            _allow_null(definition["properties"])
    # Said here, because older releases of pydantic make a constant a list of choices as well.
    made["$defs"]["ConversionReport"]["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "resnext-convert report",
        "description": "What `resnext-convert` writes beside a checkpoint, and what `--report FILE.json` and "
        "`--json` give; a proof alone where the command was `verify`.",
    }
    return (json.dumps(heading | made, indent=1, sort_keys=True) + "\n").encode()


def _allow_null(properties: dict[str, Any]) -> None:
    """The figures of a proof are null where they are not finite."""
    for definition in properties.values():
        if definition.get("type") == "number":
            definition["type"] = ["number", "null"]


# --- JUnit --------------------------------------------------------------------------------------------------------


def to_junit(record: Record) -> bytes:
    """The proof as JUnit XML: one suite, a test case for each thing that was compared and one for the verdict.

    The float32 figure and the largest differences are properties and texts: nothing there decides. A conversion
    without a proof is one skipped case.
    """
    proof = proof_of(record)
    suite = ET.Element("testsuite", name="resnext-convert")
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(record):
        ET.SubElement(properties, "property", name=printable(name), value=printable(value))
    cases = [_Case("verdict", skipped="not proven: --no-verify was given")] if proof is None else list(_cases(proof))
    for case in cases:
        element = ET.SubElement(suite, "testcase", classname=f"resnext-convert.{case.group}", name=printable(case.name))
        if case.seconds is not None:
            element.set("time", f"{case.seconds:.3f}")
        if case.failure:
            ET.SubElement(element, "failure", message=printable(case.failure), type="difference")
        if case.skipped:
            ET.SubElement(element, "skipped", message=printable(case.skipped))
        if case.said:
            ET.SubElement(element, "system-out").text = printable(case.said)
    suite.attrib |= {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "errors": "0",
        "skipped": str(sum(bool(case.skipped) for case in cases)),
        "time": f"{proof.seconds if proof else 0:.3f}",
    }
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


class _Case(NamedTuple):
    name: str
    group: str = "proof"
    failure: str = ""
    skipped: str = ""
    said: str = ""
    seconds: float | None = None


def _cases(proof: VerificationReport) -> Iterator[_Case]:
    for result in proof.inputs:
        name = f"{result.name} ({shape_text(result.shape)})"
        yield _compared(name, "float64", result.worst, proof.gate)._replace(seconds=result.seconds)
    if rounding := proof.rounding:
        said = f"{rounding.wrong} is not the nearest {rounding.dtype} to the proven values" if rounding.wrong else ""
        yield _Case(f"{rounding.tensors} tensors are the nearest {rounding.dtype}", "rounding", failure=said)
        yield _compared(f"the weights in {rounding.dtype}", "rounding", rounding.worst, rounding.bound)
    yield _Case(proof.float32.name, "float32", said=f"{proof.float32}, for information")
    engine = proof.oracle
    if engine.passed is None:
        yield _Case(engine.name, "oracle", skipped=engine.reason)
    for asked in engine.diffs:
        yield _compared(f"{engine.name}, {asked.precision}: {asked.diff.name}", "oracle", asked.diff, asked.tolerance)
    for recording in proof.golden:
        yield _compared(recording.diff.name, "recording", recording.diff, recording.tolerance)
    yield _Case("verdict", failure=proof.failure)


def _compared(name: str, group: str, diff: TensorDiff, tolerance: float) -> _Case:
    said = f"largest difference at {diff}; {tolerance:.1e} would pass"
    return _Case(name, group, failure="" if diff.within(tolerance) else said, said=said)


def _properties(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record, ConversionReport):
        yield "tool", record.tool
        yield "network", record.network
    for file in _files(record):
        yield f"{file.role}.name", file.name
        yield f"{file.role}.bytes", str(file.bytes)
        yield f"{file.role}.sha256", file.sha256
    if proof := proof_of(record):
        yield "gate", f"{proof.gate:g}"
        yield "worst", f"{proof.worst.max_of_peak:g}"
        yield "sensitivity", f"{proof.sensitivity:g}"


# --- HTML ---------------------------------------------------------------------------------------------------------

AXIS: Final = range(-18, 1)
"""Powers of ten on the axis of the page's charts."""


class Bar(NamedTuple):
    """One line of a chart on a logarithmic axis; ``passed`` is None where nothing is decided."""

    name: str
    detail: str
    value: float
    tolerance: float | None
    passed: bool | None


def to_html(record: Record) -> bytes:
    """The record as one page that needs nothing else: no script, no font, no image from anywhere."""
    import jinja2  # here, because only this form needs it

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"figure": figure, "place": place, "shape": shape_text}
    environment.globals["counted"] = counted
    template = resources.files("resnext_convert.schemas").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(_page(record)).encode("utf-8")


def _shown(value: object) -> object:
    """What the page shows of a value; a macro's result is the page's own text already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _page(record: Record) -> Mapping[str, object]:
    conversion = record if isinstance(record, ConversionReport) else None
    proof = proof_of(record)
    return {
        "conversion": conversion,
        "proof": proof,
        "verdict": verdict(record),
        "tool": conversion.tool if conversion else f"resnext-convert {__version__}",
        "files": _files(record),
        "used": used(conversion.bindings) if conversion else 0,
        "facts": overview.facts(conversion.config) if conversion else (),
        "stages": overview.stage_rows(conversion.config) if conversion else (),
        "bars": list(_bars(proof)) if proof else [],
        "engine_bars": list(_engine_bars(proof)) if proof else [],
        "ticks": AXIS[::3],
    }


def _bars(proof: VerificationReport) -> Iterator[Bar]:
    for result in proof.inputs:
        detail = f"{shape_text(result.shape)}, {counted(result.compared, 'comparison')}, worst at {result.worst.name}"
        yield Bar(result.name, detail, result.worst.max_of_peak, proof.gate, result.worst.within(proof.gate))
    if rounding := proof.rounding:
        detail = f"the rounded weights, run in float64, worst at {rounding.worst.name}"
        yield Bar(rounding.dtype, detail, rounding.worst.max_of_peak, rounding.bound, rounding.passed)
    yield Bar("float32", proof.float32.name, proof.float32.max_of_peak, None, None)


def _engine_bars(proof: VerificationReport) -> Iterator[Bar]:
    asked = [(f"{proof.oracle.name}, {original.precision}", original) for original in proof.oracle.diffs]
    for detail, original in [*asked, *(("recording", original) for original in proof.golden)]:
        diff = original.diff
        yield Bar(diff.name, detail, diff.max_of_peak, original.tolerance, original.passed)


def figure(value: float) -> str:
    """``8.9e-16``, ``1e-10``; what is not finite in a word."""
    if not math.isfinite(value):
        return "infinite"
    return f"{value:.1e}".replace(".0e", "e") if value else "0"


def place(value: float) -> float:
    """Where a value is on the logarithmic axis, in percent of its length."""
    if not value > 0:
        return 100.0 if math.isnan(value) else 0.0
    share = (math.log10(value) - AXIS[0]) / (AXIS[-1] - AXIS[0])
    return round(100 * min(max(share, 0.0), 1.0), 2)


FORMS: Final[Mapping[str, Callable[[Record], bytes]]] = {".json": to_json, ".html": to_html, ".xml": to_junit}


def _files(record: Record) -> tuple[FileRecord, ...]:
    if isinstance(record, ConversionReport):
        return (*record.source.files, record.output)
    return record.files


if __name__ == "__main__":  # python -m resnext_convert.converter.report > schemas/report.schema.json
    sys.stdout.buffer.write(schema())
