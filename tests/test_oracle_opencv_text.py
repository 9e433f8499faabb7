"""What the OpenCV oracle makes of a prototxt's text: what is rewritten, what is refused, whom to ask for a blob."""

from __future__ import annotations

from pathlib import Path

import pytest
from caffe_base import layer
from opencv_cases import CAFFE, RECORDINGS, SENET, TINY
from test_caffe_schema import opencv_schema

from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.oracles import opencv_text

PROTOTXTS = [*sorted(CAFFE.glob("**/deploy.prototxt")), TINY, SENET]


@pytest.mark.parametrize("path", PROTOTXTS, ids=lambda path: path.parent.name)
def test_recorded_deploy_nets_have_no_limit_in_their_text_but_sharing(path: Path) -> None:
    limit = opencv_text.limit(opencv_text.parse(path.read_bytes()))
    assert (limit is None) == (path.parent.name != "m_shared_params"), limit


def test_training_net_is_not_asked_about() -> None:
    net = opencv_text.parse((RECORDINGS / "k_train" / "train_val.prototxt").read_bytes())
    assert "does not look at phases" in str(opencv_text.limit(net))


def test_v1_layers_share_by_param_itself() -> None:
    text = 'layers { name: "%s" type: CONVOLUTION bottom: "data" top: "%s" param: "w" param: "%s" }'
    net = opencv_text.parse("\n".join(text % (name, name, name) for name in "ab").encode())
    assert opencv_text.limit(net) == "OpenCV does not share parameters between layers (param { name: 'w' })"


def test_v1_layers_have_parameters_of_their_type() -> None:
    text = 'layers { name: "a" type: INNER_PRODUCT bottom: "a" blobs_lr: 1 inner_product_param { %s: 1 } }'
    assert opencv_text.limit(opencv_text.parse((text % "num_output").encode())) is None
    assert "inner_product_param.own" in str(opencv_text.limit(opencv_text.parse((text % "own").encode())))


@pytest.mark.parametrize("path", PROTOTXTS, ids=lambda path: path.parent.name)
def test_text_is_given_as_it_is_where_nothing_must_be_rewritten(path: Path) -> None:
    text = path.read_bytes()
    changed = opencv_text.rewritten(text) != text
    assert changed == any(word in text for word in (b"round_mode", b"Axpy"))


def again(text: str) -> str:
    """The text rewritten, without blanks and with readable names."""
    found = opencv_text.rewritten(text.encode()).decode()
    for code in range(32, 127):
        found = found.replace(f"\\{code:03o}", chr(code))
    return " ".join(found.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kernel_size: 3 round_mode: FLOOR", "kernel_size: 3 ceil_mode: false"),
        ("round_mode:CEIL, pad:1;", "ceil_mode: true pad: 1"),
        ("round_mode # FLOOR\r\n : 1", "ceil_mode: false"),
        ("round_mode: 0", "ceil_mode: true"),
        ("round_mode: ROUND", "round_mode: ROUND"),
    ],
)
def test_round_mode_becomes_ceil_mode(text: str, expected: str) -> None:
    for spelling in (
        "layer { pooling_param { %s } }",
        "layer: < pooling_param: < %s >; >",
        "layer [{pooling_param{%s}}]",
    ):
        wanted = spelling % text if text == "round_mode: ROUND" else f"layer {{ pooling_param {{ {expected} }} }}"
        assert again(spelling % text) == wanted


def test_round_mode_elsewhere_is_none() -> None:
    for text in ("name: 'round_mode: FLOOR'", "layer { foo_param { round_mode: FLOOR } }", "# round_mode: FLOOR\n"):
        assert again(text) == " ".join(text.split())


@pytest.mark.parametrize(("block", "old"), [("concat_param", "concat_dim"), ("slice_param", "slice_dim")])
def test_older_names_of_an_axis(block: str, old: str) -> None:
    assert again(f"layers {{ {block} {{ {old}: -0x2 a: [-1, - 2, .5] }} }}") == (
        f"layers {{ {block} {{ axis: -0x2 a: -1 a: -2 a: .5 }} }}"
    )


def test_axpy_becomes_layers_of_bvlc_caffe() -> None:
    text = 'name: "n" layer { name: \'a\' \'"\\x62\' type: "Axpy" bottom: ["s", "x/1"] bottom: "y" top: "t" }'
    assert again(text) == (
        'name: "n" '
        'layer { name: "a"b (a)" type: "Flatten" bottom: "s" top: "a"b (a)" } '
        'layer { name: "a"b (a * x)" type: "Scale" bottom: "x/1" bottom: "a"b (a)" top: "a"b (a * x)"'
        " scale_param { axis: 0 } } "
        'layer { name: "a"b" type: "Eltwise" bottom: "a"b (a * x)" bottom: "y" top: "t" }'
    )


def test_byte_order_mark_is_taken_off() -> None:
    assert opencv_text.rewritten(b"\xef\xbb\xbfname: 'a' # \xe9") == b"name: 'a' # \xe9"


@pytest.mark.parametrize(
    "text",
    [
        b"layer {", b"layer }", b"layer { name: }", b"a: [1", b"a: [", b"a", b"a:", b"a: ]", b"a: 'x", b"{}", b"a: <}",
        b"a: -", b"a: {" * 3000, b"a" + b"{a:[" * 3000, b"\0", b"\xff: 1",
    ],
)  # fmt: skip
def test_what_is_no_text_of_a_message_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        opencv_text.parse(text)


def test_who_makes_a_blob() -> None:
    layers = [
        layer("Convolution", "c", "data", "a"),
        layer("ReLU", "r", "a", "a"),
        layer("ReLU", "r", "a", "b"),
        layer("Slice", "s", "b", "d e"),
        layer("Softmax", "p", "b", "b"),
    ]
    assert opencv_text.writers(opencv_text.parse("\n".join(layers).encode())) == {
        "a": "r", "a@c": "c", "a@r": "r", "b": "p", "b@r": "r_1", "b@p": "p", "d": "s", "d@s": "s",
    }  # fmt: skip


@pytest.mark.opencv
def test_fields_of_a_layer_are_those_that_opencv_knows() -> None:
    messages = {message.name: message for message in opencv_schema().message_type}
    blocks = {field.name: field.type_name.rpartition(".")[2] for field in messages["LayerParameter"].field}
    known = {
        block.replace("_", ""): {field.name for field in messages[kind].field}
        for block, kind in blocks.items()
        if kind in messages
    }
    for kind, fields in opencv_text.OWN.items():
        theirs = known.get(f"{kind.lower()}param", set())
        assert fields - {"round_mode"} == theirs - {"scale_bias"}, kind  # NVCaffe's, which makes another layer of it
    assert opencv_text.COMMON - {"blobs_lr", "weight_decay", "blob_share_mode"} <= set(blocks)
