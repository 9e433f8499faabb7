"""Structural match: from the graph and the shapes to a configuration, a binding for every key, and closed books."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resnext_convert.converter.branches import merge_branches
from resnext_convert.converter.errors import in_file
from resnext_convert.converter.graph import Conv, Flatten, Graph, Node, Softmax, SourceModel
from resnext_convert.converter.normalize import normalize, restrict
from resnext_convert.converter.resnext.binder import Binder
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.ledger import Binding, Ignored
from resnext_convert.converter.resnext.structure import find_classifier, find_structure
from resnext_convert.converter.tensors import Array

UNUSED = "no node of the graph names it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An output of the source graph that follows from the logits."""

    value: str
    softmax: bool

    def of(self, logits: Array) -> Array:
        """The head's value for logits (N, classes)."""
        if not self.softmax:
            return logits
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a source network is as a ResNeXt.

    Attributes:
        config: all that the module needs.
        bindings: one for each key of the state dict, in its order.
        ignored: every source tensor that is in no binding.
        activations: (module's path, value of the source graph) in the order of execution: what must be equal. Layers
            that the source has in branches are not among them.
        blocks: those of ``activations`` that end a residual block.
        logits: the value of the source graph that the module returns (see `as_rows`).
        heads: the heads of the source graph that show the logits or a softmax of them.
        other_heads: heads that are not converted.
    """

    config: ResNeXtConfig
    bindings: tuple[Binding, ...]
    ignored: tuple[Ignored, ...]
    activations: tuple[tuple[str, str], ...]
    blocks: tuple[str, ...]
    logits: str
    heads: tuple[Head, ...]
    other_heads: tuple[str, ...]

    def shown(self, logits: Array) -> dict[str, Array]:
        """What the source graph calls the logits and each head that follows from them, with their values."""
        return {self.logits: logits} | {head.value: head.of(logits) for head in self.heads}


def as_rows(values: Array) -> Array:
    """(N, C, 1, 1) as (N, C): what a classifier that is a convolution writes, and what its softmax makes of it.

    The module's logits are rows, whatever `Match.logits` and `Match.heads` of the source are.
    """
    return values.reshape(values.shape[:2]) if set(values.shape[2:]) <= {1} else values


def match(model: SourceModel) -> Match:
    """Finds the ResNeXt in a source model.

    Raises:
        NotResNeXtError: at the first node that does not fit.
        ShapeError: tensors whose channels do not fit each other.
        LedgerError: a tensor that two layers share.
    """
    with in_file(model.origin.graph_file):
        graph = normalize(model.graph)
        classifier = find_classifier(graph)
        path = restrict(graph, classifier.outputs[0])
        merged, stacks = merge_branches(path, model.tensors)
        structure = find_structure(merged)
        binder = Binder(model.tensors, stacks)
        config = binder.config(structure)
        bindings, ignored = binder.ledger.close(
            model.tensors, config.state_shapes(), _reasons(model.graph, path), UNUSED
        )
    heads = [
        _head(graph, value, name, classifier) for value, name in zip(graph.outputs, model.graph.outputs, strict=True)
    ]
    return Match(
        config=config,
        bindings=bindings,
        ignored=ignored,
        activations=tuple((name, value) for name, value in binder.activations if value in path.producers),
        blocks=tuple(binder.blocks),
        logits=structure.logits,
        heads=tuple(head for head in heads if head),
        other_heads=tuple(name for name, head in zip(model.graph.outputs, heads, strict=True) if not head),
    )


def _head(graph: Graph, value: str, name: str, classifier: Node) -> Head | None:
    """What the head ``name`` (``value`` once normalised) shows of the logits; None if it is something else."""
    steps: list[Softmax | Flatten] = []
    while value != classifier.outputs[0]:
        producer = graph.producers.get(value)
        if producer is None or not isinstance(producer.attrs, Softmax | Flatten):
            return None
        steps.append(producer.attrs)
        value = producer.inputs[0]
    ndim, softmax = 4 if isinstance(classifier.attrs, Conv) else 2, False
    for step in reversed(steps):
        if isinstance(step, Flatten):
            first, last = (axis + ndim if axis < 0 else axis for axis in (step.axis, step.end_axis))
            if not 1 <= first <= last < ndim:  # from 0 on, images would be joined
                return None
            ndim -= last - first
        elif softmax or step.axis not in {None, 1, 1 - ndim}:
            return None
        else:
            softmax = True
    return Head(value=name, softmax=softmax)


def _reasons(graph: Graph, path: Graph) -> Mapping[str, str]:
    """Why the tensors of nodes beside the path to the classifier are no loss."""
    on_path = {node.name for node in path.nodes}
    return {
        tensor: f"of {node}, on which the classifier does not depend"
        for node in graph.nodes
        if node.name not in on_path
        for tensor in node.params.values()
    }
