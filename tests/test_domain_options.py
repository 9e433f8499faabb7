"""What the options about images mean together, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from resnext_convert.converter.classes import ORDERS
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.domain_options import (
    ClassOrderOption,
    ColourOption,
    RangeOption,
    stated_domain,
    stated_order,
)
from resnext_convert.converter.errors import UsageError

RGB, BGR, UNIT, BYTE = ColourOption.RGB, ColourOption.BGR, RangeOption.UNIT, RangeOption.BYTE


def test_nothing_stated() -> None:
    assert stated_domain(None, None, None, None) is None
    assert stated_order(None) is None


@pytest.mark.parametrize(
    ("options", "domain"),
    [
        ((RGB, BYTE, None, None), InputDomain(colour="rgb", range=255, source="the command line")),
        ((BGR, UNIT, None, None), InputDomain(colour="bgr", range=1, source="the command line")),
        (
            (BGR, BYTE, "104,117,123", None),
            InputDomain(colour="bgr", mean=(104.0, 117.0, 123.0), source="the command line"),
        ),
        (
            (RGB, UNIT, " 0.485, .456 ,4.06e-1", "0.229,0.224,0.225"),
            InputDomain(
                colour="rgb",
                range=1,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                source="the command line",
            ),
        ),
        ((RGB, BYTE, None, "58,58,58"), InputDomain(colour="rgb", std=(58.0, 58.0, 58.0), source="the command line")),
        ((RGB, BYTE, "0,0,0", None), InputDomain(colour="rgb", source="the command line")),
        (
            (RGB, UNIT, "0.5,0.5,1", None),
            InputDomain(colour="rgb", range=1, mean=(0.5, 0.5, 1.0), source="the command line"),
        ),
    ],
)
def test_a_stated_domain(options: tuple[Any, ...], domain: InputDomain) -> None:
    found = stated_domain(*options)
    assert found == domain
    assert found is not None
    assert type(found.colour) is type(found.source) is str  # and not an option's own type, which JSON would not know


def test_who_says_so() -> None:
    found = stated_domain(RGB, BYTE, None, None, source="a test")
    assert found is not None
    assert found.source == "a test"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((RGB, None, None, None), "in part (expected --input-range as well)"),
        ((None, BYTE, None, None), "in part (expected --input-colour as well)"),
        ((None, None, "1,2,3", None), "in part (expected --input-colour and --input-range as well)"),
        ((None, BYTE, None, "1,2,3"), "in part (expected --input-colour as well)"),
        ((RGB, BYTE, "1,2", None), "--input-mean is one number for each channel"),
        ((RGB, BYTE, "1,2,3,4", None), "found 1,2,3,4"),
        ((RGB, BYTE, "a,b,c", None), "found a,b,c"),
        ((RGB, BYTE, "", None), "--input-mean"),
        ((RGB, BYTE, "1,2,nan", None), "--input-mean"),
        ((RGB, BYTE, None, "1,2,inf"), "--input-std is one number"),
        ((RGB, BYTE, None, "58,0,58"), "--input-std is divided by (expected three numbers above 0, found 58,0,58)"),
        ((RGB, BYTE, None, "-1,1,1"), "--input-std is divided by"),
        (
            (RGB, UNIT, "123.68,116.779,103.939", None),
            "--input-mean is not in units of --input-range 1 (expected means",
        ),
        ((RGB, BYTE, "0.485,0.456,0.406", None), "--input-mean is not in units of --input-range 255"),
        ((RGB, BYTE, "256,1,1", None), "--input-mean is not in units of --input-range 255"),
    ],
)
def test_what_is_refused(options: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError) as error:
        stated_domain(*options)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_orders_of_classes() -> None:
    assert tuple(stated_order(option) for option in ClassOrderOption) == ORDERS
