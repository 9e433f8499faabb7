"""From what the user names to a `SourceModel`: finds the pair of files, reads both, binds one to the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from resnext_convert.converter.errors import MissingFactsError, MissingFileError, UsageError, in_file
from resnext_convert.converter.graph import Activation, ActivationKind, Node, Pool, PoolKind, SourceModel
from resnext_convert.converter.mxnet.attributes import parse_integers
from resnext_convert.converter.mxnet.binding import Bound, bind
from resnext_convert.converter.mxnet.checks import check_shapes, check_values
from resnext_convert.converter.mxnet.description import outline
from resnext_convert.converter.mxnet.gluon import describe
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.mxnet.symbol import SymbolFile, read_symbol
from resnext_convert.converter.mxnet.wiring import wire
from resnext_convert.converter.origin import GraphFacts, Origin

_SYMBOL_SUFFIX = "-symbol.json"
_EPOCH = re.compile(r"(?P<prefix>.*)-(?P<epoch>[0-9]{4,})\.params", re.DOTALL)  # mx.model.save_checkpoint: %s-%04d
_LISTED = 12  # files that an error lists


class _NoSymbolFileError(MissingFileError):
    """There is no symbol file where one was looked for."""


def read_source(
    source: Path | None,
    *,
    symbol: Path | None = None,
    params: Path | None = None,
    epoch: int | None = None,
    facts: GraphFacts | None = None,
) -> SourceModel:
    """Reads the network that the arguments of `locate` name.

    Where there is a params file and no symbol file, the network is read from the names of its tensors, if they are of a
    scheme that `gluon` knows.

    Args:
        source: a folder, a prefix or one file of the pair; None if the params file is named.
        symbol: the symbol file.
        params: the params file.
        epoch: the number in the name of the params file.
        facts: what a params file without a symbol file does not say.

    Raises:
        UsageError: the arguments contradict each other, or name nothing, or facts are stated that a symbol file says.
        MissingFactsError: there is no symbol file, and no facts are stated.
        InputError: as `locate`, `read_pair` and `read_alone`.
        NotResNeXtError: as `read_alone`.
    """
    if source is None:
        if params is None:
            raise UsageError("neither a source nor both of its files are named")
        source, symbol, params = (params, None, None) if symbol is None else (symbol, symbol, params)
    try:
        pair = locate(source, symbol=symbol, params=params, epoch=epoch)
    except _NoSymbolFileError:
        alone = _alone(source, params, epoch)
        model = None if alone is None else read_alone(alone, facts)
        if model is None:
            raise
        return model
    if facts is not None:
        raise UsageError(
            "what the symbol file says was stated beside it",
            file=pair[0],
            expected="eps and the pooling of the stem for a params file without a symbol file",
            hint="leave the statement out; or name a params file that has no symbol file beside it",
        )
    return read_pair(*pair)


def read_pair(symbol: Path, params: Path) -> SourceModel:
    """Reads a symbol file and the params file that belongs to it.

    Raises:
        MissingFileError: one of them is not there.
        FormatError: one of them is damaged, or of a kind that is not supported.
        MissingTensorError: the graph names tensors that the params file does not hold.
        ShapeError: a stored shape does not fit its operator.
        ValueRangeError: a stored value leaves the network without a defined output.
    """
    network = read_symbol(symbol)
    stored = read_params(params)
    with in_file(params):
        bound = bind(network, stored)
        check_shapes(bound.graph, stored.tensors)
        warnings = check_values(bound.graph, stored.tensors)
    return SourceModel(
        graph=bound.graph,
        tensors=stored.tensors,
        origin=Origin(
            framework="mxnet",
            version=network.release,
            files={"symbol": symbol, "params": params},
            input_shape=bound.input_shape,
            renamed={stored.partition(":")[2] or stored: variable for variable, stored in bound.respelled.items()},
            warnings=(*stored.notes, *bound.warnings, *warnings, *_former_rules(network, bound)),
        ),
    )


def read_alone(params: Path, facts: GraphFacts | None) -> SourceModel | None:
    """Reads a params file that has no symbol file: the names of its tensors tell the network.

    Args:
        params: the params file.
        facts: eps and the pooling of the stem, which names and shapes do not tell.

    Returns:
        None where the names are of no scheme that is known.

    Raises:
        MissingFactsError: ``facts`` is None.
        UsageError: the pooling that is stated contradicts the stem.
        InputError: the file is damaged; tensors are missing, or have shapes that their layers cannot have.
        NotResNeXtError: it is a backbone without a classifier, or a network with tensors that no ResNeXt has.
    """
    stored = read_params(params)
    with in_file(params):
        description = describe(stored)
        if description is None:
            return None
        told = outline(description, stored.tensors)
        if facts is None:
            raise MissingFactsError(
                "there is no symbol file, and the tensors do not say everything that it would",
                expected="the eps of the normalisations and the pooling behind the stem, stated",
                found=told,
                hint="--like RELEASE takes both from a release of the catalogue; or state --bn-eps X (GluonCV's and "
                "gluoncv2's have 1e-5) and --stem-pool floor, ceil or none (ceil is GluonCV's SENet-154)",
            )
        graph = wire(description, stored.tensors, facts)
        check_shapes(graph, stored.tensors)
        warnings = check_values(graph, stored.tensors)
    return SourceModel(
        graph=graph,
        tensors=stored.tensors,
        origin=Origin(
            framework="mxnet",
            version=None,
            files={"params": params},
            warnings=(
                *stored.notes,
                *warnings,
                _told_warning(told, facts),
            ),
        ),
    )


def _told_warning(told: str, facts: GraphFacts) -> str:
    return (
        f"there is no symbol file: the graph is what the names and shapes of the tensors tell ({told}), with the "
        f"strides of the program that has such names, and, as stated, eps {facts.eps:g} and the stem's pooling "
        f"{facts.stem_pool!r}; the proof cannot tell whether these are right"
    )


def _former_rules(network: SymbolFile, bound: Bound) -> Iterator[str]:
    """Warnings about nodes that the MXNet that wrote the graph computed otherwise than 1.9.1 does.

    Measured on 0.8.0 and on the operator `Pooling_v1` of 1.9.1, which keeps the rules of 0.8.
    """
    version = network.version or 800
    for node in bound.graph.nodes:
        operation = bound.operations[node.name]
        match node.attrs:
            case Pool(kind=PoolKind.AVERAGE, ceil=True) if version < 900:
                yield (
                    f"{node}: MXNet 0.8 divided every average by the whole kernel; the rule of 1.9.1 is applied, "
                    "which divides by the window clipped to the padded map"
                )
            case Pool(kind=PoolKind.MAX, padding=padding) if padding != (0, 0) and not _follows_relu(node, bound):
                if version < 900 or operation.op == "Pooling_v1":
                    yield (
                        f"{node}: padding counted as 0 in this operator and is ignored here; that differs where all "
                        "values of a window are below 0"
                    )
            case Pool(global_pool=True) if version < 10200 and any(parse_integers(operation.texts.get("pad", "()"))):
                yield f"{node}: before MXNet 1.2, padding shifted the window of global pooling; it is ignored here"


def _follows_relu(node: Node, bound: Bound) -> bool:
    producer = bound.graph.producers.get(node.inputs[0])
    match producer.attrs if producer else None:
        case Activation(kind=ActivationKind.RELU | ActivationKind.SIGMOID):
            return True
    return False


def locate(source: Path, *, symbol: Path | None, params: Path | None, epoch: int | None) -> tuple[Path, Path]:
    """Finds the pair of files.

    ``source`` is a folder that holds one pair, a prefix (``models/resnext-101`` for ``models/resnext-101-symbol.json``
    and ``models/resnext-101-0000.params``) or one file of the pair. A file that is named by option is taken as it is.
    Of several epochs, one must be chosen: none is preferred.

    Returns:
        The symbol file and the params file; whether they can be read is not looked at.

    Raises:
        UsageError: the arguments contradict each other.
        MissingFileError: a file is not there, or more than one could be meant; what is there is listed.
    """
    try:
        folder, prefix = (source, None) if source.is_dir() else (source.parent, source.name)
        if (symbol is None or params is None) and source.is_file():
            prefix = None
            symbol, params = _named(source, symbol, params)
        if symbol is None:
            symbol = _find_symbol(folder, prefix, params, is_folder=folder == source)
        if params is None:
            params = _find_params(folder, prefix, symbol, epoch, is_folder=folder == source)
    except OSError as error:
        raise MissingFileError(f"cannot be looked at: {error.strerror or error}", file=source) from error
    _check_epoch(params, epoch)
    return symbol, params


def _check_epoch(params: Path, epoch: int | None) -> None:
    if epoch is not None and not _is_of_epoch(params, epoch):
        raise UsageError("the params file is not of that epoch", expected=epoch, found=params.name)


def _is_of_epoch(params: Path, epoch: int) -> bool:
    told = _EPOCH.fullmatch(params.name)
    return told is not None and int(told["epoch"]) == epoch


def _named(source: Path, symbol: Path | None, params: Path | None) -> tuple[Path | None, Path | None]:
    if source.suffix == ".json" and symbol is None:
        return source, params
    if source.suffix != ".json" and params is None:
        return symbol, source
    raise UsageError("the same file of the pair is named twice", found=source, hint="leave one of them out")


def _find_symbol(folder: Path, prefix: str | None, params: Path | None, *, is_folder: bool) -> Path:
    if prefix is None and params is not None:
        told = _EPOCH.fullmatch(params.name)
        prefix = told["prefix"] if told else params.stem
    files = _files(folder)
    found = [file for file in files if prefix is not None and file.name == prefix + _SYMBOL_SUFFIX]
    if not found and is_folder:
        found = [file for file in files if file.name.endswith(_SYMBOL_SUFFIX)]
    if len(found) == 1:
        return found[0]
    error = MissingFileError if found else _NoSymbolFileError
    raise error(
        "more than one symbol file could be meant" if found else "the symbol file is not found",
        file=folder,
        expected=f"{prefix or '*'}{_SYMBOL_SUFFIX}",
        found=_listed(files),
        hint="name the symbol file (--symbol), or give its prefix as the source; weights of GluonCV, gluoncv2 and "
        "simpledet are read without one: name the .params file itself",
    )


def _alone(source: Path, params: Path | None, epoch: int | None) -> Path | None:
    """The only params file that a source without a symbol file can mean; None where there is none, or several."""
    if params is None and source.is_file():
        params = source if source.suffix != ".json" else None
    elif params is None:
        folder, prefix = (source, None) if source.is_dir() else (source.parent, source.name)
        files = [file for file in _files(folder) if file.suffix == ".params"]
        told = [(file, _EPOCH.fullmatch(file.name)) for file in files]
        named = [file for file, match in told if prefix in (None, match["prefix"] if match else file.stem)]
        found = [file for file in named if epoch is None or _is_of_epoch(file, epoch)]
        params = found[0] if len(found) == 1 else None
    if params is not None:
        _check_epoch(params, epoch)
    return params


def _find_params(folder: Path, prefix: str | None, symbol: Path, epoch: int | None, *, is_folder: bool) -> Path:
    if prefix is None:
        prefix = symbol.name.removesuffix(_SYMBOL_SUFFIX)
    files = _files(folder)
    told = [(file, match) for file in files if (match := _EPOCH.fullmatch(file.name)) and match["prefix"] == prefix]
    found = [file for file, match in told if epoch is None or int(match["epoch"]) == epoch]
    if not told and is_folder and epoch is None:
        found = [file for file in files if file.suffix == ".params"]
    if len(found) == 1:
        return found[0]
    expected = f"{prefix}-{'NNNN' if epoch is None else f'{epoch:04d}'}.params"
    if told and not (epoch is not None and found):
        epochs = ", ".join(str(int(match["epoch"])) for _, match in told)
        raise MissingFileError(
            "the epoch must be named" if epoch is None else "there are no params of that epoch",
            file=folder,
            expected=expected,
            found=f"epochs {epochs}",
            hint="choose one with --epoch, or name the params file (--params)",
        )
    raise MissingFileError(
        "more than one params file could be meant" if found else "the params file is not found",
        file=folder,
        expected=expected,
        found=_listed(files),
        hint="name the params file (--params)",
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingFileError(
            "there is no such file or folder",
            file=folder,
            hint="a source is a folder, a prefix, or one file of the pair",
        )
    return sorted(file for file in folder.iterdir() if file.is_file())


def _listed(files: list[Path]) -> str:
    names = [file.name for file in files if ".params" in file.name or file.suffix == ".json"]
    if not names:
        return f"no .json or .params file among {len(files)} files"
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
