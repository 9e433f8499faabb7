"""Passes over the graph: functions with a stated end condition. They remove spellings, never arithmetic.

A pass keeps the names of the values that stay, so that whatever is found in the normalised graph can be looked up in
the graph as read, which is the one that the reference executes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from resnext_convert.converter.graph import Add, Cast, Flatten, Graph, Identity, Node, Reshape


def drop_identities(graph: Graph) -> Graph:
    """Whoever reads an identity reads its input instead. After it no `Identity` and no `Cast` node is left."""
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(value, value) for value in node.inputs)
        if isinstance(node.attrs, Identity | Cast) and len(inputs) == 1:
            renamed[node.outputs[0]] = inputs[0]
        else:
            kept.append(replace(node, inputs=inputs))
    outputs = tuple(renamed.get(value, value) for value in graph.outputs)
    return Graph(nodes=tuple(kept), inputs=graph.inputs, outputs=outputs)


def reshape_to_flatten(graph: Graph) -> Graph:
    """``Reshape (0, -1)`` is `Flatten`. After it no `Reshape` has that shape."""
    nodes = (
        replace(node, attrs=Flatten()) if isinstance(node.attrs, Reshape) and node.attrs.shape == (0, -1) else node
        for node in graph.nodes
    )
    return Graph(nodes=tuple(nodes), inputs=graph.inputs, outputs=graph.outputs)


def merge_additions(graph: Graph) -> Graph:
    """A sum of sums is one sum. After it no `Add` is read by nothing but another `Add`, once."""
    merged: dict[str, tuple[str, ...]] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.attrs, Add):
            node = replace(node, inputs=tuple(term for v in node.inputs for term in merged.get(v, (v,))))
            readers = graph.consumers[node.outputs[0]]
            if len(readers) == 1 and isinstance(readers[0].attrs, Add) and node.outputs[0] not in graph.outputs:
                merged[node.outputs[0]] = node.inputs
                continue
        kept.append(node)
    return Graph(nodes=tuple(kept), inputs=graph.inputs, outputs=graph.outputs)


PASSES: Final[tuple[Callable[[Graph], Graph], ...]] = (drop_identities, reshape_to_flatten, merge_additions)


def normalize(graph: Graph) -> Graph:
    """All passes, in order."""
    for run in PASSES:
        graph = run(graph)
    return graph


def restrict(graph: Graph, output: str) -> Graph:
    """The part of the graph on which ``output`` depends. After it every node leads to ``output``."""
    nodes = tuple(graph.ancestors([output]))
    read = {value for node in nodes for value in node.inputs}
    return Graph(nodes=nodes, inputs=tuple(v for v in graph.inputs if v in read), outputs=(output,))
