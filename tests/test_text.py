"""Names and figures as they are shown to people."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_convert.converter.text import counted, printable, shape_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("arg:conv0_weight", "arg:conv0_weight"),
        ("größe 重み", "größe 重み"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\tand\x00", "two\\nlines\\tand\\x00"),
        ("\u202ereversed", "\\u202ereversed"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_what_is_no_letter_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_shown_is_one_line_that_can_be_written(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in shown)
    assert printable(shown) == shown


def test_counts_are_grammatical() -> None:
    assert counted(0, "tensor") == "0 tensors"
    assert counted(1, "tensor") == "1 tensor"
    assert counted(12345, "class", "classes") == "12,345 classes"
    assert counted(1, "class", "classes") == "1 class"


def test_shapes() -> None:
    assert shape_text((1, 3, 224, 224)) == "1x3x224x224"
    assert shape_text(()) == "()"
