"""From what the user names to a `SourceModel`, whichever framework wrote it: the one place that knows both readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from resnext_convert.converter.caffe import source as caffe
from resnext_convert.converter.errors import MissingFileError, UsageError
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.mxnet import source as mxnet
from resnext_convert.converter.origin import GraphFacts

Framework = Literal["mxnet", "caffe"]

FRAMEWORKS: Final[tuple[Framework, ...]] = get_args(Framework)

SUFFIXES: dict[str, Framework] = {
    ".json": "mxnet",
    ".params": "mxnet",
    ".prototxt": "caffe",
    ".caffemodel": "caffe",
    ".h5": "caffe",
}
"""The framework that a source file's suffix says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What a user says besides the source itself: files by name (of one framework), or one of several epochs.

    Attributes:
        symbol: MXNet's graph file.
        params: MXNet's weights.
        epoch: which of several params files.
        facts: what MXNet's weights without a graph file do not say.
        prototxt: Caffe's graph file.
        weights: Caffe's weights, ``.caffemodel`` or ``.h5``.
    """

    symbol: Path | None = None
    params: Path | None = None
    epoch: int | None = None
    facts: GraphFacts | None = None
    prototxt: Path | None = None
    weights: Path | None = None

    @property
    def mxnet(self) -> bool:
        """Whether anything is said that only an MXNet source has."""
        return not (self.symbol is None and self.params is None and self.epoch is None and self.facts is None)

    @property
    def caffe(self) -> bool:
        """Whether anything is said that only a Caffe source has."""
        return not (self.prototxt is None and self.weights is None)

    @property
    def names_files(self) -> bool:
        """Whether a file is named, so that the source's own name says nothing."""
        return any((self.symbol, self.params, self.prototxt, self.weights))


def read(framework: Framework, source: Path, options: SourceOptions) -> SourceModel:
    """Reads a network.

    Raises:
        UsageError: there is no such framework, or the options are another's.
        InputError: as the framework's ``read_source``.
    """
    if framework not in FRAMEWORKS:
        raise UsageError(f"there is no reader for {framework!r}", expected=" or ".join(FRAMEWORKS))
    if options.caffe if framework == "mxnet" else options.mxnet:
        raise UsageError(f"an option of another framework was given for an {framework} source", found=options)
    if framework == "mxnet":
        return mxnet.read_source(
            source, symbol=options.symbol, params=options.params, epoch=options.epoch, facts=options.facts
        )
    return caffe.read_source(source, prototxt=options.prototxt, weights=options.weights)


def framework_of(source: Path, options: SourceOptions) -> Framework:
    """The framework of a source: as the options say, else as its files' suffixes do.

    Raises:
        UsageError: the options are of two frameworks, or files of both are there.
        MissingFileError: no file of either is there.
    """
    if options.mxnet and options.caffe:
        raise UsageError("options of two frameworks were given", expected="files of one framework")
    if options.mxnet or options.caffe:
        return "mxnet" if options.mxnet else "caffe"
    try:
        if source.is_file() and source.suffix in SUFFIXES:
            return SUFFIXES[source.suffix]
        folder, prefix = (source, "") if source.is_dir() else (source.parent, source.name)
        files = [file for file in folder.iterdir() if prefix in file.name] if folder.is_dir() else []
    except OSError as error:
        raise MissingFileError(f"cannot be looked at: {error.strerror or error}", file=source) from error
    found = {SUFFIXES[file.suffix] for file in files if file.suffix in SUFFIXES}
    if len(found) == 1:
        return found.pop()
    if found:
        raise UsageError(
            "files of both frameworks are there, and the source does not say which are meant",
            file=source,
            hint="name one of the files as the source",
        )
    raise MissingFileError(
        "no file of an MXNet or Caffe network is there",
        file=source,
        expected=f"files that end in {', '.join(SUFFIXES)}",
        hint="a source is a folder, a prefix, or one file of the pair",
    )
