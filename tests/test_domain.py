"""An input domain in words."""

from __future__ import annotations

from resnext_convert.converter.domain import InputDomain


def test_an_input_domain_in_words() -> None:
    raw = InputDomain(colour="rgb", source="a test")
    assert raw.text == "RGB of 0..255"
    whole = InputDomain(colour="bgr", range=1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), source="a test")
    assert whole.text == "BGR of 0..1, minus (0.4, 0.5, 0.6), divided by (0.2, 0.25, 0.3)"
