"""What the reference executor refuses: inputs and stored tensors that an operator cannot have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from single_node import batch_norm_tensors, node, ramp, run, store

from resnext_convert.converter.errors import (
    FormatError,
    MissingTensorError,
    ShapeError,
    ValueRangeError,
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
    Linear,
    Maximum,
    Multiply,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Scale,
    Slice,
    Softmax,
    Split,
    Transpose,
)
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array

CONV = Conv(out_channels=4, kernel=(3, 3), bias=False)
BN = BatchNorm(eps=1e-5, momentum=0.9, fix_gamma=False)
CAFFE_BN = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, factor=True)
BATCH_BN = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, batch_statistics=True)
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
        (
            CAFFE_BN,
            [(1, 3, 2, 2)],
            batch_norm_tensors(3) | {"moving_average_factor": np.ones(2)},
            r"moving_average_factor .*expected \(1,\), found \(2,\)",
        ),
        (BATCH_BN, [(3,)], {}, "no statistics"),
        (BATCH_BN, [(2, 3, 0)], {}, "no statistics"),
        (Scale(bias=False), [(1, 3, 2)], {"gamma": ramp(1, 3)}, r"gamma .*expected \(3,\), found \(1, 3\)"),
        (Scale(bias=True), [(1, 3)], {"gamma": ramp(3), "beta": ramp(1)}, r"beta .*expected \(3,\), found \(1,\)"),
        (Scale(bias=False), [(3, 2), (3, 2)], {}, r"no such axes \(expected 2 axes from 1 on, found \(3, 2\)"),
        (Scale(bias=False, axis=0), [(3, 2), (2,)], {}, r"gamma .*expected \(3,\), found \(2,\)"),
        (Scale(bias=False, axis=-3), [(3, 2)], {"gamma": ramp(3)}, "no such axes"),
        (Scale(bias=False, num_axes=-2), [(3, 2)], {"gamma": ramp(2)}, "no such axes"),
        (Scale(bias=False, axis=2, num_axes=-1), [(3, 2)], {"gamma": ramp()}, "no such axes"),
        (Bias(axis=1, num_axes=2), [(3, 2)], {"beta": ramp(2)}, "no such axes"),
        (Bias(num_axes=-1), [(3, 2, 2)], {"beta": ramp(2)}, r"beta .*expected \(2, 2\), found \(2,\)"),
        (LRN(size=4), [(1, 3, 2, 2)], {}, "no middle"),
        (LRN(size=-1), [(1, 3, 2, 2)], {}, "no middle"),
        (LRN(), [(1, 3)], {}, "batch of maps"),
        (Add(coefficients=(1.0, 2.0)), [(1, 3)], {}, "shapes"),
        (Maximum(), [(1, 3), (1, 4)], {}, "shapes"),
        (Flatten(axis=3), [(1, 3, 2)], {}, "no such axes"),
        (Flatten(axis=2, end_axis=1), [(1, 3, 2)], {}, "no such axes"),
        (MAX3, [(1, 3, 2, 2)], {}, "smaller than the kernel"),
        (MAX3, [(3, 2)], {}, "batch of maps"),
        (Pool(kind=PoolKind.MAX, kernel=(2, 2), padding=(-1, 0)), [(1, 3, 4, 4)], {}, "padding at least 0"),
        (Pool(kind=PoolKind.MAX, kernel=(0, 2)), [(1, 3, 4, 4)], {}, "at least 1"),
        (Pool(kind=PoolKind.AVERAGE, global_pool=True), [(1, 3, 4)], {}, "batch of maps"),
        (Pool(kind=PoolKind.AVERAGE, global_pool=True), [(1, 3, 0, 4)], {}, "none of them 0"),
        (
            Linear(out_features=2, bias=False, axis=1),
            [(1, 3, 2)],
            {"weight": ramp(2, 5)},
            r"weight .*expected \(2, 6\), found \(2, 5\)",
        ),
        (Add(), [(1, 3, 4, 4), (1, 3, 5, 4)], {}, r"found shapes \(1, 3, 4, 4\), \(1, 3, 5, 4\)"),
        (Multiply(), [(1, 3), (1, 4)], {}, r"found shapes \(1, 3\), \(1, 4\)"),
        (Concat(axis=1), [(1, 3, 4), (1, 3, 5)], {}, "shapes"),
        (Concat(axis=4), [(1, 3), (1, 3)], {}, "shapes"),
        (Split(axis=1, parts=1, squeeze=True), [(1, 3)], {}, "shapes"),
        (Linear(out_features=2, bias=False, axis=3), [(1, 3, 2)], {"weight": ramp(2, 1)}, "no such axes"),
        (
            Linear(out_features=2, bias=False, transpose=True),
            [(1, 3)],
            {"weight": ramp(2, 3)},
            r"weight .*expected \(3, 2\), found \(2, 3\)",
        ),
        (Split(axis=1, parts=3, points=(1, 1)), [(1, 3)], {}, "a part would be empty"),
        (Split(axis=1, parts=3, points=(2, 1)), [(1, 3)], {}, "a part would be empty"),
        (Split(axis=1, parts=2, points=(3,)), [(1, 3)], {}, "a part would be empty"),
        (Split(axis=1, parts=2, points=(0,)), [(1, 3)], {}, "a part would be empty"),
        (Split(axis=1, parts=1, points=(1,)), [(1, 3)], {}, "shapes"),
        (Split(axis=1, parts=0), [(1, 3)], {}, "shapes"),
        (Split(axis=1, parts=3), [(1, 3)], {}, "shapes"),
        (Slice(bounds=((None, None, None),) * 3), [(1, 3)], {}, "shapes"),
        (Slice(bounds=((None, None, 0),)), [(1, 3)], {}, "shapes"),
        (Reshape(shape=(0, -1, 4)), [(1, 3, 5)], {}, "shapes"),
        (Reshape(shape=(1, 3, 0)), [(1, 3)], {}, "shapes"),
        (Reshape(shape=(-2,)), [(1, 3)], {}, "only 0 and -1"),
        (Reshape(shape=(3,), axis=-4), [(1, 3)], {}, "no such axes"),
        (Reshape(shape=(3,), axis=3), [(1, 3)], {}, "no such axes"),
        (Reshape(shape=(3,), axis=1, num_axes=2), [(1, 3)], {}, "no such axes"),
        (Reshape(shape=(3,), axis=1, num_axes=-2), [(1, 3)], {}, "no such axes"),
        (Reshape(shape=(0,), axis=2), [(1, 3)], {}, "shapes"),
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
        (CAFFE_BN, "running_mean"),
        (Scale(bias=False), "gamma"),
        (Bias(), "beta"),
        (Linear(out_features=2, bias=False, axis=1), "weight"),
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
        run(Linear(out_features=1, bias=True, axis=1), ramp(1, 2), weight=ramp(1, 2))
    with pytest.raises(MissingTensorError, match="needs a beta"):
        run(Scale(bias=True), ramp(1, 2), gamma=ramp(2))
    with pytest.raises(MissingTensorError, match="needs a beta"):
        run(Scale(bias=True), ramp(1, 2), ramp(2))
    with pytest.raises(MissingTensorError, match="needs a moving_average_factor"):
        run(CAFFE_BN, ramp(1, 2), running_mean=ramp(2), running_var=np.ones(2))
    assert (
        run(Linear(out_features=1, bias=False, axis=1), np.ones((1, 1)), weight=np.ones((1, 1)), bias=np.ones(1)) == 1
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


@pytest.mark.parametrize("factor", [-1.0, math.nan])
def test_a_factor_that_leaves_no_positive_variance(factor: float) -> None:
    stored = batch_norm_tensors(2) | {"moving_average_factor": np.array([factor])}
    with pytest.raises(ValueRangeError, match="batchnorm_y0"):
        run(CAFFE_BN, ramp(1, 2, 2, 2), **stored)


def test_a_number_of_inputs_that_the_operator_cannot_have() -> None:
    with pytest.raises(FormatError, match=r"'pool_y0'.*found 2"):
        run(MAX3, ramp(1, 1, 4, 4), ramp(1, 1, 4, 4))
    with pytest.raises(FormatError, match=r"'scale_y0'.*found 3"):
        run(Scale(bias=False), ramp(1, 2), ramp(2), ramp(2))
    with pytest.raises(FormatError, match=r"'add_y0'.*found 0"):
        run(Add())
