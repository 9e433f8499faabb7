"""From what the user names to a `SourceModel`: finds the pair of files, reads both, binds one to the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from resnext_convert.converter.caffe.binding import bind
from resnext_convert.converter.caffe.checks import check_values
from resnext_convert.converter.caffe.inputs import read_preparation
from resnext_convert.converter.caffe.network import build_network
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.caffe.weights import read_weights
from resnext_convert.converter.errors import MissingFileError, UsageError, in_file
from resnext_convert.converter.graph import BatchNorm, Conv, Graph, Identity, Role, Scale, SourceModel
from resnext_convert.converter.origin import Origin
from resnext_convert.converter.tensors import TensorStore

_WEIGHTS: Final = (".caffemodel.h5", ".caffemodel", ".h5")
_SNAPSHOT: Final = re.compile(r"_iter_[0-9]+$")  # what a solver appends (solver.cpp, SnapshotFilename)
_DEPLOY: Final = re.compile(r"^deploy(?:[-_.]|$)|[-_.]deploy$", re.IGNORECASE)
_SOLVER: Final = re.compile(r"(?:^|[-_.])solver(?:[-_.]|$)", re.IGNORECASE)
_LISTED: Final = 12  # files that an error lists

Pair = tuple[Path, Path]


def read_source(source: Path | None, *, prototxt: Path | None = None, weights: Path | None = None) -> SourceModel:
    """Reads the network that the arguments of `locate` name.

    Args:
        source: a folder, a prefix or one file of the pair; None if both files are named.
        prototxt: the net as text.
        weights: the ``.caffemodel`` or ``.caffemodel.h5``.

    Raises:
        UsageError: the arguments contradict each other, or name nothing.
        InputError: as `locate` and `read_pair`.
    """
    if source is None:
        if prototxt is None or weights is None:
            raise UsageError("neither a source nor both of its files are named")
        source = prototxt
    return read_pair(*locate(source, prototxt=prototxt, weights=weights))


def read_pair(prototxt: Path, weights: Path) -> SourceModel:
    """Reads a prototxt and the weights that belong to it.

    Raises:
        MissingFileError: one of them is not there.
        FormatError: one of them, or the mean image beside them, is damaged or of a kind that is not supported; or Caffe
            refuses the net.
        MissingTensorError: layers of the net are not in the weights file.
        ShapeError: layers do not fit each other, or stored shapes their layers.
        ValueRangeError: a stored value leaves the network without a defined output.
    """
    text = read_prototxt(prototxt)
    network = build_network(text.net, prototxt)
    stored = read_weights(weights)
    with in_file(weights):
        bound = bind(network, stored)
        warnings = check_values(bound.graph, bound.tensors)
    channels = _input_channels(bound.graph, bound.tensors)
    with in_file(prototxt, f"layer {network.data.name!r} ({network.data.type})"):
        preparation = read_preparation(network.data, prototxt.parent, channels)
    files = {"prototxt": prototxt, "weights": weights}
    return SourceModel(
        graph=bound.graph,
        tensors=bound.tensors,
        origin=Origin(
            framework="caffe",
            version=None,
            files=files | ({"mean": preparation.mean_file} if preparation.mean_file else {}),
            input_shape=network.input_shape,
            transform=preparation.transform,
            warnings=(
                *text.notes,
                *network.notes,
                *stored.notes,
                *bound.warnings,
                *warnings,
                *preparation.notes,
            ),
        ),
    )


def _input_channels(graph: Graph, tensors: TensorStore) -> int:
    """How many the first layer with weights takes; 0 where something else comes before it."""
    value = graph.inputs[0]
    while len(readers := graph.consumers[value]) == 1 and isinstance(readers[0].attrs, Identity):
        value = readers[0].outputs[0]
    for node in readers:
        match node.attrs:
            case Conv(groups=groups):
                return tensors[node.params[Role.WEIGHT]].shape[1] * groups
            case BatchNorm():
                return tensors[node.params[Role.MEAN]].shape[0]
            case Scale(axis=1, num_axes=1) if Role.GAMMA in node.params:
                return tensors[node.params[Role.GAMMA]].shape[0]
    return 0


def locate(source: Path, *, prototxt: Path | None, weights: Path | None) -> Pair:
    """Finds the pair of files.

    ``source`` is a folder that holds one pair, a prefix (``models/ResNeXt-50`` for ``ResNeXt-50.caffemodel`` and
    ``ResNeXt-50.prototxt``, ``ResNeXt-50-deploy.prototxt`` or ``deploy_ResNeXt-50.prototxt``) or one file of the pair.
    A file that is named by option is taken as it is. Of several pairs, the one with the same name is meant, and of
    several prototxts of that name, or a single weights file beside a ``deploy.prototxt``, the one for deployment.

    Returns:
        The prototxt and the weights; whether they can be read is not looked at.

    Raises:
        UsageError: the arguments contradict each other.
        MissingFileError: a file is not there, or more than one could be meant; what is there is listed.
    """
    try:
        folder, prefix = (source, None) if source.is_dir() else (source.parent, source.name)
        if (prototxt is None or weights is None) and source.is_file():
            prefix = None
            prototxt, weights = _named(source, prototxt, weights)
        if prototxt is not None and weights is not None:
            return prototxt, weights
        files = _files(folder)
    except OSError as error:
        raise MissingFileError(f"cannot be looked at: {error.strerror or error}", file=source) from error
    texts = [prototxt] if prototxt else [file for file in files if _is_net(file) and _may_be(file, prefix)]
    stored = [weights] if weights else [file for file in files if _is_weights(file) and _may_be(file, prefix)]
    chosen = _choose([(text, file) for text in texts for file in stored])
    if chosen is None:
        raise _not_found(folder, prefix, files, texts, stored)
    return chosen


def _named(source: Path, prototxt: Path | None, weights: Path | None) -> tuple[Path | None, Path | None]:
    is_text = source.suffix in {".prototxt", ".pbtxt", ".txt"}
    if is_text and prototxt is None:
        return source, weights
    if not is_text and weights is None:
        return prototxt, source
    raise UsageError("the same file of the pair is named twice", found=source, hint="leave one of them out")


def _is_net(file: Path) -> bool:
    return file.suffix == ".prototxt" and not _SOLVER.search(file.stem)


def _is_weights(file: Path) -> bool:
    return file.name.endswith(_WEIGHTS) and not file.name.endswith(".solverstate.h5")


def _stem(file: Path) -> str:
    """The name without what says its kind."""
    suffix = next((suffix for suffix in _WEIGHTS if file.name.endswith(suffix)), file.suffix)
    return file.name.removesuffix(suffix)


def _network(file: Path) -> str:
    """The name of the network in a file's name; empty for ``deploy.prototxt``."""
    stem = _stem(file)
    return _SNAPSHOT.sub("", stem) if _is_weights(file) else _DEPLOY.sub("", stem)


def _may_be(file: Path, prefix: str | None) -> bool:
    return prefix is None or prefix in {_stem(file), _network(file)} or not _network(file)


def _choose(pairs: Sequence[Pair]) -> Pair | None:
    """The pair that is meant, if there is no doubt."""
    same = [pair for pair in pairs if _network(pair[0]) == _network(pair[1])]
    deploy = [pair for pair in same if _DEPLOY.search(pair[0].stem)]
    nameless = [pair for pair in pairs if not same and not _network(pair[0])]
    return next((found[0] for found in (pairs, same, deploy, nameless) if len(found) == 1), None)


def _not_found(
    folder: Path, prefix: str | None, files: Sequence[Path], texts: Sequence[Path], stored: Sequence[Path]
) -> MissingFileError:
    if texts and stored:
        return MissingFileError(
            "more than one pair of files could be meant",
            file=folder,
            expected="one prototxt and the weights that belong to it",
            found=f"{_names(texts)}; {_names(stored)}",
            hint="name both: --prototxt and --weights",
        )
    name, option = ("*" if prefix is None else prefix), "--weights" if texts else "--prototxt"
    there = [file for file in files if file.suffix == ".prototxt" or _is_weights(file)]
    solver = (
        " A solver's settings are no net: they name it." if any(_SOLVER.search(file.stem) for file in there) else ""
    )
    return MissingFileError(
        "the weights are not found" if texts else "the prototxt is not found",
        file=folder,
        expected=f"{name}.caffemodel or {name}.caffemodel.h5" if texts else f"{name}.prototxt",
        found=_names(there) or f"no .prototxt, .caffemodel or .h5 file among {len(files)} files",
        hint=f"name the file ({option}).{solver}",
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingFileError(
            "there is no such file or folder",
            file=folder,
            hint="a source is a folder, a prefix, or one file of the pair",
        )
    return sorted(file for file in folder.iterdir() if file.is_file())


def _names(files: Sequence[Path]) -> str:
    names = ", ".join(file.name for file in files[:_LISTED])
    return names if len(files) <= _LISTED else f"{names} and {len(files) - _LISTED} more"
