"""What can be said about stored tensors without running the network: their shapes, and that their values are usable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resnext_convert.converter.checks import check_finite
from resnext_convert.converter.errors import ShapeError, ValueRangeError
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    BatchNorm,
    Cast,
    Conv,
    Graph,
    Identity,
    Linear,
    Multiply,
    Node,
    Pool,
    Role,
    Scalar,
)
from resnext_convert.converter.tensors import TensorRef, TensorStore

_DIVERGED = "the file is damaged, or training had diverged when it was saved; take an earlier epoch"
_SHOWN = 5
_OTHER = "the params file belongs to another network, or to one with other layer sizes (another number of classes?)"

Expected = tuple[int | None, ...]
"""A shape; None stands for any size but 0."""


def check_shapes(graph: Graph, tensors: TensorStore) -> None:
    """Compares each stored shape with what its operator demands, and with the channels that reach it where known.

    No axis is dropped, added or exchanged to make a shape fit; MXNet does not either.

    Raises:
        ShapeError: shapes differ; the first few are named.
    """
    wrong = [
        (node, tensors[node.params[role]], expected)
        for node in graph.nodes
        for role, expected in _expected(node, tensors)
        if not _fits(tensors[node.params[role]].shape, expected)
    ]
    if wrong:
        node, tensor, expected = wrong[0]
        more = f", and {len(wrong) - 1} more tensors do not fit theirs" if len(wrong) > 1 else ""
        raise ShapeError(
            f"the stored shape does not fit the operator{more}",
            place=f"{node}, tensor {tensor.name!r}",
            expected=_shown(expected),
            found=_shown(tensor.shape),
            hint=_hint(tensor.shape, expected),
        )
    _check_channels(graph, tensors)


def _expected(node: Node, tensors: TensorStore) -> Iterator[tuple[Role, Expected]]:
    match node.attrs:
        case Conv(out_channels=channels, kernel=kernel, bias=bias):
            yield Role.WEIGHT, (channels, None, *kernel)
            if bias:
                yield Role.BIAS, (channels,)
        case Linear(out_features=features, bias=bias):
            yield Role.WEIGHT, (features, None)
            if bias:
                yield Role.BIAS, (features,)
        case BatchNorm():
            gamma = tensors[node.params[Role.GAMMA]].shape
            yield Role.GAMMA, (None,)
            for role in (Role.BETA, Role.MEAN, Role.VAR):
                yield role, gamma if len(gamma) == 1 else (None,)
        case Activation(kind=ActivationKind.PRELU):
            yield Role.WEIGHT, (None,)


def _check_channels(graph: Graph, tensors: TensorStore) -> None:
    """Follows the number of channels through the operators that keep or set it."""
    channels: dict[str, int] = {}
    for node in graph.nodes:
        given = {channels.get(value) for value in node.inputs}
        known = given.pop() if len(given) == 1 else None
        match node.attrs:
            case Conv(out_channels=after, groups=groups):
                weight = tensors[node.params[Role.WEIGHT]]
                _check_channel(node, weight, known, weight.shape[1] * groups)
            case BatchNorm():
                gamma = tensors[node.params[Role.GAMMA]]
                after = gamma.shape[0]
                _check_channel(node, gamma, known, after)
            case Activation() | Pool() | Add() | Multiply() | Scalar() | Identity() | Cast() if known is not None:
                after = known
            case _:
                continue
        channels[node.outputs[0]] = after


def _check_channel(node: Node, tensor: TensorRef, given: int | None, taken: int) -> None:
    if given is not None and given != taken:
        raise ShapeError(
            "the operator is given another number of channels than its tensors are for",
            place=f"{node}, tensor {tensor.name!r} {_shown(tensor.shape)}",
            expected=f"tensors for {given} channels",
            found=f"for {taken}",
            hint=_OTHER,
        )


def _fits(shape: tuple[int, ...], expected: Expected) -> bool:
    if len(shape) != len(expected):
        return False
    pairs = zip(shape, expected, strict=True)
    return all(size == wanted or (wanted is None and size > 0) for size, wanted in pairs)


def _shown(shape: Expected) -> str:
    sizes = ", ".join("*" if size is None else str(size) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"


def _hint(shape: tuple[int, ...], expected: Expected) -> str:
    if len(shape) == len(expected) == 2 and _fits(shape[::-1], expected):
        return "the matrix is stored transposed; MXNet stores (outputs, inputs) and does not transpose"
    if _fits(tuple(size for size in shape if size != 1), tuple(size for size in expected if size != 1)):
        return "axes of size 1 were added or dropped; MXNet does neither"
    return _OTHER


def check_values(graph: Graph, tensors: TensorStore) -> tuple[str, ...]:
    """Refuses values with which the network has no defined output. A gamma that is not used may be anything.

    A variance below 0 is legal as long as eps makes up for it (MXNet's own caffe_converter writes such files), and is
    kept as it is.

    Returns:
        Warnings.

    Raises:
        ValueRangeError: a tensor holds NaN or infinity, or a variance is not above ``-eps``.
    """
    checked: set[str] = set()
    negative: list[str] = []
    for node in graph.nodes:
        for role, name in node.params.items():
            unused = role is Role.GAMMA and isinstance(node.attrs, BatchNorm) and node.attrs.fix_gamma
            if unused or name in checked:
                continue
            checked.add(name)
            check_finite(node, tensors[name], _DIVERGED)
        if isinstance(node.attrs, BatchNorm):
            variance = tensors[node.params[Role.VAR]]
            smallest = float(np.min(variance.float64()))
            if smallest + node.attrs.eps <= 0:
                raise ValueRangeError(
                    "a moving variance has no square root even with eps added",
                    place=f"{node}, {variance.where}, tensor {variance.name!r}",
                    expected=f"above {-node.attrs.eps}",
                    found=smallest,
                    hint="MXNet computes NaN with it; the file is damaged, or eps was lost when it was converted",
                )
            if smallest < 0:
                negative.append(variance.name)
    if not negative:
        return ()
    return (f"{len(negative)} moving variances are below 0 and above -eps ({', '.join(negative[:_SHOWN])}); kept",)
