"""Passes: each reaches its end condition, keeps the names of what stays, and changes no value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from single_node import ROUNDING, of_peak, ramp, store

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    Cast,
    Flatten,
    Graph,
    Identity,
    Node,
    Reshape,
)
from resnext_convert.converter.normalize import (
    drop_identities,
    merge_additions,
    normalize,
    reshape_to_flatten,
    restrict,
)
from resnext_convert.converter.reference import ReferenceExecutor

RELU = Activation(kind=ActivationKind.RELU)


def graph(*lines: tuple[str, Attrs, str], outputs: str) -> Graph:
    """A graph of nodes that are called like the one value that they write; values are letters, ``x`` is the input."""
    nodes = (Node(name=v, op="op", attrs=attrs, inputs=tuple(read), outputs=(v,)) for v, attrs, read in lines)
    return Graph(nodes=tuple(nodes), inputs=("x",), outputs=tuple(outputs))


def wiring(g: Graph) -> dict[str, str]:
    return {node.name: "".join(node.inputs) for node in g.nodes}


def test_readers_of_an_identity_read_its_input() -> None:
    chain = graph(
        ("a", Identity(), "x"),
        ("b", Cast(dtype="float16"), "a"),
        ("c", RELU, "b"),
        ("d", Identity(), "c"),
        outputs="dc",
    )
    assert wiring(drop_identities(chain)) == {"c": "x"}
    assert drop_identities(chain).outputs == ("c", "c")


def test_an_identity_alone() -> None:
    assert drop_identities(graph(("a", Identity(), "x"), outputs="a")).outputs == ("x",)


@pytest.mark.parametrize(("shape", "flat"), [((0, -1), True), ((-1, 0), False), ((0, 0, -1), False), ((1, -1), False)])
def test_one_reshape_is_a_flatten(shape: tuple[int, ...], flat: bool) -> None:
    (node,) = reshape_to_flatten(graph(("a", Reshape(shape=shape), "x"), outputs="a")).nodes
    assert node.attrs == (Flatten() if flat else Reshape(shape=shape))


def test_a_sum_of_sums_is_one_sum() -> None:
    nested = graph(("a", RELU, "x"), ("b", Add(), "xa"), ("c", Add(), "ab"), ("d", Add(), "cx"), outputs="d")
    assert wiring(merge_additions(nested)) == {"a": "x", "d": "axax"}


@pytest.mark.parametrize(
    ("reader", "outputs", "why"),
    [
        (("c", RELU, "b"), "c", "read by another operator"),
        (("c", Add(), "bx"), "cb", "a head itself"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_sum_that_somebody_needs_stays(reader: tuple[str, Attrs, str], outputs: str, why: str) -> None:
    kept = graph(("a", RELU, "x"), ("b", Add(), "xa"), reader, outputs=outputs)
    assert merge_additions(kept) == kept, why


def test_a_sum_that_two_read_stays() -> None:
    kept = graph(("a", RELU, "x"), ("b", Add(), "xa"), ("c", Add(), "bx"), ("d", Add(), "ba"), outputs="cd")
    assert merge_additions(kept) == kept


def test_restricted_to_one_head() -> None:
    both = graph(("a", RELU, "x"), ("b", RELU, "a"), ("c", Flatten(), "a"), outputs="bc")
    assert wiring(restrict(both, "c")) == {"a": "x", "c": "a"}
    assert restrict(both, "c").inputs == ("x",)
    assert restrict(both, "c").outputs == ("c",)


SPELLINGS: tuple[Attrs, ...] = (Identity(), Cast(dtype="float16"), RELU, Add())


@given(st.lists(st.tuples(st.sampled_from(SPELLINGS), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_no_value_changes(choices: list[tuple[Attrs, int, int]]) -> None:
    values, lines = ["x"], []
    for number, (attrs, first, second) in enumerate(choices):
        inputs = values[first % len(values)] + (values[second % len(values)] if isinstance(attrs, Add) else "")
        values.append("abcdefghijkl"[number])
        lines.append((values[-1], attrs, inputs))
    before = graph(*lines, outputs=values[-1])
    after = normalize(before)
    assert not any(isinstance(node.attrs, Identity | Cast) for node in after.nodes)
    assert {node.name for node in after.nodes} <= {node.name for node in before.nodes}
    image = ramp(1, 2, 3)
    read, normalized = (
        ReferenceExecutor(which, store({})).run({"x": image}, which.outputs)[which.outputs[0]]
        for which in (before, after)
    )
    assert of_peak(normalized, read) < ROUNDING
