"""Which layers count: Caffe's rules, one by one, and the nets of real trainings."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from repository import FIXTURES

from resnext_convert.converter.caffe.phase import select
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas.caffe_pb2 import TEST, TRAIN, NetParameter, Phase


def net(text: str) -> NetParameter:
    parsed: NetParameter = text_format.Parse(text, NetParameter())
    return parsed


def counts(rules: str, phase: Phase = TEST, stages: tuple[str, ...] = (), level: int = 0, state: str = "") -> bool:
    found = select(net(f'{state} layer {{ name: "x" {rules} }}'), phase, stages, level)
    assert [layer.name for layer in found] in ([], ["x"])
    return bool(found)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_a_layer_without_rules_counts(phase: Phase) -> None:
    assert counts("", phase)
    assert counts("phase: TRAIN", phase)  # the layer's own phase is no rule


@pytest.mark.parametrize(("rule", "phase", "met"), [("TRAIN", TEST, 0), ("TEST", TEST, 1), ("TRAIN", TRAIN, 1)])
def test_phase(rule: str, phase: Phase, met: int) -> None:
    assert counts(f"include {{ phase: {rule} }}", phase) == bool(met)
    assert counts(f"exclude {{ phase: {rule} }}", phase) != bool(met)


@pytest.mark.parametrize(
    ("rule", "level", "met"),
    [
        ("min_level: 1", 0, False),
        ("min_level: 1", 1, True),
        ("min_level: 1", 2, True),
        ("max_level: 1", 1, True),
        ("max_level: 1", 2, False),
        ("min_level: -2 max_level: -1", -1, True),
        ("min_level: 1 max_level: 2", 3, False),
        ("min_level: 0", 0, True),  # a bound of zero is a bound
        ("max_level: 0", 1, False),
    ],
)
def test_levels(rule: str, level: int, met: bool) -> None:
    assert counts(f"include {{ {rule} }}", level=level) is met
    assert counts(f"exclude {{ {rule} }}", level=level) is not met


@pytest.mark.parametrize(
    ("rule", "stages", "met"),
    [
        ('stage: "a"', (), False),
        ('stage: "a"', ("a",), True),
        ('stage: "a" stage: "b"', ("a",), False),  # all of them
        ('stage: "a" stage: "b"', ("b", "c", "a"), True),
        ('not_stage: "a"', (), True),
        ('not_stage: "a"', ("a",), False),
        ('not_stage: "a" not_stage: "b"', ("b",), False),  # none of them
        ('stage: "a" not_stage: "b"', ("a",), True),
        ('stage: "a" not_stage: "b"', ("a", "b"), False),
        ('phase: TRAIN stage: "a"', ("a",), False),  # everything that a rule says
        ("", (), True),
    ],
)
def test_stages(rule: str, stages: tuple[str, ...], met: bool) -> None:
    assert counts(f"include {{ {rule} }}", stages=stages) is met
    assert counts(f"exclude {{ {rule} }}", stages=stages) is not met


def test_one_rule_of_several_is_enough() -> None:
    assert counts('include { phase: TRAIN } include { stage: "a" }', stages=("a",))
    assert not counts('include { phase: TRAIN } include { stage: "a" }')
    assert not counts('exclude { phase: TRAIN } exclude { stage: "a" }', stages=("a",))
    assert counts('exclude { phase: TRAIN } exclude { stage: "a" }')


def test_the_nets_own_state_adds_stages_and_nothing_else() -> None:
    """net.cpp, Net(param_file, phase, level, stages): stages are added, phase and level are set."""
    state = 'state { phase: TRAIN level: 5 stage: "a" }'
    assert counts('include { stage: "a" stage: "b" }', stages=("b",), state=state)
    assert not counts("include { phase: TRAIN }", state=state)
    assert not counts("include { min_level: 1 }", state=state)


def test_rules_of_both_kinds_are_refused() -> None:
    with pytest.raises(FormatError, match="Specify either include rules or exclude rules; not both") as refusal:
        select(net('layer { name: "a" } layer { name: "b" type: "C" include {} exclude {} }'))
    assert refusal.value.place == "layer 1 'b' (C)"
    assert refusal.value.hint


def test_the_order_is_the_nets() -> None:
    parsed = net('layer { name: "a" } layer { name: "b" exclude {} } layer { name: "c" } layer { name: "a" }')
    assert [layer.name for layer in select(parsed)] == ["a", "c", "a"]


def test_a_real_training() -> None:
    parsed = read_prototxt(FIXTURES / "caffe" / "recordings" / "k_train" / "train_val.prototxt").net
    train, test = select(parsed, TRAIN), select(parsed)
    assert {layer.type for layer in train} - {layer.type for layer in test} == set()
    assert {layer.type for layer in test} - {layer.type for layer in train} == {"Accuracy"}
    (first,), (second,) = ([it for it in layers if it.type == "Data"] for layers in (train, test))
    assert first.data_param.source != second.data_param.source
