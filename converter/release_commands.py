"""The commands of ``resnext-convert releases``; like `cli`, they import what they need when they run."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from resnext_convert.converter.ending import ending, print_json, watching
from resnext_convert.converter.options import QuietOption
from resnext_convert.converter.release_options import CacheOption, FromOption, OfflineOption

app = typer.Typer(
    name="releases",
    help="Show which networks were published, and how to have them.",
    epilog="""\b
Examples:
  resnext-convert releases list
  resnext-convert releases list --framework caffe
  resnext-convert releases show gluoncv/resnext50_32x4d
  resnext-convert releases fetch resnext-101 --from https://mirror.example""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class FrameworkOption(enum.StrEnum):
    """The choices of ``--framework``."""

    MXNET = "mxnet"
    CAFFE = "caffe"


Framework = Annotated[
    FrameworkOption | None,
    typer.Option("--framework", help="Only the releases of this framework.", show_default=False),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The name of a release, or an alias that no other release has.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, complete, and nothing else.")]


@app.command("list")
def list_releases(framework: Framework = None, as_json: Json = False) -> None:
    """List the published releases.

    Prints the name of each, its network, its accuracy, the order of its classes, what it takes, and whether its files
    can still be had.
    """
    from resnext_convert.converter import releases

    with ending():
        found = releases.of_framework(framework)
    if as_json:
        from resnext_convert.converter import release_schema

        print_json(release_schema.to_json(found))
        return
    from resnext_convert.converter import terminal_releases

    terminal_releases.print_list(found)


@app.command()
def fetch(
    name: Name,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Where to put copies. Default: the files stay in the cache.", show_default=False
        ),
    ] = None,
    framework: Framework = None,
    mirror: FromOption = None,
    cache: CacheOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch the files of a release, and check them.

    Prints where each file is. What has come of a file that was cut off is kept, and the next try continues. Each file
    is compared with every checksum that was published for it; a file that differs is not kept.
    """
    from resnext_convert.converter import releases

    with ending():
        found = releases.find(name, framework)
        from resnext_convert.converter import fetch as fetching

        with watching(quiet) as (report, say):
            files = fetching.fetch(found, mirror=mirror, cache=cache, offline=offline, report=report, say=say)
        if folder is not None:
            files = fetching.copied(files, folder)
    from resnext_convert.converter import terminal_releases

    terminal_releases.print_files(files)


@app.command()
def show(name: Name, framework: Framework = None, as_json: Json = False) -> None:
    """Show all that is known of a release.

    Prints its files with their addresses and checksums, the network that it must turn out to be, how its input is
    prepared, and what is uncertain about that.
    """
    from resnext_convert.converter import releases

    with ending():
        found = releases.find(name, framework)
    if as_json:
        from resnext_convert.converter import release_schema

        print_json(release_schema.to_json(found))
        return
    from resnext_convert.converter import terminal_releases

    terminal_releases.print_release(found)
