"""What a source may say in other words than MXNet's: each maps exactly, the bindings say how, the numbers agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_builder import GraphBuilder, Spelling, as_spelled, source_model, with_attrs
from matching import agreed, bound, place_of, refused, replaced
from single_node import ramp, store

from resnext_convert.converter.errors import NotResNeXtError, ShapeError
from resnext_convert.converter.graph import (
    Add,
    BatchNorm,
    Conv,
    Flatten,
    Linear,
    Node,
    Pool,
    Role,
    Scale,
    Softmax,
    SourceModel,
)
from resnext_convert.converter.resnext.config import (
    NormConfig,
    PoolConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.ledger import Transform
from resnext_convert.converter.resnext.match import Head, as_rows, match
from resnext_convert.converter.tensors import TensorStore

SMALL = replace(
    resnext((1, 1), cardinality=4, base_width=2, classes=5, eps=2e-5), data_norm=NormConfig(channels=3, eps=2e-5)
)


# Normalisations

KEYS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize(
    ("spelling", "transforms"),
    [
        (Spelling(norms="apart"), ["IDENTITY", "IDENTITY", "IDENTITY", "IDENTITY"]),
        (Spelling(norms="apart", factor=999.98), ["IDENTITY", "IDENTITY", "FACTOR", "FACTOR"]),
        (Spelling(norms="apart", scale_bias=False, scale_axis=-3), ["IDENTITY", "NO_BETA", "IDENTITY", "IDENTITY"]),
        (Spelling(norms="unscaled", factor=2.0), ["NO_GAMMA", "NO_BETA", "FACTOR", "FACTOR"]),
        (Spelling(norms="scale"), ["IDENTITY", "IDENTITY", "NO_MEAN", "NO_VAR"]),
        (Spelling(norms="scale", scale_bias=False), ["IDENTITY", "NO_BETA", "NO_MEAN", "NO_VAR"]),
        (Spelling(factor=999.98, fix_gamma=True), ["ONES", "IDENTITY", "FACTOR", "FACTOR"]),
    ],
)
def test_the_forms_of_a_normalisation(spelling: Spelling, transforms: list[str]) -> None:
    model = source_model(SMALL, spelling)
    found = agreed(model)
    assert found.config == as_spelled(SMALL, spelling)
    for norm in ("bn_data", "bn1", "layer1.0.bn2", "layer2.0.downsample.1"):
        assert [bound(found, f"{norm}.{key}").transform.name for key in KEYS] == transforms
    statistics = [binding for binding in found.bindings if binding.transform is Transform.FACTOR]
    assert all(len(binding.factors) == 1 for binding in statistics)
    assert not any(binding.factors for binding in found.bindings if binding not in statistics)


def test_a_scale_alone_is_a_normalisation_without_eps() -> None:
    config = agreed(source_model(SMALL, Spelling(norms="scale"))).config
    assert config.data_norm == NormConfig(channels=3, eps=0.0)
    assert config.stem[0].norm == NormConfig(channels=64, eps=0.0)


def test_a_bias_before_a_normalisation_is_kept() -> None:
    def biased(unit: UnitConfig) -> UnitConfig:
        return replace(unit, conv=replace(unit.conv, bias=True))

    block = SMALL.stages[1][0]
    assert block.downsample is not None
    other = replace(
        block,
        units=tuple(map(biased, block.units)),
        downsample=replace(block.downsample, unit=biased(block.downsample.unit)),
    )
    config = replace(SMALL, stem=(biased(SMALL.stem[0]),), stages=(SMALL.stages[0], (other,)))
    found = agreed(source_model(config, Spelling(norms="apart", factor=999.98)))
    assert found.config == config
    assert bound(found, "layer2.0.conv2.bias").transform is Transform.IDENTITY


def test_a_factor_of_zero() -> None:
    """Mean and variance count as 0, so that the values grow by 1/sqrt(eps) in each layer."""
    model = source_model(replace(SMALL, stem=(replace(SMALL.stem[0], norm=NormConfig(channels=64, eps=0.5)),)))
    model = source_model(model_config := match(model).config, Spelling(norms="apart", factor=3.0))
    place = place_of(model, BatchNorm, 1)
    factor = model.graph.nodes[place].params[Role.FACTOR]
    zero = TensorStore({**model.tensors, **store({factor: np.zeros(1, np.float32)})}, model.tensors.file)
    assert agreed(replace(model, tensors=zero)).config == model_config


@pytest.mark.parametrize("spelling", [Spelling(), Spelling(norms="apart"), Spelling(norms="unscaled")])
def test_statistics_of_the_batch_are_refused(spelling: Spelling) -> None:
    model = with_attrs(source_model(SMALL, spelling), BatchNorm, 2, batch_statistics=True)
    error = refused(model, NotResNeXtError, "the source normalises with the statistics of the current batch")
    assert error.place == str(model.graph.nodes[place_of(model, BatchNorm, 2)])
    assert error.exit_code == 4


def test_a_factor_of_another_shape() -> None:
    model = source_model(SMALL, Spelling(norms="apart", factor=2.0))
    factor = model.graph.nodes[place_of(model, BatchNorm)].params[Role.FACTOR]
    two = TensorStore({**model.tensors, **store({factor: np.ones(2, np.float32)})}, model.tensors.file)
    error = refused(replace(model, tensors=two), ShapeError, f"the moving_average_factor '{factor}' does not fit")
    assert (error.expected, error.found) == ("(1,)", "(2,)")


def test_a_scale_that_is_none_of_channels_is_refused() -> None:
    model = with_attrs(source_model(SMALL, Spelling(norms="apart")), Scale, 1, axis=2)
    error = refused(model, NotResNeXtError, "no ResNeXt has this operator here")
    assert error.found == "Scale"


# The head


def ending(*kinds: Softmax | Flatten, conv: bool = True, pool: PoolConfig | None = None) -> tuple[SourceModel, str]:
    """A network whose only head is behind these operators, and its logits."""
    config = SMALL if pool is None else replace(SMALL, head=replace(SMALL.head, pool=pool))
    builder = GraphBuilder(Spelling(conv_head=conv))
    value = logits = builder.network(config)
    for attrs in kinds:
        value = builder.op(attrs, value)
    return builder.model(value), logits


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize(
    ("kinds", "softmax"),
    [
        ([], False),
        ([Flatten()], False),
        ([Softmax(axis=1)], True),
        ([Softmax(axis=None)], True),
        ([Softmax(axis=1), Flatten()], True),
        ([Flatten(), Softmax(axis=1)], True),
        ([Flatten(), Softmax(axis=-1), Flatten()], True),
    ],
)
def test_heads_behind_softmax_and_flatten(kinds: list[Softmax | Flatten], softmax: bool, conv: bool) -> None:
    model, logits = ending(*kinds, conv=conv)
    found = agreed(model)
    assert found.logits == logits
    assert found.heads == (Head(value=model.graph.outputs[0], softmax=softmax),)
    wanted = Transform.CONV_TO_LINEAR if conv else Transform.IDENTITY
    assert bound(found, "fc.weight").transform is wanted
    assert found.config == SMALL


@pytest.mark.parametrize(
    "kinds",
    [
        [Softmax(axis=0)],
        [Softmax(axis=-1)],
        [Softmax(axis=2)],
        [Softmax(axis=1), Softmax(axis=1)],
        [Flatten(axis=0)],
        [Flatten(axis=1, end_axis=2), Softmax(axis=-1)],
        [Flatten(axis=2, end_axis=1)],
        [Flatten(), Flatten(axis=1, end_axis=2)],
    ],
)
def test_heads_that_are_something_else(kinds: list[Softmax | Flatten]) -> None:
    model, logits = ending(*kinds)
    found = match(model)
    assert (found.logits, found.heads, found.other_heads) == (logits, (), model.graph.outputs)


def test_a_softmax_of_rows_along_their_last_axis() -> None:
    model, _ = ending(Softmax(axis=-1), conv=False)
    assert [head.softmax for head in match(model).heads] == [True]
    model, _ = ending(Softmax(axis=-3))
    assert [head.softmax for head in match(model).heads] == [True]


def test_rows() -> None:
    maps = ramp(2, 3, 1, 1)
    assert np.array_equal(as_rows(maps), maps[:, :, 0, 0])
    for other in (ramp(2, 3), ramp(2, 3, 1, 2), ramp(2, 1)):
        assert as_rows(other) is other or np.array_equal(as_rows(other), other)
        assert as_rows(other).shape == other.shape
    assert as_rows(ramp(2, 3, 1)).shape == (2, 3)


def test_a_convolution_as_classifier_behind_a_fixed_pooling() -> None:
    """Its size says for which images the network was made; the module keeps it as its own."""
    pool = PoolConfig(kind="avg", kernel=(5, 5), stride=(1, 1))
    found = agreed(ending(Softmax(axis=1), pool=pool)[0], 35)
    assert found.config.head.pool == pool
    assert found.config.head.in_features == 512


@pytest.mark.parametrize(
    "changes", [{"kernel": (3, 3), "padding": (1, 1)}, {"stride": (2, 2)}, {"padding": (1, 1)}, {"groups": 5}]
)
def test_another_convolution_is_no_classifier(changes: dict[str, object]) -> None:
    model, _ = ending(Softmax(axis=1))
    last = max(place for place, node in enumerate(model.graph.nodes) if isinstance(node.attrs, Conv))
    attrs = replace(model.graph.nodes[last].attrs, **changes)  # type: ignore[arg-type]
    refused(replaced(model, last, attrs=attrs), NotResNeXtError, "no heads of the graph end in a fully connected layer")


def test_a_convolution_without_a_pooling_is_no_classifier() -> None:
    model, logits = ending()
    nodes = [node for node in model.graph.nodes if not (isinstance(node.attrs, Pool) and node.attrs.global_pool)]
    nodes[-1] = replace(nodes[-1], inputs=nodes[-2].outputs)
    graph = replace(model.graph, nodes=tuple(nodes))
    assert nodes[-1].outputs == (logits,)
    refused(replace(model, graph=graph), NotResNeXtError, "no heads of the graph end in a fully connected layer")


def test_a_convolution_behind_a_flatten_is_no_classifier() -> None:
    model, _ = ending()
    (*before, conv) = model.graph.nodes
    flat = Node(name="flat", op="Flatten", attrs=Flatten(), inputs=conv.inputs, outputs=("flat",))
    graph = replace(model.graph, nodes=(*before, flat, replace(conv, inputs=("flat",))))
    refused(replace(model, graph=graph), NotResNeXtError, "no heads of the graph end in a fully connected layer")


@pytest.mark.parametrize(("rows", "channels"), [(4, 512), (5, 256)])
def test_a_convolution_of_another_shape(rows: int, channels: int) -> None:
    model, _ = ending()
    weight = model.graph.nodes[-1].params[Role.WEIGHT]
    tensors = TensorStore({**model.tensors, **store({weight: ramp(rows, channels, 1, 1)})}, model.tensors.file)
    error = refused(replace(model, tensors=tensors), ShapeError, "the classifier does not fit the features")
    assert (error.expected, error.found) == ("(5, 512)", str((rows, channels)))


@pytest.mark.parametrize("spelling", [Spelling(transposed=True), Spelling(transposed=True, flatten_nodes=True)])
def test_transposed_weights(spelling: Spelling) -> None:
    found = agreed(source_model(SMALL, spelling))
    assert found.config == SMALL
    assert bound(found, "fc.weight").transform is Transform.TRANSPOSE


def test_transposed_weights_that_are_not() -> None:
    model = source_model(SMALL, Spelling(transposed=True))
    error = refused(with_attrs(model, Linear, transpose=False), ShapeError, "the classifier does not fit the features")
    assert error.found == "(512, 5)"


# Poolings


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3), (2, 2), (1, 1)),
        ((2, 2), (2, 2), (1, 1)),
        ((3, 3), (3, 3), (1, 1)),
        ((2, 2), (3, 3), (1, 1)),
        ((2, 2), (3, 3), (1, 0)),
        ((3, 2), (2, 2), (0, 0)),
        ((3, 3), (3, 2), (0, 0)),
    ],
)
def test_clipped_poolings_are_torch_s(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], kind: str
) -> None:
    """At sizes of every rest: where the last window is clipped, and where it is not."""
    pool = PoolConfig(kind=kind, kernel=kernel, stride=stride, padding=padding, ceil_mode=True)  # type: ignore[arg-type]
    config = replace(SMALL, stem_pool=pool)
    model = with_attrs(source_model(config), Pool, clip=True)
    for size in range(33, 51, 2):
        assert agreed(model, size).config == config


@pytest.mark.parametrize("ceil", [True, False])
def test_a_clipped_pooling_that_torch_clips_too_much(ceil: bool) -> None:
    """Without padding Caffe keeps a window that lies beside the map, and torch drops it. Rounded down there is none."""
    pool = PoolConfig(kind="max", kernel=(2, 2), stride=(3, 3), ceil_mode=ceil)
    model = with_attrs(source_model(replace(SMALL, stem_pool=pool)), Pool, clip=True)
    if ceil:
        refused(model, NotResNeXtError, "PyTorch has no pooling with this geometry")
    else:
        assert agreed(model).config.stem_pool == pool


def test_a_pooling_that_is_not_clipped_is_still_refused() -> None:
    pool = PoolConfig(kind="max", kernel=(2, 2), stride=(2, 2), padding=(1, 1), ceil_mode=True)
    refused(source_model(replace(SMALL, stem_pool=pool)), NotResNeXtError, "PyTorch has no pooling with this geometry")


def test_a_fixed_final_pooling_is_kept() -> None:
    pool = PoolConfig(kind="avg", kernel=(5, 5), stride=(1, 1))
    found = agreed(source_model(replace(SMALL, head=replace(SMALL.head, pool=pool))), 35)
    assert found.config.head.pool == pool


# Sums


def test_weighted_sums_are_refused() -> None:
    model = source_model(SMALL)
    assert match(with_attrs(model, Add, coefficients=(1.0, 1.0))).config == SMALL
    weighted = with_attrs(model, Add, coefficients=(1.0, 0.5))
    error = refused(weighted, NotResNeXtError, "no ResNeXt has this operator here")
    assert error.place == str(weighted.graph.nodes[place_of(weighted, Add)])
