"""Passes over the graph: functions with a stated end condition. They remove spellings, never arithmetic.

A pass keeps the names of the values that stay, so that whatever is found in the normalised graph can be looked up in
the graph as read, which is the one that the reference executes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from resnext_convert.converter.graph import (
    Add,
    BatchNorm,
    Cast,
    Flatten,
    Graph,
    Identity,
    Node,
    Reshape,
    Scale,
    Slice,
    Split,
)


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
    """``Reshape (0, -1)`` of all axes is `Flatten`. After it no such `Reshape` is left."""
    flat = Reshape(shape=(0, -1))
    nodes = (replace(node, attrs=Flatten()) if node.attrs == flat else node for node in graph.nodes)
    return Graph(nodes=tuple(nodes), inputs=graph.inputs, outputs=graph.outputs)


def merge_additions(graph: Graph) -> Graph:
    """A sum of sums is one sum, and coefficients of 1 are none.

    After it no `Add` has only such coefficients, and none without any is read by nothing but another one, once.
    """
    merged: dict[str, tuple[str, ...]] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if _adds(node):
            terms = tuple(term for value in node.inputs for term in merged.get(value, (value,)))
            node = replace(node, attrs=Add(), inputs=terms)
            reader = only_reader(graph, node.outputs[0])
            if reader is not None and _adds(reader):
                merged[node.outputs[0]] = terms
                continue
        kept.append(node)
    return Graph(nodes=tuple(kept), inputs=graph.inputs, outputs=graph.outputs)


def _adds(node: Node) -> bool:
    return isinstance(node.attrs, Add) and set(node.attrs.coefficients) <= {1.0}


def join_scales(graph: Graph) -> Graph:
    """A `BatchNorm` without gamma and beta and the `Scale` behind it (Caffe) are one `BatchNorm` that has them.

    After it no `BatchNorm` without both is read by nothing but a `Scale` of its channels, once.
    """
    joined: dict[str, Node] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.attrs, BatchNorm) and not node.attrs.gamma and not node.attrs.beta:
            scale = only_reader(graph, node.outputs[0])
            if scale is not None and isinstance(scale.attrs, Scale) and scales_channels(scale):
                attrs = replace(node.attrs, gamma=True, fix_gamma=False, beta=scale.attrs.bias)
                joined[scale.name] = replace(
                    node, attrs=attrs, outputs=scale.outputs, params={**node.params, **scale.params}
                )
                continue
        kept.append(joined.get(node.name, node))
    return Graph(nodes=tuple(kept), inputs=graph.inputs, outputs=graph.outputs)


def slices_to_split(graph: Graph) -> Graph:
    """Slices that cut the channels of one value into equal parts, from the first on, are one `Split`.

    That they leave no channel over is for the shapes to say. After it no value is read by such slices.
    """
    splits: dict[str, Node | None] = {}
    for value, readers in graph.consumers.items():
        cuts = {cut: node for node in readers if (cut := _channels_cut(node)) is not None}
        found = sorted(cuts)
        size = found[0][1] if found else 0
        equal = [(size * place, size * (place + 1)) for place in range(len(found))]
        if len(found) > 1 and found in (equal, [*equal[:-1], (equal[-1][0], math.inf)]):
            parts = [cuts[cut] for cut in found]
            split = Node(
                name=parts[0].name,
                op=parts[0].op,
                attrs=Split(axis=1, parts=len(parts), points=tuple(int(begin) for begin, _ in found[1:])),
                inputs=(value,),
                outputs=tuple(part.outputs[0] for part in parts),
            )
            splits |= dict.fromkeys(part.name for part in parts)
            splits[next(node.name for node in readers if node.name in splits)] = split
    nodes = (splits.get(node.name, node) for node in graph.nodes)
    return Graph(nodes=tuple(node for node in nodes if node), inputs=graph.inputs, outputs=graph.outputs)


def _channels_cut(node: Node) -> tuple[int, float] | None:
    """The first channel that a slice of channels takes, and the first behind it that it does not."""
    match node.attrs:
        case Slice(bounds=((None | 0, None, None | 1), (begin, end, None | 1), *rest)):
            whole = all(bound in {(None, None, None), (0, None, None), (0, None, 1)} for bound in rest)
            start, stop = begin or 0, math.inf if end is None else end
            return (start, stop) if whole and 0 <= start < stop else None
        case _:
            return None


def scales_channels(node: Node) -> bool:
    """Whether a node multiplies each channel of maps (N, C, H, W) by a stored number of its own."""
    match node.attrs:
        case Scale(axis=1 | -3, num_axes=1):
            return len(node.inputs) == 1
        case _:
            return False


def only_reader(graph: Graph, value: str) -> Node | None:
    """The node that alone reads ``value``, once; None where there is none, or where the value is a head."""
    readers = graph.consumers[value]
    once = len(readers) == 1 and readers[0].inputs.count(value) == 1 and value not in graph.outputs
    return readers[0] if once else None


PASSES: Final[tuple[Callable[[Graph], Graph], ...]] = (
    drop_identities,
    reshape_to_flatten,
    merge_additions,
    join_scales,
    slices_to_split,
)


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
