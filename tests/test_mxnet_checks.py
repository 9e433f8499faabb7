"""Stored shapes and values that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mxnet_base import bound, reread, stored, usual
from mxnet_graphs import BASE, base, node, params, variables
from mxnet_params_writer import dense, params_list

from resnext_convert.converter.errors import ShapeError, ValueRangeError
from resnext_convert.converter.graph import Conv
from resnext_convert.converter.mxnet.checks import check_shapes, check_values
from resnext_convert.converter.mxnet.source import read_source

SYMBOL, PARAMS = "model-symbol.json", "model-0000.params"

CONV = {"kernel": "(1, 1)", "num_filter": "2", "no_bias": "True"}


# Shapes


SHAPES: list[tuple[str, tuple[int, ...], str, str]] = [
    ("arg:conv0_weight", (8, 3, 7), "(8, *, 7, 7)", "other layer sizes"),
    ("arg:conv0_weight", (8, 3, 7, 5), "(8, *, 7, 7)", "other layer sizes"),
    ("arg:conv0_weight", (9, 3, 7, 7), "(8, *, 7, 7)", "other layer sizes"),
    ("arg:conv0_weight", (8, 0, 7, 7), "(8, *, 7, 7)", "other layer sizes"),
    ("arg:conv0_weight", (1, 8, 3, 7, 7), "(8, *, 7, 7)", "axes of size 1"),
    ("arg:fc1_weight", (64, 10), "(10, *)", "stored transposed"),
    ("arg:fc1_weight", (12, 64), "(10, *)", "number of classes"),
    ("arg:fc1_weight", (10, 64, 1, 1), "(10, *)", "axes of size 1"),
    ("arg:fc1_bias", (12,), "(10,)", "number of classes"),
    ("arg:fc1_bias", (10, 1), "(10,)", "axes of size 1"),
    ("arg:bn0_gamma", (8, 1), "(*,)", "axes of size 1"),
    ("arg:bn0_gamma", (0,), "(*,)", "other layer sizes"),
    ("arg:bn0_beta", (9,), "(8,)", "other layer sizes"),
    ("aux:bn0_moving_mean", (1,), "(8,)", "other layer sizes"),
]


@pytest.mark.parametrize(("name", "shape", "expected", "hint"), SHAPES)
def test_a_stored_shape_that_does_not_fit(name: str, shape: tuple[int, ...], expected: str, hint: str) -> None:
    with pytest.raises(ShapeError) as refusal:
        reread(stored() | {name: np.ones(shape)})
    assert refusal.value.place is not None
    assert name in refusal.value.place
    assert refusal.value.expected == expected
    assert refusal.value.hint is not None
    assert hint in refusal.value.hint


def test_several_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="and 2 more tensors do not fit theirs"):
        reread(stored() | {"arg:fc1_weight": np.ones(1), "arg:fc1_bias": np.ones(1), "arg:conv0_weight": np.ones(1)})


@pytest.mark.parametrize(
    ("name", "shape", "given", "taken"),
    [
        ("arg:conv0_weight", (8, 1, 7, 7), 3, 1),
        ("arg:stage1_unit1_conv2_weight", (8, 8, 3, 3), 8, 32),  # grouped, stored dense
        ("arg:stage1_unit1_conv1_weight", (8, 9, 1, 1), 8, 9),
    ],
)
def test_channels_that_do_not_meet(name: str, shape: tuple[int, ...], given: int, taken: int) -> None:
    with pytest.raises(ShapeError, match="another number of channels") as refusal:
        reread(stored() | {name: np.ones(shape)})
    assert (refusal.value.expected, refusal.value.found) == (f"tensors for {given} channels", f"for {taken}")


def test_channels_are_not_guessed_where_they_are_not_known() -> None:
    nodes = [*variables("data", "w"), ("MyOp", "mine", [0]), ("Convolution", "c", [2, 1], CONV)]
    found = bound({"arg:w": (2, 7, 1, 1)}, *nodes)
    check_shapes(found.graph, params({"arg:w": (2, 7, 1, 1)}).tensors)
    assert isinstance(found.graph.nodes[1].attrs, Conv)


# Values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("arg:fc1_weight", (9, 63)),
        ("arg:conv0_weight", (0, 0, 0, 0)),
        ("aux:bn0_moving_mean", (3,)),
        ("arg:bn0_beta", (7,)),
    ],
)
def test_a_value_that_is_not_finite(name: str, place: tuple[int, ...], value: float) -> None:
    tensors = stored()
    tensors[name] = tensors[name].copy()
    tensors[name][place] = value
    with pytest.raises(ValueRangeError, match="not finite") as refusal:
        reread(tensors)
    assert refusal.value.place is not None
    assert f"tensor {name!r}, element {list(place)}" in refusal.value.place


def test_a_value_far_into_a_big_tensor() -> None:
    big = np.ones((300_001, 1), np.float32)
    big[300_000] = np.nan
    nodes = [*variables("data", "w"), ("FullyConnected", "fc", [0, 1], {"num_hidden": "300001", "no_bias": "True"})]
    found = bound({"arg:w": (1, 1)}, *nodes)
    with pytest.raises(ValueRangeError, match="not finite") as refusal:
        check_values(found.graph, params({"arg:w": big}).tensors)
    assert refusal.value.place is not None
    assert "element [300000, 0]" in refusal.value.place


def test_a_gamma_that_is_ignored_may_be_anything() -> None:
    tensors = stored() | {"arg:bn_data_gamma": np.full(3, np.nan)}
    assert reread(tensors).graph == usual()
    found = base()
    node(found, "bn_data")["attrs"]["fix_gamma"] = "False"
    with pytest.raises(ValueRangeError, match="not finite"):
        reread(tensors, found)


def test_a_tensor_that_nothing_uses_may_be_anything() -> None:
    reread(stored() | {"arg:other": np.full(3, np.nan)})


@pytest.mark.parametrize("variance", [-0.5, -2.1e-5])
def test_a_variance_below_minus_eps(variance: float) -> None:
    tensors = stored() | {"aux:bn0_moving_var": np.array([*[1.0] * 7, variance])}
    with pytest.raises(ValueRangeError, match="no square root") as refusal:
        reread(tensors)
    assert refusal.value.expected == "above -2e-05"


def test_a_variance_that_eps_makes_up_for_is_kept(tmp_path: Path) -> None:
    tensors = stored() | {"aux:bn0_moving_var": np.array([*[1.0] * 7, -1.9e-5], np.float32)}
    shutil.copyfile(BASE / SYMBOL, tmp_path / SYMBOL)
    (tmp_path / PARAMS).write_bytes(params_list([dense(array) for array in tensors.values()], list(tensors)))
    model = read_source(tmp_path)
    assert model.tensors["aux:bn0_moving_var"].numpy()[7] == np.float32(-1.9e-5)
    (warning,) = model.origin.warnings
    assert "aux:bn0_moving_var" in warning


def test_a_variance_of_zero_is_legal() -> None:
    reread(stored() | {"aux:bn0_moving_var": np.zeros(8)})
