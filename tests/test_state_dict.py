"""The values of the state dict: each binding's transform, one dtype for all, nothing copied that need not be."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder, Spelling, source_model
from hypothesis import given, settings
from random_configs import Network, networks, spellings
from single_node import store

from resnext_convert.converter.resnext.config import resnext
from resnext_convert.converter.resnext.ledger import Transform
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import NARROW, assemble, state_dtype
from resnext_convert.converter.tensors import Array, DType, TensorRef, TensorStore

SMALL = resnext((1, 1), cardinality=2, base_width=4, classes=5)


def matched(spelling: Spelling | None = None) -> tuple[Match, TensorStore]:
    model = source_model(SMALL, spelling)
    return match(model), model.tensors


def replaced(tensors: TensorStore, name: str, values: Array) -> TensorStore:
    """The same store with other values in one tensor."""
    return TensorStore({**tensors, **store({name: values})}, tensors.file)


@settings(max_examples=60)
@given(networks(), spellings)
def test_every_key_has_its_source_s_values(network: Network, spelling: Spelling) -> None:
    model = source_model(network.config, spelling)
    found = match(model)
    state = assemble(found, model.tensors)
    assert list(state) == list(network.config.state_shapes())
    dtype = np.float64 if spelling.dtype == "float64" else np.float32
    for binding in found.bindings:
        values = state[binding.target]
        assert values.shape == network.config.state_shapes()[binding.target]
        match binding.transform:
            case Transform.ZERO:
                assert values.dtype == np.int64
                assert values == 0
                assert binding.source is None
            case Transform.ONES:
                assert values.dtype == dtype
                assert spelling.fix_gamma
                assert np.all(values == 1)
            case Transform.IDENTITY | Transform.LINEAR_TO_CONV:
                assert binding.source is not None
                assert values.dtype == dtype
                assert np.array_equal(values.ravel(), model.tensors[binding.source].numpy().ravel())


def test_nothing_is_copied_that_need_not_be() -> None:
    found, tensors = matched()
    state = assemble(found, tensors)
    for binding in found.bindings:
        if binding.source is not None:
            assert np.shares_memory(state[binding.target], tensors[binding.source].numpy())


def test_an_ignored_gamma_is_one_whatever_is_stored() -> None:
    found, tensors = matched(Spelling(fix_gamma=True))
    gammas = [binding for binding in found.bindings if binding.transform is Transform.ONES]
    assert {binding.target.split(".")[-1] for binding in gammas} == {"weight"}
    assert all(binding.source is not None for binding in gammas)
    assert len(gammas) == sum(key.endswith("running_var") for key in SMALL.state_shapes())
    source = str(gammas[0].source)
    spoiled = replaced(tensors, source, np.full(tensors[source].shape, np.nan, np.float32))
    assert np.all(assemble(found, spoiled)[gammas[0].target] == 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int16", "uint16", "bool"])
def test_what_fits_float32_becomes_float32(dtype: str) -> None:
    found, tensors = matched()
    name = str(found.bindings[0].source)
    values = (np.arange(tensors[name].size) % 2).astype(dtype).reshape(tensors[name].shape)
    state = assemble(found, replaced(tensors, name, values))
    assert state[found.bindings[0].target].dtype == np.float32
    assert np.array_equal(state[found.bindings[0].target], values)
    assert DType(dtype) in NARROW


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    found, tensors = matched()
    name = str(found.bindings[0].source)
    halves = np.full(tensors[name].shape, 0x3FC0, "<u2")  # 1.5
    ref = TensorRef(name, DType.BFLOAT16, halves.shape, "here", memoryview(halves.tobytes()))
    state = assemble(found, TensorStore({**tensors, name: ref}, tensors.file))
    assert np.all(state[found.bindings[0].target] == np.float32(1.5))


# Values that float32 cannot hold, in types that may hold them.
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float64", 0.1),
        ("float64", 1e300),
        ("float64", -1e300),
        ("float64", 1e-310),
        ("float64", 1 + 2.0**-30),
        ("int32", 2**24 + 1),
        ("int64", 2**53 - 1),
        ("int64", -(2**53) + 1),
        ("uint32", 2**32 - 1),
        ("uint64", 2**53 - 1),
    ],
)
def test_one_value_beyond_float32_makes_all_float64(dtype: str, value: float) -> None:
    found, tensors = matched()
    name = str(found.bindings[-1].source)
    values = np.zeros(tensors[name].shape, dtype)
    values.flat[0] = value
    spoiled = replaced(tensors, name, values)
    assert state_dtype(found, spoiled) is np.float64
    state = assemble(found, spoiled)
    assert {array.dtype.name for key, array in state.items() if not key.endswith("tracked")} == {"float64"}
    assert state[found.bindings[-1].target].flat[0] == float(value)


@pytest.mark.parametrize(("dtype", "value"), [("float64", 0.5), ("float64", -0.0), ("int64", 2**30), ("uint64", 2**63)])
def test_wide_types_whose_values_fit_become_float32(dtype: str, value: float) -> None:
    """A float64 file that was cast from float32 comes out as what it was."""
    found, tensors = matched()
    name = str(found.bindings[-1].source)
    spoiled = replaced(tensors, name, np.full(tensors[name].shape, value, dtype))
    assert state_dtype(found, spoiled) is np.float32
    values = assemble(found, spoiled)[found.bindings[-1].target]
    assert np.all(values == value)
    assert np.array_equal(np.signbit(values), np.signbit(np.full(values.shape, value, dtype)))


def test_a_tensor_that_is_not_bound_has_no_say() -> None:
    builder = GraphBuilder()
    logits = builder.network(SMALL)
    builder.tensors["unused"] = np.array([0.1])
    model = builder.model(logits)
    assert state_dtype(match(model), model.tensors) is np.float32
