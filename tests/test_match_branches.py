"""Figure 3 of the paper in whole networks: its four forms are one network, and what only looks like one is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from graph_builder import RELU, GraphBuilder, Spelling, as_spelled, source_model, with_attrs
from matching import agreed, bound, place_of, refused, replaced

from resnext_convert.converter.errors import LedgerError, NotResNeXtError
from resnext_convert.converter.graph import Add, BatchNorm, Concat, Conv, Pool, PoolKind, Role, Split
from resnext_convert.converter.resnext.config import BlockConfig, ConvConfig, ResNeXtConfig, resnext
from resnext_convert.converter.resnext.ledger import Binding, Transform
from resnext_convert.converter.resnext.match import match

SMALL = resnext((1, 1), cardinality=4, base_width=2, classes=5, eps=2e-5)


@pytest.mark.parametrize("shortcut_first", [False, True])
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("figure", ["a", "b", "d"])
@pytest.mark.parametrize("norms", ["whole", "apart", "scale"])
def test_the_forms_of_a_block(figure: str, norms: str, tree: bool, shortcut_first: bool) -> None:
    spelling = Spelling(figure=figure, norms=norms, tree=tree, shortcut_first=shortcut_first, factor=999.98)  # type: ignore[arg-type]
    found = agreed(source_model(SMALL, spelling))
    assert found.config == as_spelled(SMALL, spelling)
    assert found.config.summary == "ResNeXt-8 (4x2d)"
    names = [name for name, _ in found.activations]
    assert ("layer1.0.conv1" in names) == (figure == "d")
    assert "layer1.0.bn2" not in names
    assert {"layer1.0.conv3", "layer1.0.bn3", "layer1.0.downsample.0", "layer1.0"} <= set(names)


def without_last_norm(config: ResNeXtConfig) -> ResNeXtConfig:
    def changed(block: BlockConfig) -> BlockConfig:
        return replace(block, units=(*block.units[:-1], replace(block.units[-1], norm=None)))

    return replace(config, stages=tuple(tuple(map(changed, stage)) for stage in config.stages))


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("depths", [(1, 1), (2, 2)])
def test_branches_and_shortcut_in_one_sum(depths: tuple[int, ...], tree: bool) -> None:
    """The paper's own picture: the sum of all branches and of the input."""
    config = without_last_norm(resnext(depths, cardinality=4, base_width=2, classes=5))
    model = source_model(config, Spelling(figure="a", tree=tree))
    sums = [node for node in model.graph.nodes if isinstance(node.attrs, Add)]
    found = agreed(model)
    assert found.config == config
    assert len(sums) >= sum(depths)
    assert "layer1.0.conv3" not in [name for name, _ in found.activations]


def test_the_stored_tensors_of_branches() -> None:
    model = source_model(SMALL, Spelling(figure="a", norms="apart", factor=999.98))
    found = match(model)
    convs = [node for node in model.graph.nodes if isinstance(node.attrs, Conv)][1:]
    weights = [node.params[Role.WEIGHT] for node in convs]
    for key, sources, axis in (("conv1", weights[:8:2], 0), ("conv2", weights[1:8:2], 0), ("conv3", weights[8:12], 1)):
        target = f"layer1.0.{key}.weight"
        wanted = Binding(target=target, sources=tuple(sources), transform=Transform.IDENTITY, axis=axis)
        assert bound(found, wanted.target) == wanted
    mean = bound(found, "layer1.0.bn2.running_mean")
    assert (len(mean.sources), len(mean.factors), mean.axis, mean.transform) == (4, 4, 0, Transform.FACTOR)
    assert mean.how.endswith("; the 4 branches stacked along axis 0")
    assert bound(found, "layer1.0.bn2.weight").sources != mean.sources


def test_a_projection_like_the_first_convolution() -> None:
    """A plain ResNet: both read the block's input with the same attributes, and are no branches of one another."""
    config = resnext((1,), cardinality=1, base_width=256, classes=5)
    block = config.stages[0][0]
    assert block.downsample is not None
    assert block.downsample.unit.conv == block.units[0].conv
    model = source_model(config, Spelling(norms="apart"))
    found = agreed(model)
    assert found.config == config
    assert all(len(binding.sources) < 2 for binding in found.bindings)


def test_a_residual_of_one_convolution_like_its_projection() -> None:
    """Which is which, nobody can say, but that they are two is clear."""
    builder = GraphBuilder()
    stem = builder.unit(SMALL.stem[0], "data")
    conv = ConvConfig(in_channels=64, out_channels=64, kernel=(1, 1))
    end = builder.op(RELU, builder.sum(builder.conv(conv, stem), builder.conv(conv, stem)))
    pooled = builder.op(Pool(kind=PoolKind.AVERAGE, global_pool=True), end)
    block = agreed(builder.model(builder.linear(pooled, 64, 5, bias=True))).config.stages[0][0]
    assert [unit.conv for unit in block.units] == [conv]
    assert block.downsample is not None
    assert block.downsample.unit.conv == conv


def test_a_tensor_of_two_branches() -> None:
    model = source_model(SMALL, Spelling(figure="b"))
    first, second = place_of(model, Conv, 1), place_of(model, Conv, 3)
    shared = model.graph.nodes[first].params
    refused(replaced(model, second, params=shared), LedgerError, "is used twice")


@pytest.mark.parametrize(
    ("figure", "kind", "problem"),
    [
        ("a", Add, "no ResNeXt has this operator here"),
        ("b", Concat, "no ResNeXt has this operator here"),
        ("d", Split, "no ResNeXt has this operator here"),
    ],
)
def test_branches_that_are_not_alike(figure: str, kind: type, problem: str) -> None:
    """One of four has another eps: they stay branches, and no ResNeXt has such."""
    model = source_model(SMALL, Spelling(figure=figure))  # type: ignore[arg-type]
    other = with_attrs(model, BatchNorm, 3, eps=3e-5)
    assert any(isinstance(node.attrs, kind) for node in other.graph.nodes)
    refused(other, NotResNeXtError, problem)


def test_a_dense_block_is_refused_as_before() -> None:
    builder = GraphBuilder()
    value = builder.unit(SMALL.stem[0], "data")
    value = builder.pool(SMALL.stem_pool, value)
    grown = builder.conv(ConvConfig(in_channels=64, out_channels=8, kernel=(3, 3), padding=(1, 1)), value)
    joined = builder.op(Concat(axis=1), value, grown)
    pooled = builder.op(Pool(kind=PoolKind.AVERAGE, global_pool=True), joined)
    model = builder.model(builder.linear(pooled, 72, 5, bias=True))
    error = refused(model, NotResNeXtError, "joins branches by concatenation, as DenseNet does: another family")
    assert error.place == str(model.graph.nodes[place_of(model, Concat)])
