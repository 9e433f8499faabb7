"""The command line: arguments, one call, what came of it, exit code. Everything heavy is imported inside a command."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnext_convert import __version__
from resnext_convert.converter import conversion_commands, domain_options
from resnext_convert.converter.ending import end, print_json, talking
from resnext_convert.converter.errors import ConvertError
from resnext_convert.converter.options import ConvertedCheckpoint, Images, ResultJsonOption, TopOption
from resnext_convert.converter.release_commands import app as releases

if TYPE_CHECKING:
    from resnext_convert.converter.findings import Inspection

app = typer.Typer(
    name="resnext-convert",
    help="Convert ResNeXt weights of Apache MXNet and Caffe to PyTorch, without either, and prove that the outputs are "
    "the same.",
    epilog="""\b
Examples:
  resnext-convert inspect models/resnext-101
  resnext-convert mxnet models/resnext-101 resnext-101.pth
  resnext-convert mxnet resnext-101 resnext-101.pth --from DIR
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
  7  a file could not be fetched, or is not the one that was published

`resnext-convert COMMAND --help` says more.""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (conversion_commands.mxnet, conversion_commands.caffe, conversion_commands.verify):
    app.command()(command)
app.add_typer(releases)


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
    with talking(as_json) as say:
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
