"""The source network as a graph of typed operators: what every reader produces and everything later consumes.

Text became numbers in the reader and nowhere else, and a framework's conventions end there: an operator here has
one meaning, written beside it, whichever framework it came from. The class of a node's ``attrs`` *is* its operator.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from resnext_convert.converter.origin import Origin
from resnext_convert.converter.tensors import TensorStore

Pair = tuple[int, int]


class Role(enum.StrEnum):
    """What a stored tensor is to the node that uses it."""

    WEIGHT = "weight"
    BIAS = "bias"
    GAMMA = "gamma"
    BETA = "beta"
    MEAN = "running_mean"
    VAR = "running_var"
    FACTOR = "moving_average_factor"


class ActivationKind(enum.StrEnum):
    """Element-wise functions; ``slope`` of `Activation` belongs to LEAKY, PRELU learns it."""

    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    LEAKY = "leaky"
    PRELU = "prelu"


class PoolKind(enum.StrEnum):
    """What a pooling window yields."""

    MAX = "max"
    AVERAGE = "avg"
    SUM = "sum"


class ScalarKind(enum.StrEnum):
    """Arithmetic with one constant."""

    ADD = "add"
    MULTIPLY = "multiply"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """2-D cross-correlation, NCHW; weight (out_channels, in/groups, kh, kw); output size by floor.

    Group g owns consecutive input and output channels.
    """

    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """``(x - mean) / sqrt(var + eps) * gamma + beta`` over axis 1, with the stored (moving) statistics.

    Attributes:
        eps: added to the variance, inside the root.
        momentum: the source framework's own, ``moving = moving * m + batch * (1 - m)``.
        fix_gamma: the stored gamma is ignored and taken as 1.
        gamma: it has one; Caffe's has none (its Scale layer has).
        beta: it has one.
        factor: the stored statistics are sums, to be divided by the stored moving-average factor; where that is 0
            they are taken as 0.
        batch_statistics: mean and biased variance are those of the batch (N, H, W); nothing stored is used.
    """

    eps: float
    momentum: float
    fix_gamma: bool = False
    gamma: bool = True
    beta: bool = True
    factor: bool = False
    batch_statistics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """``x * gamma + beta``; gamma has the shape of x's axes ``axis`` to ``axis + num_axes``.

    A second input takes the place of gamma (and its number of axes that of ``num_axes``); beta has gamma's shape.

    Attributes:
        axis: the first axis of gamma; from the end where negative.
        num_axes: how many; 0: gamma is a number; -1: to the last.
        bias: there is a beta.
    """

    axis: int = 1
    num_axes: int = 1
    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """``x + beta``; axes as for `Scale`. A second input takes the place of beta."""

    axis: int = 1
    num_axes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An element-wise function; LEAKY multiplies negative values by ``slope``.

    PRELU has one slope a channel, or (``shared``) one number for all.
    """

    kind: ActivationKind
    slope: float = 0.0
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """2-D pooling. A window that starts inside the padded map is kept, even where it covers padding alone (but `clip`).

    Output size ``floor`` or (``ceil=True``) ``ceil`` of ``(size + 2 * padding - kernel) / stride``, plus 1. MAX
    ignores padding. AVERAGE divides by the window clipped to ``size + padding`` on the far side, padding cells
    counted (``count_include_pad``), or by its real cells alone. ``global_pool`` takes the whole map, whatever
    kernel, stride and padding say. ``clip`` is Caffe's rule: where there is padding (on either axis), a last window
    that would start behind the map and its near padding is left out.
    """

    kind: PoolKind
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    ceil: bool = False
    clip: bool = False
    count_include_pad: bool = True
    global_pool: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """``x @ weight.T + bias``; weight (out_features, in_features), the other way round with ``transpose``.

    The axes of x from ``axis`` on (from the end where negative) are made one, which is multiplied; the others stay.
    """

    out_features: int
    bias: bool
    axis: int = 1
    transpose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """The sum of all inputs, each times its coefficient if there are any, broadcast as NumPy does."""

    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Multiply:
    """The product of all inputs, broadcast as NumPy does."""


@dataclass(frozen=True, slots=True)
class Maximum:
    """The largest of all inputs, element by element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """``(shift + scale * x) ** power``."""

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LRN:
    """Local response normalisation: ``x / (k + alpha / n * sum of squares) ** beta``.

    Across channels the sum is over ``size`` neighbours and n is ``size``; within a channel it is over a window of
    ``size x size`` cells padded with zeros, and n is their number (Caffe: an average pooling), with k = 1.
    """

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    within_channel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """``x (kind) value``."""

    kind: ScalarKind
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat:
    """Concatenation along ``axis``."""

    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Parts along ``axis``, one output each: cut before ``points``, or equal where there are none.

    ``squeeze`` drops the axis (its size is then 1).
    """

    axis: int
    parts: int
    points: tuple[int, ...] = ()
    squeeze: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """``x[begin:end:step]`` on each axis that has an entry; None as in Python."""

    bounds: tuple[tuple[int | None, int | None, int | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten:
    """The axes ``axis`` to ``end_axis`` (inclusive; from the end where negative) made one, in C order."""

    axis: int = 1
    end_axis: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """A new shape for ``num_axes`` axes from ``axis`` on (-1: all of them); the others stay.

    0 copies the dimension at its place, -1 is inferred (MXNet 1.9.1, matrix_op-inl.h, InferReshapeShape; Caffe,
    reshape_layer.cpp).
    """

    shape: tuple[int, ...]
    axis: int = 0
    num_axes: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose:
    """Permutation of the axes; an empty one reverses them."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """``exp(x - max) / sum`` along ``axis``; None is MXNet's SoftmaxOutput: over all but the batch axis, flattened."""

    axis: int | None


@dataclass(frozen=True, slots=True)
class Identity:
    """The value itself: dropout at inference, gradient stops, copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A change of precision. Executed in the precision of the proof, that is: not at all."""

    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An operator that no member of the family has; kept for the matcher to name, and for other heads."""

    attributes: Mapping[str, str] = field(default_factory=dict)


Attrs = (
    Conv | BatchNorm | Scale | Bias | Activation | Pool | Linear | Add | Multiply | Maximum | Power | LRN | Scalar
    | Concat | Split | Slice | Flatten | Reshape | Transpose | Softmax | Identity | Cast | Unknown
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of the graph.

    Attributes:
        name: unique in the graph; for messages only.
        op: the operator's name in the source framework's own spelling; for messages only.
        attrs: what it computes.
        inputs: the values that it reads, in the operator's order, stored tensors left out.
        outputs: the values that it writes.
        params: the stored tensor (its full name in the store) for each role.
    """

    name: str
    op: str
    attrs: Attrs
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[Role, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in topological order; values are strings, each written once or an input.

    Attributes:
        nodes: the operators.
        inputs: the values that are fed (the image; labels are no inputs of inference).
        outputs: the heads.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that writes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read each value, in topological order (a node that reads it twice is there once)."""
        found: dict[str, list[Node]] = {value: [] for value in self.inputs}
        for node in self.nodes:
            for value in node.outputs:
                found[value] = []
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found[value].append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def ancestors(self, values: Iterable[str]) -> Iterator[Node]:
        """The nodes on which ``values`` depend, in topological order."""
        wanted = set(values)
        chosen: list[Node] = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                chosen.append(node)
                wanted.update(node.inputs)
        return reversed(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A network as it was read: the graph before any pass, and its tensors by reference."""

    graph: Graph
    tensors: TensorStore
    origin: Origin
