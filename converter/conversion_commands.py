"""The commands that convert and verify; like `cli`, they import what they need when they run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext_convert.converter import domain_options as domain
from resnext_convert.converter import options, release_options
from resnext_convert.converter.ending import end, ending, print_json, talking, watching
from resnext_convert.converter.errors import ConvertError, ProofError, WriteError

if TYPE_CHECKING:
    from resnext_convert.converter.readers import Framework
    from resnext_convert.converter.records import Record
    from resnext_convert.converter.sources import Located


def mxnet(
    source: options.Source,
    out: options.Out,
    symbol: options.SymbolOption = None,
    params: options.ParamsOption = None,
    epoch: options.EpochOption = None,
    like: options.LikeOption = None,
    bn_eps: options.EpsOption = None,
    stem_pool: options.StemPoolOption = None,
    mirror: release_options.FromOption = None,
    cache: release_options.CacheOption = None,
    offline: release_options.OfflineOption = False,
    target: options.TargetOption = options.TargetChoice.REFERENCE,
    class_order: options.ClassOrderOption = None,
    source_class_order: domain.SourceClassOrder = None,
    input_colour: domain.InputColour = None,
    input_range: domain.InputRange = None,
    input_mean: domain.InputMean = None,
    input_std: domain.InputStd = None,
    dtype: options.DtypeOption = None,
    image_size: options.ImageSizeOption = None,
    verify: options.VerifyOption = True,
    oracle: options.OracleChoice = options.OracleOption.AUTO,
    golden: options.GoldenOption = None,
    report: options.ReportOption = None,
    overwrite: options.OverwriteOption = True,
    as_json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Convert an MXNet network to PyTorch and prove the result.

    Reads PREFIX-symbol.json and PREFIX-0000.params, or the files of a published release, runs the graph as it was read
    and the written weights on the same inputs in float64, and keeps OUT only if the two agree. If they do not, the exit
    code is 5 and OUT is as it was.
    """
    with ending():
        _check_outputs(out, dtype, report)
        located = _located(
            "mxnet",
            source,
            quiet=quiet or as_json,
            symbol=symbol,
            params=params,
            epoch=epoch,
            like=like,
            facts=options.stated_facts(bn_eps, stem_pool),
            mirror=mirror,
            cache=cache,
            offline=offline,
            source_class_order=domain.stated_order(source_class_order),
            domain=domain.stated_domain(input_colour, input_range, input_mean, input_std),
        )
    _convert(
        located,
        out,
        report,
        as_json=as_json,
        verbose=verbose,
        quiet=quiet,
        target=target.value,
        class_order=class_order.value if class_order else None,
        dtype=dtype.value if dtype else None,
        image_size=image_size,
        verify=verify,
        oracle=oracle.value,
        golden=golden,
        overwrite=overwrite,
    )


def caffe(
    source: options.Source,
    out: options.Out,
    prototxt: options.PrototxtOption = None,
    weights: options.WeightsOption = None,
    mirror: release_options.FromOption = None,
    cache: release_options.CacheOption = None,
    offline: release_options.OfflineOption = False,
    target: options.TargetOption = options.TargetChoice.REFERENCE,
    class_order: options.ClassOrderOption = None,
    source_class_order: domain.SourceClassOrder = None,
    input_colour: domain.InputColour = None,
    input_range: domain.InputRange = None,
    input_mean: domain.InputMean = None,
    input_std: domain.InputStd = None,
    dtype: options.DtypeOption = None,
    image_size: options.ImageSizeOption = None,
    verify: options.VerifyOption = True,
    oracle: options.OracleChoice = options.OracleOption.AUTO,
    golden: options.GoldenOption = None,
    report: options.ReportOption = None,
    overwrite: options.OverwriteOption = True,
    as_json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Convert a Caffe network to PyTorch and prove the result.

    Reads a .prototxt and its .caffemodel (or .caffemodel.h5), or the files of a published release, runs the graph as it
    was read and the written weights on the same inputs in float64, and keeps OUT only if the two agree. If they do not,
    the exit code is 5 and OUT is as it was.
    """
    with ending():
        _check_outputs(out, dtype, report)
        located = _located(
            "caffe",
            source,
            quiet=quiet or as_json,
            prototxt=prototxt,
            weights=weights,
            mirror=mirror,
            cache=cache,
            offline=offline,
            source_class_order=domain.stated_order(source_class_order),
            domain=domain.stated_domain(input_colour, input_range, input_mean, input_std),
        )
    _convert(
        located,
        out,
        report,
        as_json=as_json,
        verbose=verbose,
        quiet=quiet,
        target=target.value,
        class_order=class_order.value if class_order else None,
        dtype=dtype.value if dtype else None,
        image_size=image_size,
        verify=verify,
        oracle=oracle.value,
        golden=golden,
        overwrite=overwrite,
    )


def verify(
    checkpoint: options.Checkpoint,
    source: options.Source,
    symbol: options.SymbolOption = None,
    params: options.ParamsOption = None,
    epoch: options.EpochOption = None,
    like: options.LikeOption = None,
    bn_eps: options.EpsOption = None,
    stem_pool: options.StemPoolOption = None,
    prototxt: options.PrototxtOption = None,
    weights: options.WeightsOption = None,
    mirror: release_options.FromOption = None,
    cache: release_options.CacheOption = None,
    offline: release_options.OfflineOption = False,
    target: options.TargetOrToldOption = None,
    class_order: options.ClassOrderOption = None,
    source_class_order: domain.SourceClassOrder = None,
    input_colour: domain.InputColour = None,
    input_range: domain.InputRange = None,
    input_mean: domain.InputMean = None,
    input_std: domain.InputStd = None,
    image_size: options.ImageSizeOption = None,
    oracle: options.OracleChoice = options.OracleOption.AUTO,
    golden: options.GoldenOption = None,
    report: options.ReportOption = None,
    as_json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Repeat the proof on a checkpoint that exists.

    Compares CHECKPOINT with SOURCE, of either framework, as a conversion does. The exit code is the verdict: 0 or 5.
    The report beside the checkpoint is not needed; if it is there, it tells the target.
    """
    with ending():
        _check_reports(report)
        located = _located(
            None,
            source,
            quiet=quiet or as_json,
            symbol=symbol,
            params=params,
            epoch=epoch,
            like=like,
            facts=options.stated_facts(bn_eps, stem_pool),
            prototxt=prototxt,
            weights=weights,
            mirror=mirror,
            cache=cache,
            offline=offline,
            source_class_order=domain.stated_order(source_class_order),
            domain=domain.stated_domain(input_colour, input_range, input_mean, input_std),
        )
    with talking(quiet or as_json) as say:
        from resnext_convert.converter import pipeline

        proof = pipeline.verify(
            checkpoint,
            None,
            located,
            target=target.value if target else None,
            class_order=class_order.value if class_order else None,
            image_size=image_size,
            oracle=oracle.value,
            golden=golden,
            say=say,
        )
    if not (as_json or quiet):
        from resnext_convert.converter import terminal

        terminal.print_proof(proof, verbose=verbose)
    failed = ProofError(f"the checkpoint does not compute what the source computes: {proof.failure}", file=checkpoint)
    _finish(proof, None if proof.passed else failed, report, as_json=as_json)


def _located(framework: Framework | None, source: str, *, quiet: bool, **said: Any) -> Located:
    """The files that are meant; what has to be fetched is fetched now, before anything else is shown."""
    from resnext_convert.converter import sources

    return sources.locate(framework, source, watch=functools.partial(watching, quiet), **said)


def _convert(
    source: Located,
    out: str,
    reports: list[Path] | None,
    *,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **wanted: Any,
) -> None:
    """Converts, shows what came of it, and ends with the exit code of a failure."""
    failed = None
    with talking(quiet or as_json) as say:
        from resnext_convert.converter import pipeline

        try:
            done = pipeline.convert(source.framework, source, out, say=say, **wanted)
        except pipeline.ProofFailedError as error:
            failed, done = error, error.report
    if not (as_json or quiet):
        from resnext_convert.converter import terminal

        terminal.print_conversion(done, Path(out), verbose=verbose)
    _finish(done, failed, reports, as_json=as_json)


def _check_outputs(out: str, dtype: options.PrecisionOption | None, reports: list[Path] | None) -> None:
    """Refuses what can be known to fail before anything is fetched or read."""
    from resnext_convert.converter import checkpoint

    checkpoint.suffix_of(out, dtype.value if dtype else None)
    _check_reports(reports)


def _check_reports(paths: list[Path] | None) -> None:
    if not paths:
        return
    from resnext_convert.converter import report

    for path in paths:
        report.form(path)
        if not path.parent.is_dir():
            raise WriteError("there is no such folder", file=path.parent, hint="make the folder first")


def _finish(record: Record, failed: ConvertError | None, reports: list[Path] | None, *, as_json: bool) -> None:
    """Gives the reports and the exit code; a proof that failed counts more than a report that cannot be written."""
    from resnext_convert.converter import report

    if as_json:
        print_json(report.to_json(record))
    errors = [failed] if failed else []
    for path in reports or ():
        try:
            report.write(record, path)
        except ConvertError as error:
            errors.append(error)
    end(errors)
