"""The walk through a graph: what it finds, and what it refuses in stem and head, on graphs made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graph_builder import Spelling
from small_net import AVERAGE, NORMALISES, NOT_HERE, SIGMOID, Net, found, refused

from resnext_convert.converter.errors import NotResNeXtError
from resnext_convert.converter.graph import (
    Add,
    Flatten,
    Linear,
    Multiply,
    Pool,
    PoolKind,
    Reshape,
    Scalar,
    ScalarKind,
    Scale,
    Softmax,
    Unknown,
)
from resnext_convert.converter.normalize import restrict
from resnext_convert.converter.resnext.config import NormConfig
from resnext_convert.converter.resnext.structure import find_classifier, find_structure

# The classifier


def test_the_classifier_behind_softmaxes_and_beside_other_heads() -> None:
    net = Net()
    logits = net.fc("data")
    soft = net.op(Softmax(axis=1), net.op(Softmax(axis=None), logits))
    other = net.op(AVERAGE, "data")
    for heads in ((logits,), (soft,), (logits, soft), (other, soft), (soft, other, "data")):
        assert find_classifier(net.model(*heads).graph).outputs == (logits,)


def test_a_1x1_convolution_behind_a_pooling_is_a_classifier() -> None:
    net = Net()
    features = net.basic(net.stem())
    logits = net.c(net.op(AVERAGE, features), 1)
    soft = net.op(Softmax(axis=1), logits)
    for head in (logits, soft, net.op(Flatten(), soft), net.op(Softmax(axis=-1), net.op(Flatten(), logits))):
        assert find_classifier(net.model(head).graph).outputs == (logits,)
    parts = found(net, logits)
    assert (parts.logits, parts.classifier.outputs) == (logits, (logits,))
    assert parts.pool is not None
    for other in (net.c(features, 1), net.c(net.op(AVERAGE, features), 3), net.c(net.op(Flatten(), features), 1)):
        with pytest.raises(NotResNeXtError, match="no heads of the graph end in a fully connected layer"):
            find_classifier(net.model(other).graph)


def test_a_convolution_and_a_fully_connected_layer_are_two_classifiers() -> None:
    net = Net()
    pooled = net.op(AVERAGE, net.basic(net.stem()))
    with pytest.raises(NotResNeXtError, match="2 heads of the graph end in a fully connected layer"):
        find_classifier(net.model(net.c(pooled, 1), net.fc(pooled)).graph)


@pytest.mark.parametrize("classifiers", [0, 2, 3])
def test_no_classifier_or_several(classifiers: int) -> None:
    net = Net()
    pooled = net.op(AVERAGE, "data", op="Pooling")
    heads = [net.fc(pooled) for _ in range(classifiers)] or [pooled, "data"]
    with pytest.raises(NotResNeXtError) as error:
        find_classifier(net.model(*heads).graph)
    assert f"{classifiers or 'no'} heads of the graph end in a fully connected layer" in str(error.value)
    names = [f"n{head[1:]}" for head in heads] if classifiers else ["node 'n0' (Pooling)", "data"]
    assert error.value.found == ", ".join(names)
    assert "backbone" in str(error.value.hint)


def test_two_images() -> None:
    net = Net()
    total = net.op(Add(), net.c("data", 3, 3), net.c("other", 3, 3))
    logits = net.head(total)
    with pytest.raises(NotResNeXtError, match="does not depend on exactly one input") as error:
        find_structure(restrict(net.model(logits, inputs=("data", "other", "label")).graph, logits))
    assert error.value.found == "data, other"


def test_no_image() -> None:
    net = Net()
    logits = net.head(net.op(Unknown()))
    with pytest.raises(NotResNeXtError, match="does not depend on exactly one input") as error:
        found(net, logits)
    assert error.value.found == "none"


# What is found


def test_the_parts_of_a_network() -> None:
    net = Net()
    norm = net.norm(NormConfig(channels=3), "data")
    first = net.c(norm, 3, 3)
    stem = net.cbr(first)
    pool = net.op(Pool(kind=PoolKind.MAX, kernel=(3, 3)), stem)
    one = net.basic(pool)
    two = net.basic(one)
    projection = net.cb(two, 1)
    residual = net.cb(net.cbr(net.cbr(two, 1)), 1)
    three = net.ends(projection, residual)
    four = net.basic(three)
    average = net.op(AVERAGE, four)
    logits = net.fc(average)
    parts = found(net, logits)
    assert parts.data_norm is not None
    assert parts.data_norm.outputs == (norm,)
    assert [unit.output for unit in parts.stem] == [first, stem]
    assert parts.stem_pool is not None
    assert parts.stem_pool.outputs == (pool,)
    assert [[block.relu.outputs[0] for block in stage] for stage in parts.stages] == [[one, two], [three, four]]
    block = parts.stages[1][0]
    assert block.projection is not None
    assert (block.residual.end, block.projection.end) == (residual, projection)
    assert [len(block.residual.units) for stage in parts.stages for block in stage] == [2, 2, 3, 2]
    assert [block.projection is None for stage in parts.stages for block in stage] == [True, True, False, True]
    assert parts.pool is not None
    assert parts.pool.outputs == (average,)
    assert (parts.logits, parts.classifier.outputs) == (logits, (logits,))


def test_units_without_normalisation_or_relu() -> None:
    net = Net()
    stem = net.c("data", 3, 3)
    bare = net.c(net.r(net.c(stem)))
    logits = net.head(net.ends(bare, stem))
    parts = found(net, logits)
    assert [(unit.norm, unit.relu) for unit in parts.stem] == [(None, None)]
    first, last = parts.stages[0][0].residual.units
    assert (first.norm, first.relu is not None) == (None, True)
    assert (last.norm, last.relu) == (None, None)


def test_scales_in_place_of_normalisations() -> None:
    net = Net()
    net.spelling = Spelling(norms="scale", scale_axis=-3)
    data = net.norm(NormConfig(channels=3), "data")
    stem = net.cbr(net.c(data, 3, 3))
    parts = found(net, net.head(net.basic(stem)))
    assert parts.data_norm is not None
    assert isinstance(parts.data_norm.attrs, Scale)
    assert [unit.norm is None for unit in parts.stem] == [True, False]
    assert all(unit.norm for unit in parts.stages[0][0].residual.units)


def test_a_gate_of_rows() -> None:
    """The product of maps and (N, C) is a Scale by a second value."""
    net = Net()
    fork = net.stem()
    end = net.cb(net.cbr(fork))
    gate = net.gate(end, linear=True)
    rows = net.nodes.pop().inputs[0]
    product = net.op(Scale(axis=0, bias=False), end, rows)
    assert product == gate  # it took the place of the reshape
    excitation = found(net, net.head(net.ends(product, fork))).stages[0][0].residual.excitation
    assert excitation is not None
    assert excitation.multiply.outputs == (product,)


@pytest.mark.parametrize("linear", [False, True])
def test_squeeze_and_excitation(linear: bool) -> None:
    net = Net()
    fork = net.stem()
    end = net.cb(net.cbr(fork))
    product = net.op(Multiply(), net.gate(end, linear=linear), end)
    parts = found(net, net.head(net.ends(product, fork)))
    excitation = parts.stages[0][0].residual.excitation
    assert excitation is not None
    assert excitation.multiply.outputs == (product,)
    assert parts.stages[0][0].residual.end == product


def test_of_two_branches_with_one_convolution_the_shortcut_has_the_pooling_and_no_excitation() -> None:
    for pool_first in (True, False):
        net = Net()
        fork = net.stem()
        pooled = net.cb(net.op(Pool(kind=PoolKind.AVERAGE), fork)) if pool_first else ""
        plain = net.cb(fork)
        pooled = pooled or net.cb(net.op(Pool(kind=PoolKind.AVERAGE), fork))
        block = found(net, net.head(net.ends(plain, pooled))).stages[0][0]
        assert block.residual.end == plain
        assert block.projection is not None
        assert block.projection.end == pooled

    net = Net()
    fork = net.stem()
    projection, end = net.cb(fork, 1), net.cb(fork)
    gated = net.op(Multiply(), end, net.gate(end))
    block = found(net, net.head(net.ends(projection, gated))).stages[0][0]
    assert block.residual.end == gated


def test_a_shortcut_that_is_added_twice() -> None:
    net = Net()
    fork = net.stem()
    parts = found(net, net.head(net.ends(fork, net.cb(net.cbr(fork)), fork)))
    assert parts.stages[0][0].shortcuts == 2


# Stem and head


def test_no_stem() -> None:
    net = Net()
    pool = net.op(Pool(kind=PoolKind.MAX, kernel=(2, 2)), "data")
    error = refused(net, net.head(net.basic(pool)), pool, NOT_HERE, "the stem's convolution")
    assert error.found == "max Pool"

    net = Net()
    first = net.c("data", 3, 3)
    logits = net.head(net.ends(net.c(net.r(first)), "data"))
    refused(net, logits, first, NOT_HERE, "the stem's convolution")


def test_two_input_normalisations() -> None:
    net = Net()
    second = net.norm(NormConfig(channels=3), net.norm(NormConfig(channels=3), "data"))
    logits = net.head(net.basic(net.c(second, 3, 3)))
    refused(net, logits, second, NORMALISES, "the stem's convolution")


def test_no_blocks() -> None:
    net = Net()
    logits = net.fc(net.stem())
    error = refused(net, logits, logits, NOT_HERE, "the first residual block")
    assert error.found == "Linear"


def test_two_poolings_behind_the_stem() -> None:
    net = Net()
    second = net.op(AVERAGE, net.op(Pool(kind=PoolKind.MAX), net.stem()))
    error = refused(net, net.head(net.basic(second)), second, NOT_HERE, "the first residual block")
    assert error.found == "avg Pool"


Put = Callable[[Net, str], str]


@pytest.mark.parametrize(
    ("put", "problem", "found"),
    [
        (lambda net, value: net.r(value), NOT_HERE, "relu Activation"),
        (lambda net, value: net.c(value), NOT_HERE, "Conv"),
        (lambda net, value: net.b(value), NORMALISES, "BatchNorm"),
        (lambda net, value: net.op(Scalar(kind=ScalarKind.MULTIPLY, value=2.0), value), NOT_HERE, "Scalar"),
        (lambda net, value: net.op(Unknown(), value, op="LRN"), "the operator 'LRN' is part of no ResNeXt", "LRN"),
        (lambda net, value: net.op(Reshape(shape=(-1, 4)), value), NOT_HERE, "Reshape"),
    ],
)
def test_something_else_before_the_classifier(put: Put, problem: str, found: str) -> None:
    net = Net()
    odd = put(net, net.op(AVERAGE, net.basic(net.stem())))
    error = refused(net, net.fc(odd), odd, problem, "the final pooling or the classifier")
    assert error.found == found


def test_a_classifier_that_does_not_flatten() -> None:
    net = Net()
    pooled = net.op(AVERAGE, net.basic(net.stem()))
    logits = net.op(Linear(out_features=5, bias=False, axis=-1), pooled)
    refused(net, logits, logits, NOT_HERE, "the classifier")
    flat = net.op(Linear(out_features=5, bias=False, axis=-1), net.op(Flatten(), pooled))
    assert found(net, flat).logits == flat


@pytest.mark.parametrize(
    ("flatten", "axis", "right"),
    [
        (None, 1, True),
        (None, -3, True),
        (None, 2, False),
        (None, -2, False),
        (None, 0, False),
        (Flatten(), 1, True),
        (Flatten(), -1, True),
        (Flatten(), -3, False),
        (Flatten(axis=-3, end_axis=3), 1, True),
        (Flatten(axis=2), 1, False),
        (Flatten(axis=0), 1, False),
        (Flatten(end_axis=2), 1, False),
    ],
)
def test_which_axes_are_flattened(flatten: Flatten | None, axis: int, right: bool) -> None:
    net = Net()
    value = net.op(AVERAGE, net.basic(net.stem()))
    value = value if flatten is None else net.op(flatten, value)
    logits = net.op(Linear(out_features=5, bias=False, axis=axis), value)
    if right:
        assert found(net, logits).logits == logits
    else:
        with pytest.raises(NotResNeXtError, match=NOT_HERE):
            found(net, logits)


def test_a_1x1_convolution_behind_the_blocks_is_no_classifier() -> None:
    net = Net()
    conv = net.c(net.basic(net.stem()), 1)
    refused(net, conv, conv, NOT_HERE, "the next residual block, the final pooling or the classifier")


def test_two_fully_connected_layers() -> None:
    net = Net()
    hidden = net.head(net.basic(net.stem()))
    activation = net.r(hidden)
    logits = net.op(Linear(out_features=5, bias=False, axis=1), activation)
    refused(net, logits, activation, NOT_HERE, "the end of the network after the classifier")


def test_the_pooled_features_are_read_twice() -> None:
    net = Net()
    pooled = net.op(AVERAGE, net.basic(net.stem()))
    one, two = net.r(pooled), net.op(SIGMOID, pooled)
    logits = net.fc(net.op(Multiply(), one, two))
    refused(net, logits, one, f"the value {pooled!r} has 2 readers in a place where a ResNeXt has one", "one reader")
