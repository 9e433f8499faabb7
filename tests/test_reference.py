"""The executor itself: what it runs, keeps and frees, and what it refuses."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_node import ROUNDING, node, of_peak, ramp, run, run_all, store

from resnext_convert.converter import reference
from resnext_convert.converter.errors import (
    InputError,
    UnsupportedOperatorError,
    UsageError,
)
from resnext_convert.converter.graph import (
    LRN,
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Bias,
    Concat,
    Conv,
    Flatten,
    Graph,
    Identity,
    Linear,
    Maximum,
    Multiply,
    Pool,
    PoolKind,
    Power,
    Reshape,
    Role,
    Scalar,
    ScalarKind,
    Scale,
    Softmax,
    Split,
    Transpose,
    Unknown,
)
from resnext_convert.converter.reference import MOST_INPUTS, ReferenceExecutor
from resnext_convert.converter.tensors import Array, TensorRef

RELU = Activation(kind=ActivationKind.RELU)


def chain(length: int, attrs: Attrs = RELU) -> Graph:
    """``v0 -> v1 -> ... -> v(length)``, each node named after what it writes."""
    nodes = tuple(node(attrs, [f"v{i}"], [f"v{i + 1}"]) for i in range(length))
    return Graph(nodes=nodes, inputs=("v0",), outputs=(f"v{length}",))


def test_only_what_is_wanted_is_run() -> None:
    """The other head holds an operator that nobody knows, and wants an input that is not fed."""
    graph = Graph(
        nodes=(
            node(RELU, ["data"], ["a"]),
            node(Unknown(), ["data"], ["odd"]),
            node(Multiply(), ["odd", "label"], ["loss"]),
            node(Flatten(), ["a"], ["b"]),
        ),
        inputs=("data", "label"),
        outputs=("loss", "b"),
    )
    x = ramp(1, 2, 3)
    found = ReferenceExecutor(graph, store({})).run({"data": x}, ["b", "data", "a", "b"])
    assert list(found) == ["b", "data", "a"]
    assert np.array_equal(found["b"], np.maximum(x, 0).reshape(1, 6))
    assert np.array_equal(found["data"], x)
    with pytest.raises(UnsupportedOperatorError, match="'unknown_odd'"):
        ReferenceExecutor(graph, store({})).run({"data": x, "label": x}, ["loss"])


def test_nothing_is_run_when_a_later_operator_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Array:
        raise AssertionError("the first node was run")

    monkeypatch.setattr(reference, "OPERATORS", {Activation: never})
    graph = Graph(nodes=(node(RELU, ["data"], ["a"]), node(Unknown(), ["a"], ["b"])), inputs=("data",), outputs=("b",))
    with pytest.raises(UnsupportedOperatorError):
        ReferenceExecutor(graph, store({})).run({"data": ramp(1, 2)}, ["b"])


def test_values_are_freed_after_their_last_reader() -> None:
    x = ramp(1, 128, 1024)
    tracemalloc.start()
    try:
        ReferenceExecutor(chain(20), store({})).run({"v0": x}, ["v20"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * x.nbytes


def test_no_operator_writes_into_its_input() -> None:
    """Each operator reads the same value; all then still see what was fed."""
    x = ramp(2, 4, 6, 6)
    tensors = store(
        {
            "w": ramp(4, 4, 1, 1),
            "b": ramp(4),
            "m": ramp(4),
            "v": np.ones(4),
            "f": np.array([999.98]),
            "fc": ramp(3, 144),
            "fb": ramp(3),
        }
    )
    caffe_norm = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, factor=True)
    readers: list[tuple[Attrs, dict[Role, str]]] = [
        (Conv(out_channels=4, kernel=(1, 1), bias=True), {Role.WEIGHT: "w", Role.BIAS: "b"}),
        (BatchNorm(eps=1e-5, momentum=0.9, fix_gamma=True), {Role.BETA: "b", Role.MEAN: "m", Role.VAR: "v"}),
        *((Activation(kind=kind), {Role.WEIGHT: "b"}) for kind in ActivationKind),
        *((Pool(kind=kind), {}) for kind in PoolKind),
        (Linear(out_features=3, bias=True, axis=1), {Role.WEIGHT: "fc", Role.BIAS: "fb"}),
        (caffe_norm, {Role.MEAN: "m", Role.VAR: "v", Role.FACTOR: "f"}),
        (BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, batch_statistics=True), {}),
        (Scale(bias=True), {Role.GAMMA: "m", Role.BETA: "b"}),
        (Bias(), {Role.BETA: "b"}),
        (Add(), {}),
        (Add(coefficients=(1.0,)), {}),
        (Multiply(), {}),
        (Maximum(), {}),
        (Power(), {}),
        *((LRN(within_channel=within), {}) for within in (False, True)),
        *((Scalar(kind=kind, value=0.5), {}) for kind in ScalarKind),
        (Softmax(axis=None), {}),
        (Identity(), {}),
    ]
    nodes = tuple(node(attrs, ["data"], [f"y{i}"], roles) for i, (attrs, roles) in enumerate(readers))
    outputs = tuple(f"y{i}" for i in range(len(nodes)))
    fed = x.copy()
    fed.flags.writeable = False
    executor = ReferenceExecutor(Graph(nodes=nodes, inputs=("data",), outputs=outputs), tensors)
    first = executor.run({"data": fed}, outputs)
    again = executor.run({"data": x}, reversed(outputs))
    assert np.array_equal(fed, x)
    assert all(np.array_equal(first[name], again[name]) for name in outputs)


def test_only_weights_in_use_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = TensorRef.numpy

    def counted(self: TensorRef) -> Array:
        read.append(self.name)
        return original(self)

    monkeypatch.setattr(TensorRef, "numpy", counted)
    op = Linear(out_features=3, bias=False, axis=1)
    graph = Graph(
        nodes=(node(op, ["data"], ["y"], {Role.WEIGHT: "w"}), node(op, ["data"], ["z"], {Role.WEIGHT: "absent"})),
        inputs=("data",),
        outputs=("y", "z"),
    )
    executor = ReferenceExecutor(graph, store({"w": ramp(3, 4), "spare": ramp(2)}))
    x = ramp(1, 4)
    assert of_peak(executor.run({"data": x}, ["y"])["y"], x @ ramp(3, 4).T) <= ROUNDING
    assert read == ["w"]


def test_nan_is_carried_along() -> None:
    """A comparison never passes NaN, so it must come out; MXNet's own relu makes it 0."""
    x = np.array([[math.nan, -math.inf, 1.0]])
    assert np.isnan(run(RELU, x)[0, 0])
    assert np.isnan(run(Softmax(axis=None), x)).all()
    assert np.isnan(run(Pool(kind=PoolKind.MAX, kernel=(1, 3)), x.reshape(1, 1, 1, 3))).all()


@pytest.mark.parametrize(
    ("feed", "wanted", "says"),
    [
        ({}, ["v1"], "no array was fed for .'v0'."),
        ({}, ["v0"], "no array was fed for .'v0'."),
        ({"v0": ramp(1)}, ["v3"], "no value .'v3'."),
        ({"v0": ramp(1), "v1": ramp(1)}, ["v2"], "no input .'v1'."),
    ],
)
def test_requests_that_make_no_sense(feed: Mapping[str, Array], wanted: Sequence[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ReferenceExecutor(chain(2), store({})).run(feed, wanted)


# Anything at all


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


AXES = st.integers(-5, 5)
OPERATORS = st.one_of(
    st.builds(
        Conv,
        out_channels=st.integers(0, 4),
        kernel=pairs(0, 3),
        stride=pairs(0, 2),
        padding=pairs(-1, 2),
        dilation=pairs(0, 2),
        groups=st.integers(-1, 3),
        bias=st.booleans(),
    ),
    st.builds(
        Pool,
        kind=st.sampled_from(PoolKind),
        kernel=pairs(-1, 4),
        stride=pairs(-1, 3),
        padding=pairs(-1, 2),
        ceil=st.booleans(),
        clip=st.booleans(),
        count_include_pad=st.booleans(),
        global_pool=st.booleans(),
    ),
    st.builds(
        BatchNorm,
        eps=st.floats(-2, 2),
        momentum=st.just(0.9),
        fix_gamma=st.booleans(),
        gamma=st.booleans(),
        beta=st.booleans(),
        factor=st.booleans(),
        batch_statistics=st.booleans(),
    ),
    st.builds(Scale, axis=AXES, num_axes=st.integers(-2, 5), bias=st.booleans()),
    st.builds(Bias, axis=AXES, num_axes=st.integers(-2, 5)),
    st.builds(Activation, kind=st.sampled_from(ActivationKind), slope=st.floats(-2, 2)),
    st.builds(Linear, out_features=st.integers(0, 4), bias=st.booleans(), axis=AXES, transpose=st.booleans()),
    st.builds(Add, coefficients=st.lists(st.floats(width=32), max_size=3).map(tuple)),
    st.just(Multiply()),
    st.just(Maximum()),
    st.builds(Power, power=st.floats(width=32), scale=st.floats(width=32), shift=st.floats(width=32)),
    st.builds(
        LRN,
        size=st.integers(-1, 7) | st.integers(),
        alpha=st.floats(width=32),
        beta=st.floats(width=32),
        k=st.floats(width=32),
        within_channel=st.booleans(),
    ),
    st.builds(Concat, axis=AXES),
    st.builds(
        Split,
        axis=AXES,
        parts=st.integers(-1, 3),
        points=st.lists(st.integers(-1, 5), max_size=2).map(tuple),
        squeeze=st.booleans(),
    ),
    st.builds(Flatten, axis=AXES, end_axis=AXES),
    st.builds(
        Reshape, shape=st.lists(st.integers(-3, 4), max_size=4).map(tuple), axis=AXES, num_axes=st.integers(-2, 5)
    ),
    st.builds(Transpose, axes=st.lists(st.integers(-4, 4), max_size=4).map(tuple)),
    st.builds(Softmax, axis=st.none() | AXES),
)
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
ROLES = {
    Conv: (Role.WEIGHT, Role.BIAS),
    Linear: (Role.WEIGHT, Role.BIAS),
    BatchNorm: (Role.GAMMA, Role.BETA, Role.MEAN, Role.VAR, Role.FACTOR),
    Scale: (Role.GAMMA, Role.BETA),
    Bias: (Role.BETA,),
    Activation: (Role.WEIGHT,),
}


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Attrs, list[Array], dict[str, Array]]:
    """An operator, inputs and stored tensors that fit it or not, all of any value."""
    attrs = draw(OPERATORS)
    values = st.sampled_from([1.0, 1.0, 1.0, 0.0, -1e300, math.inf, math.nan])
    shape = draw(SHAPES | st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple))
    others = (
        draw(st.lists(st.just(shape) | st.just(shape[1:2]) | SHAPES, max_size=2)) if type(attrs) in MOST_INPUTS else []
    )
    inputs = [draw(values) * ramp(*size) for size in (shape, *others)]
    start, end = sorted(draw(st.tuples(*(st.integers(0, len(shape)),) * 2)))
    fitting = [shape[1:2], shape[start:end], (1,)]
    if isinstance(attrs, Linear):
        fitting.append((attrs.out_features, math.prod(shape[attrs.axis :])))
    sizes = st.sampled_from(fitting) | SHAPES
    roles = [role for role in ROLES.get(type(attrs), ()) if draw(st.integers(0, 9))]
    return attrs, inputs, {role.value: draw(values) * np.abs(ramp(*draw(sizes))) for role in roles}


@given(nodes())
@settings(max_examples=1500)
def test_only_typed_errors_escape(case: tuple[Attrs, list[Array], dict[str, Array]]) -> None:
    attrs, inputs, stored = case
    parts = max(attrs.parts, 1) if isinstance(attrs, Split) else 1
    place = None
    try:
        ys = run_all(attrs, *inputs, parts=parts, **stored)
    except InputError as error:
        place = error.place
    else:
        assert all(y.dtype == np.float64 for y in ys)
        return
    assert place == f"node '{type(attrs).__name__.lower()}_y0' (Op)"
