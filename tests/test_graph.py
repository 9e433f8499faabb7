"""The graph: who writes and who reads a value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from resnext_convert.converter.graph import Activation, ActivationKind, Add, Graph, Identity, Node, Split
from resnext_convert.converter.origin import Origin

RELU = Activation(kind=ActivationKind.RELU)


def node(name: str, attrs: Activation | Add | Identity | Split, inputs: str, outputs: str) -> Node:
    return Node(name=name, op="op", attrs=attrs, inputs=tuple(inputs), outputs=tuple(outputs))


#   x ─ r ─┬─ a (a = r + r) ─┬─ s ── b, c     b and c are heads; d, which nobody wants, reads a
#          └─────────────────┘ (s reads a)
NODES = (
    node("r", RELU, "x", "r"),
    node("a", Add(), "rr", "a"),
    node("s", Split(axis=1, parts=2), "a", "bc"),
    node("d", Identity(), "a", "d"),
)
GRAPH = Graph(nodes=NODES, inputs=("x",), outputs=("b", "c"))
R, A, S, D = NODES


def test_each_value_has_one_producer_and_an_input_has_none() -> None:
    assert dict(GRAPH.producers) == {"r": R, "a": A, "b": S, "c": S, "d": D}


def test_consumers_are_in_topological_order_and_named_once() -> None:
    assert dict(GRAPH.consumers) == {"x": (R,), "r": (A,), "a": (S, D), "b": (), "c": (), "d": ()}


@pytest.mark.parametrize(
    ("values", "found"), [("c", [R, A, S]), ("d", [R, A, D]), ("dr", [R, A, D]), ("r", [R]), ("x", []), ("", [])]
)
def test_ancestors_are_what_a_value_depends_on(values: str, found: list[Node]) -> None:
    assert list(GRAPH.ancestors(values)) == found


def test_a_graph_is_never_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRAPH.nodes = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        R.name = "other"  # type: ignore[misc]


def test_a_node_is_named_for_messages() -> None:
    assert str(R) == "node 'r' (op)"


def test_the_graph_s_file_comes_first() -> None:
    files = {"symbol": Path("a-symbol.json"), "params": Path("a-0000.params")}
    assert Origin(framework="mxnet", version=None, files=files).graph_file == files["symbol"]
