"""The one composition of everything: read, match, assemble, write, prove what was written, move it into place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext_convert import __version__
from resnext_convert.converter import checkpoint, probe, readers, releases
from resnext_convert.converter.errors import ProofError
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.output import Output
from resnext_convert.converter.preprocess import InputSpec, contradictions, input_spec
from resnext_convert.converter.proof import FileRecord, VerificationReport
from resnext_convert.converter.readers import Framework, SourceOptions
from resnext_convert.converter.report import (
    FOLDER_MODEL,
    SCHEMA_VERSION,
    ConversionReport,
    SourceRecord,
    encode,
    to_json,
)
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.precision import Precision, cast
from resnext_convert.converter.resnext.state_dict import assemble, dtype_note
from resnext_convert.converter.tensors import Array

if TYPE_CHECKING:  # a conversion that is not proven does without torch, unless it writes .pth
    import torch

    from resnext_convert.converter.verify import Oracle

TARGET = "reference"

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
    facts: GraphFacts | None = None,
    prototxt: Path | None = None,
    weights: Path | None = None,
    dtype: Precision | None = None,
    image_size: int | None = None,
    verify: bool = True,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    overwrite: bool = True,
    say: Say = silent,
) -> ConversionReport:
    """Converts a network and proves it; the checkpoint and its report appear together, or nothing does.

    Args:
        framework: what wrote the source, ``mxnet`` or ``caffe``.
        source: a folder with one pair of files, a prefix (``models/resnext-101``), or one file of the pair.
        out: the checkpoint, ``.pth``, ``.pt``, ``.safetensors`` or ``.h5``; the report goes beside it, ``.json``. Or
            a folder, which ends in ``/`` or is there: ``config.json``, ``model.safetensors`` and ``report.json``.
        symbol: MXNet's symbol file, where ``source`` does not say.
        params: MXNet's params file, where ``source`` does not say.
        epoch: which of several params files.
        facts: what MXNet's weights without a symbol file do not say.
        prototxt: Caffe's prototxt, where ``source`` does not say.
        weights: Caffe's ``.caffemodel`` or ``.h5``, where ``source`` does not say.
        dtype: what all weights are rounded to, ``float16``, ``bfloat16`` or ``float32``; None: exact, float32 where
            that loses nothing. The exact ones are proven then, and the rounded ones shown to be their rounding.
        image_size: side of the proof's full-size image; None: as the graph declares, or 224, or what fits.
        verify: whether to prove the result. Without it nothing is known but that the shapes fit.
        oracle: ``auto`` asks MXNet or OpenCV, whichever reads the source, if it is installed and can be asked;
            ``mxnet`` and ``opencv`` demand it, ``none`` does not ask.
        golden: recordings to compare with (``.npz``: ``in:NAME``, ``out:NAME``, ``ref64:NAME``).
        overwrite: whether an output that is there may be replaced.
        say: told what is being done.

    Raises:
        ConvertError: see its classes; each has the exit code of the command line. Nothing was written then.
    """
    source = Path(source)
    output = Output(out, overwrite=overwrite, dtype=dtype)
    say("reading")
    options = SourceOptions(symbol=symbol, params=params, epoch=epoch, facts=facts, prototxt=prototxt, weights=weights)
    model, found, release = _understand(framework, source, options)
    exact = assemble(found, model.tensors)
    rounded = cast(exact, dtype) if dtype else None
    arrays = rounded.arrays if rounded else exact
    spec = input_spec(model, found)
    with output:
        say("writing")
        output.write(arrays, _metadata(found, spec), _hub_config(found, spec))
        written = output.readable
        proof = None
        if verify:
            from resnext_convert.converter.verify import prove

            state, published = _proven(checkpoint.read(written), exact if rounded else None)
            proof = prove(
                model,
                found,
                state,
                spec,
                published=published,
                image_size=image_size,
                oracle=oracle,
                golden=golden,
                say=say,
            )
            del state, published
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
            target=TARGET,
            dtype=str(arrays["conv1.weight" if "conv1.weight" in arrays else "conv1.0.weight"].dtype),
            dtype_note=rounded.note if rounded else dtype_note(arrays),
            output=_record("checkpoint", written, output.name),
            preprocessing=spec,
            class_order=None,
            bindings=found.bindings,
            ignored=found.ignored,
            warnings=(*model.origin.warnings, *_warnings(model, found, image_size), *contradictions(spec)),
            verification=proof,
        )
        if proof is not None and not proof.passed:
            raise ProofFailedError(report)
        output.commit(to_json(report))
    return report


def verify(
    checkpoint_path: Path | str,
    framework: Framework | None,
    source: Path | str,
    *,
    symbol: Path | None = None,
    params: Path | None = None,
    epoch: int | None = None,
    facts: GraphFacts | None = None,
    prototxt: Path | None = None,
    weights: Path | None = None,
    image_size: int | None = None,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    say: Say = silent,
) -> VerificationReport:
    """Repeats the proof on a checkpoint that exists; its report is not needed, the source says what it must be.

    Args:
        checkpoint_path: the checkpoint.
        framework: what wrote the source; None: as its files say.
        source: as for `convert`, and so are the others.
        symbol: MXNet's symbol file.
        params: MXNet's params file.
        epoch: which of several params files.
        facts: what MXNet's weights without a symbol file do not say.
        prototxt: Caffe's prototxt.
        weights: Caffe's weights.
        image_size: side of the proof's full-size image.
        oracle: whether to ask the original engine.
        golden: recordings to compare with.
        say: told what is being done.

    Returns:
        The proof; ``passed`` is the verdict.

    Raises:
        ProofError: the checkpoint has other keys or shapes than the source network.
        ConvertError: either side cannot be read.
    """
    checkpoint_path, source = Path(checkpoint_path), Path(source)
    say("reading")
    options = SourceOptions(symbol=symbol, params=params, epoch=epoch, facts=facts, prototxt=prototxt, weights=weights)
    model, found, _ = _understand(framework or readers.framework_of(source, options), source, options)
    from resnext_convert.converter.verify import prove

    state = checkpoint.read(checkpoint_path)
    problems = _state_problems(found, state)
    if problems:
        raise ProofError(
            f"the checkpoint is not of the source network: {problems[0]}",
            file=checkpoint_path,
            expected=f"the {len(found.bindings)} keys of {found.config.summary}",
            found=f"{len(problems)} differences",
        )
    exact = assemble(found, model.tensors)
    state, published = _proven(state, exact if _is_rounded(state, exact) else None)
    proof = prove(
        model,
        found,
        state,
        input_spec(model, found),
        published=published,
        image_size=image_size,
        oracle=oracle,
        golden=golden,
        say=say,
    )
    if checkpoint_path.is_dir():
        checkpoint_path = checkpoint_path / FOLDER_MODEL
    compared = [("checkpoint", checkpoint_path), *model.origin.files.items()]
    return replace(proof, files=tuple(_record(role, path, path.name) for role, path in compared))


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


def _understand(
    framework: Framework, source: Path, options: SourceOptions
) -> tuple[SourceModel, Match, releases.Release | None]:
    model = readers.read(framework, source, options)
    found = match(model)
    possible = () if options.names_files else releases.candidates(source, framework)
    fitting = releases.check(possible, found.config, source)
    return model, found, fitting[0] if len(fitting) == 1 else None


def _proven(
    state: dict[str, torch.Tensor], exact: Mapping[str, Array] | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """The state dict that is proven, and the one that is its rounding, if ``exact`` says that there are two."""
    if exact is None:
        return state, None
    from resnext_convert.converter.torch_checkpoint import tensors_of

    return tensors_of(exact), state


def _is_rounded(state: Mapping[str, torch.Tensor], exact: Mapping[str, Array]) -> bool:
    """Whether a checkpoint has one precision, which is lower than that of some exact tensor."""
    from resnext_convert.converter.rounding import precision_of

    dtype = precision_of(state)
    return dtype is not None and any(
        array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize for array in exact.values()
    )


def _metadata(found: Match, spec: InputSpec) -> dict[str, str]:
    """What the header of a checkpoint says, where its format has one."""
    return {
        "tool": f"resnext-convert {__version__}",
        "network": found.config.summary,
        "target": TARGET,
        "preprocessing": json.dumps(json.loads(encode(spec, InputSpec)), separators=(",", ":"), ensure_ascii=False),
    }


def _hub_config(found: Match, spec: InputSpec) -> dict[str, Any]:
    """The ``config.json`` of a folder, in timm's form."""
    head = found.config.head
    return {
        "architecture": found.config.summary,
        "num_classes": head.classes,
        "num_features": head.in_features,
        "pretrained_cfg": {"mean": spec.mean, "std": spec.std, "num_classes": head.classes},
    }


def _warnings(model: SourceModel, found: Match, image_size: int | None) -> list[str]:
    unused = [ignored.source for ignored in found.ignored if ignored.reason.startswith("no node")]
    return [
        *([f"no node of the graph names these tensors, they are left out: {', '.join(unused)}"] if unused else []),
        *(f"the head {head!r} is not the classifier and is not converted" for head in found.other_heads),
        *filter(None, [_rounding_warning(found.config, image_size, model.origin.input_shape)]),
    ]


def _rounding_warning(config: ResNeXtConfig, asked: int | None, declared: tuple[int, ...] | None) -> str:
    """On a stem pooling that pads and rounds up: exact, but seldom what the network was trained with."""
    pool = config.stem_pool
    if pool is None or not pool.ceil_mode or not any(pool.padding):
        return ""
    size = probe.image_size(config, asked, declared)
    found = probe.last_map(config, size)
    trained = probe.last_map(replace(config, stem_pool=replace(pool, ceil_mode=False)), size)
    if found is None or trained is None or found == trained:
        return ""
    return (
        f"the map before the last pooling is {found[0]}x{found[1]} for inputs of {size[0]}x{size[1]}: the stem's"
        f" pooling pads and rounds up, and rounded down it would be {trained[0]}x{trained[1]}. That is what is left of"
        " a prototxt when its line `ceil_mode: false`, unknown to BVLC Caffe, is deleted. The result is exact for"
        " the file as it stands. If these weights were trained with rounding down (soeaver's were), that network loses"
        " about 1 % of its accuracy: put the line back, or write `round_mode: FLOOR`, and convert again"
    )


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
