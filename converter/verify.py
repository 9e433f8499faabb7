"""The proof: the source network and the written weights compute the same, in float64, on inputs that can tell.

The two sides share the readers and nothing after them. One side is the graph as read, run by the reference executor;
the other is the checkpoint that will be published, read back from its bytes into the module. What both share is
checked against the real engine: by the recordings in the tests, and here by the oracle, where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from resnext_convert.converter import probe
from resnext_convert.converter.compare import TensorDiff, compare, worst
from resnext_convert.converter.engines import ENGINES
from resnext_convert.converter.errors import ConvertError, InputError, UsageError
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.preprocess import InputSpec
from resnext_convert.converter.proof import EngineResult, InputResult, OriginalDiff, Precision, VerificationReport
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.fold import Folded, faithful
from resnext_convert.converter.resnext.match import Match, as_rows
from resnext_convert.converter.rounding import Rounded
from resnext_convert.converter.runner import ModuleRunner, State
from resnext_convert.converter.tensors import Array

GATE: Final = 1e-10
"""Largest difference that passes, as a share of the reference's peak. Two right executors differ by 1e-12 or less on
152 layers, the smallest mistake tried (one eps wrong by 0.1 %) by 1e-8 (docs/verification.md)."""

STOCK_GATE: Final = 1e-9
"""The same where the source's eps, scales and biases were folded into a stock model's weights: values near 0 are then
sums and products that cancel less well."""

ORIGINAL_GATE: Final = 1e-9
"""The same for the real engine's own float64, recorded or asked for."""

FLOAT32_NOISE: Final = 8.0
"""How many times our own float32 error a float32 run of the real engine may be away from the float64 reference."""

FLOAT32_FLOOR: Final = 2e-6
"""Of peak: what our float32 error is taken for at least. On tiny networks it may be near zero by luck."""

SENSITIVITY: Final = 1e-6
"""Of peak: if no two inputs give logits that differ by more, the comparison proves nothing."""

KINDS: Final[Mapping[str, Precision]] = {"out": "float32", "ref64": "float64"}
"""The names of recordings, and the precision in which each was made."""

PIXELS: Final = InputSpec(
    channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), source="RGB photographs in [0, 1]"
)
"""What both sides of the proof prepare their inputs from where the checkpoint is that of a stock model."""

Oracle = Literal["auto", "none", "mxnet", "opencv"]
Say = Callable[[str], None]
Pairs = dict[str, tuple[Array, Array]]


def prove(
    model: SourceModel,
    match: Match,
    state: State,
    spec: InputSpec,
    *,
    folded: Folded | None = None,
    published: State | None = None,
    image_size: int | None = None,
    oracle: Oracle = "auto",
    golden: Path | None = None,
    say: Say = lambda message: None,
) -> VerificationReport:
    """Compares the source network with a state dict.

    Args:
        model: the source as read.
        match: what it was recognised as; says which activation belongs to which module.
        state: the state dict that was written, read back; or, where that was rounded, the exact one.
        spec: the distribution to draw inputs from.
        folded: how a stock model computes the network, if the state dict is that of one. The images are then RGB in
            [0, 1], and each side prepares them as it wants them.
        published: the rounded state dict that was written, read back; None: it was not rounded.
        image_size: side of the structured image; None: what the graph declares, or 224, or what fits.
        oracle: ``auto`` (the framework's engine if it can be asked), ``mxnet`` or ``opencv`` (demanded), ``none``.
        golden: a ``.npz`` of recordings: ``in:NAME``, and ``out:NAME`` (float32) or ``ref64:NAME`` (float64).
        say: told what is being done.

    Returns:
        The report; ``passed`` is the verdict. Nothing is raised for a network that differs.

    Raises:
        UsageError: no image size fits, or the oracle that was demanded is not there.
        InputError: the recordings cannot be read or hold nothing to compare.
    """
    size = probe.image_size(match.config, image_size, model.origin.input_shape)
    folded = folded or faithful(match, {})
    sides = _Sides(model, match, state, folded)
    inputs = probe.probes(match.config, PIXELS if folded.domain else spec, size)
    rounded = Rounded(match, folded, state, published) if published is not None else None
    started = time.perf_counter()
    results: list[InputResult] = []
    logits: list[Array] = []
    diverged: TensorDiff | None = None
    for number, item in enumerate(inputs, 1):
        say(f"proof in float64: {item.name} ({number} of {len(inputs)})")
        begun = time.perf_counter()
        pairs = sides.run(item.image, match.blocks)
        diffs = [compare(name, *pair) for name, pair in pairs.items()]
        if rounded:
            rounded.compare(item.image, pairs["fc"][0])
        result = InputResult(
            name=item.name,
            shape=item.image.shape,
            compared=len(diffs),
            worst=worst(diffs),
            logits=next(diff for diff in diffs if diff.name == "fc"),
            seconds=round(time.perf_counter() - begun, 3),
        )
        results.append(result)
        logits.append(pairs["fc"][0])
        if diverged is None and not result.worst.within(sides.gate):
            diverged = sides.first_divergence(item.image) or result.worst
    seconds = time.perf_counter() - started

    say("the module in float32")
    fed, image = folded.feeds(inputs[0].image)
    exact = match.shown(logits[0])
    single = match.shown(sides.logits(ModuleRunner(folded.config, state, torch.float32), image))
    ours = {value: compare(value, array, single[value]) for value, array in exact.items()}
    tolerances = _tolerances(match, ours)
    engine = _ask_engine(model, exact, fed, tolerances, oracle, say)
    report = VerificationReport(
        passed=False,
        failure="",
        gate=sides.gate,
        inputs=tuple(results),
        worst=worst([result.worst for result in results]),
        first_divergence=diverged,
        sensitivity=_spread(logits),
        float32=worst(list(ours.values())),
        oracle=engine,
        golden=_compare_golden(golden, match, sides, tolerances) if golden else (),
        seconds=round(seconds, 3),
        rounding=rounded.record() if rounded else None,
    )
    failure = _failure(report)
    return replace(report, passed=not failure, failure=failure)


class _Sides:
    """The reference and the module in float64, and the values that must be equal."""

    def __init__(self, model: SourceModel, match: Match, state: State, folded: Folded) -> None:
        self.input = model.graph.inputs[0]
        self.match = match
        self.folded = folded
        self.gate = STOCK_GATE if folded.domain else GATE
        self.values = dict(folded.activations)
        self.reference = ReferenceExecutor(model.graph, model.tensors)
        self.module = ModuleRunner(folded.config, state, torch.float64)

    def logits(self, runner: ModuleRunner, image: Array) -> Array:
        """A module's logits for what it is fed, in the source's order of classes."""
        return self.folded.logits(runner.run(image, ["fc"])["fc"])

    def run(self, image: Array, modules: tuple[str, ...]) -> Pairs:
        """(reference, module) for the outputs of ``modules``, the logits (``fc``), and each head."""
        wanted = [*modules, "fc"]
        fed, prepared = self.folded.feeds(image)
        found = self.module.run(prepared, wanted)
        found["fc"] = self.folded.logits(found["fc"])
        heads = [head.value for head in self.match.heads]
        computed = self.reference.run({self.input: fed}, [*(self.values[name] for name in wanted), *heads])
        pairs = {name: (computed[self.values[name]], found[name]) for name in wanted}
        pairs["fc"] = (as_rows(pairs["fc"][0]), pairs["fc"][1])
        for head in self.match.heads:
            pairs[head.value] = (as_rows(computed[head.value]), head.of(found["fc"]))
        return pairs

    def first_divergence(self, image: Array) -> TensorDiff | None:
        """Compares every activation, in the order of execution, and returns the first that differs."""
        for name, pair in self.run(image, tuple(self.values)).items():
            diff = compare(name, *pair)
            if not diff.within(self.gate):
                return diff
        return None


def _failure(report: VerificationReport) -> str:
    if report.first_divergence:
        return f"first divergence at {report.first_divergence}; {report.gate:.0e} would pass"
    if report.sensitivity < SENSITIVITY:
        return f"the logits vary by {report.sensitivity:.1e} of peak between inputs, so equal ones prove nothing"
    if (rounding := report.rounding) and not rounding.passed:
        return (
            f"{rounding.wrong} is not the nearest {rounding.dtype} to the proven values"
            if rounding.wrong
            else f"in {rounding.dtype}, the weights are too far off: {rounding.worst}; {rounding.bound:.1e} would pass"
        )
    for original in (*report.golden, *report.oracle.diffs):
        if not original.passed:
            return (
                f"the original differs, in {original.precision}: {original.diff}; {original.tolerance:.1e} would pass"
            )
    return ""


def _spread(logits: list[Array]) -> float:
    """The largest difference between two inputs' logits, of peak."""
    rows = np.concatenate(logits)
    return float(np.ptp(rows, axis=0).max() / (np.abs(rows).max() or 1.0))


def _against(original: Precision, tolerance: float, diff: TensorDiff) -> OriginalDiff:
    """The difference from the original; ``tolerance`` is for its float32."""
    return OriginalDiff(diff=diff, precision=original, tolerance=ORIGINAL_GATE if original == "float64" else tolerance)


def _tolerances(match: Match, ours: Mapping[str, TensorDiff]) -> dict[str, float]:
    """How far the original's float32 may be away for each value, of its peak, given our own float32 differences.

    An absolute error e of the logits moves a probability p by at most 2 e p, so behind a softmax the logits' tolerance,
    which is of their peak, becomes up to twice that peak as much.
    """
    tolerance = FLOAT32_NOISE * max(worst(list(ours.values())).max_of_peak, FLOAT32_FLOOR)
    logits = ours[match.logits]
    behind = 2 * logits.peak * FLOAT32_NOISE * max(logits.max_of_peak, FLOAT32_FLOOR)
    softmax = {head.value for head in match.heads if head.softmax}
    return {value: max(tolerance, behind) if value in softmax else tolerance for value in ours}


def _ask_engine(
    model: SourceModel,
    exact: Mapping[str, Array],
    image: Array,
    tolerances: Mapping[str, float],
    oracle: Oracle,
    say: Say,
) -> EngineResult:
    """Runs the source files in the original engine itself, which shares not even the readers with us."""
    engine = ENGINES[model.origin.framework]
    if oracle == "none":
        return EngineResult(name=engine.name, passed=None, reason="not asked for")
    if oracle not in {"auto", engine.option}:
        raise UsageError(
            f"the oracle {oracle} does not read {model.origin.framework} files",
            expected=f"auto, none or {engine.option}",
        )
    if reason := engine.cannot_be_asked(model):
        if oracle == engine.option:
            raise UsageError(f"the {engine.name} oracle cannot be asked: {reason}", hint="see README, The oracles")
        return EngineResult(name=engine.name, passed=None, reason=reason)
    name = f"{engine.name} {engine.version()}"
    diffs: list[OriginalDiff] = []
    try:
        for precision in engine.precisions:
            say(f"{name} in {precision}")
            # What a stock model's source is fed is prepared in float64, and must not be rounded on its way.
            found = engine.run(model, image.astype(precision), list(exact), precision)
            diffs += (
                _against(precision, tolerances[value], compare(value, exact[value], as_rows(found[value])))
                for value in exact
            )
    except ConvertError as error:
        if oracle == engine.option:
            raise
        return EngineResult(name=name, passed=None, reason=f"{error}")
    passed = all(diff.passed for diff in diffs)
    return EngineResult(name=name, passed=passed, reason=engine.note(model), diffs=tuple(diffs))


def _compare_golden(
    path: Path, match: Match, sides: _Sides, tolerances: Mapping[str, float]
) -> tuple[OriginalDiff, ...]:
    """Compares the module with recordings of the original's outputs."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the recordings cannot be read: {error}", file=path, expected="a .npz file") from error
    image = arrays.get(f"in:{sides.input}")
    if image is None or image.ndim != 4:
        raise InputError("there is no recorded input", file=path, expected=f"in:{sides.input}", found=sorted(arrays))
    known = match.shown(sides.logits(sides.module, sides.folded.converted(image)))
    results = tuple(
        _against(KINDS[kind], tolerances[value], compare(name, as_rows(recorded), known[value]))
        for name, recorded in arrays.items()
        for kind, _, value in [name.partition(":")]
        if kind in KINDS and value in known
    )
    if not results:
        raise InputError(
            "no recording is of an output that was converted",
            file=path,
            expected=" or ".join(f"out:{value}" for value in known),
            found=sorted(arrays),
        )
    return results
