"""Errors: what they say, and which exit code belongs to which."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_convert.converter import errors
from resnext_convert.converter.errors import ConvertError, FormatError, UsageError, in_file

CLASSES = [
    thing
    for thing in vars(errors).values()
    if isinstance(thing, type) and issubclass(thing, ConvertError) and thing is not ConvertError
]


def test_each_error_has_its_exit_code() -> None:
    # The contract of the command line (README.md).
    assert {thing.__name__: thing.exit_code for thing in CLASSES} == {
        "UsageError": 2,
        "PrecisionError": 2,
        "MissingFactsError": 2,
        "InputError": 3,
        "MissingFileError": 3,
        "FormatError": 3,
        "TruncatedError": 3,
        "UnsupportedError": 3,
        "MissingTensorError": 3,
        "ShapeError": 3,
        "ValueRangeError": 3,
        "NotResNeXtError": 4,
        "UnsupportedOperatorError": 4,
        "LedgerError": 4,
        "ReleaseMismatchError": 4,
        "TargetError": 4,
        "ProofError": 5,
        "WriteError": 6,
        "FetchError": 7,
    }


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "it is wrong"),
        ({"file": Path("a.params")}, "a.params: it is wrong"),
        ({"place": "byte 0x8"}, "byte 0x8: it is wrong"),
        ({"file": "a.params", "place": "byte 0x8"}, "a.params: byte 0x8: it is wrong"),
        ({"expected": 3}, "it is wrong (expected 3)"),
        ({"found": [1, 2]}, "it is wrong (found [1, 2])"),
        ({"expected": 0, "found": ""}, "it is wrong (expected 0, found )"),
        (
            {"file": "a.params", "place": "byte 0x8", "expected": 3, "found": 4, "hint": "fetch it again"},
            "a.params: byte 0x8: it is wrong (expected 3, found 4)",
        ),
    ],
)
def test_text(facts: dict[str, object], text: str) -> None:
    error = FormatError("it is wrong", **facts)  # type: ignore[arg-type]
    assert str(error) == text
    assert error.hint == facts.get("hint")


def test_the_file_is_added_where_none_is_known() -> None:
    with pytest.raises(FormatError) as caught, in_file(Path("a.json"), "node 3"):
        raise FormatError("it is wrong")
    assert (caught.value.file, caught.value.place) == ("a.json", "node 3")


def test_a_known_place_stays() -> None:
    with pytest.raises(FormatError) as caught, in_file("a.json", "node 3"):
        raise FormatError("it is wrong", place="line 7")
    assert (caught.value.file, caught.value.place) == ("a.json", "line 7")


def test_a_known_file_stays_and_takes_no_place_of_another() -> None:
    with pytest.raises(FormatError) as caught, in_file("outer", "there"), in_file("inner"):
        raise FormatError("it is wrong")
    assert (caught.value.file, caught.value.place) == ("inner", None)


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError, match=r"^'x'$"), in_file("a.json"):
        raise KeyError("x")


def test_a_usage_error_is_no_input_error() -> None:
    assert not issubclass(UsageError, errors.InputError)


def test_facts_of_any_length_are_cut() -> None:
    error = FormatError("too many", expected="x" * 1000, found=[1] * 100_000)
    assert error.expected == "x" * 1000
    assert error.found is not None
    assert error.found.endswith(" ...")
    assert len(str(error)) < 2100
