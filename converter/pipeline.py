"""The one composition of everything: read, match, assemble, write, prove what was written, move it into place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from pydantic import TypeAdapter, ValidationError

from resnext_convert import __version__
from resnext_convert.converter import checkpoint, probe, sources, targets
from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import ConvertError, ProofError
from resnext_convert.converter.hub import hub_config, metadata
from resnext_convert.converter.output import Output
from resnext_convert.converter.preprocess import InputSpec, contradictions, input_spec
from resnext_convert.converter.proof import FileRecord, VerificationReport
from resnext_convert.converter.readers import Framework
from resnext_convert.converter.records import (
    FOLDER_MODEL,
    SCHEMA_VERSION,
    ConversionReport,
    SourceRecord,
    StockRecord,
    report_path,
)
from resnext_convert.converter.remarks import remarks
from resnext_convert.converter.report import to_json
from resnext_convert.converter.resnext.precision import Precision, cast
from resnext_convert.converter.resnext.state_dict import assemble, dtype_note
from resnext_convert.converter.sources import Located, Source, SourceArguments
from resnext_convert.converter.targets import Target, TargetName, WantedOrder
from resnext_convert.converter.tensors import Array

if TYPE_CHECKING:  # a conversion that is not proven does without torch, unless it writes .pth
    import torch

    from resnext_convert.converter.verify import Oracle

NOT_FOR_TIMM: Final = "resnext_convert.load loads this folder; timm loads those of --target timm alone"

Say = Callable[[str], None]


def silent(message: str) -> None:
    """Says nothing."""


def convert(
    framework: Framework,
    source: Path | str | Located,
    out: Path | str,
    *,
    target: TargetName = "reference",
    class_order: WantedOrder | None = None,
    dtype: Precision | None = None,
    image_size: int | None = None,
    verify: bool = True,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    overwrite: bool = True,
    say: Say = silent,
    **said: Unpack[SourceArguments],
) -> ConversionReport:
    """Converts a network and proves it; the checkpoint and its report appear together, or nothing does.

    Args:
        framework: what wrote the source, ``mxnet`` or ``caffe``.
        source: the name of a published release; or a folder with one pair of files, a prefix (``models/resnext-101``),
            or one file of the pair; or what `sources.locate` made of one of these.
        out: the checkpoint, ``.pth``, ``.pt``, ``.safetensors`` or ``.h5``; the report goes beside it, ``.json``. Or
            a folder, which ends in ``/`` or is there: ``config.json``, ``model.safetensors`` and ``report.json``.
            timm loads those of its target.
        target: ``reference``: the network as it is; ``torchvision`` or ``timm``: as a stock model of theirs computes
            it.
        class_order: the order of classes that goes out, ``source`` or ``imagenet-2012``; None: see `targets.render`.
        dtype: what all weights are rounded to, ``float16``, ``bfloat16`` or ``float32``; None: exact, float32 where
            that loses nothing. The exact ones are proven then, and the rounded ones shown to be their rounding.
        image_size: side of the proof's full-size image; None: as the graph declares, or 224, or what fits.
        verify: whether to prove the result. Without it nothing is known but that the shapes fit.
        oracle: ``auto`` asks MXNet or OpenCV, whichever reads the source, if it is installed and can be asked;
            ``mxnet`` and ``opencv`` demand it, ``none`` does not ask.
        golden: recordings to compare with (``.npz``: ``in:NAME``, ``out:NAME``, ``ref64:NAME``).
        overwrite: whether an output that is there may be replaced.
        say: told what is being done.
        said: what else is known of the source, see `sources.SourceArguments`.

    Raises:
        ConvertError: see its classes; each has the exit code of the command line. Nothing was written then.
    """
    output = Output(out, overwrite=overwrite, dtype=dtype)
    located = source if isinstance(source, Located) else sources.locate(framework, source, **said)
    say("reading")
    found = sources.understand(located)
    model, match = found.model, found.match
    goal = _render(found, target, class_order)
    names = goal.keys()
    exact = {key: goal.folded.arrays[ours] for ours, key in names.items()}
    rounded = cast(exact, dtype) if dtype else None
    arrays = rounded.arrays if rounded else exact
    spec = input_spec(model, match, found.domain)
    size = probe.image_size(match.config, image_size, model.origin.input_shape)
    with output:
        say("writing")
        config = hub_config(goal, found.release, size) if output.is_folder else {}
        output.write(arrays, metadata(goal, match.config.summary), config)
        written = output.readable
        proof = None
        if verify:
            proof = _prove(
                found,
                goal,
                checkpoint.read(written),
                exact if rounded else None,
                spec,
                image_size=image_size,
                oracle=oracle,
                golden=golden,
                say=say,
            )
        report = ConversionReport(
            schema_version=SCHEMA_VERSION,
            tool=f"resnext-convert {__version__}",
            source=SourceRecord(
                framework=model.origin.framework,
                version=model.origin.version,
                files=tuple(_record(role, path, path.name) for role, path in model.origin.files.items()),
                release=found.release.name if found.release else None,
                identified=found.identified,
                domain=found.domain,
                class_order=found.class_order,
            ),
            network=match.config.summary,
            config=goal.folded.config,
            target=target,
            stock=_stock(goal),
            dtype=str(arrays[names["fc.weight"]].dtype),
            dtype_note=rounded.note if rounded else dtype_note(goal.folded.arrays, goal.folded.bindings),
            output=_record("checkpoint", written, output.name),
            preprocessing=spec,
            domain=goal.domain,
            class_order=goal.class_order,
            bindings=tuple(replace(binding, target=names[binding.target]) for binding in goal.folded.bindings),
            ignored=goal.folded.ignored,
            warnings=(
                *model.origin.warnings,
                *found.warnings,
                *remarks(model, match, goal, image_size),
                *([NOT_FOR_TIMM] if output.is_folder and target != "timm" else []),
                *contradictions(spec),
            ),
            verification=proof,
        )
        if proof is not None and not proof.passed:
            raise ProofFailedError(report)
        output.commit(to_json(report))
    return report


def verify(
    checkpoint_path: Path | str,
    framework: Framework | None,
    source: Path | str | Located,
    *,
    target: TargetName | None = None,
    class_order: WantedOrder | None = None,
    image_size: int | None = None,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    say: Say = silent,
    **said: Unpack[SourceArguments],
) -> VerificationReport:
    """Repeats the proof on a checkpoint that exists.

    Its report is not needed: the source, and what is said, tell what it must be. Where no target is named, a report
    beside it that is of these very bytes tells target, input and order of classes.

    Args:
        checkpoint_path: the checkpoint.
        framework: what wrote the source; None: as its files, or the catalogue, say.
        source: as for `convert`.
        target: as for `convert`; None: as the report says, else ``reference``.
        class_order: as for `convert`.
        image_size: side of the proof's full-size image.
        oracle: whether to ask the original engine.
        golden: recordings to compare with.
        say: told what is being done.
        said: what else is known of the source, see `sources.SourceArguments`.

    Returns:
        The proof; ``passed`` is the verdict.

    Raises:
        ProofError: the checkpoint has other keys or shapes than the source network.
        ConvertError: either side cannot be read.
    """
    path = Path(checkpoint_path)
    located = source if isinstance(source, Located) else sources.locate(framework, source, **said)
    say("reading")
    found = sources.understand(located)
    told = None if target else _told(path)
    if told:
        target, class_order = told.target, class_order or told.wanted
        found = replace(
            found,
            domain=located.domain or told.domain,
            class_order=located.class_order or told.class_order,
        )
    goal = _render(found, target or "reference", class_order)
    names = goal.keys()
    exact = {key: goal.folded.arrays[ours] for ours, key in names.items()}
    state = checkpoint.read(path)
    shapes = goal.folded.config.state_shapes()
    problems = _state_problems({names[ours]: shape for ours, shape in shapes.items()}, state)
    if problems:
        raise ProofError(
            f"the checkpoint is not of the source network: {problems[0]}",
            file=path,
            expected=f"the {len(names)} keys of {_network_text(found, goal)}",
            found=f"{len(problems)} differences",
            hint="if it was made for another target, name that: --target",
        )
    proof = _prove(
        found,
        goal,
        state,
        exact if _is_rounded(state, exact) else None,
        input_spec(found.model, found.match, found.domain),
        image_size=image_size,
        oracle=oracle,
        golden=golden,
        say=say,
    )
    compared = [("checkpoint", path / FOLDER_MODEL if path.is_dir() else path), *found.model.origin.files.items()]
    return replace(proof, files=tuple(_record(role, file, file.name) for role, file in compared))


class ProofFailedError(ProofError):
    """The proof was made and failed; ``report`` holds it. Nothing was written."""

    def __init__(self, report: ConversionReport) -> None:
        proof = report.verification
        assert proof is not None
        super().__init__(
            f"the converted network does not compute what the source computes: {proof.failure}",
            hint="nothing was written; "
            + (
                "take a wider --dtype, or none"
                if proof.rounding and not proof.rounding.wrong and not proof.rounding.passed
                else "this is a defect of the converter or of the files: please report it"
            ),
        )
        self.report = report


def _network_text(found: Source, goal: Target) -> str:
    """The network and, for a stock model, how that is made."""
    return found.match.config.summary + (f" as {goal.stock.call}" if goal.stock else "")


def _render(found: Source, target: TargetName, class_order: WantedOrder | None) -> Target:
    return targets.render(
        target,
        found.match,
        assemble(found.match, found.model.tensors),
        domain=found.domain,
        class_order=found.class_order,
        wanted=class_order,
    )


def _prove(
    found: Source,
    goal: Target,
    state: dict[str, torch.Tensor],
    exact: Mapping[str, Array] | None,
    spec: InputSpec,
    **options: Any,
) -> VerificationReport:
    """Proves a state dict that was read back; ``exact`` is what it is the rounding of, if it was rounded."""
    from resnext_convert.converter.torch_checkpoint import tensors_of
    from resnext_convert.converter.verify import prove

    names = goal.keys()
    published = {ours: state[key] for ours, key in names.items()}
    proven = {ours: value for ours, value in tensors_of(goal.folded.arrays).items() if ours in names} if exact else None
    return prove(
        found.model,
        found.match,
        proven or published,
        spec,
        folded=goal.folded,
        published=published if proven else None,
        **options,
    )


def _stock(goal: Target) -> StockRecord | None:
    if goal.stock is None:
        return None
    return StockRecord(
        library=goal.stock.library,
        call=goal.stock.call,
        architecture=goal.stock.architecture,
        arguments=dict(goal.stock.arguments),
        legacy=goal.stock.legacy,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the report beside a checkpoint says that its source does not."""

    target: TargetName
    domain: InputDomain | None
    class_order: ClassOrder | None
    wanted: WantedOrder


def _told(path: Path) -> _Told | None:
    """What the report beside a checkpoint says, if there is one, and it is of these very bytes."""
    try:
        report = checkpoint.read_report(report_path(path))
        if report["output"]["sha256"] != checkpoint.sha256(path / FOLDER_MODEL if path.is_dir() else path):
            return None
        source = report["source"]
        moved = report["class_order"] == "imagenet-2012" and source["class_order"] is not None
        plain = {
            "target": report["target"],
            "domain": source["domain"],
            "class_order": source["class_order"],
            "wanted": "imagenet-2012" if moved else "source",
        }
        return TypeAdapter(_Told).validate_json(json.dumps(plain))
    except (ConvertError, ValidationError, KeyError, TypeError):
        return None


def _is_rounded(state: Mapping[str, torch.Tensor], exact: Mapping[str, Array]) -> bool:
    """Whether a checkpoint has one precision, which is lower than that of some exact tensor."""
    from resnext_convert.converter.rounding import precision_of

    dtype = precision_of(state)
    return dtype is not None and any(
        array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize for array in exact.values()
    )


def _state_problems(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor]) -> list[str]:
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
