"""Reads MXNet `-symbol.json` files of every version into typed nodes.

Three dialects exist; what tells them apart is the key under which a node keeps its attributes, all of them texts::

    param    0.8 and before   every attribute of the operator; the user's own under ``attr``; no auxiliary inputs
    attr     0.9 to 0.12      what was given when the node was made; variables repeat their operator's attributes
    attrs    1.0 and later    the same

MXNet merges the three keys (3rdparty/tvm/nnvm/src/pass/saveload_json.cc, JSONNode::Load): of ``attr`` and ``attrs``
the one that comes later in the file counts alone, ``param`` fills in what it lacks. Then it upgrades what is older
than itself (src/nnvm/legacy_json_util.cc); of those rules one bears on inference: before 0.9, inputs that are missing
at the end of a node's list are variables named ``NODE_ARGUMENT`` (UpgradeJSON_000800_000900).

``arg_nodes`` and ``node_row_ptr`` are tables made from the nodes; they are not read, and MXNet accepts wrong ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import FormatError, UnsupportedError, in_file
from resnext_convert.converter.graph import Attrs, Split, Unknown
from resnext_convert.converter.mxnet.attributes import parse_integers
from resnext_convert.converter.mxnet.meaning import ONE, Argument, Arguments, Feed
from resnext_convert.converter.mxnet.operators import read_operator

_FIRST_NNVM = 900  # the version from which on every input of a node is in the file
_MAX_OUTPUT_INDEX = 4096  # of an operator that is not known
_BOM = b"\xef\xbb\xbf"  # MXNet refuses it with a misleading message; editors on Windows add it


class Entry(NamedTuple):
    """One output of one node, by their numbers."""

    node: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A node that computes nothing: the image, a label, a stored tensor.

    Attributes:
        name: as the file has it; the name under which a tensor is stored.
        shape: what ``__shape__`` declares, 0 where unknown; None: nothing.
    """

    name: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A node that computes something.

    Attributes:
        name: as the file has it; need not be unique.
        op: MXNet's name of the operator.
        attrs: what it computes.
        inputs: what it reads, in the operator's order.
        arguments: what each input is.
        texts: the attributes as the file has them.
    """

    name: str
    op: str
    attrs: Attrs
    inputs: tuple[Entry, ...]
    arguments: Arguments
    texts: Mapping[str, str]

    @property
    def reads(self) -> tuple[tuple[Entry, Argument], ...]:
        """The inputs that inference reads, and what each is: all but labels."""
        pairs = zip(self.inputs, self.arguments, strict=True)
        return tuple((entry, argument) for entry, argument in pairs if argument.use is not Feed.LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolFile:
    """What a symbol file holds.

    Attributes:
        version: major * 10000 + minor * 100 + patch of the MXNet that wrote it; None where it does not say (0.8).
        dialect: ``param``, ``attr`` or ``attrs``.
        nodes: what the heads depend on, by number, in topological order. Variables are among them, labels are not.
        heads: the outputs, in order.
        fed: the variables among ``nodes`` that are heads or are read as plain values; the image is one of them.
    """

    version: int | None
    dialect: str
    nodes: Mapping[int, Variable | Operation]
    heads: tuple[Entry, ...]
    fed: tuple[int, ...]

    @property
    def release(self) -> str:
        """The version as text: ``1.9.1``."""
        if self.version is None:
            return "0.8 or before"
        return f"{self.version // 10000}.{self.version // 100 % 100}.{self.version % 100}"


def read_symbol(path: Path) -> SymbolFile:
    """Reads a `-symbol.json` file.

    Raises:
        InputError: as `parse_symbol`, or the file cannot be opened.
    """
    return parse_symbol(bytes(map_file(path)), path)


def parse_symbol(text: bytes, file: object) -> SymbolFile:
    """Reads the text of a `-symbol.json` file. A byte order mark and either kind of line end are accepted.

    Args:
        text: the whole file.
        file: its name, for errors.

    Raises:
        FormatError: it is no JSON, no graph, or a graph that no MXNet would execute.
        UnsupportedError: an operator is used in another layout, or on other than 2-D maps.
    """
    with in_file(file), _hinting():
        document = _load(text)
        version = _version(document)
        records = []
        for number, item in enumerate(_list(document, "nodes")):
            with in_file(file, f"node {number}"):
                records.append(_record(item))
        nodes = _typed(records, file, complete=version is None or version < _FIRST_NNVM)
        _check_splits(nodes.values(), limit=len(text))
        heads = _entries(document, "heads")
        if not heads:
            raise FormatError("the graph has no heads", expected="at least one output", found="an empty list")
        with in_file(file, "heads"):
            _check_entries(heads, nodes)
        order = _topological(nodes, heads)
        ordered = {number: nodes[number] for number in order}
        _check_names(ordered.values())
        fed = _fed(ordered, heads)
        if not fed:
            raise FormatError("the graph reads no input", expected="a variable that is not a parameter", found="none")
        dialect = next((record.dialect for record in records if record.dialect and record.op != "null"), "attrs")
        return SymbolFile(version=version, dialect=dialect, nodes=ordered, heads=heads, fed=fed)


@contextmanager
def _hinting() -> Iterator[None]:
    """Says what to do where the place of the error does not say it better."""
    try:
        yield
    except FormatError as error:
        if not isinstance(error, UnsupportedError):
            error.hint = error.hint or "the file is damaged or was edited: fetch it, or export it from MXNet, again"
        raise


def _load(text: bytes) -> dict[str, object]:
    if not text.removeprefix(_BOM).lstrip().startswith(b"{"):
        raise FormatError(
            "this is not a symbol file",
            expected="JSON text that begins with '{'",
            found=f"{text[:20]!r}" if text else "an empty file",
            hint="the graph is in PREFIX-symbol.json; if it was downloaded, look what the server sent instead",
        )
    try:
        document = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FormatError("this is not UTF-8 text", place=f"byte {error.start:#x}") from error
    except json.JSONDecodeError as error:
        raise FormatError(
            f"this is not JSON: {error.msg}", place=f"line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise FormatError("the JSON is nested too deeply for a graph") from error
    except ValueError as error:  # Python refuses integers of more than 4300 digits
        raise FormatError("the JSON holds a number that is too long") from error
    return _object(document, "the file")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise FormatError("an object has the same key twice", expected="each key once", found=f"{twice!r:.60}")
    return found


def _no_constant(name: str) -> object:
    raise FormatError("this is not JSON", expected="a number", found=name)


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no object", expected="a JSON object", found=type(value).__name__)
    return value


def _list(parent: Mapping[str, object], key: str) -> list[object]:
    value = parent.get(key)
    if not isinstance(value, list):
        found = "none" if key not in parent else type(value).__name__
        raise FormatError(f"there is no list {key!r}", expected="a JSON list", found=found)
    return value


def _version(document: Mapping[str, object]) -> int | None:
    stored = _object(document.get("attrs", {}), "the graph's 'attrs'").get("mxnet_version")
    if stored is None:
        return None
    match stored:
        case ["int", int(version)] if _is_natural(version) and version < 10**6:
            return version
    raise FormatError("mxnet_version cannot be read", expected='["int", 10901]', found=f"{stored!r:.60}")


class _Record(NamedTuple):
    """One node with its JSON types checked."""

    op: str
    name: str
    texts: dict[str, str]
    inputs: tuple[Entry, ...]
    dialect: str | None


def _record(item: object) -> _Record:
    node = _object(item, "a node")
    op, name = node.get("op"), node.get("name")
    if not isinstance(op, str) or not isinstance(name, str):
        raise FormatError("a node has no name or no op", expected="two texts", found=f"{op!r:.60}, {name!r:.60}")
    if not (op + name).isprintable():  # the names end up in messages and reports
        raise FormatError(
            "a name holds control characters", expected="printable text", found=f"{op!r:.60}, {name!r:.60}"
        )
    written = {key: _texts(node[key]) for key in node if key in {"param", "attr", "attrs"}}
    param = written.pop("param", None)
    texts = (param or {}) | next(reversed(written.values()), {})
    dialect = "param" if param is not None else next(reversed(written), None)
    return _Record(op, name, texts, _entries(node, "inputs"), dialect)


def _texts(value: object) -> dict[str, str]:
    texts = {}
    for key, text in _object(value, "the attributes").items():
        if not isinstance(text, str):
            raise FormatError(f"attribute {key!r:.60} is no text", expected="a JSON string", found=f"{text!r:.60}")
        texts[key] = text
    return texts


def _entries(parent: Mapping[str, object], key: str) -> tuple[Entry, ...]:
    entries = []
    for item in _list(parent, key):
        if not isinstance(item, list) or len(item) not in {2, 3} or not all(_is_natural(number) for number in item):
            raise FormatError(
                f"an entry of {key!r} cannot be read",
                expected="[node, output] or [node, output, version]",
                found=f"{item!r:.60}",
            )
        entries.append(Entry(item[0], item[1]))
    return tuple(entries)


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _place(number: int, name: str, op: str) -> str:
    return f"node {number} {name!r:.60} ({op:.60})"


def _typed(records: Sequence[_Record], file: object, *, complete: bool) -> dict[int, Variable | Operation]:
    """The nodes by number; with ``complete``, inputs that are missing at the end of a list are added as variables."""
    nodes: dict[int, Variable | Operation] = {}
    added: list[Variable] = []
    for number, record in enumerate(records):
        with in_file(file, _place(number, record.name, record.op)):
            if record.op == "null":
                nodes[number] = _variable(record)
                continue
            attrs, arguments = read_operator(record.op, record.texts)
            inputs = record.inputs
            if arguments is None:
                arguments = ONE * len(inputs)
            for argument in arguments[len(inputs) :] if complete else ():
                inputs += (Entry(len(records) + len(added), 0),)
                added.append(Variable(name=f"{record.name}_{argument.name}", shape=None))
            if len(inputs) != len(arguments):
                raise FormatError(
                    "the operator has the wrong number of inputs",
                    expected=f"{len(arguments)} ({', '.join(argument.name for argument in arguments[:8])})",
                    found=len(inputs),
                )
            nodes[number] = Operation(
                name=record.name, op=record.op, attrs=attrs, inputs=inputs, arguments=arguments, texts=record.texts
            )
    nodes.update(enumerate(added, start=len(records)))
    for number, node in nodes.items():
        if isinstance(node, Operation):
            with in_file(file, _place(number, node.name, node.op)):
                _check_entries(node.inputs, nodes)
    return nodes


def _variable(record: _Record) -> Variable:
    declared = record.texts.get("__shape__")
    if declared is None:
        return Variable(name=record.name, shape=None)
    try:
        sizes = parse_integers(declared)
    except ValueError:
        raise FormatError(
            "__shape__ cannot be read", expected="integers in parentheses", found=f"{declared!r:.60}"
        ) from None
    return Variable(name=record.name, shape=tuple(max(size or 0, 0) for size in sizes))


def _check_entries(entries: Iterable[Entry], nodes: Mapping[int, Variable | Operation]) -> None:
    for entry in entries:
        producer = nodes.get(entry.node)
        if producer is None:
            raise FormatError("there is no node of that number", expected=f"below {len(nodes)}", found=entry.node)
        outputs = _outputs(producer)
        if entry.output >= outputs:
            raise FormatError(
                f"{producer.name!r:.60} has no output of that number at inference",
                expected=f"below {outputs}",
                found=entry.output,
                hint="mean and variance of a BatchNorm, masks and workspaces are there in training alone",
            )


def _outputs(node: Variable | Operation) -> int:
    if isinstance(node, Variable):
        return 1
    match node.attrs:
        case Split(parts=parts):
            return parts
        case Unknown():
            return _MAX_OUTPUT_INDEX
    return 1


def _check_splits(nodes: Iterable[Variable | Operation], limit: int) -> None:
    """Keeps memory within the file's size: a split can announce thousands of outputs in a few bytes."""
    operations = (node for node in nodes if isinstance(node, Operation))
    parts = sum(operation.attrs.parts for operation in operations if isinstance(operation.attrs, Split))
    if parts > limit:
        raise FormatError("splits have more outputs than the file can use", expected=f"at most {limit}", found=parts)


def _topological(nodes: Mapping[int, Variable | Operation], heads: Sequence[Entry]) -> list[int]:
    """The numbers of the nodes on which the heads depend, each after what it reads."""
    order: list[int] = []
    opened: set[int] = set()
    done: set[int] = set()
    stack = [head.node for head in reversed(heads)]
    while stack:
        number = stack[-1]
        node = nodes[number]
        reads = node.reads if isinstance(node, Operation) and number not in done else ()
        waiting = [entry.node for entry, _ in reads if entry.node not in done]
        if waiting and number in opened:  # it waits for something that waits for it
            raise FormatError("the graph has a cycle", place=f"node {number} {node.name!r:.60}")
        if waiting:
            opened.add(number)
            stack.extend(reversed(waiting))
            continue
        stack.pop()
        if number not in done:
            done.add(number)
            order.append(number)
    return order


def _fed(nodes: Mapping[int, Variable | Operation], heads: Sequence[Entry]) -> tuple[int, ...]:
    read = {head.node for head in heads}
    for node in nodes.values():
        if isinstance(node, Operation):
            read.update(entry.node for entry, argument in node.reads if argument.use is Feed.VALUE)
    return tuple(number for number, node in nodes.items() if number in read and isinstance(node, Variable))


def _check_names(nodes: Iterable[Variable | Operation]) -> None:
    seen: set[str] = set()
    for node in nodes:
        if isinstance(node, Variable):
            if node.name in seen:
                raise FormatError("two variables have one name", expected="each once", found=f"{node.name!r:.60}")
            seen.add(node.name)
