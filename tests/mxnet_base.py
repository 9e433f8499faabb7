"""The base recording with other tensors or another graph."""

from __future__ import annotations

from typing import Any

from mxnet_graphs import BASE, base, document, params, parsed

from resnext_convert.converter.graph import Graph
from resnext_convert.converter.mxnet.binding import Bound, bind
from resnext_convert.converter.mxnet.checks import check_shapes, check_values
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.tensors import Array


def stored() -> dict[str, Array]:
    """The tensors of the base recording."""
    return {name: tensor.numpy() for name, tensor in read_params(BASE / "model-0000.params").tensors.items()}


def reread(tensors: dict[str, Array], found: dict[str, Any] | None = None) -> Bound:
    """What the base graph (or another) is with other tensors; all checks are done."""
    weights = params(tensors)
    bound = bind(parsed(found or base()), weights)
    check_shapes(bound.graph, weights.tensors)
    check_values(bound.graph, weights.tensors)
    return bound


def usual() -> Graph:
    return read_source(BASE).graph


def bound(tensors: dict[str, Any], *nodes: tuple[Any, ...], **options: Any) -> Bound:
    return bind(parsed(document(*nodes, **options)), params(tensors))
