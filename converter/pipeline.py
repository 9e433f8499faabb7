"""The one composition of everything: read, match, assemble, write, prove what was written, move it into place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from resnext_convert import __version__
from resnext_convert.converter import checkpoint, preprocess, releases
from resnext_convert.converter.errors import ProofError, UsageError, in_file
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.preprocess import InputSpec
from resnext_convert.converter.proof import FileRecord, VerificationReport
from resnext_convert.converter.report import (
    SCHEMA_VERSION,
    ConversionReport,
    SourceRecord,
    report_path,
    to_json,
)
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.staging import StagedFile, commit, writing
from resnext_convert.converter.verify import Oracle, prove

Framework = Literal["mxnet"]
Say = Callable[[str], None]


def silent(message: str) -> None:
    """Says nothing."""


def convert(
    framework: Framework,
    source: Path | str,
    out: Path | str,
    *,
    symbol: Path | None = None,
    params: Path | None = None,
    epoch: int | None = None,
    image_size: int | None = None,
    verify: bool = True,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    overwrite: bool = True,
    say: Say = silent,
) -> ConversionReport:
    """Converts a network and proves it; the checkpoint and its report appear together, or nothing does.

    Args:
        framework: what wrote the source.
        source: a folder with one pair of files, a prefix (``models/resnext-101``), or one file of the pair.
        out: the checkpoint, ``.pth`` or ``.pt``; the report goes beside it, ``.json``.
        symbol: the symbol file, where ``source`` does not say.
        params: the params file, where ``source`` does not say.
        epoch: which of several params files.
        image_size: side of the proof's full-size image; None: as the graph declares, or 224, or what fits.
        verify: whether to prove the result. Without it nothing is known but that the shapes fit.
        oracle: ``auto`` asks MXNet if it is installed, ``mxnet`` demands it, ``none`` does not ask.
        golden: recordings to compare with (``.npz``: ``in:NAME``, ``out:NAME``, ``ref64:NAME``).
        overwrite: whether an output that is there may be replaced.
        say: told what is being done.

    Raises:
        ConvertError: see its classes; each has the exit code of the command line. Nothing was written then.
    """
    source, out = Path(source), Path(out)
    checkpoint.check_suffix(out)
    say("reading")
    model, found, release = _understand(framework, source, symbol, params, epoch)
    spec = input_spec(model, found)
    arrays = assemble(found, model.tensors)
    with (
        StagedFile(out, overwrite=overwrite) as staged,
        StagedFile(report_path(out), overwrite=overwrite) as beside,
    ):
        say("writing")
        with in_file(out):
            checkpoint.write(arrays, staged.file)
        written = staged.readable
        proof = None
        if verify:
            state = checkpoint.read(written)
            proof = prove(model, found, state, spec, image_size=image_size, oracle=oracle, golden=golden, say=say)
            del state
        report = ConversionReport(
            schema_version=SCHEMA_VERSION,
            tool=f"resnext-convert {__version__}",
            source=SourceRecord(
                framework=model.origin.framework,
                version=model.origin.version,
                files=tuple(_record(role, path, path.name) for role, path in model.origin.files.items()),
                release=release.name if release else None,
            ),
            network=found.config.summary,
            config=found.config,
            target="reference",
            dtype=str(arrays["conv1.weight" if "conv1.weight" in arrays else "conv1.0.weight"].dtype),
            output=_record("checkpoint", written, out.name),
            preprocessing=spec,
            bindings=found.bindings,
            ignored=found.ignored,
            warnings=(*model.origin.warnings, *_warnings(found)),
            verification=proof,
        )
        if proof is not None and not proof.passed:
            raise ProofFailedError(report)
        with writing(beside.path):
            beside.file.write(to_json(report))
        commit([beside, staged])
    return report


def verify(
    checkpoint_path: Path | str,
    framework: Framework,
    source: Path | str,
    *,
    symbol: Path | None = None,
    params: Path | None = None,
    epoch: int | None = None,
    image_size: int | None = None,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    say: Say = silent,
) -> VerificationReport:
    """Repeats the proof on a checkpoint that exists; its report is not needed, the source says what it must be.

    Args:
        checkpoint_path: the checkpoint.
        framework: what wrote the source.
        source: as for `convert`, and so are the others.
        symbol: the symbol file.
        params: the params file.
        epoch: which of several params files.
        image_size: side of the proof's full-size image.
        oracle: whether to ask MXNet.
        golden: recordings to compare with.
        say: told what is being done.

    Returns:
        The proof; ``passed`` is the verdict.

    Raises:
        ProofError: the checkpoint has other keys or shapes than the source network.
        ConvertError: either side cannot be read.
    """
    checkpoint_path = Path(checkpoint_path)
    say("reading")
    model, found, _ = _understand(framework, Path(source), symbol, params, epoch)
    state = checkpoint.read(checkpoint_path)
    problems = _state_problems(found, state)
    if problems:
        raise ProofError(
            f"the checkpoint is not of the source network: {problems[0]}",
            file=checkpoint_path,
            expected=f"the {len(found.bindings)} keys of {found.config.summary}",
            found=f"{len(problems)} differences",
        )
    proof = prove(
        model,
        found,
        state,
        input_spec(model, found),
        image_size=image_size,
        oracle=oracle,
        golden=golden,
        say=say,
    )
    compared = [("checkpoint", checkpoint_path), *model.origin.files.items()]
    return replace(proof, files=tuple(_record(role, path, path.name) for role, path in compared))


class ProofFailedError(ProofError):
    """The proof was made and failed; ``report`` holds it. Nothing was written."""

    def __init__(self, report: ConversionReport) -> None:
        proof = report.verification
        assert proof is not None
        super().__init__(
            f"the converted network does not compute what the source computes: {proof.failure}",
            hint="nothing was written; this is a defect of the converter or of the files: please report it",
        )
        self.report = report


def _understand(
    framework: Framework, source: Path, symbol: Path | None, params: Path | None, epoch: int | None
) -> tuple[SourceModel, Match, releases.Release | None]:
    if framework != "mxnet":
        raise UsageError(f"there is no reader for {framework!r}", expected="mxnet")
    model = read_source(source, symbol=symbol, params=params, epoch=epoch)
    found = match(model)
    release = None if symbol or params else releases.named(source, framework)
    if release:
        releases.check(release, found.config.summary, source)
    return model, found, release


def input_spec(model: SourceModel, found: Match) -> InputSpec:
    """The distribution that the network's own input statistics announce."""
    sources = {binding.target: binding.source for binding in found.bindings}
    return preprocess.input_spec(found.config.in_channels, sources, model.tensors)


def _warnings(found: Match) -> list[str]:
    unused = [ignored.source for ignored in found.ignored if ignored.reason.startswith("no node")]
    return [
        *([f"no node of the graph names these tensors, they are left out: {', '.join(unused)}"] if unused else []),
        *(f"the head {head!r} is not the classifier and is not converted" for head in found.other_heads),
    ]


def _state_problems(found: Match, state: dict[str, torch.Tensor]) -> list[str]:
    shapes = found.config.state_shapes()
    return [
        *(f"there is no {key}" for key in shapes if key not in state),
        *(f"{key} has no place" for key in state if key not in shapes),
        *(
            f"{key} is {tuple(state[key].shape)} instead of {shape}"
            for key, shape in shapes.items()
            if key in state and tuple(state[key].shape) != shape
        ),
        *(
            f"{key} holds {state[key].dtype}"
            for key in shapes
            if key in state and not state[key].is_floating_point() and not key.endswith("num_batches_tracked")
        ),
    ]


def _record(role: str, path: Path, name: str) -> FileRecord:
    return FileRecord(role=role, name=name, bytes=path.stat().st_size, sha256=checkpoint.sha256(path))
