"""Networks that names and shapes tell: the same graph as a symbol file would say, or a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gluon_networks import CEIL, CIFAR, FACTS, NAMINGS, NONE, SENET, Naming, Network, Plan, made
from mxnet_graphs import document, parsed

from resnext_convert.converter.errors import (
    NotResNeXtError,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from resnext_convert.converter.graph import BatchNorm, Graph, Node, SourceModel
from resnext_convert.converter.mxnet.binding import bind
from resnext_convert.converter.mxnet.gluon import describe
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.mxnet.wiring import wire
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array

GATED = Plan(gate=True, depths=(2, 2, 1))
AVERAGED = Plan(stem="deep", projection="average")
CASES: list[tuple[Naming, Plan]] = [
    *((naming, Plan()) for naming in NAMINGS),
    *((naming, Plan(facts=CEIL, depths=(1, 3, 2))) for naming in NAMINGS),
    ("gluon", GATED),
    ("prefix", GATED),
    ("gluoncv2", GATED),
    ("gluon", SENET),
    ("prefix", SENET),
    ("gluoncv2", SENET),
    ("gluon", CIFAR),
    ("prefix", CIFAR),
    ("gluoncv2", CIFAR),
    ("gluon", AVERAGED),
    ("gluon", Plan(projection="average")),
    ("gluoncv2", replace(SENET, gate=False, projection="1x1", facts=FACTS)),
    ("gluoncv2", replace(CIFAR, groups=1, stem_width=64)),
]


def wired(network: Network, facts: GraphFacts = FACTS, changes: dict[str, Array | None] | None = None) -> Graph:
    params = network.params(changes)
    description = describe(params)
    assert description is not None
    return wire(description, params.tensors, facts)


def bound(network: Network) -> Graph:
    return bind(parsed(document(*network.nodes)), network.params()).graph


def numbered(graph: Graph) -> list[tuple[object, ...]]:
    """The nodes in an order that does not depend on how a graph is listed, values by number instead of by name."""
    numbers = {value: number for number, value in enumerate(graph.inputs)}
    found: list[tuple[object, ...]] = []

    def visit(value: str) -> int:
        if value not in numbers:
            node = graph.producers[value]
            inputs = [visit(given) for given in node.inputs]
            numbers[value] = len(numbers)
            found.append((node.attrs, node.op, inputs, dict(node.params)))
        return numbers[value]

    for output in graph.outputs:
        visit(output)
    assert len(found) == len(graph.nodes)
    return found


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize(("naming", "plan"), CASES)
def test_the_graph_is_that_of_the_symbol_file(naming: Naming, plan: Plan, kinds: bool) -> None:
    network = made(naming, plan, kinds=kinds)
    alone, usual = wired(network, plan.facts), bound(network)
    assert numbered(alone) == numbered(usual)
    used = [name for node in alone.nodes for name in node.params.values()]
    assert sorted(used) == sorted(network.tensors)


@pytest.mark.parametrize(("naming", "plan"), CASES[::3])
def test_the_outputs_are_those_of_the_symbol_file(naming: Naming, plan: Plan, tmp_path: Path) -> None:
    network = made(naming, plan)
    # gluoncv2's last pooling takes windows of 7x7, of 8x8 on CIFAR: the image must leave a map of that size.
    size = 32 if plan.stem == "cifar" else 7 * 4 * 2 ** (len(plan.depths) - 1)
    image = np.random.default_rng(1).standard_normal((1, 3, size, size))

    def logits(model: SourceModel) -> Array:
        (output,) = model.graph.outputs
        return ReferenceExecutor(model.graph, model.tensors).run({"data": image}, [output])[output]

    alone = logits(read_source(network.write(tmp_path / "alone"), facts=plan.facts))
    usual = logits(read_source(network.write(tmp_path / "pair", symbol=True)))
    assert alone.shape == (1, 5)
    assert np.ptp(alone) > 0
    assert np.array_equal(alone, usual)


def test_eps_is_the_one_that_is_stated() -> None:
    graph = wired(made("gluon"), GraphFacts(eps=2e-5, stem_pool="3x3 max, stride 2, padding 1"))
    assert {node.attrs.eps for node in graph.nodes if isinstance(node.attrs, BatchNorm)} == {2e-5}


@pytest.mark.parametrize("eps", [float("nan"), float("inf"), -1e-5])
def test_an_eps_that_no_normalisation_has(eps: float) -> None:
    with pytest.raises(UsageError, match="no normalisation can have"):
        GraphFacts(eps=eps, stem_pool="none")


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_of_nodes_are_unique_and_those_of_the_layers(naming: Naming) -> None:
    nodes: tuple[Node, ...] = wired(made(naming)).nodes
    assert len({node.name for node in nodes}) == len(nodes)
    for node in nodes:
        assert all(node.name in stored for stored in node.params.values())


# Refusals


@pytest.mark.parametrize(
    ("naming", "plan", "facts", "expected"),
    [
        ("gluon", Plan(), NONE, "one of the two poolings"),
        ("gluon", CIFAR, FACTS, "none"),
        ("prefix", SENET, NONE, "one of the two poolings"),
        ("prefix", CIFAR, CEIL, "none"),
        ("gluoncv2", CIFAR, FACTS, "none"),
        ("simpledet", Plan(), NONE, "one of the two poolings"),
    ],
)
def test_a_pooling_that_contradicts_the_stem(naming: Naming, plan: Plan, facts: GraphFacts, expected: str) -> None:
    with pytest.raises(UsageError, match="contradicts the stem") as refusal:
        wired(made(naming, plan), facts)
    assert refusal.value.expected is not None
    assert refusal.value.expected.startswith(expected)
    assert refusal.value.hint


SHAPES: list[tuple[Naming, str, tuple[int, ...], str]] = [
    # the kernel
    ("gluon", "features.0.weight", (4, 3, 5, 5), "another kernel"),
    ("gluon", "features.4.0.body.0.weight", (4, 4, 3, 3), "another kernel"),
    ("gluon", "features.4.0.body.3.weight", (6, 2, 1, 1), "another kernel"),
    ("gluon", "features.4.0.body.3.weight", (6, 2, 3, 1), "another kernel"),
    ("gluon", "features.5.0.downsample.0.weight", (16, 8, 3, 3), "another kernel"),
    ("simpledet", "stage2_unit1_sc_weight", (16, 8, 2, 2), "another kernel"),
    # the channels
    ("gluon", "features.4.0.body.0.weight", (4, 5, 1, 1), "another number of channels"),
    ("gluon", "features.4.0.body.3.weight", (6, 3, 3, 3), "another number of channels"),
    ("gluon", "features.4.0.body.3.weight", (7, 2, 3, 3), "another number of channels"),
    ("gluon", "features.4.0.body.3.weight", (6, 8, 3, 3), "another number of channels"),
    ("gluon", "features.4.0.body.6.weight", (8, 5, 1, 1), "another number of channels"),
    ("gluon", "features.4.1.body.6.weight", (9, 6, 1, 1), "than the shortcut"),
    ("gluon", "features.4.0.downsample.0.weight", (9, 4, 1, 1), "than the shortcut"),
    ("gluoncv2", "features.2.0.identity_conv.conv.weight", (8, 8, 1, 1), "than the shortcut"),
    # the groups
    ("gluon", "features.4.1.body.3.weight", (8, 1, 3, 3), "another number of groups"),
    ("prefix", "resnext0_stage2_conv1_weight", (8, 1, 3, 3), "another number of groups"),
    # the axes
    ("gluon", "features.0.weight", (4, 3, 7), "4 axes"),
    ("gluon", "features.0.weight", (4, 0, 7, 7), "4 axes"),
    ("gluon", "features.4.0.body.3.weight", (4,), "4 axes"),
    ("gluon", "output.weight", (5, 16, 1, 1), "2 axes"),
    # the classifier
    ("gluon", "output.weight", (5, 15), "another number of features"),
    ("gluoncv2", "output.1.weight", (16, 5), "another number of features"),
]


@pytest.mark.parametrize(("naming", "name", "shape", "problem"), SHAPES)
def test_a_shape_that_does_not_fit(naming: Naming, name: str, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ShapeError) as refusal:
        wired(made(naming), changes={name: np.ones(shape)})
    assert problem in f"{refusal.value} {refusal.value.expected}"
    assert refusal.value.place is not None
    assert name.split(".weight")[0].split("downsample")[0].split("identity")[0] in refusal.value.place
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("naming", "name", "shape"),
    [
        ("gluon", "features.4.0.se.0.weight", (3, 7, 1, 1)),
        ("gluon", "features.4.0.se.2.weight", (9, 3, 1, 1)),
        ("gluon", "features.4.0.se.2.weight", (8, 3, 3, 3)),
        ("gluon", "features.4.0.se.0.weight", (3, 8)),  # fully connected, as GluonCV's SE-ResNets have it
        ("gluoncv2", "features.1.0.se.conv2.weight", (9, 3, 1, 1)),
    ],
)
def test_an_excitation_that_does_not_fit(naming: Naming, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as refusal:
        wired(made(naming, GATED), changes={name: np.ones(shape)})
    assert refusal.value.place is not None
    assert name in refusal.value.place


def test_numbers_that_the_shapes_contradict() -> None:
    # Two convolutions of a stage under each other's number: the names are complete, the shapes are not those.
    network = made("prefix", GATED)
    swapped = ["resnext0_stage1_conv2_weight", "resnext0_stage1_conv5_weight"]
    changes: dict[str, Array | None] = {
        swapped[0]: network.tensors[swapped[1]],
        swapped[1]: network.tensors[swapped[0]],
    }
    with pytest.raises(ShapeError, match="another number of channels") as refusal:
        wired(network, changes=changes)
    assert refusal.value.place is not None
    assert "resnext0_stage1_conv2_weight" in refusal.value.place


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_resnet_has_its_strides_elsewhere(naming: Naming) -> None:
    with pytest.raises(NotResNeXtError, match="not grouped") as refusal:
        wired(made(naming, Plan(groups=1)))
    assert refusal.value.exit_code == 4
    assert refusal.value.hint


def test_an_ungrouped_network_for_cifar_of_a_resnet_s_width() -> None:
    with pytest.raises(NotResNeXtError, match="not grouped"):
        wired(made("gluoncv2", replace(CIFAR, groups=1, stem_width=16)), NONE)


@pytest.mark.parametrize("gate", [False, True])
def test_names_that_do_not_say_whether_projections_average(gate: bool) -> None:
    with pytest.raises(UnsupportedError, match="avg_down") as refusal:
        wired(made("prefix", replace(AVERAGED, gate=gate)))
    assert refusal.value.place == f"tensor 'resnext0_stage2_conv{5 if gate else 3}_weight'"
    assert "save_parameters" in (refusal.value.hint or "")
