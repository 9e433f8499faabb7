"""Attribute texts: what MXNet reads, and what it refuses."""

from __future__ import annotations

import time

import pytest

from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.graph import Activation, ActivationKind
from resnext_convert.converter.mxnet.attributes import Attributes, is_hidden, parse_integers
from resnext_convert.converter.mxnet.operators import read_operator


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(7, 7)", (7, 7)),
        ("(7,7)", (7, 7)),
        ("[7, 7]", (7, 7)),
        ("(7L, 7L)", (7, 7)),
        (" ( 7 , 7 ) ", (7, 7)),
        ("(7, 7,)", (7, 7)),
        ("(07, 7)", (7, 7)),
        ("()", ()),
        ("( )", ()),
        ("[]", ()),
        ("7", (7,)),
        ("7L", (7,)),
        ("(7,)", (7,)),
        ("(-1, None)", (-1, None)),
    ],
)
def test_shapes(text: str, value: tuple[int | None, ...]) -> None:
    assert parse_integers(text) == value


@pytest.mark.parametrize(
    "text", ["", "(", "(7", "7)", "7, 7", "(7 7)", "(7, 7) x", "(7., 7)", "(,)", "(7,,7)", "(+7, 7)", "(٧, 7)", "((7))"]
)
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(ValueError, match="no shape"):
        parse_integers(text)


def attribute(text: str) -> Attributes:
    return Attributes({"x": text}, {"x": None})


@pytest.mark.parametrize(("text", "value"), [("True", True), ("true", True), ("TRUE", True), ("1", True), ("0", False)])
def test_booleans(text: str, value: bool) -> None:
    assert attribute(text).boolean("x") is value


@pytest.mark.parametrize("text", ["", " True", "None", "2", "yes", "t"])
def test_what_is_no_boolean(text: str) -> None:
    with pytest.raises(FormatError, match="'x' cannot be read"):
        attribute(text).boolean("x")


@pytest.mark.parametrize(("text", "value"), [("64", 64), (" 64 ", 64), ("+64", 64), ("-3", -3), ("064", 64)])
def test_integers(text: str, value: int) -> None:
    assert attribute(text).integer("x") == value


@pytest.mark.parametrize("text", ["", "64.0", "6e1", "64L", "None", "6 4", "2147483648", "1" * 6000, "٦٤"])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(FormatError, match="'x' cannot be read") as refusal:
        attribute(text).integer("x")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(("text", "value"), [("2e-05", 2e-5), ("1E-5", 1e-5), (".5", 0.5), ("5.", 5.0), ("-0", -0.0)])
def test_numbers(text: str, value: float) -> None:
    assert attribute(text).number("x") == value


@pytest.mark.parametrize("text", ["", " 1e-5 ", "nan", "inf", "-inf", "1e999", "0x1p-3", "1_0", "1d", "None"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(FormatError, match="'x' cannot be read"):
        attribute(text).number("x")


@pytest.mark.parametrize(
    "text", ["9" * 100_000 + "x", "1." + "9" * 100_000 + "x", " " * 100_000 + "1", "(" + "1," * 50_000]
)
def test_a_long_text_is_refused_quickly(text: str) -> None:
    """The time is linear in the length; a pattern that tries every split of the digits takes minutes."""
    begin = time.process_time()
    with pytest.raises(FormatError):
        attribute(text).number("x")
    with pytest.raises(FormatError):
        attribute(text).integer("x", maximum=0)
    with pytest.raises(FormatError):
        attribute(text).pair("x", minimum=0)
    assert time.process_time() - begin < 1.0


def test_float_fields_are_rounded_to_float32() -> None:
    assert attribute("0.1").float32("x") == 0.10000000149011612
    with pytest.raises(FormatError, match="'x' cannot be read"):
        attribute("1e39").float32("x")


@pytest.mark.parametrize(
    "name",
    ["__x__", "__lr_mult__", "____", "ctx_group", "lr_mult", "weight_lr_mult", "mirror_stage", "force_mirroring"],
)
def test_remarks_are_no_attributes(name: str) -> None:
    assert is_hidden(name)
    assert read_operator("relu", {name: "anything"})[0] == Activation(kind=ActivationKind.RELU)


@pytest.mark.parametrize("name", ["foo", "__x", "x__", "lr", "kernel_", "Kernel"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="no attribute") as refusal:
        read_operator("Pooling", {"kernel": "(2, 2)", name: "anything"})
    assert refusal.value.hint is not None
    assert "Cannot find argument" in refusal.value.hint


def test_a_required_attribute_must_be_given() -> None:
    with pytest.raises(FormatError, match="'num_filter' is required"):
        read_operator("Convolution", {"kernel": "(1, 1)"})
