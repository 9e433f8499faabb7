"""What the names of tensors tell: the four schemes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gluon_networks import CIFAR, FACTS, NAMINGS, NONE, SENET, Naming, Plan, made
from hypothesis import given
from hypothesis import strategies as st
from mxnet_graphs import params

from resnext_convert.converter.errors import (
    ConvertError,
    FormatError,
    LedgerError,
    MissingTensorError,
    NotResNeXtError,
)
from resnext_convert.converter.graph import Role
from resnext_convert.converter.mxnet.description import Scheme, outline
from resnext_convert.converter.mxnet.gluon import describe, recognise
from resnext_convert.converter.mxnet.params import ParamsFile
from resnext_convert.converter.mxnet.wiring import wire
from resnext_convert.converter.tensors import Array

GATED = Plan(gate=True)
SCHEMES: dict[Naming, Scheme] = {
    "gluon": Scheme.GLUON,
    "prefix": Scheme.GLUON_PREFIX,
    "gluoncv2": Scheme.GLUONCV2,
    "simpledet": Scheme.SIMPLEDET,
}


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("naming", NAMINGS)
def test_schemes_are_recognised(naming: Naming, kinds: bool) -> None:
    assert recognise(made(naming, kinds=kinds).params()) is SCHEMES[naming]


def test_other_names_are_not() -> None:
    for names in ([], ["conv1_weight", "fc_bias"], ["features.0.weight"], ["a.stage1_conv0_bias"], ["layer1.0.weight"]):
        found = params(dict.fromkeys(names, (1,)))
        assert recognise(found) is None
        assert describe(found) is None


def test_a_list_without_names_is_not() -> None:
    found = made("gluon").params()
    assert recognise(ParamsFile(tensors=found.tensors, layouts=found.layouts, named=False, notes=())) is None


def test_a_file_of_mxnet_s_own_script_is_not() -> None:
    # It has simpledet's names, and a symbol file.
    network = made("simpledet", kinds=True)
    assert recognise(network.params({"arg:bn_data_gamma": np.ones(3)})) is None


EXPORTED = "GluonCV's names with a prefix (export, collect_params().save)"
OUTLINES: list[tuple[Naming, Plan, str, str]] = [
    ("gluon", Plan(), "GluonCV's structural names (save_parameters)", "1 convolution, stages of 2-1 blocks"),
    ("prefix", CIFAR, EXPORTED, "1 convolution, stages of 1-1-2 blocks"),
    ("prefix", GATED, EXPORTED, "1 convolution, stages of 2-1 blocks, with squeeze-and-excitation"),
    ("gluoncv2", SENET, "gluoncv2's structural names (save_parameters)",
     "3 convolutions, stages of 1-2 blocks, with squeeze-and-excitation"),
    ("simpledet", Plan(), "simpledet's names", "1 convolution, stages of 2-1 blocks"),
]  # fmt: skip


@pytest.mark.parametrize(("naming", "plan", "names", "text"), OUTLINES)
def test_what_it_is_in_words(naming: Naming, plan: Plan, names: str, text: str) -> None:
    found = made(naming, plan, classes=7).params()
    description = describe(found)
    assert description is not None
    assert outline(description, found.tensors) == f"{names}: a stem of {text}, 7 classes"


def test_the_counters_of_names_with_a_prefix() -> None:
    # As the graphs that GluonCV exports have them: the excitation counts among the convolutions and comes before the
    # projection, and only the first block of a stage has one.
    description = describe(made("prefix", replace(GATED, depths=(2, 1))).params())
    assert description is not None
    first, second = description.stages[0]
    assert [unit.conv.name for unit in first.units] == [f"resnext0_stage1_conv{i}" for i in (0, 1, 2)]
    assert [layer.name for layer in first.gate] == ["resnext0_stage1_conv3", "resnext0_stage1_conv4"]
    assert first.projection is not None
    assert first.projection.conv.params == {Role.WEIGHT: "resnext0_stage1_conv5_weight"}
    assert first.projection.norm.name == "resnext0_stage1_batchnorm3"
    assert [unit.conv.name for unit in second.units] == [f"resnext0_stage1_conv{i}" for i in (6, 7, 8)]
    assert [unit.norm.name for unit in second.units] == [f"resnext0_stage1_batchnorm{i}" for i in (4, 5, 6)]
    assert [layer.name for layer in second.gate] == ["resnext0_stage1_conv9", "resnext0_stage1_conv10"]
    assert second.projection is None


@pytest.mark.parametrize("prefix", ["resnext17_", "", "a.b_", "stage_", "ü_"])
def test_a_prefix_may_be_anything(prefix: str) -> None:
    found = made("prefix", Plan(prefix=prefix)).params()
    description = describe(found)
    assert description is not None
    assert len(wire(description, found.tensors, FACTS).nodes) > 20


# Refusals


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_tensor_is_needed(naming: Naming, kinds: bool) -> None:
    network = made(naming, GATED if naming != "simpledet" else Plan(), kinds=kinds)
    for name in network.tensors:
        changes: dict[str, Array | None] = {name: None}
        with pytest.raises(ConvertError) as refusal:
            describe(network.params(changes))
        assert isinstance(refusal.value, MissingTensorError | LedgerError), name
        assert refusal.value.hint


def test_what_is_missing_and_what_has_no_place_is_named() -> None:
    network = made("gluon")
    gamma = network.tensors["features.4.0.body.1.gamma"]
    with pytest.raises(MissingTensorError) as refusal:
        describe(network.params({"features.4.0.body.1.gamma": None, "features.4.0.body.1.scale": gamma}))
    assert str(refusal.value).startswith("tensors are missing (1): features.4.0.body.1.gamma (expected all tensors of")
    assert "features.4.0.body.1.scale, which have no place in it" in str(refusal.value)


@pytest.mark.parametrize(
    ("naming", "name"),
    [
        ("gluon", "features.4.0.body.0.bias"),  # of Gluon's ResNets
        ("gluon", "features.4.1.downsample.0.weight"),
        ("gluon", "features.4.7.body.0.weight"),
        ("gluon", "features.6.1.body.0.weight"),
        ("gluon", "features.04.0.body.0.weight"),
        ("gluon", "features.4.0.se.1.weight"),
        ("gluon", "head.weight"),
        ("gluon", "x" * 10_000),
        ("prefix", "resnext0_stage1_conv9_weight"),
        ("prefix", "resnext0_stage4_conv0_weight"),
        ("prefix", "resnext0_dense1_weight"),
        ("prefix", "fc_weight"),
        ("gluoncv2", "features.1.1.identity_conv.conv.weight"),
        ("gluoncv2", "features.1.0.body.conv1.bn.inst_norm.gamma"),
        ("gluoncv2", "output.2.weight"),
        ("simpledet", "stage2_unit1_conv4_weight"),
        ("simpledet", "rpn_conv_weight"),
    ],
)
def test_a_tensor_without_a_place(naming: Naming, name: str) -> None:
    with pytest.raises((LedgerError, MissingTensorError)) as refusal:
        describe(made(naming).params({name: np.ones(4)}))
    assert name[:900] in str(refusal.value)


def test_a_tensor_with_a_kind_and_without() -> None:
    with pytest.raises(LedgerError, match=r"output\.weight"):
        describe(made("gluon").params({"arg:output.weight": np.ones((5, 16))}))


@pytest.mark.parametrize(("naming", "plan"), [*((naming, Plan()) for naming in NAMINGS), ("gluoncv2", SENET)])
def test_a_backbone_has_no_classifier(naming: Naming, plan: Plan) -> None:
    network = made(naming, plan)
    changes: dict[str, Array | None] = dict.fromkeys(list(network.tensors)[-2:])
    with pytest.raises(NotResNeXtError, match="a backbone without a classifier") as refusal:
        describe(network.params(changes))
    assert type(refusal.value) is NotResNeXtError
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("name", ["features.1.running_mean", "features.1.gamma"])
def test_a_tensor_under_the_wrong_kind(name: str) -> None:
    network = made("gluon", kinds=True)
    kind, other = ("aux", "arg") if "mean" in name else ("arg", "aux")
    values = network.tensors[f"{kind}:{name}"]
    with pytest.raises(MissingTensorError) as refusal:
        describe(network.params({f"{kind}:{name}": None, f"{other}:{name}": values}))
    assert name in str(refusal.value)
    assert f"{other}:{name}" in str(refusal.value)


@pytest.mark.parametrize("first", NAMINGS)
@pytest.mark.parametrize("second", NAMINGS)
def test_two_schemes_in_one_file(first: Naming, second: Naming) -> None:
    if first != second:
        with pytest.raises(FormatError, match="of several schemes"):
            describe(made(first).params(dict(made(second).tensors)))


def test_two_networks_in_one_file() -> None:
    other = made("prefix", Plan(prefix="resnext1_"))
    with pytest.raises(FormatError, match="of several networks") as refusal:
        describe(made("prefix").params(dict(other.tensors)))
    assert refusal.value.found == "'resnext0_', 'resnext1_'"


WORDS = (
    "features output body se downsample identity_conv conv conv0 conv1 conv3 bn bn0 stage1 stage2 unit1 unit2 sc fc1 "
    "dense0 batchnorm0 resnext0 weight bias gamma running mean moving var 0 1 2 3 4 10 99999999999999999999 \u0664 arg:"
)
PARTS = st.sampled_from([*WORDS.split(), ""])
NAMES = st.builds(lambda parts, joint: joint.join(parts), st.lists(PARTS, max_size=7), st.sampled_from("._"))
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), min_size=1, max_size=5).map(tuple)


@given(st.sampled_from(NAMINGS), st.booleans(), st.dictionaries(NAMES, SHAPES, max_size=6), st.data())
def test_nothing_but_typed_errors(
    naming: Naming, whole: bool, others: dict[str, tuple[int, ...]], data: st.DataObject
) -> None:
    network = made(naming, Plan(depths=(1, 1)))
    names = st.sampled_from(sorted(network.tensors)) if whole else NAMES
    changed = data.draw(st.dictionaries(names, st.none() | SHAPES, max_size=3))
    changes: dict[str, Array | None] = {
        name: shape if shape is None else np.ones(shape) for name, shape in changed.items()
    }
    changes |= {name: np.ones(shape) for name, shape in others.items()} if not whole else {}
    found = network.params(changes)
    for facts in (FACTS, NONE):
        try:
            description = describe(found)
            if description is not None:
                outline(description, found.tensors)
                wire(description, found.tensors, facts)
        except ConvertError as error:
            assert error.hint or error.expected  # noqa: PT017
