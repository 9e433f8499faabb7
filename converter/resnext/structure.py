"""Finds the parts of a ResNeXt in a graph by its wiring alone: stem, residual blocks, head. No name is looked at.

The walk follows the value that flows from the image to the classifier. Where that value has one reader, the reader
is part of the stem or the head; where it has two, a residual block begins: both branches are followed until they
meet in an addition, and the one with more convolutions is the residual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NoReturn

from resnext_convert.converter.errors import NotResNeXtError
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    Graph,
    Linear,
    Multiply,
    Node,
    Pool,
    PoolKind,
    Reshape,
    Scale,
    Softmax,
    Unknown,
)
from resnext_convert.converter.normalize import scales_channels

PRE_ACTIVATION = (
    "normalises where no ResNeXt does; a pre-activation ResNet (v2), which is another family, normalises there before"
    " it convolves"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A convolution with the normalisation (or scale) and the ReLU that follow it, where they do."""

    conv: Node
    norm: Node | None
    relu: Node | None

    @property
    def output(self) -> str:
        return (self.relu or self.norm or self.conv).outputs[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excitation:
    """Squeeze-and-excitation: the two layers of the gate (convolutions or fully connected) and the product.

    The product is a `Multiply`, or a `Scale` by a second value.
    """

    reduce: Node
    expand: Node
    multiply: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One way through a block, from the fork to the addition."""

    pool: Node | None
    units: tuple[Unit, ...]
    excitation: Excitation | None
    end: str
    add: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A residual block; ``projection`` is the shortcut's branch, None where the shortcut is the identity.

    ``shortcuts`` is how often the shortcut is added: once, but in graphs that say ``x + f(x) + x``.
    """

    residual: Branch
    projection: Branch | None
    shortcuts: int
    relu: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """All parts, input to output. ``logits`` is the value that the classifier writes."""

    data_norm: Node | None
    stem: tuple[Unit, ...]
    stem_pool: Node | None
    stages: tuple[tuple[Block, ...], ...]
    pool: Node | None
    classifier: Node

    @property
    def logits(self) -> str:
        return self.classifier.outputs[0]


def find_classifier(graph: Graph) -> Node:
    """The fully connected layer, or the 1x1 convolution behind a pooling, that a head shows.

    It shows it as it is or behind `Softmax` and `Flatten`.

    Raises:
        NotResNeXtError: no head shows one, or heads show several.
    """
    found: dict[str, Node] = {}
    for output in graph.outputs:
        node = graph.producers.get(output)
        while node is not None and isinstance(node.attrs, Softmax | Flatten):
            node = graph.producers.get(node.inputs[0])
        if node is not None and (isinstance(node.attrs, Linear) or _classifies_pooled(graph, node)):
            found[node.name] = node
    if len(found) == 1:
        return next(iter(found.values()))
    heads = ", ".join(str(graph.producers.get(output, output)) for output in graph.outputs)
    raise NotResNeXtError(
        f"{len(found) or 'no'} head{'s' if len(found) != 1 else ''} of the graph end{'s' if len(found) == 1 else ''}"
        " in a fully connected layer",
        place=heads,
        expected="one classifier: a fully connected layer, with or without a softmax behind it",
        found=", ".join(found) or heads,
        hint="a backbone without classifier, or a network with several, cannot be converted",
    )


def _classifies_pooled(graph: Graph, node: Node) -> bool:
    pooling = graph.producers.get(node.inputs[0]) if _pointwise(node) else None
    return pooling is not None and isinstance(pooling.attrs, Pool)


def _pointwise(node: Node) -> bool:
    """Whether a node is to each cell what a fully connected layer is."""
    alike = Conv(out_channels=0, kernel=(1, 1), bias=False)
    return isinstance(node.attrs, Conv) and replace(node.attrs, out_channels=0, dilation=(1, 1), bias=False) == alike


def _flattens(node: Node) -> bool:
    """Whether a node makes rows of maps (N, C, H, W)."""
    return isinstance(node.attrs, Flatten) and node.attrs.axis in {1, -3} and node.attrs.end_axis in {-1, 3}


def _reshapes_to_maps(node: Node) -> bool:
    """Whether a node makes maps of one cell (N, C, 1, 1) of rows."""
    return isinstance(node.attrs, Reshape) and node.attrs == Reshape(shape=(*node.attrs.shape[:2], 1, 1))


def find_structure(graph: Graph) -> Structure:
    """Walks the graph from its input to its only output.

    Args:
        graph: normalised, and restricted to what the classifier needs.

    Raises:
        NotResNeXtError: at the first node that no ResNeXt has in that place.
    """
    if len(graph.inputs) != 1:
        raise NotResNeXtError(
            "the classifier does not depend on exactly one input",
            expected="one image",
            found=", ".join(graph.inputs) or "none",
        )
    for node in graph.nodes:
        if isinstance(node.attrs, BatchNorm) and node.attrs.batch_statistics:
            raise NotResNeXtError(
                "the source normalises with the statistics of the current batch, so a result depends on all its images",
                place=str(node),
                expected="the stored statistics, as a network in use has them",
                found="those of the current batch",
                hint="where the stored ones are meant, let the graph say so",
            )
    return _Walk(graph).run()


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self) -> Structure:
        value = self.graph.inputs[0]
        data_norm = self.norm(value)
        if data_norm:
            value = data_norm.outputs[0]
        stem: list[Unit] = []
        while conv := self.follow(value, Conv):
            stem.append(self.unit(conv))
            value = stem[-1].output
        if not stem:
            self.refuse(self.readers(value)[0], "the stem's convolution")
        stem_pool = self.follow(value, Pool)
        if stem_pool:
            value = stem_pool.outputs[0]
        stages: list[list[Block]] = []
        while len(self.readers(value)) > 1:
            block = self.block(value)
            if block.projection or not stages:
                stages.append([])
            stages[-1].append(block)
            value = block.relu.outputs[0]
        if not stages:
            self.refuse(self.only_reader(value), "the first residual block")
        pool = self.follow(value, Pool)
        if pool:
            value = pool.outputs[0]
        flatten = self.flatten(value)
        if flatten:
            value = flatten.outputs[0]
        classifier = self.only_reader(value)
        if not self.takes(classifier, flatten) and (not pool or flatten or not _pointwise(classifier)):
            self.refuse(classifier, "the next residual block, the final pooling or the classifier")
        if classifier.outputs[0] != self.graph.outputs[0]:
            self.refuse(self.only_reader(classifier.outputs[0]), "the end of the network after the classifier")
        return Structure(
            data_norm=data_norm,
            stem=tuple(stem),
            stem_pool=stem_pool,
            stages=tuple(tuple(stage) for stage in stages),
            pool=pool,
            classifier=classifier,
        )

    def readers(self, value: str) -> tuple[Node, ...]:
        return self.graph.consumers[value]

    def only_reader(self, value: str) -> Node:
        """The only node that reads ``value``; the graph is restricted, so only the output has none."""
        nodes = self.readers(value)
        if len(nodes) == 1:
            return nodes[0]
        producer = self.graph.producers.get(value)
        raise NotResNeXtError(
            f"the value {value!r} has {len(nodes)} readers in a place where a ResNeXt has one",
            place=str(nodes[0] if nodes else producer or value),
            expected="one reader",
            found=", ".join(str(node) for node in nodes) or "the end of the network",
        )

    def follow(self, value: str, *kinds: type[Attrs]) -> Node | None:
        """The only reader of ``value`` if it is of one of these kinds."""
        nodes = self.readers(value)
        return nodes[0] if len(nodes) == 1 and isinstance(nodes[0].attrs, kinds) else None

    def norm(self, value: str) -> Node | None:
        """The only reader of ``value`` if it normalises, or scales, each channel."""
        node = self.follow(value, BatchNorm, Scale)
        return node if node and (isinstance(node.attrs, BatchNorm) or scales_channels(node)) else None

    def flatten(self, value: str) -> Node | None:
        """The only reader of maps if it makes rows of them."""
        node = self.follow(value, Flatten)
        return node if node and _flattens(node) else None

    def takes(self, node: Node, flatten: Node | None) -> bool:
        """Whether a node is a fully connected layer, of rows or of maps (N, C, H, W) that it flattens itself."""
        return isinstance(node.attrs, Linear) and node.attrs.axis in ({1, -1} if flatten else {1, -3})

    def relu(self, value: str) -> Node | None:
        node = self.follow(value, Activation)
        if node and isinstance(node.attrs, Activation) and node.attrs.kind is not ActivationKind.RELU:
            self.refuse(node, "ReLU")
        return node

    def unit(self, conv: Node) -> Unit:
        value = conv.outputs[0]
        norm = self.norm(value)
        return Unit(conv=conv, norm=norm, relu=self.relu(norm.outputs[0] if norm else value))

    def block(self, fork: str) -> Block:
        nodes = self.readers(fork)
        if len(nodes) != 2:
            self.refuse(nodes[2], "two ways out of a block's input: residual and shortcut")
        branches = sorted(
            (self.branch(fork, node) for node in nodes if not isinstance(node.attrs, Add)),
            # No projection has squeeze-and-excitation, and no residual begins with a pooling.
            key=lambda branch: (len(branch.units), branch.excitation is not None, branch.pool is None),
            reverse=True,
        )
        if not branches:
            self.refuse(nodes[0], "a residual branch with convolutions")
        residual, projection = branches[0], branches[1] if len(branches) > 1 else None
        terms = residual.add.inputs
        ends = {residual.end, projection.end if projection else fork}
        weighted = residual.add.attrs != Add()
        if set(terms) != ends or len(ends) != 2 or terms.count(residual.end) != 1 or weighted:
            self.refuse(residual.add, "the sum of a residual and its shortcut, nothing else")
        self.check_residual(residual)
        if projection:
            self.check_projection(projection)
        total = residual.add.outputs[0]
        relu = self.relu(total)
        if relu is None:
            self.refuse(self.readers(total)[0] if self.readers(total) else residual.add, "ReLU after the addition")
        return Block(residual=residual, projection=projection, shortcuts=len(terms) - 1, relu=relu)

    def branch(self, fork: str, node: Node) -> Branch:
        """Follows one way out of ``fork`` up to the addition in which it ends."""
        value, pool, excitation = fork, None, None
        units: list[Unit] = []
        while not isinstance(node.attrs, Add):
            if isinstance(node.attrs, Conv) and not excitation:
                units.append(self.unit(node))
                value = units[-1].output
            elif isinstance(node.attrs, Pool) and not units and not pool:
                pool, value = node, node.outputs[0]
            else:
                self.refuse(node, "a convolution or the addition of a residual block")
            if units and not excitation and len(self.readers(value)) == 2:
                excitation = self.excitation(value)
                value = excitation.multiply.outputs[0]
            node = self.only_reader(value)
        return Branch(pool=pool, units=tuple(units), excitation=excitation, end=value, add=node)

    def excitation(self, value: str) -> Excitation:
        products = Multiply | Scale
        multiply = next((node for node in self.readers(value) if isinstance(node.attrs, products)), None)
        squeeze = next((node for node in self.readers(value) if isinstance(node.attrs, Pool)), None)
        if multiply is None or squeeze is None:
            self.refuse(self.readers(value)[0], "squeeze-and-excitation (a global pooling and a product)")
        assert isinstance(squeeze.attrs, Pool)
        if not squeeze.attrs.global_pool or squeeze.attrs.kind is not PoolKind.AVERAGE:
            self.refuse(squeeze, "the global average pooling of squeeze-and-excitation")
        reduce, gate = self.gate_layer(squeeze.outputs[0])
        relu = self.relu(gate)
        if relu is None:
            self.refuse(self.only_reader(gate), "the ReLU of squeeze-and-excitation")
        expand, gate = self.gate_layer(relu.outputs[0])
        sigmoid = self.only_reader(gate)
        if not isinstance(sigmoid.attrs, Activation) or sigmoid.attrs.kind is not ActivationKind.SIGMOID:
            self.refuse(sigmoid, "the sigmoid of squeeze-and-excitation")
        gate = sigmoid.outputs[0]
        if reshape := self.follow(gate, Reshape):
            if not _reshapes_to_maps(reshape):
                self.refuse(reshape, "a reshape to (N, C, 1, 1)")
            gate = reshape.outputs[0]
        rows = isinstance(expand.attrs, Linear) and not reshape
        if rows and not isinstance(multiply.attrs, Scale):
            self.refuse(self.only_reader(gate), "a reshape to (N, C, 1, 1)")
        if rows:
            whole = multiply.attrs == Scale(axis=0, bias=False) and multiply.inputs == (value, gate)
        else:
            whole = isinstance(multiply.attrs, Multiply) and sorted(multiply.inputs) == sorted((value, gate))
        if not whole:
            self.refuse(multiply, "the product of the residual and its gate, nothing else")
        return Excitation(reduce=reduce, expand=expand, multiply=multiply)

    def gate_layer(self, value: str) -> tuple[Node, str]:
        """A 1x1 convolution or a fully connected layer, and the value that it writes."""
        if flatten := self.flatten(value):
            value = flatten.outputs[0]
        node = self.only_reader(value)
        if not self.takes(node, flatten) and (flatten or not _pointwise(node)):
            self.refuse(node, "a 1x1 convolution or a fully connected layer of squeeze-and-excitation")
        return node, node.outputs[0]

    def check_residual(self, branch: Branch) -> None:
        if branch.pool or not 1 <= len(branch.units) <= 3:
            self.refuse(branch.pool or branch.add, "one to three convolutions in the residual", branch)
        for unit, following in pairwise(branch.units):
            if unit.relu is None:
                self.refuse(following.conv, "a ReLU after each convolution of the residual but the last")
        if last := branch.units[-1].relu:
            self.refuse(last, "no ReLU between the residual's last convolution and the addition")

    def check_projection(self, branch: Branch) -> None:
        if branch.excitation or len(branch.units) != 1:
            self.refuse(branch.add, "a projection of one convolution in the shortcut", branch)
        if relu := branch.units[0].relu:
            self.refuse(relu, "no ReLU in the shortcut")

    def refuse(self, node: Node, expected: str, branch: Branch | None = None) -> NoReturn:
        """Raises the refusal at ``node``, with what the family has in its place."""
        problem = "no ResNeXt has this operator here"
        if isinstance(node.attrs, BatchNorm):
            problem = PRE_ACTIVATION
        elif isinstance(node.attrs, Concat):
            problem = "joins branches by concatenation, as DenseNet does: another family"
        elif isinstance(node.attrs, Unknown):
            problem = f"the operator {node.op!r} is part of no ResNeXt"
        found = node.op if branch is None else f"{len(branch.units)} convolutions"
        if isinstance(node.attrs, Activation | Pool):
            found = f"{node.attrs.kind.value} {found}"
        raise NotResNeXtError(
            problem,
            place=str(node),
            expected=expected,
            found=found,
            hint="ResNet v1, ResNeXt and SE-ResNeXt are converted; `resnext-convert inspect` shows what the files hold",
        )
