"""What is wired as a ResNeXt and is none: shapes that do not fit, poolings that PyTorch lacks, shared tensors."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from graph_builder import SYMBOL, TINY, GraphBuilder, Spelling, source_model, with_attrs
from single_node import ramp, store

from resnext_convert.converter.errors import ConvertError, LedgerError, NotResNeXtError, ShapeError
from resnext_convert.converter.graph import Concat, Conv, Linear, Node, Pool, PoolKind, Role, SourceModel
from resnext_convert.converter.resnext.config import (
    BlockConfig,
    Pair,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
)
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.tensors import TensorStore


def refused(model: SourceModel, kind: type[ConvertError], says: str) -> ConvertError:
    with pytest.raises(kind, match=re.escape(says)) as error:
        match(model)
    assert error.value.file == str(SYMBOL)
    return error.value


def node_of(model: SourceModel, target: str) -> tuple[Node, str]:
    """The node and the tensor that fill a key."""
    (source,) = next(binding.sources for binding in match(model).bindings if binding.target == target)
    return next(node for node in model.graph.nodes if source in node.params.values()), source


def reshaped(model: SourceModel, target: str, *shape: int) -> tuple[SourceModel, Node, str]:
    """The source with a tensor of another shape behind a key."""
    node, source = node_of(model, target)
    tensors = TensorStore({**model.tensors, **store({source: ramp(*shape)})}, model.tensors.file)
    return replace(model, tensors=tensors), node, source


def with_block(**changes: object) -> ResNeXtConfig:
    """TINY with something else in the second block of the second stage, whose shortcut is the identity."""
    block = replace(TINY.stages[1][1], **changes)  # type: ignore[arg-type]
    return replace(TINY, stages=(TINY.stages[0], (TINY.stages[1][0], block)))


# Shapes


@pytest.mark.parametrize(
    ("target", "shape", "role"),
    [
        ("bn1.running_mean", (63,), "running_mean"),
        ("bn1.running_var", (64, 1), "running_var"),
        ("bn1.weight", (65,), "gamma"),
        ("bn1.bias", (1,), "beta"),
        ("layer1.0.conv1.weight", (8, 63, 1, 1), "weight"),
        ("layer1.0.conv2.weight", (8, 8, 3, 3), "weight"),
        ("layer1.0.conv2.weight", (8, 4, 3, 1), "weight"),
        ("layer2.0.downsample.0.weight", (512, 256), "weight"),
        ("fc.bias", (6,), "bias"),
    ],
)
def test_a_tensor_of_another_shape(target: str, shape: tuple[int, ...], role: str) -> None:
    model, node, source = reshaped(source_model(TINY), target, *shape)
    error = refused(model, ShapeError, f"the {role} {source!r} does not fit its place")
    assert error.place == str(node)
    assert error.expected == str(TINY.state_shapes()[target])
    assert error.found == str(shape)
    assert error.exit_code == 3


@pytest.mark.parametrize(("shape", "rows"), [((5, 500), 5), ((6, 512), 5), ((5, 1024), 5), ((5, 512), 4)])
def test_a_classifier_of_another_shape(shape: Pair, rows: int) -> None:
    model, node, _ = reshaped(source_model(TINY), "fc.weight", *shape)
    model = with_attrs(model, Linear, out_features=rows)
    error = refused(model, ShapeError, "the classifier does not fit the features")
    assert error.place == str(node)
    assert (error.expected, error.found) == (f"({rows}, 512)", str(shape))


def test_a_classifier_behind_a_map_of_several_cells() -> None:
    """Without a global pooling the features are a multiple of the channels."""
    head = replace(TINY.head, pool=None, in_features=512 * 4)
    assert match(source_model(replace(TINY, head=head))).config.head == head


def test_groups_that_do_not_divide() -> None:
    model = source_model(TINY)
    error = refused(with_attrs(model, Conv, 2, groups=3), ShapeError, "the groups do not divide the channels")
    assert error.place == str(node_of(model, "layer1.0.conv2.weight")[0])
    assert (error.expected, error.found) == ("multiples of 3", "8 to 8 channels")


def test_an_identity_shortcut_of_other_channels() -> None:
    units = TINY.stages[1][1].units
    last = replace(units[2], conv=replace(units[2].conv, out_channels=256), norm=None)
    error = refused(
        source_model(with_block(units=(*units[:2], last))),
        ShapeError,
        "the two sides of the addition differ in their channels",
    )
    assert (error.expected, error.found) == ("256 channels, as the residual has", "512 in the shortcut")


def test_a_projection_to_other_channels() -> None:
    block = TINY.stages[1][0]
    assert block.downsample is not None
    unit = block.downsample.unit
    other = replace(block.downsample, unit=replace(unit, conv=replace(unit.conv, out_channels=128), norm=None))
    config = replace(TINY, stages=(TINY.stages[0], (replace(block, downsample=other), TINY.stages[1][1])))
    error = refused(source_model(config), ShapeError, "the two sides of the addition differ in their channels")
    assert error.found == "128 in the shortcut"


@pytest.mark.parametrize("linear", [False, True])
def test_a_gate_of_other_channels(linear: bool) -> None:
    gated = with_block(squeeze_excitation=SqueezeExcitationConfig(channels=512, reduced=4))
    model = source_model(gated, Spelling(linear_gates=linear))
    node, _ = node_of(model, "layer2.1.se.fc2.weight")
    last = with_attrs(model, Linear, 1, out_features=511) if linear else with_attrs(model, Conv, 13, out_channels=511)
    error = refused(last, ShapeError, "the gate does not fit the residual")
    assert error.place == str(node)
    assert (error.expected, error.found) == ("512", "511")
    model, node, source = reshaped(model, "layer2.1.se.fc1.weight", 4, 511)
    refused(model, ShapeError, f"the weight {source!r} does not fit its place")


# Poolings


def with_stem_pool(**changes: object) -> SourceModel:
    assert TINY.stem_pool is not None
    return source_model(replace(TINY, stem_pool=replace(TINY.stem_pool, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [
        ((3, 3), (2, 2), (2, 2), False),
        ((3, 3), (2, 2), (1, 2), False),
        ((1, 1), (1, 1), (1, 0), False),
        ((3, 3), (3, 3), (1, 1), True),
        ((2, 2), (2, 3), (0, 0), True),
        ((2, 2), (2, 2), (1, 0), True),
    ],
)
def test_a_pooling_that_torch_lacks(kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> None:
    model = with_stem_pool(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil)
    error = refused(model, NotResNeXtError, "PyTorch has no pooling with this geometry")
    assert error.found == f"kernel {kernel}, stride {stride}, padding {padding}"
    pool = next(node for node in model.graph.nodes if isinstance(node.attrs, Pool))
    assert error.place == str(pool)
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil"),
    [
        ((3, 3), (2, 2), (1, 1), True),
        ((3, 2), (2, 2), (1, 0), True),
        ((2, 2), (5, 5), (1, 1), False),
        ((4, 5), (2, 3), (2, 2), True),
    ],
)
def test_a_pooling_that_torch_has(kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> None:
    config = match(with_stem_pool(kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil)).config
    assert config.stem_pool == PoolConfig(
        kind="max", kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil, count_include_pad=True
    )


def test_the_geometry_of_a_global_pooling_says_nothing() -> None:
    """MXNet's scripts give kernel (7, 7) with it, Gluon (1, 1) and 'full'."""
    model = source_model(TINY)
    odd = with_attrs(model, Pool, 1, kernel=(7, 7), stride=(9, 9), padding=(6, 6), ceil=True, count_include_pad=False)
    assert match(odd).config == TINY


@pytest.mark.parametrize("place", [0, 1])
def test_a_sum_pooling(place: int) -> None:
    model = with_attrs(source_model(TINY), Pool, place, kind=PoolKind.SUM)
    error = refused(model, NotResNeXtError, "no ResNeXt sums in its pooling")
    assert error.place == str([node for node in model.graph.nodes if isinstance(node.attrs, Pool)][place])


# Tensors


@pytest.mark.parametrize(
    ("first", "second", "role"),
    [
        ("layer2.1.conv2.weight", "layer2.0.conv2.weight", Role.WEIGHT),
        ("layer2.1.bn2.running_var", "layer2.0.bn2.running_var", Role.VAR),
        ("bn1.bias", "bn1.running_mean", Role.MEAN),
    ],
)
def test_two_layers_share_a_tensor(first: str, second: str, role: Role) -> None:
    model = source_model(TINY)
    _, shared = node_of(model, first)
    node, _ = node_of(model, second)
    nodes = tuple(replace(n, params={**n.params, role: shared}) if n is node else n for n in model.graph.nodes)
    error = refused(replace(model, graph=replace(model.graph, nodes=nodes)), LedgerError, f"{shared!r} is used twice")
    assert sorted(str(error.found).split(" and ")) == sorted((first, second))
    assert error.exit_code == 4


def test_another_family_is_refused_with_its_file() -> None:
    builder = GraphBuilder()
    logits = builder.network(TINY)
    classifier = builder.nodes[-1]
    joined = builder.op(Concat(axis=1), classifier.inputs[0], classifier.inputs[0])
    builder.nodes = [*builder.nodes[:-2], builder.nodes[-1], replace(classifier, inputs=(joined,))]
    error = refused(builder.model(logits), NotResNeXtError, "joins branches by concatenation")
    assert str(error).startswith(f"{SYMBOL}: node ")


def test_an_empty_block_is_no_block() -> None:
    refused(source_model(with_block(units=())), NotResNeXtError, "no ResNeXt has this operator here")
    assert BlockConfig(units=()).shortcuts == 1
