"""The executor itself: what it runs, keeps and frees, and what it refuses."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_node import ROUNDING, batch_norm_tensors, node, of_peak, ramp, run, store

from resnext_convert.converter import reference
from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingTensorError,
    ShapeError,
    UnsupportedOperatorError,
    UsageError,
    ValueRangeError,
)
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
    Identity,
    Linear,
    Multiply,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Scalar,
    ScalarKind,
    Slice,
    Softmax,
    Split,
    Transpose,
    Unknown,
)
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array, TensorRef

# The executor


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
        {"w": ramp(4, 4, 1, 1), "b": ramp(4), "m": ramp(4), "v": np.ones(4), "fc": ramp(3, 144), "fb": ramp(3)}
    )
    readers: list[tuple[Attrs, dict[Role, str]]] = [
        (Conv(out_channels=4, kernel=(1, 1), bias=True), {Role.WEIGHT: "w", Role.BIAS: "b"}),
        (BatchNorm(eps=1e-5, momentum=0.9, fix_gamma=True), {Role.BETA: "b", Role.MEAN: "m", Role.VAR: "v"}),
        *((Activation(kind=kind), {Role.WEIGHT: "b"}) for kind in ActivationKind),
        *((Pool(kind=kind), {}) for kind in PoolKind),
        (Linear(out_features=3, bias=True, flatten=True), {Role.WEIGHT: "fc", Role.BIAS: "fb"}),
        (Add(), {}),
        (Multiply(), {}),
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
    op = Linear(out_features=3, bias=False, flatten=True)
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


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


# What is refused


CONV = Conv(out_channels=4, kernel=(3, 3), bias=False)
BN = BatchNorm(eps=1e-5, momentum=0.9, fix_gamma=False)
MAX3 = Pool(kind=PoolKind.MAX, kernel=(3, 3))


@pytest.mark.parametrize(
    ("attrs", "shapes", "stored", "says"),
    [
        (CONV, [(1, 3, 8, 8)], {"weight": ramp(4, 2, 3, 3)}, r"weight .*expected \(4, 3, 3, 3\), found \(4, 2, 3, 3\)"),
        (CONV, [(1, 3, 8, 8)], {"weight": ramp(3, 4, 3, 3)}, "weight does not fit"),
        (CONV, [(1, 3, 2, 8)], {"weight": ramp(4, 3, 3, 3)}, r"smaller than the kernel \(expected >= 3, found 2\)"),
        (CONV, [(1, 3)], {"weight": ramp(4, 3, 3, 3)}, r"expected \(N, C, H, W\).*found \(1, 3\)"),
        (
            Conv(out_channels=4, kernel=(1, 1), groups=2, bias=False),
            [(1, 3, 2, 2)],
            {"weight": ramp(4, 1, 1, 1)},
            "3 in",
        ),
        (
            Conv(out_channels=3, kernel=(1, 1), groups=2, bias=False),
            [(1, 4, 2, 2)],
            {"weight": ramp(3, 2, 1, 1)},
            "3 out",
        ),
        (
            Conv(out_channels=4, kernel=(1, 1), groups=0, bias=False),
            [(1, 4, 2, 2)],
            {"weight": ramp(4, 4, 1, 1)},
            "groups",
        ),
        (
            Conv(out_channels=4, kernel=(1, 1), stride=(0, 1), bias=False),
            [(1, 4, 2, 2)],
            {"weight": ramp(4, 4, 1, 1)},
            "at least 1",
        ),
        (
            Conv(out_channels=4, kernel=(1, 1), bias=True),
            [(1, 4, 2, 2)],
            {"weight": ramp(4, 4, 1, 1), "bias": ramp(5)},
            r"bias .*expected \(4,\), found \(5,\)",
        ),
        (BN, [(1, 3, 2, 2)], batch_norm_tensors(4), r"running_mean .*expected \(3,\), found \(4,\)"),
        (BN, [(3,)], batch_norm_tensors(3), "shapes"),
        (MAX3, [(1, 3, 2, 2)], {}, "smaller than the kernel"),
        (MAX3, [(3, 2)], {}, "batch of maps"),
        (Pool(kind=PoolKind.MAX, kernel=(2, 2), padding=(-1, 0)), [(1, 3, 4, 4)], {}, "padding at least 0"),
        (Pool(kind=PoolKind.MAX, kernel=(0, 2)), [(1, 3, 4, 4)], {}, "at least 1"),
        (Pool(kind=PoolKind.AVERAGE, global_pool=True), [(1, 3, 4)], {}, "batch of maps"),
        (Pool(kind=PoolKind.AVERAGE, global_pool=True), [(1, 3, 0, 4)], {}, "none of them 0"),
        (
            Linear(out_features=2, bias=False, flatten=True),
            [(1, 3, 2)],
            {"weight": ramp(2, 5)},
            r"weight .*expected \(2, 6\), found \(2, 5\)",
        ),
        (Add(), [(1, 3, 4, 4), (1, 3, 5, 4)], {}, r"found shapes \(1, 3, 4, 4\), \(1, 3, 5, 4\)"),
        (Multiply(), [(1, 3), (1, 4)], {}, r"found shapes \(1, 3\), \(1, 4\)"),
        (Concat(axis=1), [(1, 3, 4), (1, 3, 5)], {}, "shapes"),
        (Concat(axis=4), [(1, 3), (1, 3)], {}, "shapes"),
        (Split(axis=1, parts=1, squeeze=True), [(1, 3)], {}, "shapes"),
        (Split(axis=1, parts=0), [(1, 3)], {}, "shapes"),
        (Split(axis=1, parts=3), [(1, 3)], {}, "shapes"),
        (Slice(bounds=((None, None, None),) * 3), [(1, 3)], {}, "shapes"),
        (Slice(bounds=((None, None, 0),)), [(1, 3)], {}, "shapes"),
        (Reshape(shape=(0, -1, 4)), [(1, 3, 5)], {}, "shapes"),
        (Reshape(shape=(1, 3, 0)), [(1, 3)], {}, "shapes"),
        (Reshape(shape=(-2,)), [(1, 3)], {}, "only 0 and -1"),
        (Transpose(axes=(0, 2)), [(1, 3)], {}, "shapes"),
        (Softmax(axis=2), [(1, 3)], {}, "shapes"),
        # More than NumPy can count, and more than any address space holds.
        (Pool(kind=PoolKind.MAX, padding=(1 << 40, 1 << 40)), [(1, 1, 1, 1)], {}, "shapes"),
        (Pool(kind=PoolKind.MAX, padding=(1 << 22, 1 << 22)), [(1, 1, 1, 1)], {}, "Unable to allocate"),
        (Activation(kind=ActivationKind.PRELU), [(1, 3)], {"weight": ramp(2)}, r"weight .*expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit(
    attrs: Attrs, shapes: Sequence[tuple[int, ...]], stored: Mapping[str, Array], says: str
) -> None:
    with pytest.raises(ShapeError, match=says) as caught:
        run(attrs, *(ramp(*shape) for shape in shapes), **stored)
    assert caught.value.place == f"node '{type(attrs).__name__.lower()}_y0' (Op)"
    assert caught.value.file == "made.params"


@pytest.mark.parametrize(
    ("attrs", "role"),
    [
        (CONV, "weight"),
        (BN, "running_mean"),
        (Linear(out_features=2, bias=False, flatten=True), "weight"),
        (Activation(kind=ActivationKind.PRELU), "weight"),
    ],
)
def test_a_role_without_a_tensor(attrs: Attrs, role: str) -> None:
    with pytest.raises(MissingTensorError, match=f"needs a {role}"):
        run(attrs, ramp(1, 3, 4, 4))


def test_a_bias_that_the_operator_announces_is_never_left_out() -> None:
    with pytest.raises(MissingTensorError, match="needs a bias"):
        run(Conv(out_channels=1, kernel=(1, 1), bias=True), ramp(1, 1, 2, 2), weight=ramp(1, 1, 1, 1))
    with pytest.raises(MissingTensorError, match="needs a bias"):
        run(Linear(out_features=1, bias=True, flatten=True), ramp(1, 2), weight=ramp(1, 2))
    assert (
        run(Linear(out_features=1, bias=False, flatten=True), np.ones((1, 1)), weight=np.ones((1, 1)), bias=np.ones(1))
        == 1
    )


def test_a_tensor_that_is_not_stored() -> None:
    graph = Graph(nodes=(node(CONV, ["x"], ["y"], {Role.WEIGHT: "arg:w"}),), inputs=("x",), outputs=("y",))
    with pytest.raises(MissingTensorError, match=r"made.params: node 'conv_y' \(Op\): the graph names 'arg:w'"):
        ReferenceExecutor(graph, store({"arg:v": ramp(1)})).run({"x": ramp(1, 3, 4, 4)}, ["y"])


@pytest.mark.parametrize("variance", [-1e-5, -1.0, math.nan])
def test_a_variance_without_a_root(variance: float) -> None:
    stored = batch_norm_tensors(2) | {"running_var": np.array([1.0, variance])}
    with pytest.raises(ValueRangeError, match="batchnorm_y0"):
        run(BN, ramp(1, 2, 2, 2), **stored)


def test_a_number_of_inputs_that_the_operator_cannot_have() -> None:
    with pytest.raises(FormatError, match=r"'pool_y0'.*found 2"):
        run(MAX3, ramp(1, 1, 4, 4), ramp(1, 1, 4, 4))
    with pytest.raises(FormatError, match=r"'add_y0'.*found 0"):
        run(Add())


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


@given(
    attrs=st.one_of(
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
            count_include_pad=st.booleans(),
            global_pool=st.booleans(),
        ),
        st.builds(Linear, out_features=st.integers(0, 4), bias=st.booleans(), flatten=st.booleans()),
        st.builds(Concat, axis=st.integers(-3, 5)),
        st.builds(Split, axis=st.integers(-3, 5), parts=st.integers(-1, 3), squeeze=st.booleans()),
        st.builds(Reshape, shape=st.lists(st.integers(-3, 4), max_size=4).map(tuple)),
        st.builds(Transpose, axes=st.lists(st.integers(-4, 4), max_size=4).map(tuple)),
        st.builds(Softmax, axis=st.none() | st.integers(-5, 5)),
        st.builds(BatchNorm, eps=st.floats(-2, 2), momentum=st.just(0.9), fix_gamma=st.booleans()),
    ),
    shape=st.lists(st.integers(0, 4), max_size=5).map(tuple),
    stored=st.dictionaries(st.sampled_from(Role), st.lists(st.integers(0, 4), max_size=4).map(tuple), max_size=6),
)
@settings(max_examples=400)
def test_only_typed_errors_escape(attrs: Attrs, shape: tuple[int, ...], stored: Mapping[Role, tuple[int, ...]]) -> None:
    known = {
        Conv: {Role.WEIGHT, Role.BIAS},
        Linear: {Role.WEIGHT, Role.BIAS},
        BatchNorm: {Role.GAMMA, Role.BETA, Role.MEAN, Role.VAR},
    }.get(type(attrs), set())
    tensors = {role.value: ramp(*size) for role, size in stored.items() if role in known}
    place = None
    try:
        y = run(attrs, ramp(*shape), **tensors)
    except InputError as error:
        place = error.place
    else:
        assert y.dtype == np.float64
        return
    assert place == f"node '{type(attrs).__name__.lower()}_y0' (Op)"
