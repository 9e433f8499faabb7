"""The command line: arguments, one call, what came of it, exit code. Everything heavy is imported inside a command."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnext_convert import __version__
from resnext_convert.converter import domain_options
from resnext_convert.converter.ending import end, print_json
from resnext_convert.converter.errors import ConvertError, ProofError, WriteError
from resnext_convert.converter.options import (
    Checkpoint,
    ConvertedCheckpoint,
    DtypeOption,
    EpochOption,
    GoldenOption,
    Images,
    ImageSizeOption,
    JsonOption,
    OracleChoice,
    OracleOption,
    Out,
    OverwriteOption,
    ParamsOption,
    PrototxtOption,
    QuietOption,
    ReportOption,
    ResultJsonOption,
    Source,
    SymbolOption,
    TopOption,
    VerboseOption,
    VerifyOption,
    WeightsOption,
)
from resnext_convert.converter.release_commands import app as releases

if TYPE_CHECKING:
    from resnext_convert.converter.findings import Inspection
    from resnext_convert.converter.readers import Framework
    from resnext_convert.converter.report import Record

app = typer.Typer(
    name="resnext-convert",
    help="Convert ResNeXt weights of Apache MXNet and Caffe to PyTorch, without either, and prove that the outputs are "
    "the same.",
    epilog="""\b
Examples:
  resnext-convert inspect models/resnext-101
  resnext-convert mxnet models/resnext-101 resnext-101.pth
  resnext-convert caffe models/ResNeXt-50 resnext-50.pth
  resnext-convert verify resnext-101.pth models/resnext-101
  resnext-convert classify resnext-101.pth photograph.jpg
  resnext-convert releases list

\b
Exit codes:
  0  done; proven, unless --no-verify was given
  2  wrong usage
  3  a file is absent, damaged or unreadable
  4  no network of the family, or not the one named
  5  the proof failed
  6  a file could not be written

`resnext-convert COMMAND --help` says more.""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(releases)


@app.command()
def mxnet(
    source: Source,
    out: Out,
    symbol: SymbolOption = None,
    params: ParamsOption = None,
    epoch: EpochOption = None,
    dtype: DtypeOption = None,
    image_size: ImageSizeOption = None,
    verify: VerifyOption = True,
    oracle: OracleChoice = OracleOption.AUTO,
    golden: GoldenOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = True,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert an MXNet network to PyTorch and prove the result.

    Reads PREFIX-symbol.json and PREFIX-0000.params, runs the graph as it was read and the written weights on the same
    inputs in float64, and keeps OUT only if the two agree. If they do not, the exit code is 5 and OUT is as it was.
    """
    _convert(
        "mxnet",
        source,
        out,
        report,
        as_json=as_json,
        verbose=verbose,
        quiet=quiet,
        symbol=symbol,
        params=params,
        epoch=epoch,
        dtype=dtype.value if dtype else None,
        image_size=image_size,
        verify=verify,
        oracle=oracle.value,
        golden=golden,
        overwrite=overwrite,
    )


@app.command()
def caffe(
    source: Source,
    out: Out,
    prototxt: PrototxtOption = None,
    weights: WeightsOption = None,
    dtype: DtypeOption = None,
    image_size: ImageSizeOption = None,
    verify: VerifyOption = True,
    oracle: OracleChoice = OracleOption.AUTO,
    golden: GoldenOption = None,
    report: ReportOption = None,
    overwrite: OverwriteOption = True,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a Caffe network to PyTorch and prove the result.

    Reads a .prototxt and its .caffemodel (or .caffemodel.h5), runs the graph as it was read and the written weights on
    the same inputs in float64, and keeps OUT only if the two agree. If they do not, the exit code is 5 and OUT is as it
    was.
    """
    _convert(
        "caffe",
        source,
        out,
        report,
        as_json=as_json,
        verbose=verbose,
        quiet=quiet,
        prototxt=prototxt,
        weights=weights,
        dtype=dtype.value if dtype else None,
        image_size=image_size,
        verify=verify,
        oracle=oracle.value,
        golden=golden,
        overwrite=overwrite,
    )


def _convert(
    framework: Framework,
    source: Path,
    out: str,
    reports: list[Path] | None,
    *,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Converts, shows what came of it, and ends with the exit code of a failure."""
    failed = None
    with _talking(quiet or as_json) as say:
        _check_reports(reports)
        from resnext_convert.converter import pipeline

        try:
            done = pipeline.convert(framework, source, out, say=say, **options)
        except pipeline.ProofFailedError as error:
            failed, done = error, error.report
    if not (as_json or quiet):
        from resnext_convert.converter import terminal

        terminal.print_conversion(done, Path(out), verbose=verbose)
    _finish(done, failed, reports, as_json=as_json)


@app.command()
def verify(
    checkpoint: Checkpoint,
    source: Source,
    symbol: SymbolOption = None,
    params: ParamsOption = None,
    epoch: EpochOption = None,
    prototxt: PrototxtOption = None,
    weights: WeightsOption = None,
    image_size: ImageSizeOption = None,
    oracle: OracleChoice = OracleOption.AUTO,
    golden: GoldenOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Repeat the proof on a checkpoint that exists.

    Compares CHECKPOINT with SOURCE, of either framework, as a conversion does. The exit code is the verdict: 0 or 5.
    The report beside the checkpoint is not needed.
    """
    with _talking(quiet or as_json) as say:
        _check_reports(report)
        from resnext_convert.converter import pipeline

        proof = pipeline.verify(
            checkpoint,
            None,
            source,
            symbol=symbol,
            params=params,
            epoch=epoch,
            prototxt=prototxt,
            weights=weights,
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


@app.command()
def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Symbol files, params files, prototxts, caffemodels, means, checkpoints, reports (.json); or a folder "
            "or a prefix of a pair.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list on stdout, complete, and nothing else.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print every tensor and every operator.")] = False,
) -> None:
    """Say what is in a file, or which network a pair of files holds.

    A file is told by its content. Needs neither PyTorch nor MXNet nor Caffe. A file that cannot be read does not keep
    the others from being shown; the exit code is then 3.
    """
    from resnext_convert.converter import inspection

    found: list[Inspection] = []
    failures: list[ConvertError] = []
    for path in files:
        try:
            found.append(inspection.inspect(path))
        except ConvertError as error:
            failures.append(error)
    if as_json:
        print_json(inspection.to_json(found))
    else:
        from resnext_convert.converter import terminal

        terminal.print_inspections(found, verbose=verbose)
    end(failures)


@app.command()
def classify(
    checkpoint: ConvertedCheckpoint,
    images: Images,
    top: TopOption = 5,
    input_colour: domain_options.InputColour = None,
    input_range: domain_options.InputRange = None,
    input_mean: domain_options.InputMean = None,
    input_std: domain_options.InputStd = None,
    class_order: domain_options.ClassOrderChoice = None,
    labels: domain_options.Labels = None,
    as_json: ResultJsonOption = False,
) -> None:
    """Say what a converted network sees in images.

    Prepares each IMAGE as the report beside CHECKPOINT says and names the most probable classes. What that report does
    not say is to be stated. An image that cannot be read does not keep the others from being classified; the exit code
    is then 3.
    """
    with _talking(as_json) as say:
        domain = domain_options.stated_domain(input_colour, input_range, input_mean, input_std)
        order = domain_options.stated_order(class_order)
        from resnext_convert.converter import classify as command

        done, failures = command.classify(
            checkpoint, images, top=top, domain=domain, class_order=order, labels=labels, say=say
        )
    if as_json:
        print_json(command.to_json(done))
    else:
        from resnext_convert.converter import terminal_classes

        terminal_classes.print_classification(done)
    end(failures)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"resnext-convert {__version__}\n")
        raise typer.Exit


def _check_reports(paths: list[Path] | None) -> None:
    """Refuses what can be known to fail before the work is done."""
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


@contextlib.contextmanager
def _talking(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Shows what is being done (on a terminal only), and turns errors into a message and their exit code."""
    try:
        if quiet or not sys.stderr.isatty():
            yield lambda message: None
        else:
            from resnext_convert.converter.terminal import progress

            with progress() as say:
                yield say
    except ConvertError as error:
        end([error])


def main() -> None:
    """The console script."""
    # Like Ctrl-C: an exception, so that what was begun is cleaned up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; no file was left half written\n")
        sys.exit(130)
