"""What is in MXNet's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from resnext_convert.converter.errors import ConvertError
from resnext_convert.converter.findings import (
    AppliedDefault,
    NodeEntry,
    ParamsInspection,
    SymbolInspection,
    inspected_file,
    tensor_entries,
)
from resnext_convert.converter.mxnet.description import outline
from resnext_convert.converter.mxnet.gluon import describe
from resnext_convert.converter.mxnet.meaning import Feed
from resnext_convert.converter.mxnet.operators import TABLE
from resnext_convert.converter.mxnet.params import ParamsFile, read_params
from resnext_convert.converter.mxnet.symbol import Entry, Operation, SymbolFile, Variable, read_symbol

_TREACHEROUS = ("eps", "fix_gamma")
"""Attributes whose defaults (1e-3 and True) other programs get wrong when a file leaves them out."""


def params(path: Path) -> ParamsInspection:
    stored = read_params(path)
    return ParamsInspection(
        file=inspected_file(path),
        layouts=stored.layouts,
        named=stored.named,
        tensors=tensor_entries(stored.tensors.values()),
        notes=(*stored.notes, *_by_names(stored)),
    )


def _by_names(stored: ParamsFile) -> Iterator[str]:
    """What the file is without its symbol file, if its names are of a scheme that is known."""
    try:
        description = describe(stored)
    except ConvertError as error:
        yield f"the names do not tell the network, its symbol file is needed: {error}"
    else:
        if description is not None:
            yield (
                f"the names tell the network ({outline(description, stored.tensors)}); without a symbol file it can be "
                "converted with --like RELEASE, or with --bn-eps and --stem-pool"
            )


def symbol(path: Path) -> SymbolInspection:
    symbol = read_symbol(path)
    operations = [node for node in symbol.nodes.values() if isinstance(node, Operation)]
    return SymbolInspection(
        file=inspected_file(path),
        version=symbol.release,
        dialect=symbol.dialect,
        inputs={variable.name: variable.shape for variable in _read_as_data(symbol, operations)},
        heads=tuple(_head(symbol, head) for head in symbol.heads),
        variables=len(symbol.nodes) - len(operations),
        operators=dict(Counter(operation.op for operation in operations).most_common()),
        defaults=_applied_defaults(operations),
        nodes=tuple(NodeEntry(name=node.name, op=node.op, attributes=node.texts) for node in operations),
    )


def _read_as_data(symbol: SymbolFile, operations: Iterable[Operation]) -> list[Variable]:
    """The variables that operators read as data and not as a parameter: the image, seldom a constant."""
    read = [
        symbol.nodes[entry.node]
        for operation in operations
        for entry, argument in zip(operation.inputs, operation.arguments, strict=True)
        if argument.use is Feed.VALUE
    ]
    return [node for node in read if isinstance(node, Variable)]


def _head(symbol: SymbolFile, head: Entry) -> str:
    number, index = head
    node = symbol.nodes[number]
    output = f", output {index}" if index else ""
    return f"{node.name} ({node.op}{output})" if isinstance(node, Operation) else f"{node.name} (variable)"


def _applied_defaults(operations: Iterable[Operation]) -> tuple[AppliedDefault, ...]:
    table = {name: operator.defaults for operator in TABLE for name in operator.names}
    counts = Counter(
        (operation.op, attribute, default)
        for operation in operations
        for attribute, default in table.get(operation.op, {}).items()
        if attribute in _TREACHEROUS and default is not None and attribute not in operation.texts
    )
    return tuple(
        AppliedDefault(op=op, attribute=attribute, value=value, nodes=nodes)
        for (op, attribute, value), nodes in counts.items()
    )
