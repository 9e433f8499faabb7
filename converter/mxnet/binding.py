"""Binds the variables of a symbol file to the tensors of a `.params` file: two files in, one graph out.

MXNet's own rule (python/mxnet/model.py, load_params, and module/executor_group.py, set_params): a stored name is
split at its first ``:``; ``arg`` holds weights, ``aux`` moving statistics, and neither is looked up in the other. What
is added here: names without a prefix (Gluon's save_parameters and collect_params().save) are accepted, and moving
statistics that one file calls ``moving_*`` and the other ``running_*`` are matched through their BatchNorm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from resnext_convert.converter.errors import MissingTensorError
from resnext_convert.converter.graph import Graph, Node, Role, Split, Unknown
from resnext_convert.converter.mxnet.meaning import Feed
from resnext_convert.converter.mxnet.params import ParamsFile
from resnext_convert.converter.mxnet.symbol import Entry, Operation, SymbolFile, Variable

_STATISTICS = {Role.MEAN: ("moving_mean", "running_mean"), Role.VAR: ("moving_var", "running_var")}
_EXAMPLES = 5  # names that a message shows of a long list


class Stored:
    """The stored tensors by the names that a graph uses."""

    def __init__(self, params: ParamsFile) -> None:
        self.tensors = params.tensors
        self.named = params.named
        self._kinds: dict[str, dict[str, str]] = {"arg": {}, "aux": {}, "": {}}
        self.others: list[str] = []
        for full in params.tensors if params.named else ():
            prefix, colon, name = full.partition(":")
            if not colon:
                self._kinds[""][full] = full
            elif prefix in self._kinds:
                self._kinds[prefix][name] = full
            else:
                self.others.append(full)

    def find(self, role: Role, name: str) -> str | None:
        """The full name of the tensor that MXNet takes for a role."""
        kind = "aux" if role in _STATISTICS else "arg"
        return self._kinds[kind].get(name) or self._kinds[""].get(name)

    def anywhere(self, name: str) -> str | None:
        """The full name of a tensor whatever its prefix."""
        return next((kind[name] for kind in self._kinds.values() if name in kind), None)

    def names(self) -> Iterator[str]:
        """The names without their prefix."""
        for kind in self._kinds.values():
            yield from kind


@dataclass(frozen=True, slots=True)
class Bound:
    """A graph whose parameters are stored tensors, and what was odd on the way.

    Attributes:
        graph: as `Graph` says; value names are MXNet's own (`get_internals`).
        operations: the operation of the symbol file behind each node, by the node's name.
        input_shape: what the image's variable declares.
        respelled: the stored tensor (its full name) for each variable whose name it does not have.
        warnings: how what was odd is understood.
    """

    graph: Graph
    operations: Mapping[str, Operation]
    input_shape: tuple[int, ...] | None
    respelled: Mapping[str, str]
    warnings: tuple[str, ...]


def bind(symbol: SymbolFile, params: ParamsFile) -> Bound:
    """Makes the graph, each parameter bound to a stored tensor.

    A variable that a weight, bias or statistic is read from must be stored. Any other variable is an input of the
    graph if no tensor of its name is stored, and else a constant; a node that reads a constant, or computes one of its
    weights, becomes `Unknown`, without the constant among its inputs.

    Raises:
        MissingTensorError: tensors are missing, or stored under the wrong prefix; all of them are named.
    """
    return _Binder(symbol, Stored(params)).bind()


class _Binder:
    """The work of `bind`, with what it collects on the way."""

    def __init__(self, symbol: SymbolFile, stored: Stored) -> None:
        self._symbol = symbol
        self._stored = stored
        self._missing: dict[str, Role] = {}
        self._respelled: dict[str, str] = {}
        self._graph_names = {node.name for node in symbol.nodes.values() if isinstance(node, Variable)}
        self._outputs_read: dict[int, set[int]] = {}
        for entry in (*symbol.heads, *(entry for operation in self._operations() for entry, _ in operation.reads)):
            self._outputs_read.setdefault(entry.node, set()).add(entry.output)

    def _operations(self) -> Iterator[Operation]:
        return (node for node in self._symbol.nodes.values() if isinstance(node, Operation))

    def bind(self) -> Bound:
        inputs = self._inputs()
        values = {Entry(number, 0): variable.name for number, variable in inputs.items()}
        taken = set(values.values())
        operations: dict[str, Operation] = {}  # by the name of the node
        nodes = []
        for number, operation in self._symbol.nodes.items():
            if not isinstance(operation, Operation):
                continue
            name, outputs = self._names(number, operation, operations, taken)
            taken.update(outputs.values())
            nodes.append(self._node(name, operation, values, tuple(outputs.values())))
            values.update(outputs)
            operations[name] = operation
        if self._missing:
            raise missing_error(self._missing, self._stored, self._graph_names)
        return Bound(
            graph=Graph(
                nodes=tuple(nodes),
                inputs=tuple(variable.name for variable in inputs.values()),
                outputs=tuple(values[head] for head in self._symbol.heads),
            ),
            operations=operations,
            input_shape=next((variable.shape for variable in inputs.values()), None),
            respelled=self._respelled,
            warnings=tuple(self._warnings(inputs.values())),
        )

    def _inputs(self) -> dict[int, Variable]:
        """The variables that are fed at inference: those that are heads, or read as plain values and not stored.

        Where all of them are stored (a checkpoint that holds the last image as ``arg:data``), all are fed.
        """
        found = {
            number: node for number in self._symbol.fed if isinstance(node := self._symbol.nodes[number], Variable)
        }
        heads = {head.node for head in self._symbol.heads}
        fed = {
            number: node for number, node in found.items() if number in heads or not self._stored.anywhere(node.name)
        }
        return fed or found

    def _names(
        self, number: int, operation: Operation, nodes: Collection[str], values: set[str]
    ) -> tuple[str, dict[Entry, str]]:
        """Names for a node and its values that no other node and no other value has; MXNet's own if possible."""
        name = operation.name or f"#{number}"
        while True:
            outputs = self._output_names(number, operation, name)
            if name not in nodes and values.isdisjoint(outputs.values()):
                return name, outputs
            name = f"{name}#{number}"

    def _output_names(self, number: int, operation: Operation, name: str) -> dict[Entry, str]:
        match operation.attrs:
            case Split(parts=parts):
                indices = list(range(parts))
            case Unknown() if self._outputs_read[number] != {0}:
                indices = sorted(self._outputs_read[number])
            case _:
                return {Entry(number, 0): f"{name}_output"}
        return {Entry(number, index): f"{name}_output{index}" for index in indices}

    def _node(self, name: str, operation: Operation, values: Mapping[Entry, str], outputs: tuple[str, ...]) -> Node:
        feeds: list[Entry] = []
        variables: dict[Role, str] = {}
        readable = True
        for entry, argument in operation.reads:
            source = self._symbol.nodes[entry.node]
            if isinstance(argument.use, Feed):
                feeds.append(entry)
                readable = readable and entry in values
            elif isinstance(source, Variable):
                variables[argument.use] = source.name
            else:
                feeds.append(entry)
                readable = False
        known = readable and not isinstance(operation.attrs, Unknown)
        return Node(
            name=name,
            op=operation.op,
            attrs=operation.attrs if known else Unknown(attributes=operation.texts),
            inputs=tuple(values[entry] for entry in feeds if entry in values),
            outputs=outputs,
            params=self._params(variables) if known else {},
        )

    def _params(self, variables: Mapping[Role, str]) -> dict[Role, str]:
        found: dict[Role, str] = {}
        for role, name in variables.items():
            full = self._stored.find(role, name) or self._other_spelling(role, variables, found)
            if full is None:
                self._missing[name] = role
            else:
                found[role] = full
        return found

    def _other_spelling(self, role: Role, variables: Mapping[Role, str], found: Mapping[Role, str]) -> str | None:
        """The statistic of the same BatchNorm if the params file calls it ``running_*`` and the graph ``moving_*``.

        It must have the name of the BatchNorm's own gamma or beta but for the role, and gamma's shape, and be no
        tensor that the graph asks for by name.
        """
        if variables[role] in self._respelled:  # a BatchNorm that is used twice
            return self._respelled[variables[role]]
        candidates = set()
        for own in (Role.GAMMA, Role.BETA) if role in _STATISTICS else ():
            stem = variables[own].removesuffix(own.value)
            if stem != variables[own]:
                candidates |= {stem + spelling for spelling in _STATISTICS[role]} - self._graph_names
        tensors = self._stored.tensors
        fulls = {full for name in candidates if (full := self._stored.find(role, name)) is not None}
        fitting = [
            full for full in fulls if Role.GAMMA in found and tensors[full].shape == tensors[found[Role.GAMMA]].shape
        ]
        if len(fitting) != 1 or fitting[0] in self._respelled.values():
            return None
        self._respelled[variables[role]] = fitting[0]
        return fitting[0]

    def _warnings(self, inputs: Collection[Variable]) -> Iterator[str]:
        if self._respelled:
            asked, taken = next(iter(self._respelled.items()))
            yield (
                f"{len(self._respelled)} moving statistics have other names in the params file than in the graph "
                f"({taken!r} for {asked!r}); matched through their BatchNorm's name, role and shape"
            )
        if self._stored.others:
            yield (
                f"tensors whose prefix is neither 'arg' nor 'aux' are ignored, as MXNet ignores them "
                f"({_some(self._stored.others)})"
            )
        for variable in inputs:
            if (full := self._stored.anywhere(variable.name)) is not None:
                yield f"the tensor {full!r} is not used: {variable.name!r} is an input of the graph"


def missing_error(missing: Mapping[str, Role], stored: Stored, graph_names: Collection[str]) -> MissingTensorError:
    """The error that names all missing tensors, says what is there, and guesses why."""
    misplaced = {name: full for name in missing if (full := stored.anywhere(name)) is not None}
    return MissingTensorError(
        f"tensors that the graph names are not in the params file ({len(missing)}): {', '.join(missing)}",
        expected="weights under 'arg:' and moving statistics under 'aux:', or all without a prefix",
        found=(
            f"stored under the wrong prefix: {_some(list(misplaced.values()))}"
            if misplaced
            else f"{len(stored.tensors)} tensors: {_some(list(stored.tensors))}"
        ),
        hint=_guess(missing, misplaced, stored, graph_names),
    )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_EXAMPLES])
    return shown if len(names) <= _EXAMPLES else f"{shown} and {len(names) - _EXAMPLES} more"


def _guess(
    missing: Mapping[str, Role], misplaced: Mapping[str, str], stored: Stored, graph_names: Collection[str]
) -> str:
    names = set(stored.names())
    if not stored.named:
        return "the file is a list without names (nd.save of a list); save a dictionary, or the checkpoint, in MXNet"
    if misplaced:
        return (
            "MXNet looks up statistics under 'aux:' alone and all else under 'arg:' alone; the file was renamed by hand"
        )
    if any("." in name for name in names):
        return (
            "these are structural names (Gluon's save_parameters): they belong to the code of the network, not to "
            "its graph; leave the symbol file out and put the params file where there is none, so that its names "
            "are read (GluonCV's and gluoncv2's are known), or export both files together with HybridBlock.export"
        )
    if set(missing.values()) <= set(_STATISTICS) and not any(name.endswith(("_mean", "_var")) for name in names):
        return "the moving statistics were not saved: save aux_params too (mx.model.save_checkpoint does)"
    if names.isdisjoint(graph_names):
        ours, theirs = ({name.partition("_")[2] for name in group} for group in (missing, names))
        if ours <= theirs:
            return (
                "the names differ in their first part alone: Gluon numbers networks as they are made (resnext0_, "
                "resnext1_), and the two files come from two of them; export both files together"
            )
        return "no name agrees: the two files belong to different networks"
    return "the two files are not of the same checkpoint (another epoch or fine-tuning, or another head of the network)"
