"""The shapes that an Input layer states."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from resnext_convert.converter.caffe.layers import input_shapes
from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas.caffe_pb2 import LayerParameter


def layer(shapes: str, tops: int) -> LayerParameter:
    text = f'type: "Input" {" ".join(f"top: {chr(39)}t{i}{chr(39)}" for i in range(tops))} input_param {{ {shapes} }}'
    return text_format.Parse(text, LayerParameter())


def test_input_shapes() -> None:
    one, two = "shape { dim: 1 dim: 3 dim: 8 dim: 8 }", "shape { dim: 2 dim: 5 }"
    assert input_shapes(layer("", 1)) == ()
    assert input_shapes(layer(one, 1)) == ((1, 3, 8, 8),)
    assert input_shapes(layer(one, 2)) == ((1, 3, 8, 8), (1, 3, 8, 8))
    assert input_shapes(layer(f"{one} {two}", 2)) == ((1, 3, 8, 8), (2, 5))


@pytest.mark.parametrize(
    ("text", "tops", "says"),
    [
        ("shape { dim: 1 } shape { dim: 2 }", 3, "once, once per top blob, or not at all"),
        ("shape { dim: 1 } shape { dim: 2 }", 1, "once, once per top blob, or not at all"),
        ("shape { dim: -1 }", 1, "none that a blob can have"),
        ("shape { dim: 65536 dim: 32768 }", 1, "none that a blob can have"),
        ("shape { %s }" % ("dim: 1 " * 33), 1, "none that a blob can have"),
    ],
)
def test_input_shapes_that_caffe_refuses(text: str, tops: int, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        input_shapes(layer(text, tops))
