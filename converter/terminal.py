"""What a person sees in the terminal: results on stdout, warnings and progress on stderr.

Lines are made here and never wrapped or cut, since programs read them too; colours are Rich's business, which leaves
them out where the stream is no terminal or NO_COLOR is set. Names from files are shown with control characters
escaped.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from resnext_convert.converter.findings import (
    AppliedDefault,
    CaffeWeightsInspection,
    CheckpointInspection,
    InspectedFile,
    Inspection,
    MeanInspection,
    NodeEntry,
    PairInspection,
    ParamsInspection,
    PrototxtInspection,
    ReportInspection,
    SymbolInspection,
    TensorEntry,
)
from resnext_convert.converter.lines import console as _console
from resnext_convert.converter.lines import print_lines as _print
from resnext_convert.converter.lines import row as _row
from resnext_convert.converter.lines import table as _table
from resnext_convert.converter.records import Record, proof_of, report_path, verdict
from resnext_convert.converter.report import figure
from resnext_convert.converter.resnext import overview
from resnext_convert.converter.resnext.ledger import used
from resnext_convert.converter.text import counted, printable, shape_text

if TYPE_CHECKING:
    from resnext_convert.converter.proof import EngineResult, OriginalDiff, VerificationReport
    from resnext_convert.converter.records import ConversionReport
    from resnext_convert.converter.resnext.config import ResNeXtConfig

PATIENCE: Final = 2.0
"""Seconds of work after which progress is shown; what is done sooner leaves no flicker."""

_CONTAINERS: Final = {
    "pytorch": "PyTorch checkpoint, a plain state dict",
    "safetensors": "safetensors checkpoint",
    "hdf5": "HDF5 checkpoint, a tree of tensors",
}
_STYLES: Final = {"proven": "bold green", "failed": "bold red", "not proven": "bold yellow"}


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done and for how long; it leaves nothing behind."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    if not bar.console.is_interactive:
        yield lambda message: None
        return
    task = bar.add_task("starting", total=None)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda message: bar.update(task, description=printable(message))
    finally:
        timer.cancel()
        timer.join()  # it may be starting the bar right now
        bar.stop()


def print_conversion(report: ConversionReport, out: Path, *, verbose: bool) -> None:
    """What was read, matched, proven and written; the verdict comes last."""
    console = _console()
    classes = counted(report.config.head.classes, "class", "classes")
    parameters = counted(overview.parameter_count(report.config), "parameter")
    _print(console, [f"{report.network}, {classes}, {parameters}"], style="bold")
    _print(console, _conversion(report, verbose=verbose))
    if report.verification:
        _print(console, _proof(report.verification, verbose=verbose))
    if verdict(report) != "failed":
        written = out / report.output.name if out.is_dir() else out
        size = counted(report.output.bytes, "byte")
        _print(console, [_row("wrote", f"{written} ({size}, {report.dtype}) and {report_path(out).name}")])
    _print(Console(stderr=True, soft_wrap=True), (f"warning: {warning}" for warning in report.warnings), style="yellow")
    _print_verdict(console, report)


def print_proof(proof: VerificationReport, *, verbose: bool) -> None:
    """What was compared and how far it is apart; the verdict comes last."""
    console = _console()
    checkpoint, *source = (file.name for file in proof.files)
    _print(console, [f"{checkpoint} against {', '.join(source)}"], style="bold")
    _print(console, _proof(proof, verbose=verbose))
    _print_verdict(console, proof)


def print_inspections(found: Iterable[Inspection], *, verbose: bool) -> None:
    """One block for each file or pair, blank lines between them."""
    console = _console()
    for number, inspection in enumerate(found):
        heading, *lines = _inspection(inspection, verbose=verbose)
        _print(console, ["", heading] if number else [heading], style="bold")
        _print(console, lines)


# --- conversions and proofs -------------------------------------------------------------------------------------------


def _print_verdict(console: Console, record: Record) -> None:
    found, proof = verdict(record), proof_of(record)
    if proof is None:
        text = "--no-verify was given; it is not known that the networks compute the same"
    elif proof.passed:
        text = f"the largest difference is {figure(proof.worst.max_of_peak)} of peak, {figure(proof.gate)} would pass"
    else:
        text = proof.failure
    _print(console, [f"{found.upper()}: {text}"], style=_STYLES[found])


def _conversion(report: ConversionReport, *, verbose: bool) -> Iterator[str]:
    yield _row("read", f"{', '.join(file.name for file in report.source.files)} ({report.source.title})")
    if report.source.identified:
        yield _row("release", report.source.identified)
    keys = counted(len(report.bindings), "key")
    yield _row("matched", f"{counted(used(report.bindings), 'tensor')} bound to {keys}, {len(report.ignored)} ignored")
    if verbose:
        yield from _table(
            [("key", "source", "transform")]
            + [(binding.target, binding.origin or "-", binding.how) for binding in report.bindings]
        )
    for ignored in report.ignored:
        yield _row("ignored", f"{ignored.source}: {ignored.reason}")
    yield from (_row("input", text) for text in report.preprocessing.texts)
    if report.stock:
        yield _row("model", report.stock.call)
    if report.stock and report.domain:
        yield _row("feed", f"{report.domain.text}: Normalize(mean={report.domain.mean}, std={report.domain.std})")
    if report.class_order:
        yield _row("classes", f"in the order {report.class_order}")
    if report.dtype_note:
        yield _row("precision", report.dtype_note)


def _proof(proof: VerificationReport, *, verbose: bool) -> Iterator[str]:
    yield _row("proof", f"float64 on both sides, gate {figure(proof.gate)} of peak, {proof.seconds:.1f} s")
    rows = [("input", "shape", "compared", "worst", "at")]
    rows += [
        (
            result.name,
            shape_text(result.shape),
            str(result.compared),
            figure(result.worst.max_of_peak),
            result.worst.name,
        )
        for result in proof.inputs
    ]
    yield from _table(rows, right=(2, 3))
    if rounding := proof.rounding:
        is_near = f"{rounding.wrong} is NOT" if rounding.wrong else f"all {rounding.tensors} tensors are"
        small = f"{rounding.subnormal:,} values subnormal, {rounding.zero:,} now 0"
        yield _row("rounding", f"{is_near} the nearest {rounding.dtype}; {small}")
        distance = f"{figure(rounding.worst.max_of_peak)} of peak at {rounding.worst.name}"
        yield _row(rounding.dtype, f"{distance}; {figure(rounding.bound)} would pass ({rounding.layers} layers)")
    yield _row("float32", f"{figure(proof.float32.max_of_peak)} of peak from the float64 reference (rounding)")
    yield from _engine(proof.oracle)
    for recording in proof.golden:
        yield _row("recording", _agreement(recording))
    if verbose:
        yield _row("worst", str(proof.worst))
        yield _row("spread", f"between inputs, the logits differ by {proof.sensitivity:.2g} of peak")


def _engine(engine: EngineResult) -> Iterator[str]:
    if engine.passed is None:
        yield _row("oracle", f"{engine.name} was not run: {engine.reason}")
    for diff in engine.diffs:
        yield _row("oracle", f"{engine.name}, {diff.precision}: {_agreement(diff)}")
    if engine.passed is not None and engine.reason:
        yield _row("oracle", engine.reason)


def _agreement(original: OriginalDiff) -> str:
    verb = "agrees" if original.passed else "DIFFERS"
    diff = original.diff
    return f"{diff.name} {verb}, {figure(diff.max_of_peak)} (gate {figure(original.tolerance)})"


# --- inspections ------------------------------------------------------------------------------------------------------


def _inspection(found: Inspection, *, verbose: bool) -> Iterator[str]:
    match found:
        case ParamsInspection() | SymbolInspection() | PrototxtInspection() | CaffeWeightsInspection():
            yield from _source(found, verbose=verbose)
        case MeanInspection():
            yield f"{found.file.path}: mean image of Caffe"
            yield from _file(found.file)
            yield _row("shape", shape_text(found.shape))
            yield _row("channels", ", ".join(f"{value:.6g}" for value in found.channels))
        case PairInspection():
            yield from _pair(found, verbose=verbose)
        case ReportInspection():
            what = f"report of a conversion by {found.tool}" if found.tool else "report of a proof"
            yield f"{found.file.path}: {what}"
            yield from _report(found)
        case CheckpointInspection():
            yield f"{found.file.path}: {_CONTAINERS[found.container]}"
            yield from _file(found.file)
            yield from _tensors(found.tensors, verbose=verbose)
            yield from (_row("metadata", f"{name}: {text}") for name, text in found.metadata.items())
            yield _row("report", found.note)
            if found.report:
                yield from _report(found.report)


def _source(
    found: ParamsInspection | SymbolInspection | PrototxtInspection | CaffeWeightsInspection, *, verbose: bool
) -> Iterator[str]:
    match found:
        case ParamsInspection():
            yield f"{found.file.path}: MXNet params file"
            yield from _params(found, verbose=verbose)
        case SymbolInspection():
            yield f"{found.file.path}: MXNet symbol file"
            yield from _symbol(found, verbose=verbose)
        case PrototxtInspection():
            yield f"{found.file.path}: Caffe prototxt"
            yield from _prototxt(found, verbose=verbose)
        case CaffeWeightsInspection():
            yield f"{found.file.path}: Caffe weights"
            yield from _file(found.file)
            yield _row("container", found.container)
            layers, with_blobs = found.layers
            yield _row("layers", f"{layers:,}, {with_blobs:,} of them with blobs")
            yield from _tensors(found.tensors, verbose=verbose)
            yield from (_row("note", note) for note in found.notes)


def _file(file: InspectedFile) -> Iterator[str]:
    yield _row("size", counted(file.bytes, "byte"))
    yield _row("sha256", file.sha256)


def _params(found: ParamsInspection, *, verbose: bool) -> Iterator[str]:
    yield from _file(found.file)
    yield _row("layout", ", ".join(found.layouts) or "an empty list")
    prefixes = Counter(tensor.name.partition(":")[0] if ":" in tensor.name else "bare" for tensor in found.tensors)
    yield _row("names", _counts(prefixes) if found.named else "none: the arrays are numbered")
    yield from _tensors(found.tensors, verbose=verbose)
    for note in found.notes:
        yield _row("note", note)


def _tensors(tensors: Sequence[TensorEntry], *, verbose: bool) -> Iterator[str]:
    dtypes = Counter(tensor.dtype for tensor in tensors)
    ndims = Counter(len(tensor.shape) for tensor in tensors)
    size = counted(sum(tensor.bytes for tensor in tensors), "byte")
    yield _row("tensors", f"{len(tensors):,}, together {size}")
    yield _row("dtypes", _counts(dtypes))
    yield _row(
        "shapes", _counts({f"{ndim}-D" if ndim else "scalars": ndims[ndim] for ndim in sorted(ndims, reverse=True)})
    )
    if verbose:
        yield from _table(
            [("tensor", "dtype", "shape", "place")]
            + [(tensor.name, tensor.dtype, shape_text(tensor.shape), tensor.where) for tensor in tensors]
        )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items()) or "none"


def _symbol(found: SymbolInspection, *, verbose: bool) -> Iterator[str]:
    yield from _file(found.file)
    yield _row("written by", f"MXNet {found.version} (attributes under {found.dialect!r})")
    yield _row("graph", f"{counted(len(found.nodes), 'operator')}, {counted(found.variables, 'variable')}")
    for name, shape in found.inputs.items():
        yield _row("input", name + (f", declared as {shape_text(shape)}" if shape else ""))
    for head in found.heads:
        yield _row("head", head)
    yield _row("operators", _counts(found.operators))
    yield from _defaults(found.defaults, "MXNet", "node")
    if verbose:
        yield from _nodes(found.nodes)


def _prototxt(found: PrototxtInspection, *, verbose: bool) -> Iterator[str]:
    yield from _file(found.file)
    yield _row("net", found.name or "without a name")
    yield _row("layers", f"{found.layers:,}, {len(found.nodes):,} of them in the phase TEST")
    for name, shape in found.inputs.items():
        yield _row("input", name + (f", declared as {shape_text(shape)}" if shape else ""))
    yield _row("operators", _counts(found.operators))
    yield from _defaults(found.defaults, "Caffe", "layer")
    yield from (_row("note", note) for note in found.notes)
    if verbose:
        yield from _nodes(found.nodes)


def _defaults(defaults: Sequence[AppliedDefault], framework: str, node: str) -> Iterator[str]:
    for default in defaults:
        nodes = counted(default.nodes, node)
        yield _row("default", f"{default.op}: no {default.attribute} in {nodes}, so {framework} takes {default.value}")


def _nodes(nodes: Sequence[NodeEntry]) -> Iterator[str]:
    texts = [", ".join(f"{key}={text}" for key, text in node.attributes.items()) for node in nodes]
    yield from _table(
        [("node", "operator", "attributes")]
        + [(node.name, node.op, text) for node, text in zip(nodes, texts, strict=True)]
    )


def _pair(found: PairInspection, *, verbose: bool) -> Iterator[str]:
    network = found.network
    yield f"{found.path}: {network.summary if network else 'no ResNeXt'}"
    if network is None:
        yield _row("refused", found.refusal)
    else:
        if network.identified:
            yield _row("release", network.identified)
        for label, text in overview.facts(network.config):
            yield _row(label, text)
        yield from _stages(network.config)
        spec = network.preprocessing
        yield from (_row("input", text) for text in spec.texts)
        if network.config.data_norm:
            yield _row("input mean", ", ".join(f"{value:.6g}" for value in spec.mean))
            yield _row("input std", ", ".join(f"{value:.6g}" for value in spec.std))
        else:
            yield _row("input", spec.source)
        for ignored in network.ignored:
            yield _row("ignored", f"{ignored.source}: {ignored.reason}")
        for head in network.other_heads:
            yield _row("head", f"{head} is not the classifier and would not be converted")
    for warning in found.warnings:
        yield _row("warning", warning)
    for part in (found.graph, found.weights):
        yield from (f"  {line}" for line in _source(part, verbose=verbose))


def _stages(config: ResNeXtConfig) -> Iterator[str]:
    rows = [("stage", "blocks", "kind", "width", "groups", "out", "stride", "shortcut", "besides")]
    rows += [
        (row.name, row.blocks, row.kind, row.width, row.groups, row.channels, row.stride, row.shortcut, row.extras)
        for row in overview.stage_rows(config)
    ]
    plain = not any(extras for *_, extras in rows[1:])
    yield from _table([row[:-1] for row in rows] if plain else rows, right=(1, 3, 4, 5, 6))


def _report(found: ReportInspection) -> Iterator[str]:
    if found.source and found.output:
        yield _row("network", found.network or "")
        for file in found.source.files:
            yield _row(file.role, f"{file.name}, {counted(file.bytes, 'byte')}, sha256 {file.sha256}")
        output = found.output
        yield _row("checkpoint", f"{output.name}, {counted(output.bytes, 'byte')}, sha256 {output.sha256}")
    text = found.failure
    if found.verdict == "proven" and found.worst is not None and found.gate is not None:
        text = f"the largest difference is {figure(found.worst)} of peak, {figure(found.gate)} would pass"
    yield _row("verdict", f"{found.verdict}{': ' if text else ''}{text}")
    for warning in found.warnings:
        yield _row("warning", warning)
