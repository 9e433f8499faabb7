"""The operators but convolution and pooling against their definitions, and against torch in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from single_node import ROUNDING, batch_norm_tensors, of_peak, ramp, run, run_all

from resnext_convert.converter.graph import (
    LRN,
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Bias,
    Cast,
    Concat,
    Conv,
    Flatten,
    Identity,
    Linear,
    Maximum,
    Multiply,
    Pool,
    PoolKind,
    Power,
    Reshape,
    Scalar,
    ScalarKind,
    Scale,
    Slice,
    Softmax,
    Split,
    Transpose,
    Unknown,
)
from resnext_convert.converter.operators import OPERATORS
from resnext_convert.converter.tensors import Array


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (3, 5), (2, 5, 7)])
@pytest.mark.parametrize("fix_gamma", [False, True])
def test_batch_norm_agrees_with_torch(shape: tuple[int, ...], fix_gamma: bool) -> None:
    tensors = batch_norm_tensors(5)
    of_torch = {role: torch.from_numpy(values) for role, values in tensors.items()}
    expected = F.batch_norm(
        torch.from_numpy(ramp(*shape)),
        of_torch["running_mean"],
        of_torch["running_var"],
        None if fix_gamma else of_torch["gamma"],
        of_torch["beta"],
        eps=2e-5,
    )
    found = run(BatchNorm(eps=2e-5, momentum=0.9, fix_gamma=fix_gamma), ramp(*shape), **tensors)
    assert of_peak(found, expected.numpy()) <= ROUNDING


def test_batch_norm_keeps_its_precision_far_from_zero() -> None:
    """``x * scale + shift`` would lose here what ``x - mean`` keeps: the exact answers are 1 and -1."""
    x = np.array([1e8 + 1, 1e8 - 1]).reshape(2, 1)
    stored = {"beta": np.zeros(1), "running_mean": np.array([1e8]), "running_var": np.array([0.75])}
    assert run(BatchNorm(eps=0.25, momentum=0.9, fix_gamma=True), x, **stored).ravel().tolist() == [1.0, -1.0]


def test_batch_norm_of_caffe_has_no_gamma_and_no_beta() -> None:
    x, stored = ramp(2, 5, 3, 4), batch_norm_tensors(5)
    plain = BatchNorm(eps=2e-5, momentum=0.9, gamma=False, beta=False)
    with_both = dict(stored, gamma=np.ones(5), beta=np.zeros(5))
    expected = run(BatchNorm(eps=2e-5, momentum=0.9), x, **with_both)
    assert of_peak(run(plain, x, **stored), expected) <= ROUNDING
    del stored["gamma"], stored["beta"]
    assert of_peak(run(plain, x, **stored), expected) <= ROUNDING


@pytest.mark.parametrize("factor", [1.0, 999.98, 0.25, -2.0])
def test_batch_norm_divides_by_the_moving_average_factor(factor: float) -> None:
    stored = batch_norm_tensors(5) | {"running_var": np.sign(factor) * batch_norm_tensors(5)["running_var"]}
    op = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, factor=True)
    divided = {role: stored[role] / factor for role in ("running_mean", "running_var")}
    expected = run(BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False), ramp(2, 5, 3), **divided)
    assert of_peak(run(op, ramp(2, 5, 3), **stored, moving_average_factor=np.array([factor])), expected) <= ROUNDING


def test_a_moving_average_factor_of_0_leaves_mean_and_variance_0() -> None:
    x, stored = ramp(2, 5, 3), batch_norm_tensors(5) | {"moving_average_factor": np.zeros(1)}
    found = run(BatchNorm(eps=1e-2, momentum=0.999, gamma=False, beta=False, factor=True), x, **stored)
    assert of_peak(found, x / math.sqrt(1e-2)) <= ROUNDING


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (3, 5), (2, 5, 7)])
def test_batch_statistics_agree_with_torch(shape: tuple[int, ...]) -> None:
    # What is stored is not even looked at.
    stored = batch_norm_tensors(5) | {"running_mean": np.full(5, np.nan), "moving_average_factor": np.zeros(1)}
    op = BatchNorm(eps=1e-3, momentum=0.999, factor=True, batch_statistics=True)
    gamma, beta = (torch.from_numpy(stored[role]) for role in ("gamma", "beta"))
    expected = F.batch_norm(torch.from_numpy(ramp(*shape)), None, None, gamma, beta, training=True, eps=1e-3)
    assert of_peak(run(op, ramp(*shape), **stored), expected.numpy()) <= ROUNDING


@st.composite
def scales(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int, int]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    axis = draw(st.integers(0, len(shape) - 1))
    num_axes = draw(st.integers(-1, len(shape) - axis))
    return shape, axis, num_axes, draw(st.sampled_from([axis, axis - len(shape)]))


@given(scales(), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_scale_and_bias_are_their_definition(
    case: tuple[tuple[int, ...], int, int, int], two_inputs: bool, bias: bool
) -> None:
    shape, axis, num_axes, spelled = case
    first, last = (axis, len(shape) if num_axes == -1 else axis + num_axes) if num_axes else (0, 0)
    x, gamma, beta = ramp(*shape), ramp(*shape[first:last], phase=0.3), ramp(*shape[first:last], phase=0.6)
    scaled, shifted = np.empty(shape), np.empty(shape)
    for place in np.ndindex(*shape):
        scaled[place] = x[place] * gamma[place[first:last]] + (beta[place[first:last]] if bias else 0)
        shifted[place] = x[place] + beta[place[first:last]]
    scale = Scale(axis=spelled, num_axes=7 if two_inputs else num_axes, bias=bias)
    stored = {"beta": beta} if bias else {}
    found = run(scale, x, gamma, **stored) if two_inputs else run(scale, x, gamma=gamma, **stored)
    assert of_peak(found, scaled) <= ROUNDING
    offset = Bias(axis=spelled, num_axes=7 if two_inputs else num_axes)
    found = run(offset, x, beta) if two_inputs else run(offset, x, beta=beta)
    assert of_peak(found, shifted) <= ROUNDING


@pytest.mark.parametrize("variance", [0.0, -0.25])
def test_batch_norm_needs_only_the_sum_of_variance_and_eps_to_be_positive(variance: float) -> None:
    stored = {"beta": np.zeros(1), "running_mean": np.zeros(1), "running_var": np.array([variance])}
    op = BatchNorm(eps=0.5, momentum=0.9, fix_gamma=True)
    assert run(op, np.ones((1, 1)), **stored) == 1 / np.sqrt(variance + 0.5)


@pytest.mark.parametrize("kind", ActivationKind)
def test_activation_agrees_with_torch(kind: ActivationKind) -> None:
    x = ramp(2, 3, 4, 5) * 8
    slopes = np.array([0.1, -0.2, 1.5])
    t = torch.from_numpy(x)
    expected = {
        ActivationKind.RELU: torch.relu(t),
        ActivationKind.SIGMOID: torch.sigmoid(t),
        ActivationKind.TANH: torch.tanh(t),
        ActivationKind.SOFTPLUS: F.softplus(t, threshold=100),
        ActivationKind.SOFTSIGN: F.softsign(t),
        ActivationKind.LEAKY: F.leaky_relu(t, 0.3),
        ActivationKind.PRELU: F.prelu(t, torch.from_numpy(slopes)),
    }[kind]
    stored = {"weight": slopes} if kind is ActivationKind.PRELU else {}
    assert of_peak(run(Activation(kind=kind, slope=0.3), x, **stored), expected.numpy()) <= ROUNDING


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ActivationKind.RELU, [0.0, 0.0, 1e4]),
        (ActivationKind.SIGMOID, [0.0, 0.5, 1.0]),
        (ActivationKind.TANH, [-1.0, 0.0, 1.0]),
        (ActivationKind.SOFTPLUS, [0.0, math.log(2), 1e4]),
        (ActivationKind.SOFTSIGN, [-1e4 / 10001, 0.0, 1e4 / 10001]),
    ],
)
def test_activation_is_stable_far_out(kind: ActivationKind, expected: list[float]) -> None:
    assert run(Activation(kind=kind), np.array([[-1e4, 0.0, 1e4]])).tolist() == [expected]


def test_leaky_slopes_below_one_and_above() -> None:
    x = np.array([[-2.0, 4.0]])
    assert run(Activation(kind=ActivationKind.LEAKY, slope=0.25), x).tolist() == [[-0.5, 4.0]]
    assert run(Activation(kind=ActivationKind.LEAKY, slope=1.5), x).tolist() == [[-3.0, 4.0]]


def test_prelu_with_one_slope_for_all_channels() -> None:
    x = np.array([[-2.0, 4.0, -6.0]])
    for slope in (np.array([0.5]), np.array(0.5)):
        assert run(Activation(kind=ActivationKind.PRELU), x, weight=slope).tolist() == [[-1.0, 4.0, -3.0]]


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(flatten: bool, bias: bool) -> None:
    x = ramp(2, 3, 4)
    features = 12 if flatten else 4
    weight, offset = ramp(5, features, phase=0.3), ramp(5, phase=0.6)
    rows = x.reshape(2, 12) if flatten else x
    expected = np.einsum("...i,oi->...o", rows, weight) + (offset if bias else 0)
    stored = {"weight": weight} | ({"bias": offset} if bias else {})
    assert of_peak(run(Linear(out_features=5, bias=bias, axis=1 if flatten else -1), x, **stored), expected) <= ROUNDING


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("axis", "spelled"), [(0, 0), (1, 1), (2, 2), (2, -1), (1, -2)])
def test_linear_from_an_axis_on(axis: int, spelled: int, transpose: bool) -> None:
    x, bias = ramp(2, 3, 4), ramp(5, phase=0.6)
    kept, features = x.shape[:axis], math.prod(x.shape[axis:])
    weight = ramp(5, features, phase=0.3)
    expected = np.empty((*kept, 5))
    for place in np.ndindex(*kept):
        expected[place] = [row @ x[place].ravel() + b for row, b in zip(weight, bias, strict=True)]
    op = Linear(out_features=5, bias=True, axis=spelled, transpose=transpose)
    found = run(op, x, weight=np.ascontiguousarray(weight.T) if transpose else weight, bias=bias)
    assert of_peak(found, expected) <= ROUNDING


def test_sums_with_coefficients_and_maxima() -> None:
    x, y, z = ramp(2, 3, 4), ramp(2, 3, 4, phase=0.2), ramp(2, 3, 4, phase=0.4)
    assert of_peak(run(Add(coefficients=(0.5, -2.0, 3.0)), x, y, z), 0.5 * x - 2 * y + 3 * z) <= ROUNDING
    assert np.array_equal(run(Add(coefficients=(1.0, -1.0)), x, x), np.zeros((2, 3, 4)))
    assert np.array_equal(run(Maximum(), x, y, z), np.stack([x, y, z]).max(0))
    assert np.array_equal(run(Maximum(), x), x)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Power(), [-2.0, 0.0, 4.0]),
        (Power(scale=0.5, shift=1.0), [0.0, 1.0, 3.0]),
        (Power(power=2.0, scale=0.5, shift=1.0), [0.0, 1.0, 9.0]),
        (Power(power=0.5, shift=2.0, scale=0.5), [1.0, math.sqrt(2), 2.0]),
        (Power(power=-1.0, shift=3.0), [1.0, 1 / 3, 1 / 7]),
        (Power(power=0.0), [1.0, 1.0, 1.0]),
        (Power(power=3.0, scale=0.0, shift=2.0), [8.0, 8.0, 8.0]),
    ],
)
def test_power(op: Power, expected: list[float]) -> None:
    assert run(op, np.array([-2.0, 0.0, 4.0])).tolist() == expected


def literal_lrn(op: LRN, x: Array) -> Array:
    """Neighbour by neighbour."""
    y, reach = np.empty(x.shape), op.size // 2
    for n, c, i, j in np.ndindex(*x.shape):
        low, high = np.maximum(np.array([c, i, j]) - reach, 0), np.array([c, i, j]) + reach + 1
        if op.within_channel:
            near, cells, k = x[n, c, low[1] : high[1], low[2] : high[2]], op.size**2, 1.0
        else:
            near, cells, k = x[n, low[0] : high[0], i, j], op.size, op.k
        y[n, c, i, j] = x[n, c, i, j] / (k + op.alpha / cells * (near**2).sum()) ** op.beta
    return y


@pytest.mark.parametrize("within_channel", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5, 99999])
def test_local_response_normalisation_is_its_definition(size: int, within_channel: bool) -> None:
    op = LRN(size=size, alpha=1.5, beta=0.7, k=2.0, within_channel=within_channel)
    x = ramp(2, 6, 4, 3)
    assert of_peak(run(op, x), literal_lrn(op, x)) <= ROUNDING


@pytest.mark.parametrize("size", [3, 5])
def test_local_response_normalisation_agrees_with_torch(size: int) -> None:
    x = ramp(2, 7, 4, 3)
    expected = F.local_response_norm(torch.from_numpy(x), size, alpha=1.5, beta=0.7, k=2.0).numpy()
    assert of_peak(run(LRN(size=size, alpha=1.5, beta=0.7, k=2.0), x), expected) <= ROUNDING


def test_add_and_multiply_take_any_number_and_broadcast() -> None:
    x, y, z = ramp(2, 3, 4, 4), ramp(2, 3, 1, 1, phase=0.2), ramp(2, 3, 4, 4, phase=0.4)
    assert np.array_equal(run(Add(), x, y, z), x + y + z)
    assert np.array_equal(run(Add(), x), x)
    assert np.array_equal(run(Multiply(), x, y), x * y)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ScalarKind.ADD, [[-1.5, 2.5]]),
        (ScalarKind.MULTIPLY, [[-1.0, 1.0]]),
        (ScalarKind.MAXIMUM, [[0.5, 2.0]]),
        (ScalarKind.MINIMUM, [[-2.0, 0.5]]),
    ],
)
def test_scalar(kind: ScalarKind, expected: list[list[float]]) -> None:
    assert run(Scalar(kind=kind, value=0.5), np.array([[-2.0, 2.0]])).tolist() == expected


def test_shape_operators() -> None:
    x = ramp(2, 6, 4, 5)
    assert np.array_equal(run(Concat(axis=1), x, x[:, :2]), np.concatenate([x, x[:, :2]], 1))
    assert np.array_equal(run(Slice(bounds=((None, None, None), (1, 5, 2), (-3, None, None))), x), x[:, 1:5:2, -3:])
    assert np.array_equal(run(Flatten(), x), x.reshape(2, 120))
    assert np.array_equal(run(Flatten(axis=0), x), x.ravel())
    assert np.array_equal(run(Flatten(axis=1, end_axis=2), x), x.reshape(2, 24, 5))
    assert np.array_equal(run(Flatten(axis=-3, end_axis=-2), x), x.reshape(2, 24, 5))
    assert np.array_equal(run(Flatten(axis=2, end_axis=2), x), x)
    assert np.array_equal(run(Reshape(shape=(0, -1, 10)), x), x.reshape(2, 12, 10))
    assert np.array_equal(run(Reshape(shape=(-1, 6, 0, 0)), x), x)
    # By the rules of Caffe's ReshapeParameter, caffe.proto
    assert run(Reshape(shape=(3, -1), axis=1, num_axes=1), x).shape == (2, 3, 2, 4, 5)
    assert run(Reshape(shape=(0, -1), axis=1), x).shape == (2, 6, 20)
    assert run(Reshape(shape=(2, 3), axis=-4, num_axes=1), x).shape == (2, 2, 3, 4, 5)
    assert run(Reshape(shape=(1,), axis=1, num_axes=0), x).shape == (2, 1, 6, 4, 5)
    assert run(Reshape(shape=(1, 1), axis=-1), x).shape == (2, 6, 4, 5, 1, 1)
    assert run(Reshape(shape=(0, -1), axis=2, num_axes=2), x).shape == (2, 6, 4, 5)
    assert np.array_equal(run(Reshape(shape=(20, -1), axis=1), x), x.reshape(2, 20, 6))
    assert np.array_equal(run(Transpose(axes=(0, 2, 3, 1)), x), x.transpose(0, 2, 3, 1))
    assert np.array_equal(run(Transpose(axes=()), x), x.T)
    assert np.array_equal(run(Identity(), x), x)


def test_cast_keeps_the_precision_of_the_proof() -> None:
    x = ramp(1, 3)
    assert run(Cast(dtype="float16"), x).tolist() == x.tolist()


def test_split() -> None:
    x = ramp(2, 6, 4)
    parts = run_all(Split(axis=1, parts=3), x, parts=3)
    assert [part.tolist() for part in parts] == [x[:, :2].tolist(), x[:, 2:4].tolist(), x[:, 4:].tolist()]
    uneven = run_all(Split(axis=-2, parts=3, points=(1, 3)), x, parts=3)
    assert [part.tolist() for part in uneven] == [x[:, :1].tolist(), x[:, 1:3].tolist(), x[:, 3:].tolist()]
    rows = run_all(Split(axis=0, parts=2, squeeze=True), x, parts=2)
    assert [row.tolist() for row in rows] == x.tolist()


def test_softmax() -> None:
    x = ramp(2, 3, 4, 5) * 30
    for axis in (1, -1):
        expected = torch.softmax(torch.from_numpy(x), axis).numpy()
        assert of_peak(run(Softmax(axis=axis), x), expected) <= ROUNDING
    expected = torch.softmax(torch.from_numpy(x.reshape(2, 60)), 1).numpy().reshape(x.shape)
    assert of_peak(run(Softmax(axis=None), x), expected) <= ROUNDING
    assert run(Softmax(axis=None), np.array([[1e5, 1e5]])).tolist() == [[0.5, 0.5]]


def test_every_operator_of_the_graph_but_unknown_has_a_function() -> None:
    assert set(OPERATORS) == set(get_args(Attrs)) - {Unknown}


@pytest.mark.parametrize(
    ("attrs", "stored"),
    [
        (Conv(out_channels=4, kernel=(3, 3), groups=2, bias=True), {"weight": ramp(4, 1, 3, 3), "bias": ramp(4)}),
        (BatchNorm(eps=1e-3, momentum=0.9, fix_gamma=False), batch_norm_tensors(2)),
        *((Activation(kind=kind), {}) for kind in ActivationKind if kind is not ActivationKind.PRELU),
        (Activation(kind=ActivationKind.PRELU), {"weight": ramp(2)}),
        *((Pool(kind=kind, kernel=(2, 2), stride=(3, 3), padding=(1, 1), ceil=True), {}) for kind in PoolKind),
        *((Pool(kind=kind, global_pool=True), {}) for kind in PoolKind),
        (
            BatchNorm(eps=1e-3, momentum=0.9, gamma=False, beta=False, factor=True),
            batch_norm_tensors(2) | {"moving_average_factor": np.array([0.5])},
        ),
        (BatchNorm(eps=1e-3, momentum=0.9, gamma=False, beta=False, batch_statistics=True), {}),
        (Scale(bias=True), {"gamma": ramp(2), "beta": ramp(2)}),
        (Bias(num_axes=0), {"beta": np.array(0.3)}),
        (Linear(out_features=3, bias=True, axis=1), {"weight": ramp(3, 72), "bias": ramp(3)}),
        (Add(coefficients=(0.3,)), {}),
        (Maximum(), {}),
        (Power(power=2.5, scale=0.3, shift=1.5), {}),
        *((LRN(within_channel=within), {}) for within in (False, True)),
        *((Scalar(kind=kind, value=0.5), {}) for kind in ScalarKind),
        (Softmax(axis=None), {}),
    ],
)
def test_a_run_stays_in_its_precision(attrs: Attrs, stored: Mapping[str, Array]) -> None:
    """Weights and inputs of any float type; one precision in between and at the end."""
    x = ramp(1, 2, 6, 6)
    stored = {role: values.astype(np.float32) for role, values in stored.items()}
    double = run(attrs, x.astype(np.float32), **stored)
    single = run(attrs, x, dtype=np.float32, **stored)
    assert double.dtype == np.float64
    assert single.dtype == np.float32
    assert of_peak(single.astype(np.float64), double) <= 1e-6  # measured: 3.8e-7
