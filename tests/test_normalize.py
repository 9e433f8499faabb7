"""Passes: each reaches its end condition, keeps the names of what stays, and changes no value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from single_node import ROUNDING, of_peak, ramp, store

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Cast,
    Flatten,
    Graph,
    Identity,
    Node,
    Reshape,
    Role,
    Scale,
    Slice,
    Split,
)
from resnext_convert.converter.normalize import (
    drop_identities,
    join_scales,
    merge_additions,
    normalize,
    reshape_to_flatten,
    restrict,
    scales_channels,
    slices_to_split,
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


@pytest.mark.parametrize(
    ("reshape", "flat"),
    [
        (Reshape(shape=(0, -1)), True),
        (Reshape(shape=(-1, 0)), False),
        (Reshape(shape=(0, 0, -1)), False),
        (Reshape(shape=(1, -1)), False),
        (Reshape(shape=(0, -1), axis=1), False),
        (Reshape(shape=(0, -1), num_axes=2), False),
    ],
)
def test_one_reshape_is_a_flatten(reshape: Reshape, flat: bool) -> None:
    (node,) = reshape_to_flatten(graph(("a", reshape, "x"), outputs="a")).nodes
    assert node.attrs == (Flatten() if flat else reshape)


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


def test_a_sum_of_itself_stays() -> None:
    """Written out, forty of them would be a sum of 2**40 terms."""
    lines = [(chr(ord("a") + i), Add(), 2 * ("x" if i == 0 else chr(ord("a") + i - 1))) for i in range(24)]
    doubled = graph(*lines, outputs="x")
    assert merge_additions(doubled) == doubled


def test_coefficients_of_one_are_none() -> None:
    ones, half = Add(coefficients=(1.0, 1.0)), Add(coefficients=(1.0, 0.5))
    sums = graph(
        ("a", RELU, "x"), ("b", ones, "xa"), ("c", half, "bx"), ("d", ones, "ca"), ("e", ones, "dx"), outputs="e"
    )
    found = merge_additions(sums)
    assert wiring(found) == {"a": "x", "b": "xa", "c": "bx", "e": "cax"}
    assert [node.attrs for node in found.nodes[1:]] == [Add(), half, Add()]


BARE = BatchNorm(eps=1e-5, momentum=0.9, gamma=False, beta=False, factor=True)
NORM = {Role.MEAN: "m", Role.VAR: "v", Role.FACTOR: "f"}


def scaled(norm: BatchNorm, scale: Scale, *more: tuple[str, Attrs, str], outputs: str = "c") -> Graph:
    """A normalisation ``b`` of the input and a scale ``c`` of it."""
    made = graph(("b", norm, "x"), ("c", scale, "b"), *more, outputs=outputs)
    params = NORM, {Role.GAMMA: "g"} | ({Role.BETA: "e"} if scale.bias else {})
    norms = [replace(node, params=role) for node, role in zip(made.nodes, params, strict=False)]
    return replace(made, nodes=(*norms, *made.nodes[2:]))


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_scale_behind_a_normalisation_is_part_of_it(bias: bool, axis: int) -> None:
    (node,) = join_scales(scaled(BARE, Scale(axis=axis, bias=bias))).nodes
    assert node.attrs == replace(BARE, gamma=True, beta=bias)
    assert (node.name, node.inputs, node.outputs) == ("b", ("x",), ("c",))
    assert node.params == NORM | {Role.GAMMA: "g"} | ({Role.BETA: "e"} if bias else {})


def test_a_gamma_that_a_scale_brings_is_not_fixed() -> None:
    (node,) = join_scales(scaled(replace(BARE, fix_gamma=True), Scale(bias=True))).nodes
    assert node.attrs == replace(BARE, gamma=True, beta=True)


@pytest.mark.parametrize(
    "kept",
    [
        scaled(replace(BARE, gamma=True), Scale(bias=True)),
        scaled(replace(BARE, beta=True), Scale(bias=True)),
        scaled(BARE, Scale(axis=2, bias=True)),
        scaled(BARE, Scale(num_axes=-1, bias=True)),
        scaled(BARE, Scale(num_axes=0, bias=True)),
        scaled(BARE, Scale(bias=True), outputs="bc"),
        scaled(BARE, Scale(bias=True), ("d", RELU, "b"), outputs="cd"),
        graph(("b", BARE, "x"), ("c", Scale(bias=False), "bx"), outputs="c"),
        graph(("b", BARE, "x"), ("c", Scale(bias=False), "xb"), outputs="c"),
        graph(("b", BARE, "x"), ("c", RELU, "b"), outputs="c"),
    ],
)
def test_other_scales_stay(kept: Graph) -> None:
    assert join_scales(kept) == kept


@pytest.mark.parametrize(
    ("attrs", "read", "scales"),
    [
        (Scale(bias=True), "x", True),
        (Scale(axis=-3, bias=False), "x", True),
        (Scale(axis=-2, bias=False), "x", False),
        (Scale(axis=0, bias=False), "x", False),
        (Scale(num_axes=2, bias=False), "x", False),
        (Scale(bias=False), "xx", False),
        (BARE, "x", False),
    ],
)
def test_which_scales_are_of_channels(attrs: Attrs, read: str, scales: bool) -> None:
    (node,) = graph(("a", attrs, read), outputs="a").nodes
    assert scales_channels(node) is scales


def cut(begin: int | None, end: int | None, *, axis: int = 1, rest: int = 0) -> Slice:
    whole = (None, None, None)
    return Slice(bounds=(*[whole] * axis, (begin, end, None), *[whole] * rest))


@pytest.mark.parametrize(
    ("first", "last"),
    [(cut(0, 2), cut(4, 6)), (cut(None, 2), cut(4, None)), (cut(0, 2, rest=2), cut(4, None, rest=1))],
)
def test_slices_of_all_channels_are_one_split(first: Slice, last: Slice) -> None:
    slices = graph(("b", RELU, "x"), ("c", last, "b"), ("d", first, "b"), ("e", cut(2, 4), "b"), outputs="dec")
    found = slices_to_split(slices)
    relu, split = found.nodes
    assert relu == slices.nodes[0]
    assert split.attrs == Split(axis=1, parts=3, points=(2, 4))
    assert (split.inputs, split.outputs) == (("b",), ("d", "e", "c"))
    image = ramp(2, 6, 3, 3)
    before, after = (ReferenceExecutor(which, store({})).run({"x": image}, "dec") for which in (slices, found))
    assert all(np.array_equal(before[value], after[value]) for value in "dec")


@pytest.mark.parametrize(
    "slices",
    [
        [cut(0, 2)],
        [cut(0, 2), cut(2, 3)],
        [cut(0, 2), cut(2, 6)],
        [cut(0, 2), cut(3, 5)],
        [cut(2, 4), cut(4, 6)],
        [cut(0, 2), cut(-4, 4)],
        [cut(0, 2), cut(2, -2)],
        [cut(0, None), cut(2, None)],
        [cut(0, 2, axis=2), cut(2, 4, axis=2)],
        [cut(0, 2), Slice(bounds=((None, None, None), (2, 4, 2)))],
        [cut(0, 2), Slice(bounds=((1, None, None), (2, 4, None)))],
        [cut(0, 2), Slice(bounds=((None, None, None), (2, 4, None), (1, None, None)))],
    ],
)
def test_other_slices_stay(slices: list[Slice]) -> None:
    names = "abcdef"[: len(slices)]
    kept = graph(*((name, part, "x") for name, part in zip(names, slices, strict=True)), outputs=names)
    assert slices_to_split(kept) == kept


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
