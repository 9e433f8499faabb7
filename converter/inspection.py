"""Says what is in a file, by its content; and which network a pair of files holds. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from resnext_convert.converter import (
    inspection_caffe,
    inspection_mxnet,
    readers,
    safetensors_file,
    tensor_tree,
)
from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import (
    ConvertError,
    FormatError,
    MissingFactsError,
    MissingFileError,
    NotResNeXtError,
    ReleaseMismatchError,
)
from resnext_convert.converter.findings import (
    CheckpointInspection,
    Inspection,
    NetworkInspection,
    PairInspection,
    ParamsInspection,
    ReportInspection,
    TensorEntry,
    inspected_file,
    tensor_entries,
)
from resnext_convert.converter.libhdf5 import MAGIC
from resnext_convert.converter.preprocess import contradictions, input_spec
from resnext_convert.converter.proof import FileRecord
from resnext_convert.converter.records import FOLDER_MODEL, SourceRecord, report_path
from resnext_convert.converter.release_identity import Identity
from resnext_convert.converter.report import encode
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.safetensors_file import is_safetensors
from resnext_convert.converter.sources import identity_of
from resnext_convert.converter.torch_zip import StoredTensor, is_checkpoint, read_state

_BOM = b"\xef\xbb\xbf"


def inspect(path: Path | str) -> Inspection:
    """Says what is in a file, or in the pair of files that a folder or a prefix names.

    A file is told by its content; its name does not count. One file of a pair is looked at alone.

    Args:
        path: a file of MXNet or Caffe, a checkpoint, a report; or a folder or a prefix of a pair.

    Raises:
        MissingFileError: there is no such file, or no such pair.
        InputError: it cannot be read, is damaged, or of no kind that is known.
    """
    path = Path(path)
    try:
        is_file = path.is_file()
    except OSError as error:
        raise MissingFileError(f"cannot be looked at: {error.strerror or error}", file=path) from error
    if (path / FOLDER_MODEL).is_file():
        path, is_file = path / FOLDER_MODEL, True
    if not is_file:
        return _pair(path)
    content = map_file(path)
    if found := _checkpoint(path, bytes(content[:256])):
        return found
    if bytes(content[:1]) == b"\x80":
        raise FormatError(
            "this is a bare pickle, such as PyTorch wrote before 1.6; it is not opened, because it could do anything",
            file=path,
            hint="where it is trusted, load it with PyTorch and save the state dict again",
        )
    start = bytes(content[:512])
    if start.removeprefix(_BOM).lstrip().startswith(b"{"):
        document = _json(bytes(content))
        return _report(path, document) if "tool" in document or "gate" in document else inspection_mxnet.symbol(path)
    if of_caffe := inspection_caffe.inspect(path, start):
        return of_caffe
    return inspection_mxnet.params(path)  # which also names the kind of many other files


def to_json(found: list[Inspection]) -> bytes:
    """Inspections as a JSON list, complete, ending in a newline."""
    return encode(found, list[Inspection])


def _json(text: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none: the reader of symbol files says what is wrong."""
    try:
        document = json.loads(text.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _pair(path: Path) -> PairInspection | ParamsInspection:
    """A pair; or the params file alone, where there is no symbol file and none is needed."""
    try:
        framework = readers.framework_of(path, readers.SourceOptions())
        model = readers.read(framework, path, readers.SourceOptions())
    except MissingFileError as error:
        error.file = str(path)
        error.hint = "name the files themselves, or a folder or a prefix (models/resnext-101) with one pair of them"
        raise
    except MissingFactsError as error:
        return inspection_mxnet.params(Path(str(error.file)))
    warnings = list(model.origin.warnings)
    network, refusal = None, ""
    try:
        found = match(model)
    except NotResNeXtError as error:
        error.file = None  # it is one of those that are looked at
        refusal = str(error)
    else:
        identity = Identity()
        try:
            identity = identity_of(path, model, found)
        except ReleaseMismatchError as error:
            warnings.append(str(error))
        network = NetworkInspection(
            summary=found.config.summary,
            config=found.config,
            preprocessing=input_spec(model, found, identity.domain),
            bindings=found.bindings,
            ignored=found.ignored,
            other_heads=found.other_heads,
            release=identity.release.name if identity.release else None,
            identified=identity.reason,
        )
        warnings += [*identity.warnings, *contradictions(network.preprocessing)]
    files = model.origin.files
    return PairInspection(
        path=str(path),
        graph=inspection_mxnet.symbol(files["symbol"])
        if framework == "mxnet"
        else inspection_caffe.prototxt(files["prototxt"]),
        weights=inspection_mxnet.params(files["params"])
        if framework == "mxnet"
        else inspection_caffe.weights(files["weights"]),
        network=network,
        refusal=refusal,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _Figure:
    max_of_peak: float | None


@dataclass(frozen=True, slots=True)
class _StoredProof:
    """As much of a proof's JSON as is shown."""

    passed: bool
    failure: str
    gate: float
    worst: _Figure


@dataclass(frozen=True, slots=True)
class _StoredReport:
    """As much of a conversion's JSON as is shown."""

    tool: str
    source: SourceRecord
    network: str
    output: FileRecord
    dtype: str
    warnings: tuple[str, ...]
    verification: _StoredProof | None


def _report(path: Path, document: dict[str, Any]) -> ReportInspection:
    try:
        report = TypeAdapter(_StoredReport).validate_python(document) if "tool" in document else None
        proof = report.verification if report else TypeAdapter(_StoredProof).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise FormatError(
            f"this is no report of this program, or it is damaged: {first['msg']}",
            file=path,
            place=".".join(str(part) for part in first["loc"]),
        ) from error
    return ReportInspection(
        file=inspected_file(path),
        tool=report.tool if report else None,
        source=report.source if report else None,
        network=report.network if report else None,
        output=report.output if report else None,
        dtype=report.dtype if report else None,
        verdict="not proven" if proof is None else "proven" if proof.passed else "failed",
        failure=proof.failure if proof else "",
        gate=proof.gate if proof else None,
        worst=proof.worst.max_of_peak if proof else None,
        warnings=report.warnings if report else (),
    )


def _checkpoint(path: Path, beginning: bytes) -> CheckpointInspection | None:
    """A checkpoint of any format; None where the file is none."""
    container: Literal["pytorch", "safetensors", "hdf5"]
    metadata: dict[str, str] = {}
    if is_checkpoint(beginning):
        container, tensors = "pytorch", _stored_entries(read_state(path))
    elif is_safetensors(beginning):
        container, (stored, metadata) = "safetensors", safetensors_file.read(path)
        tensors = tensor_entries(stored.values())
    elif beginning.startswith(MAGIC) and (tree := tensor_tree.find(path)):
        container, (stored, metadata) = "hdf5", tree
        tensors = tensor_entries(stored.values())
    else:
        return None
    file = inspected_file(path)
    report, belongs, note = _report_of(path, file.sha256)
    return CheckpointInspection(
        file=file,
        container=container,
        metadata=metadata,
        tensors=tensors,
        report=report,
        belongs=belongs,
        note=note,
    )


def _stored_entries(state: Mapping[str, StoredTensor]) -> tuple[TensorEntry, ...]:
    return tuple(
        TensorEntry(
            name=name,
            dtype=tensor.dtype.value,
            shape=tensor.shape,
            bytes=tensor.nbytes,
            where=f"data/{tensor.storage.key}",
        )
        for name, tensor in state.items()
    )


def _report_of(path: Path, sha256: str) -> tuple[ReportInspection | None, bool | None, str]:
    """The report beside a checkpoint, whether it is of this very file, and what can be said about it."""
    beside = report_path(path)
    try:
        found = inspect(beside) if beside.is_file() else None
    except ConvertError as error:
        return None, None, f"the report beside it cannot be read: {error}"
    report = found if isinstance(found, ReportInspection) else None
    if report is None or report.output is None:
        return report, None, f"there is no report of its conversion beside it ({beside.name})"
    belongs = report.output.sha256 == sha256
    return report, belongs, f"{beside.name} is {'its report' if belongs else 'the report of another checkpoint'}"
