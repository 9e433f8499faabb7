"""The values of the state dict: each binding's transform, one dtype for all, nothing copied that need not be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_builder import GraphBuilder, Spelling, source_model
from hypothesis import given, settings
from random_configs import Network, networks, spellings
from single_node import store

from resnext_convert.converter.resnext.config import BlockConfig, resnext
from resnext_convert.converter.resnext.ledger import Binding, Transform
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import NARROW, assemble, dtype_note, state_dtype
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
        stored = [model.tensors[source].float64() for source in binding.sources]
        match binding.transform:
            case Transform.ZERO:
                assert values.dtype == np.int64
                assert values == 0
                assert stored == []
                continue
            case Transform.ONES:
                assert spelling.fix_gamma
                expected = np.ones(values.shape)
            case Transform.NO_GAMMA | Transform.NO_VAR:
                assert stored == []
                expected = np.ones(values.shape)
            case Transform.NO_BETA | Transform.NO_MEAN:
                assert stored == []
                expected = np.zeros(values.shape)
            case Transform.SUM:
                expected = sum(stored[1:], stored[0])
            case Transform.TRANSPOSE | Transform.TRANSPOSE_TO_CONV:
                (matrix,) = stored
                expected = matrix.T
            case _:
                if binding.transform is Transform.FACTOR:
                    assert spelling.factor is not None
                    factor = float(np.array(spelling.factor, spelling.dtype))
                    stored = [array * (1 / factor) for array in stored]
                expected = stored[0] if binding.axis is None else np.concatenate(stored, binding.axis)
        assert np.array_equal(values.ravel(), expected.ravel())
        computed = binding.transform in {Transform.FACTOR, Transform.SUM}
        exact = np.array_equal(expected, expected.astype(dtype))
        assert values.dtype == (np.float64 if computed and not exact else dtype)


def test_nothing_is_copied_that_need_not_be() -> None:
    found, tensors = matched()
    state = assemble(found, tensors)
    for binding in found.bindings:
        for source in binding.sources:
            assert np.shares_memory(state[binding.target], tensors[source].numpy())


def test_an_ignored_gamma_is_one_whatever_is_stored() -> None:
    found, tensors = matched(Spelling(fix_gamma=True))
    gammas = [binding for binding in found.bindings if binding.transform is Transform.ONES]
    assert {binding.target.split(".")[-1] for binding in gammas} == {"weight"}
    assert len(gammas) == sum(key.endswith("running_var") for key in SMALL.state_shapes())
    (source,) = gammas[0].sources
    spoiled = replaced(tensors, source, np.full(tensors[source].shape, np.nan, np.float32))
    assert np.all(assemble(found, spoiled)[gammas[0].target] == 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int16", "uint16", "bool"])
def test_what_fits_float32_becomes_float32(dtype: str) -> None:
    found, tensors = matched()
    (name,) = found.bindings[0].sources
    values = (np.arange(tensors[name].size) % 2).astype(dtype).reshape(tensors[name].shape)
    state = assemble(found, replaced(tensors, name, values))
    assert state[found.bindings[0].target].dtype == np.float32
    assert np.array_equal(state[found.bindings[0].target], values)
    assert DType(dtype) in NARROW


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    found, tensors = matched()
    (name,) = found.bindings[0].sources
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
    (name,) = found.bindings[-1].sources
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
    (name,) = found.bindings[-1].sources
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


# What is computed


CAFFE = Spelling(norms="apart", factor=999.98)


def statistics(found: Match) -> list[Binding]:
    return [binding for binding in found.bindings if binding.transform is Transform.FACTOR]


def test_quotients_that_float32_cannot_hold_are_float64() -> None:
    found, tensors = matched(CAFFE)
    state = assemble(found, tensors)
    assert state_dtype(found, tensors) is np.float32
    wide = {key for key, values in state.items() if values.dtype == np.float64}
    assert wide == {binding.target for binding in statistics(found)}
    assert {key.rpartition(".")[2] for key in wide} == {"running_mean", "running_var"}
    assert dtype_note(state) == (
        f"float64 for what float32 cannot hold ({len(wide)} running statistics, divided by a moving-average factor);"
        " PyTorch rounds it as it loads it into float32"
    )


@pytest.mark.parametrize("factor", [1.0, 512.0, 2.0**-20])
def test_quotients_that_float32_holds_are_float32(factor: float) -> None:
    found, tensors = matched(replace(CAFFE, factor=factor))
    state = assemble(found, tensors)
    assert {values.dtype.name for values in state.values()} == {"float32", "int64"}
    assert dtype_note(state) == ""
    first = statistics(found)[0]
    (source,) = first.sources
    assert np.array_equal(state[first.target] * factor, tensors[source].numpy())


def test_float64_is_nothing_to_note_where_all_is_float64() -> None:
    found, tensors = matched(replace(CAFFE, dtype="float64"))
    assert dtype_note(assemble(found, tensors)) == ""


def test_a_factor_of_zero_makes_zeros() -> None:
    """Caffe, batch_norm_layer.cpp: statistics that were never trained count as 0, whatever is stored."""
    found, tensors = matched(CAFFE)
    mean, var = statistics(found)[:2]
    (factor,) = mean.factors
    state = assemble(found, replaced(tensors, factor, np.zeros(1, np.float32)))
    for binding in (mean, var):
        assert state[binding.target].dtype == np.float32
        assert not state[binding.target].any()
    others = {binding.target for binding in statistics(found)[2:]}
    assert all(state[key].any() for key in others)


def test_a_quotient_is_a_product_with_the_inverse() -> None:
    """As Caffe computes it: x * (1 / f) and x / f are not the same number."""
    found, tensors = matched(CAFFE)
    (source,), (factor,) = statistics(found)[0].sources, statistics(found)[0].factors
    values = np.arange(1, 1 + tensors[source].size, dtype=np.float32)
    state = assemble(found, replaced(replaced(tensors, source, values), factor, np.array([49.0], np.float32)))
    assert np.array_equal(state[statistics(found)[0].target], values.astype(np.float64) * (1 / 49))
    assert not np.array_equal(state[statistics(found)[0].target], values.astype(np.float64) / 49)


def in_figure_a(*biases: float) -> tuple[Match, TensorStore]:
    """A network whose first block is two branches that are summed, their last convolutions with these biases."""
    config = replace(SMALL, stages=((with_bias(SMALL.stages[0][0]),), *SMALL.stages[1:]))
    model = source_model(config, Spelling(figure="a"))
    found = match(model)
    (binding,) = (binding for binding in found.bindings if binding.transform is Transform.SUM)
    assert binding.target == "layer1.0.conv3.bias"
    tensors = model.tensors
    for source, bias in zip(binding.sources, biases, strict=True):
        tensors = replaced(tensors, source, np.full(256, bias, np.float32))
    return found, tensors


def with_bias(block: BlockConfig) -> BlockConfig:
    last = block.units[-1]
    return replace(block, units=(*block.units[:-1], replace(last, conv=replace(last.conv, bias=True))))


def test_a_sum_of_biases_that_float32_holds() -> None:
    values = assemble(*in_figure_a(0.5, 0.25))["layer1.0.conv3.bias"]
    assert values.dtype == np.float32
    assert np.all(values == 0.75)


def test_a_sum_of_biases_that_float32_cannot_hold() -> None:
    state = assemble(*in_figure_a(1.0, 2.0**-30))
    assert state["layer1.0.conv3.bias"].dtype == np.float64
    assert np.all(state["layer1.0.conv3.bias"] == 1 + 2.0**-30)
    assert state["layer1.0.conv3.weight"].dtype == np.float32
    assert "(1 bias, summed over branches)" in dtype_note(state)
