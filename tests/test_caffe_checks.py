"""Stored values with which a network of Caffe has no defined output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from caffe_base import conv, layer, network, stored
from single_node import ramp

from resnext_convert.converter.caffe.binding import bind
from resnext_convert.converter.caffe.checks import check_values
from resnext_convert.converter.errors import ValueRangeError
from resnext_convert.converter.tensors import Array

Layers = Mapping[str, Sequence[Array]]

FC = "inner_product_param { num_output: 4 bias_term: false }"
NET = (conv("c", "data"), layer("BatchNorm", "bn", "c"), layer("InnerProduct", "fc", "bn", text=FC))
BLOBS: dict[str, Sequence[Array]] = {
    "c": [ramp(3, 3, 3, 3), ramp(3)],
    "bn": [ramp(3), ramp(3) + 2, np.ones(1)],
    "fc": [ramp(4, 192)],
}


def checked(layers: Layers, *net: str) -> tuple[str, ...]:
    found = bind(network(*(net or NET)), stored(layers))
    return check_values(found.graph, found.tensors)


def spoiled(name: str, index: int, value: float, at: int = 0) -> dict[str, Sequence[Array]]:
    blobs = [np.array(array) for array in BLOBS[name]]
    blobs[index].reshape(-1)[at] = value
    return {**BLOBS, name: blobs}


def test_usable_values() -> None:
    assert checked(BLOBS) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "index"), [("c", 0), ("c", 1), ("bn", 0), ("bn", 1), ("bn", 2), ("fc", 0)])
def test_values_that_are_not_finite(name: str, index: int, value: float) -> None:
    at = 0 if name == "bn" and index == 2 else 2
    with pytest.raises(ValueRangeError) as refusal:
        checked(spoiled(name, index, value, at))
    assert f"tensor '{name}[{index}]'" in str(refusal.value.place)
    assert refusal.value.found == str(np.float64(value)) or refusal.value.found == str(value)


def test_a_negative_factor() -> None:
    with pytest.raises(ValueRangeError) as refusal:
        checked(spoiled("bn", 2, -1.0))
    assert refusal.value.problem == "a moving-average factor is negative"


def test_a_factor_of_zero_is_kept_with_a_warning() -> None:
    """Caffe takes mean and variance as 0 then, whatever is stored."""
    layers = spoiled("bn", 2, 0.0)
    layers["bn"] = [layers["bn"][0], -np.ones(3), layers["bn"][2]]
    (warning,) = checked(layers)
    assert warning.startswith("1 layer with a moving-average factor of 0 (bn)")


def test_a_factor_of_zero_without_eps() -> None:
    norm = layer("BatchNorm", "bn", "data", text="batch_norm_param { eps: 0 }")
    with pytest.raises(ValueRangeError, match="no square root"):
        checked({"bn": [ramp(3), ramp(3), np.zeros(1)]}, norm)


@pytest.mark.parametrize(("variance", "factor"), [(-2e-5, 1.0), (-2e-2, 999.0), (-1.0, 1e-3)])
def test_a_variance_without_a_square_root(variance: float, factor: float) -> None:
    with pytest.raises(ValueRangeError) as refusal:
        checked(BLOBS | {"bn": [ramp(3), np.array([1.0, 1.0, variance]), np.array([factor])]})
    assert refusal.value.problem == "a moving variance has no square root even with eps added"


def test_the_variance_counts_after_division_by_the_factor() -> None:
    """-5e-3 / 999 is above -eps, which is 1e-5."""
    (warning,) = checked(BLOBS | {"bn": [ramp(3), np.array([1.0, 1.0, -5e-3]), np.array([999.0])]})
    assert warning == "1 tensor of variances below 0 and above -eps (bn[1]); kept"


def test_statistics_that_are_not_used_may_be_anything() -> None:
    norm = layer("BatchNorm", "bn", "data", text="batch_norm_param { use_global_stats: false }")
    assert checked({"bn": [ramp(3) * np.nan, -ramp(3), -np.ones(1)]}, norm) == ()
