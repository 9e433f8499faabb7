"""What a person sees of the catalogue: a table of all releases, and all that is known of one.

Where stdout is a terminal, the table is as wide as fits and sentences are broken between words; elsewhere nothing is
left out or broken, since programs read it.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from rich.console import Console

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.lines import print_lines
from resnext_convert.converter.release_identity import TITLES
from resnext_convert.converter.releases import Expected, Release, ReleaseFile
from resnext_convert.converter.text import counted

FRAMEWORKS: Final = {"mxnet": "MXNet", "caffe": "Caffe"}

_ROOMY: Final = ("name", "network", "top-1", "classes", "input", "files")
_NARROW: Final = ("name", "network", "top-1", "class", "in", "files")
_INPUT: Final = ("the order of the colours", "the order of the colours, their range, and what is done with it")
_LABEL: Final = 15  # columns before the text of a row
_GETTING: Final = {
    "url": "all files can be fetched, as far as is known",
    "by hand": "some files are behind pages that only a person can use: open them in a browser",
    "dead": "some files are at no address that is known to answer",
    "nowhere": "no address of its files is known",
}
_FROM: Final = (
    "Put the files that you have, or find in a mirror, into one folder under the names above and give that folder with"
    " --from DIR; the checksums tell whether they are the published ones."
)


def print_list(releases: Iterable[Release]) -> None:
    """A table of releases, one heading for each publisher, and a legend."""
    console = _console()
    releases = list(releases)
    for headings, roomy in (_ROOMY, True), (_NARROW, False):
        rows = [_row_of(release, roomy=roomy) for release in releases]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        if sum(widths) + len(widths) - 1 <= console.width:
            break
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= console.width else " "
    print_lines(console, [_joined(headings, widths, gap)], style="dim")
    by_publisher = groupby(zip(releases, rows, strict=True), key=lambda pair: (pair[0].publisher, pair[0].framework))
    for (publisher, framework), group in by_publisher:
        print_lines(console, ["", f"{publisher} ({FRAMEWORKS[framework]})"], style="bold")
        print_lines(console, [_joined(row, widths, gap) for _, row in group])
    print_lines(console, [""])
    legend = (
        f"{headings[3]}: their order is that of ImageNet 2012 or of 2015. {headings[4]}: {_INPUT[roomy]}. files: `url`"
        " can be fetched, `by hand` only from pages for people, `dead` at no known address. `-`: not known."
    )
    for sentence in (legend, "`resnext-convert releases show NAME` says all about one of them."):
        print_lines(console, _sentence(sentence, console, indent=0), style="dim")


def print_release(release: Release) -> None:
    """All that is known of a release."""
    console = _console()
    network = release.expected.network if release.expected else "no classifier of the family"
    print_lines(console, [f"{release.name}: {network}"], style="bold")
    for label, text in _facts(release):
        print_lines(console, _labelled(label, text, console))
    for file in release.files:
        print_lines(console, _file(file, console))
    for reissue in release.reissues:
        print_lines(console, _labelled("reissued", f"by {reissue.by}: {reissue.what}", console))
        for file in reissue.files:
            print_lines(console, _file(file, console))
    for label, sentences in (("uncertain", release.uncertain), ("note", release.notes)):
        for sentence in sentences:
            print_lines(console, _labelled(label, sentence, console))
    getting = _GETTING[release.availability]
    print_lines(console, _labelled("to have it", f"{getting[0].upper()}{getting[1:]}.", console))
    if release.files and release.availability != "url":
        print_lines(console, _labelled("", _FROM, console))


# --- the table --------------------------------------------------------------------------------------------------------


def print_files(files: Mapping[str, Path]) -> None:
    """Where each file of a release is."""
    print_lines(_console(), (f"{role:<9} {path}" for role, path in files.items()))


def _row_of(release: Release, *, roomy: bool) -> tuple[str, ...]:
    order = release.class_order or "-"
    return (
        release.name,
        release.expected.network if release.expected else "-",
        f"{release.top1:.2f}" if release.top1 is not None else "-",
        order.removeprefix("imagenet-") if roomy else order.removeprefix("imagenet-").removesuffix("-10"),
        _brief(release.domain, roomy=roomy),
        "-" if release.availability == "nowhere" else release.availability,
    )


def _brief(domain: InputDomain | None, *, roomy: bool) -> str:
    """``RGB``, or ``RGB 0..255 - mean / std``."""
    if domain is None:
        return "-"
    if not roomy:
        return domain.colour.upper()
    mean = " - mean" if any(domain.mean) else ""
    std = " / std" if domain.std != (1.0, 1.0, 1.0) else ""
    return f"{domain.colour.upper()} 0..{domain.range}{mean}{std}"


def _joined(row: Sequence[str], widths: Sequence[int], gap: str) -> str:
    return gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# --- one release ------------------------------------------------------------------------------------------------------


def _facts(release: Release) -> Iterator[tuple[str, str]]:
    yield "also called", ", ".join(release.aliases) or "nothing else"
    layout = f", weights without a graph, named as {release.layout} names them" if release.layout else ""
    yield "framework", f"{FRAMEWORKS[release.framework]}{layout}"
    yield "publisher", f"{release.publisher} ({release.id} of the catalogue)"
    yield "licence", release.licence or "not stated"
    yield "accuracy", _accuracy(release)
    yield "classes", f"in the order of {release.class_order}" if release.class_order else "their order is not known"
    yield "input", _input(release.domain)
    if release.expected:
        yield "must have", _expected(release.expected)
    if release.elements:
        yield "tensors", counted(release.elements, "number")


def _accuracy(release: Release) -> str:
    if release.top1 is None:
        return "not published"
    top5 = f", {release.top5:.2f} % top-5" if release.top5 is not None else ""
    return f"{release.top1:.2f} % top-1{top5}, says {release.accuracy_source}"


def _input(domain: InputDomain | None) -> str:
    if domain is None:
        return "its preparation is not known"
    resize = f"shorter side to {domain.resize}" if domain.resize else ""
    crop = f"{domain.crop}x{domain.crop} in the middle" if domain.crop else ""
    size = f" ({', '.join(filter(None, [resize, crop]))})" if resize or crop else ""
    return f"{domain.text}{size}, as {domain.source} says"


def _expected(expected: Expected) -> str:
    eps = " and ".join(f"{value:g}" for value in expected.eps)
    parts = [
        f"stem pool {expected.stem_pool}" if expected.stem_pool else "",
        f"eps {eps}" if eps else "an eps that is not known",
        {True: "bn_data", False: "no bn_data", None: ""}[expected.data_norm],
        counted(expected.classes, "class", "classes") if expected.classes else "a number of classes that is not known",
    ]
    return "; ".join(filter(None, parts))


def _file(file: ReleaseFile, console: Console) -> Iterator[str]:
    packed = {"": "", "zip": ", in a zip archive", "gz": ", packed by gzip"}[file.archive]
    sizes = [
        counted(file.bytes, "byte") if file.bytes is not None else file.size,
        f"{counted(file.archive_bytes, 'byte')} packed" if file.archive_bytes is not None else "",
    ]
    yield from _labelled(file.role, ", ".join(filter(None, [f"{file.name}{packed}", *sizes])), console)
    for checksum in file.checksums:
        packed = " of the archive" if checksum.archive else ""
        yield from _labelled("", f"{TITLES[checksum.algorithm]}{packed} {checksum.value} ({checksum.source})", console)
    for location in file.locations:
        remarks = ["by hand" if location.page else "", f"dead: {location.dead}" if location.dead else ""]
        remark = "; ".join(filter(None, remarks))
        yield from _labelled("", f"{location.url}{f' ({remark})' if remark else ''}", console)


# --- how lines are made -----------------------------------------------------------------------------------------------


def _console() -> Console:
    console = Console(file=sys.stdout, soft_wrap=True)
    if not console.is_terminal:
        console.width = 10_000  # nobody's terminal: as if everything fitted
    return console


def _labelled(label: str, text: str, console: Console) -> list[str]:
    first, *others = _sentence(text, console, indent=_LABEL)
    return [f"  {label:<{_LABEL - 2}}{first[_LABEL:] if first else ''}".rstrip(), *others]


def _sentence(text: str, console: Console, *, indent: int) -> list[str]:
    """Broken between words, never within a URL, a checksum or a name."""
    return textwrap.wrap(
        text,
        max(console.width, 40),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
