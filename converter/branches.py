"""Makes one grouped convolution of explicit branches: figure 3 of the paper (arXiv:1611.05431, section 3.3).

The same block has three forms there: (a) N branches of convolutions that are summed, (b) N branches that are
concatenated before the last convolution, (c) a grouped convolution. A fourth cuts a value into N parts along its
channels, convolves each, and concatenates. Layers at the same place of all branches become one layer, the branches'
channels side by side; their stored tensors become a `Stack`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from resnext_convert.converter.graph import (
    Activation,
    Add,
    Attrs,
    BatchNorm,
    Concat,
    Conv,
    Graph,
    Node,
    Role,
    Split,
)
from resnext_convert.converter.normalize import only_reader, scales_channels
from resnext_convert.converter.tensors import TensorStore

Chain = tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A tensor that no file holds: those of all branches, in their order.

    Attributes:
        sources: stored tensors, all of one shape.
        axis: along which they are put behind each other; None: they are added.
    """

    sources: tuple[str, ...]
    axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bundle:
    """Branches alike, in order, from one value to one `Add` or `Concat`; ``split`` cuts the value, if anything does."""

    chains: tuple[Chain, ...]
    join: Node
    split: Node | None

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(chain[-1].outputs[0] for chain in self.chains)


def merge_branches(graph: Graph, tensors: TensorStore) -> tuple[Graph, Mapping[str, Stack]]:
    """Branches with the same operators, attributes and shapes become one.

    After it no value is read by such branches, and no `Split` leads to them. What `Add` and `Concat` wrote keeps its
    name, where only branches went in; values within branches are no more.

    Args:
        graph: normalised.
        tensors: the stored tensors that its nodes name.

    Returns:
        The graph, and what the new names in ``Node.params`` stand for.
    """
    bundles = [*_forks(graph, tensors), *_splits(graph, tensors)]
    merger = _Merger({*graph.inputs, *graph.producers, *tensors})
    gone = {node.name for bundle in bundles for chain in bundle.chains for node in chain}
    gone |= {bundle.split.name for bundle in bundles if bundle.split}
    joins: dict[str, list[_Bundle]] = {}
    for bundle in bundles:
        joins.setdefault(bundle.join.name, []).append(bundle)
    kept: list[Node] = []
    for node in graph.nodes:
        if node.name in joins:
            kept += merger.joined(node, joins[node.name])
        elif node.name not in gone:
            kept.append(node)
    return Graph(nodes=tuple(kept), inputs=graph.inputs, outputs=graph.outputs), merger.stacks


# Finding them


def _forks(graph: Graph, tensors: TensorStore) -> Iterator[_Bundle]:
    """Branches that begin with a convolution of the same value."""
    for value, readers in graph.consumers.items():
        starts = [node for node in readers if isinstance(node.attrs, Conv) and node.inputs == (value,)]
        for chains, join in _alike(graph, tensors, starts) if len(starts) > 1 else ():
            place = {term: number for number, term in enumerate(join.inputs)}
            ordered = tuple(sorted(chains, key=lambda chain: place[chain[-1].outputs[0]]))
            bundle = _Bundle(chains=ordered, join=join, split=None)
            # Grouped, the first convolutions would want their input once for each branch; a sum of single
            # convolutions is no form of a block, but a residual beside its projection.
            single = isinstance(join.attrs, Add) and sum(isinstance(node.attrs, Conv) for node in ordered[0]) == 1
            if _groups(ordered[0][0]) == 1 and not single and _joins(bundle):
                yield bundle


def _splits(graph: Graph, tensors: TensorStore) -> Iterator[_Bundle]:
    """Branches that begin with a convolution of equal parts of a value, each of its own part, in order."""
    for node in graph.nodes:
        if not isinstance(node.attrs, Split) or node.attrs.axis not in {1, -3} or node.attrs.squeeze:
            continue
        starts = [reader for value in node.outputs if (reader := only_reader(graph, value)) is not None]
        if len(starts) < 2 or not all(isinstance(start.attrs, Conv) for start in starts):
            continue
        for chains, join in _alike(graph, tensors, starts):
            bundle = _Bundle(chains=tuple(chains), join=join, split=node)
            points = node.attrs.points
            equal = points == tuple(points[0] * (1 + number) for number in range(len(points)))
            if len(chains) == len(node.outputs) and equal and _joins(bundle):
                yield bundle


def _alike(graph: Graph, tensors: TensorStore, starts: Sequence[Node]) -> Iterator[tuple[list[Chain], Node]]:
    """Those of the branches that begin with ``starts`` that are like another one, and where they end."""
    groups: dict[Hashable, list[Chain]] = {}
    joins: dict[Hashable, Node] = {}
    for start in starts:
        chain, join = _follow(graph, start)
        if join is not None:
            shapes = (frozenset((role, tensors[name].shape) for role, name in node.params.items()) for node in chain)
            key = tuple(node.attrs for node in chain), tuple(shapes), join.name
            groups.setdefault(key, []).append(chain)
            joins[key] = join
    yield from ((chains, joins[kind]) for kind, chains in groups.items() if len(chains) > 1)


def _follow(graph: Graph, start: Node) -> tuple[Chain, Node | None]:
    """The layers from a convolution on, and the `Add` or `Concat` in which they end; None if they end elsewhere."""
    chain = [start]
    while (reader := only_reader(graph, chain[-1].outputs[0])) is not None:
        if isinstance(reader.attrs, Add | Concat):
            return tuple(chain), reader
        if not _in_branch(reader):
            break
        chain.append(reader)
    return tuple(chain), None


def _in_branch(node: Node) -> bool:
    """Whether the node treats each group of channels alone, with stored tensors that can be stacked."""
    match node.attrs:
        case Conv() | BatchNorm():
            return True
        case Activation():
            return not node.params
        case _:
            return scales_channels(node)


def _joins(bundle: _Bundle) -> bool:
    """Whether the branches end in a way that a grouped convolution, or a dense one behind it, can do."""
    match bundle.join.attrs:
        case Add(coefficients=()):
            return _groups(bundle.chains[0][-1]) == 1
        case Concat(axis=1 | -3):
            return bundle.join.inputs == bundle.ends
        case _:
            return False


def _groups(node: Node) -> int | None:
    return node.attrs.groups if isinstance(node.attrs, Conv) else None


# Merging them


class _Merger:
    """Makes the nodes that replace branches. ``taken`` are names of values and tensors that must not be used again."""

    def __init__(self, taken: Collection[str]) -> None:
        self.taken = set(taken)
        self.stacks: dict[str, Stack] = {}

    def joined(self, join: Node, bundles: Sequence[_Bundle]) -> Iterator[Node]:
        """What replaces a join and the branches that end in it."""
        if len(bundles) == 1 and len(bundles[0].ends) == len(join.inputs):
            yield from self.merged(bundles[0], join.outputs[0])
            return
        terms: dict[str, tuple[str, ...]] = {term: (term,) for term in join.inputs}
        for bundle in bundles:
            value = self.fresh(bundle.ends)
            yield from self.merged(bundle, value)
            terms |= dict.fromkeys(bundle.ends, ()) | {bundle.ends[0]: (value,)}
        yield replace(join, inputs=tuple(value for term in join.inputs for value in terms[term]))

    def merged(self, bundle: _Bundle, output: str) -> Iterator[Node]:
        """One chain of the layers of all branches."""
        value = (bundle.split or bundle.chains[0][0]).inputs[0]
        last = len(bundle.chains[0]) - 1
        for place, layers in enumerate(zip(*bundle.chains, strict=True)):
            summed = place == last and isinstance(bundle.join.attrs, Add)
            written = output if place == last else self.fresh([layer.outputs[0] for layer in layers])
            first, *_, final = layers
            yield Node(
                name=f"{first.name} .. {final.name}",
                op=first.op,
                attrs=_attrs(first.attrs, len(layers), shared=place == 0 and not bundle.split, summed=summed),
                inputs=(value,),
                outputs=(written,),
                params={role: self.stack(role, layers, summed=summed) for role in first.params},
            )
            value = written

    def stack(self, role: Role, layers: Sequence[Node], *, summed: bool) -> str:
        """A name for the stored tensors of the layers."""
        sources = tuple(layer.params[role] for layer in layers)
        axis = 0 if not summed else 1 if role is Role.WEIGHT else None
        name = self.fresh(sources)
        self.stacks[name] = Stack(sources=sources, axis=axis)
        return name

    def fresh(self, names: Sequence[str]) -> str:
        """A name for several, that nothing else has."""
        name = f"{names[0]} .. {names[-1]}"
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name


def _attrs(attrs: Attrs, branches: int, *, shared: bool, summed: bool) -> Attrs:
    """Of the layers at one place of all branches; ``shared``: they read one value, ``summed``: their sum is wanted."""
    if not isinstance(attrs, Conv) or summed:
        return attrs
    groups = attrs.groups if shared else attrs.groups * branches
    return replace(attrs, out_channels=attrs.out_channels * branches, groups=groups)
