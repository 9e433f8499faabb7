"""Values with which a network has no defined output, found without running it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from resnext_convert.converter.checks import check_finite
from resnext_convert.converter.errors import ValueRangeError
from resnext_convert.converter.graph import BatchNorm, Graph, Node, Role
from resnext_convert.converter.tensors import TensorStore
from resnext_convert.converter.text import counted

_SHOWN: Final = 5
_DIVERGED: Final = "the file is damaged, or training had diverged when it was saved; take an earlier snapshot"


def check_values(graph: Graph, tensors: TensorStore) -> tuple[str, ...]:
    """Refuses values with which the network has no defined output. Statistics that are not used may be anything.

    A variance (divided by the moving-average factor) below 0 is legal as long as eps makes up for it, and is kept.

    Returns:
        Warnings.

    Raises:
        ValueRangeError: a tensor holds NaN or infinity, a moving-average factor is negative, or a variance is not
            above ``-eps``.
    """
    negative: list[str] = []
    untrained: list[str] = []
    for node in graph.nodes:
        unused = isinstance(node.attrs, BatchNorm) and node.attrs.batch_statistics
        for name in () if unused else node.params.values():
            check_finite(node, tensors[name], _DIVERGED)
        if isinstance(node.attrs, BatchNorm) and Role.VAR in node.params and not unused:
            variance = tensors[node.params[Role.VAR]]
            factor = _factor(node, tensors)
            if factor == 0:
                untrained.append(node.name)
            smallest = float(variance.float64().min() / factor) if factor else 0.0
            if smallest + node.attrs.eps <= 0:
                raise ValueRangeError(
                    "a moving variance has no square root even with eps added",
                    place=f"{node}, {variance.where}, tensor {variance.name!r}",
                    expected=f"above {-node.attrs.eps}",
                    found=f"{smallest}, after division by the moving-average factor {factor}",
                    hint=_DIVERGED,
                )
            if smallest < 0:
                negative.append(variance.name)
    return tuple(_warnings(negative, untrained))


def _factor(node: Node, tensors: TensorStore) -> float:
    tensor = tensors[node.params[Role.FACTOR]]
    factor = float(tensor.float64()[0])
    if factor < 0:
        raise ValueRangeError(
            "a moving-average factor is negative",
            place=f"{node}, {tensor.where}, tensor {tensor.name!r}",
            expected="0, or a number above it: a sum of weights",
            found=factor,
            hint=_DIVERGED,
        )
    return factor


def _warnings(negative: list[str], untrained: list[str]) -> Iterator[str]:
    if negative:
        names = ", ".join(negative[:_SHOWN])
        yield f"{counted(len(negative), 'tensor')} of variances below 0 and above -eps ({names}); kept"
    if untrained:
        names = ", ".join(untrained[:_SHOWN])
        yield (
            f"{counted(len(untrained), 'layer')} with a moving-average factor of 0 ({names}): mean and variance count"
            " as 0 there, as in Caffe; was this network ever trained?"
        )
