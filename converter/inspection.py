"""Says what is in a file, by its content; and which network a pair of files holds. Needs neither torch nor MXNet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from resnext_convert.converter import releases
from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import (
    ConvertError,
    FormatError,
    MissingFileError,
    NotResNeXtError,
    ReleaseMismatchError,
)
from resnext_convert.converter.findings import (
    AppliedDefault,
    CheckpointInspection,
    InspectedFile,
    Inspection,
    NetworkInspection,
    NodeEntry,
    PairInspection,
    ParamsInspection,
    ReportInspection,
    SymbolInspection,
    TensorEntry,
)
from resnext_convert.converter.mxnet.meaning import Feed
from resnext_convert.converter.mxnet.operators import TABLE
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.mxnet.source import locate, read_pair
from resnext_convert.converter.mxnet.symbol import Entry, Operation, SymbolFile, Variable, read_symbol
from resnext_convert.converter.preprocess import input_spec
from resnext_convert.converter.proof import FileRecord
from resnext_convert.converter.report import SourceRecord, encode, report_path
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.torch_zip import is_checkpoint, read_state

_BOM = b"\xef\xbb\xbf"
_TREACHEROUS = ("eps", "fix_gamma")
"""Attributes whose defaults (1e-3 and True) other programs get wrong when a file leaves them out."""


def inspect(path: Path | str) -> Inspection:
    """Says what is in a file, or in the pair of files that a folder or a prefix names.

    A file is told by its content; its name does not count. One file of a pair is looked at alone.

    Args:
        path: a symbol file, a params file, a checkpoint, a report; or a folder or a prefix of a pair.

    Raises:
        MissingFileError: there is no such file, or no such pair.
        InputError: it cannot be read, is damaged, or of no kind that is known.
    """
    path = Path(path)
    try:
        is_file = path.is_file()
    except OSError as error:
        raise MissingFileError(f"cannot be looked at: {error.strerror or error}", file=path) from error
    if not is_file:
        return _pair(path)
    content = map_file(path)
    if is_checkpoint(bytes(content[:256])):
        return _checkpoint(path)
    if bytes(content[:1]) == b"\x80":
        raise FormatError(
            "this is a bare pickle, such as PyTorch wrote before 1.6; it is not opened, because it could do anything",
            file=path,
            hint="where it is trusted, load it with PyTorch and save the state dict again",
        )
    if not bytes(content[:64]).removeprefix(_BOM).lstrip().startswith(b"{"):
        return _params(path)  # which also names the kind of many other files
    document = _json(bytes(content))
    return _report(path, document) if "tool" in document or "gate" in document else _symbol(path)


def to_json(found: list[Inspection]) -> bytes:
    """Inspections as a JSON list, complete, ending in a newline."""
    return encode(found, list[Inspection])


def _file(path: Path) -> InspectedFile:
    content = map_file(path)
    return InspectedFile(path=str(path), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _json(text: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none: the reader of symbol files says what is wrong."""
    try:
        document = json.loads(text.removeprefix(_BOM))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _params(path: Path) -> ParamsInspection:
    stored = read_params(path)
    return ParamsInspection(
        file=_file(path),
        layouts=stored.layouts,
        named=stored.named,
        tensors=tuple(
            TensorEntry(
                name=tensor.name,
                dtype=tensor.dtype.value,
                shape=tensor.shape,
                bytes=tensor.nbytes,
                where=tensor.where,
            )
            for tensor in stored.tensors.values()
        ),
        notes=stored.notes,
    )


def _symbol(path: Path) -> SymbolInspection:
    symbol = read_symbol(path)
    operations = [node for node in symbol.nodes.values() if isinstance(node, Operation)]
    return SymbolInspection(
        file=_file(path),
        version=symbol.release,
        dialect=symbol.dialect,
        inputs={variable.name: variable.shape for variable in _read_as_data(symbol, operations)},
        heads=tuple(_head(symbol, head) for head in symbol.heads),
        variables=len(symbol.nodes) - len(operations),
        operators=dict(Counter(operation.op for operation in operations).most_common()),
        defaults=_applied_defaults(operations),
        nodes=tuple(NodeEntry(name=node.name, op=node.op, attributes=node.texts) for node in operations),
    )


def _read_as_data(symbol: SymbolFile, operations: Iterable[Operation]) -> list[Variable]:
    """The variables that operators read as data and not as a parameter: the image, seldom a constant."""
    read = [
        symbol.nodes[entry.node]
        for operation in operations
        for entry, argument in zip(operation.inputs, operation.arguments, strict=True)
        if argument.use is Feed.VALUE
    ]
    return [node for node in read if isinstance(node, Variable)]


def _head(symbol: SymbolFile, head: Entry) -> str:
    number, index = head
    node = symbol.nodes[number]
    output = f", output {index}" if index else ""
    return f"{node.name} ({node.op}{output})" if isinstance(node, Operation) else f"{node.name} (variable)"


def _applied_defaults(operations: Iterable[Operation]) -> tuple[AppliedDefault, ...]:
    table = {name: operator.defaults for operator in TABLE for name in operator.names}
    counts = Counter(
        (operation.op, attribute, default)
        for operation in operations
        for attribute, default in table.get(operation.op, {}).items()
        if attribute in _TREACHEROUS and default is not None and attribute not in operation.texts
    )
    return tuple(
        AppliedDefault(op=op, attribute=attribute, value=value, nodes=nodes)
        for (op, attribute, value), nodes in counts.items()
    )


def _pair(path: Path) -> PairInspection:
    try:
        symbol, params = locate(path, symbol=None, params=None, epoch=None)
    except MissingFileError as error:
        error.file = str(path)
        error.hint = "name the files themselves, or a folder or a prefix (models/resnext-101) with one pair of them"
        raise
    model = read_pair(symbol, params)
    warnings = list(model.origin.warnings)
    network, refusal = None, ""
    try:
        found = match(model)
    except NotResNeXtError as error:
        error.file = None  # it is one of those that are looked at
        refusal = str(error)
    else:
        sources = {binding.target: binding.source for binding in found.bindings}
        network = NetworkInspection(
            summary=found.config.summary,
            config=found.config,
            preprocessing=input_spec(found.config.in_channels, sources, model.tensors),
            bindings=found.bindings,
            ignored=found.ignored,
            other_heads=found.other_heads,
        )
        if release := releases.named(path, "mxnet"):
            try:
                releases.check(release, network.summary, path)
            except ReleaseMismatchError as error:
                warnings.append(str(error))
    return PairInspection(
        path=str(path),
        symbol=_symbol(symbol),
        params=_params(params),
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
        file=_file(path),
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


def _checkpoint(path: Path) -> CheckpointInspection:
    tensors = read_state(path)
    file = _file(path)
    beside = report_path(path)
    report, belongs = None, None
    try:
        found = inspect(beside) if beside.is_file() else None
    except ConvertError as error:
        note = f"the report beside it cannot be read: {error}"
    else:
        report = found if isinstance(found, ReportInspection) else None
        if report is None or report.output is None:
            note = f"there is no report of its conversion beside it ({beside.name})"
        else:
            belongs = report.output.sha256 == file.sha256
            note = f"{beside.name} is its report" if belongs else f"{beside.name} is the report of another checkpoint"
    return CheckpointInspection(
        file=file,
        tensors=tuple(
            TensorEntry(
                name=name,
                dtype=tensor.dtype.value,
                shape=tensor.shape,
                bytes=tensor.nbytes,
                where=f"data/{tensor.storage.key}",
            )
            for name, tensor in tensors.items()
        ),
        report=report,
        belongs=belongs,
        note=note,
    )
