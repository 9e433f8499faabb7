"""The match: from a configuration to a graph and back, with the numbers of both sides; and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graph_builder import (
    PARAMS,
    TINY,
    GraphBuilder,
    Spelling,
    as_spelled,
    in_branches,
    source_model,
    with_attrs,
)
from hypothesis import given, settings
from matching import ROUNDING, both_sides
from random_configs import Network, networks, spellings
from single_node import ramp

from resnext_convert.converter.compare import compare
from resnext_convert.converter.graph import BatchNorm, Node, Pool, Softmax
from resnext_convert.converter.resnext.config import ConvConfig, resnext
from resnext_convert.converter.resnext.ledger import Transform, used
from resnext_convert.converter.resnext.match import UNUSED, Head, match
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.tensors import TensorStore


@settings(max_examples=150)
@given(networks(), spellings)
def test_any_member_of_the_family(network: Network, spelling: Spelling) -> None:
    """Whatever the configuration and its spelling: it is found again, its books balance, and the numbers agree."""
    model = source_model(network.config, spelling)
    found = match(model)
    assert found.config == as_spelled(network.config, spelling)
    assert [binding.target for binding in found.bindings] == list(network.config.state_shapes())
    assert used(found.bindings) == len(model.tensors)
    assert found.ignored == ()
    assert (len(found.heads), found.other_heads) == (1, ())
    image = ramp(2, network.config.in_channels, *network.size)
    diffs = [compare(name, *pair) for name, pair in both_sides(found, model, image).items()]
    assert [str(diff) for diff in diffs if not diff.within(ROUNDING)] == []


@settings(max_examples=30)
@given(networks(), spellings)
def test_the_activations_are_all_layers_in_the_order_of_execution(network: Network, spelling: Spelling) -> None:
    """Each is a submodule, and both graphs compute them in this order: so the first that differs is the first wrong."""
    model = source_model(network.config, spelling)
    found = match(model)
    module = ResNeXt(network.config)
    names = [name for name, _ in found.activations]
    layers = {
        name for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.Linear) and ".se." not in name
    }  # fmt: skip
    inside = {
        f"{name}.{layer}{place}"
        for name, block in zip(found.blocks, network.config.blocks(), strict=True)
        for layer in ("conv", "bn")
        for place in range(1, len(block.units) + 1)
        if in_branches(block, spelling)
    }
    assert layers - inside <= set(names)
    assert len(set(names)) == len(names)
    seen: list[str] = []
    for name in names:
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    module.eval()(torch.zeros(1, network.config.in_channels, *network.size))
    # Where the shortcut comes first in the graph, only the order within the branches is the module's.
    assert sorted(seen) == sorted(names)
    assert [name for name in seen if "downsample" not in name] == [name for name in names if "downsample" not in name]
    assert found.blocks == tuple(
        f"layer{stage}.{block}" for stage, depth in enumerate(network.config.depths, 1) for block in range(depth)
    )


def test_the_published_network() -> None:
    config = resnext((3, 4, 6, 3), cardinality=32, base_width=4, eps=2e-5)
    found = match(source_model(config, Spelling(softmax=True)))
    assert found.config == config
    assert found.config.summary == "ResNeXt-50 (32x4d)"


def test_names_say_nothing() -> None:
    """The same graph with every name exchanged for one that lies."""
    model = source_model(TINY)
    lies = {name: f"layer{9 - i % 9}.{i}.conv1_bn_moving_var" for i, name in enumerate(model.tensors)}
    values = {value: f"fc{i}_softmax" for i, value in enumerate(("data", *model.graph.producers))}

    def renamed(number: int, node: Node) -> Node:
        return Node(
            name=f"stage{number}_plus0",
            op="Convolution",
            attrs=node.attrs,
            inputs=tuple(values[value] for value in node.inputs),
            outputs=tuple(values[value] for value in node.outputs),
            params={role: lies[name] for role, name in node.params.items()},
        )

    graph = replace(
        model.graph,
        nodes=tuple(renamed(number, node) for number, node in enumerate(model.graph.nodes)),
        inputs=(values["data"],),
        outputs=tuple(values[value] for value in model.graph.outputs),
    )
    tensors = TensorStore({lies[name]: ref for name, ref in model.tensors.items()}, PARAMS)
    found, straight = match(replace(model, graph=graph, tensors=tensors)), match(model)
    assert found.config == straight.config
    assert [(b.target, b.sources) for b in found.bindings] == [
        (b.target, tuple(lies[source] for source in b.sources)) for b in straight.bindings
    ]


def test_an_ignored_gamma_becomes_one() -> None:
    found = match(source_model(TINY, Spelling(fix_gamma=True)))
    transforms = {binding.target: binding.transform for binding in found.bindings}
    assert transforms["layer1.0.bn2.weight"] is Transform.ONES
    assert transforms["layer1.0.bn2.bias"] is Transform.IDENTITY
    assert transforms["layer1.0.bn2.num_batches_tracked"] is Transform.ZERO


@pytest.mark.parametrize(
    ("source", "torch_s"), [(0.9, 0.1), (0.99, 0.01), (0.997, 0.003), (0.0, 1.0), (1.0, 0.0), (0.95, 0.05)]
)
def test_the_momentum_is_one_minus_the_source_s(source: float, torch_s: float) -> None:
    """In decimals: 1 - 0.9 is 0.09999999999999998 in floats."""
    model = source_model(TINY)
    norm = match(with_attrs(model, BatchNorm, momentum=source)).config.stem[0].norm
    assert norm is not None
    assert norm.momentum == torch_s


# Heads and what is left over


def test_heads_that_follow_from_the_logits_and_heads_that_do_not() -> None:
    builder = GraphBuilder()
    logits = builder.network(TINY)
    soft = builder.op(Softmax(axis=1), logits)
    twice = builder.op(Softmax(axis=1), soft)
    pooled = next(node for node in builder.nodes if node.outputs == (logits,)).inputs[0]
    found = match(builder.model(soft, pooled, logits, twice))
    assert found.logits == logits
    assert found.heads == (Head(value=soft, softmax=True), Head(value=logits, softmax=False))
    assert found.other_heads == (pooled, twice)


def test_the_value_of_a_head() -> None:
    logits = np.array([[1000.0, 1001.0], [0.0, -1000.0]])
    assert Head(value="v", softmax=False).of(logits) is logits
    expected = np.array([[1 / (1 + np.e), np.e / (1 + np.e)], [1.0, 0.0]])
    assert np.abs(Head(value="v", softmax=True).of(logits) - expected).max() < 1e-15


def test_what_the_classifier_does_not_need_is_ignored_with_a_reason() -> None:
    builder = GraphBuilder()
    logits = builder.network(TINY)
    features = next(node for node in builder.nodes if isinstance(node.attrs, Pool) and node.attrs.global_pool).inputs[0]
    extra = ConvConfig(in_channels=512, out_channels=4, kernel=(1, 1), bias=True)
    before = len(builder.tensors)
    segmentation = builder.conv(extra, features)
    weight, bias = list(builder.tensors)[before:]
    builder.tensors["arg:leftover"] = ramp(3)
    found = match(builder.model(logits, segmentation))
    reason = f"of node 'n{segmentation[1:]}' (Conv), on which the classifier does not depend"
    assert [(item.source, item.reason) for item in found.ignored] == [
        (weight, reason),
        (bias, reason),
        ("arg:leftover", UNUSED),
    ]
    assert found.other_heads == (segmentation,)
