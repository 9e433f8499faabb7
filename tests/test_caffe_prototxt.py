"""Prototxts in every spelling, with the fields of forks, and everything else that is found under their name."""

from __future__ import annotations

import math
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import fuzz_prototxt
import pytest
from google import protobuf
from google.protobuf import text_format
from repository import FIXTURES
from shared_data import shared

from resnext_convert.converter.caffe.prototxt import WITHOUT_MEANING, Prototxt, parse_prototxt, read_prototxt
from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas import caffe_pb2
from resnext_convert.schemas.caffe_pb2 import NetParameter

CAFFE = FIXTURES / "caffe"


def parse(text: str | bytes) -> Prototxt:
    return parse_prototxt(text if isinstance(text, bytes) else text.encode(), "net.prototxt")


def refusal(text: str | bytes) -> FormatError:
    with pytest.raises(FormatError) as found:
        parse(text)
    assert str(found.value).startswith("net.prototxt: ")
    assert found.value.hint
    return found.value


# Spellings

PLAIN = """name: "net"
layer {
  name: "data"
  type: "Input"
  top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 224 dim: 8 } }
}
layer {
  name: "conv"
  type: "Convolution"
  bottom: "data"
  top: "conv"
  convolution_param { num_output: 64 bias_term: false kernel_size: 7 pad: 3 }
}
"""

SPELLINGS = {
    "colon before a brace": PLAIN.replace(" {", ": {"),
    "pointed brackets": PLAIN.replace("{", "<").replace("}", ">"),
    "colon and pointed bracket": PLAIN.replace("{", ":<").replace("}", ">"),
    "comments": "# first\n" + PLAIN.replace("\n", "  # } layer { \" ' \n") + "# last",
    "commas": PLAIN.replace("\n  ", "\n  , ").replace("{\n  ,", "{\n").replace(" dim: 3", ", dim: 3"),
    "semicolons": PLAIN.replace('"\n', '";\n').replace("false", "false;").replace("}\nlayer", "};\nlayer"),
    "list of numbers": PLAIN.replace("dim: 1 dim: 3 dim: 224 dim: 8", "dim: [1, 3,224 , 8]"),
    "list of one, list of none": PLAIN.replace("pad: 3", "pad: [3] dilation: []"),
    "list of messages": PLAIN.replace("shape { dim", "shape: [{ dim").replace("8 } }", "8 }] }"),
    "list of layers": "layer: [" + PLAIN[12:].replace("layer ", "").replace("}\n{", "}, <", 1)[:-2] + '>]name: "net"',
    "hexadecimal": PLAIN.replace("dim: 224", "dim: 0xE0").replace("64", "0x40"),
    "octal": PLAIN.replace("dim: 8", "dim: 010").replace("pad: 3", "pad: 03"),
    "single quotes": PLAIN.replace('"', "'"),
    "adjacent texts": PLAIN.replace('"conv"', '"co" \'n\'\n"" # here\n"v"'),
    "escapes": PLAIN.replace('"conv"', r'"\143o\x6e\166"').replace('"data"', r'"d\u0061ta"'),
    "booleans": PLAIN.replace("false", "False"),
    "short booleans": PLAIN.replace("false", "f"),
    "numbers as booleans": PLAIN.replace("false", "0"),
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + PLAIN,
    "tabs, form feeds, blank lines": "\n\n" + PLAIN.replace(" ", "\t \f").replace("\n", " \n\v\n"),
    "one line": PLAIN.replace("\n", " "),
    "as little as possible": 'name:"net"layer{name:"data"type:"Input"top:"data"input_param{shape{dim:[1,3,224,8]}}}'
    'layer{name:"conv"type:"Convolution"bottom:"data"top:"conv"convolution_param{num_output:64,bias_term:false;'
    "kernel_size:7,pad:3}}",
    "another order": "\n".join(["layer {" + it for it in PLAIN.split("layer {")[1:]]) + 'name: "net"',
    "on a long line": PLAIN.replace("\n", " " * 2500) + "#" * 5000,
    "after a long comment": "#" * 100_000 + '"{\n' + PLAIN,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_net(spelling: str) -> None:
    text = SPELLINGS[spelling]
    assert text != PLAIN
    assert parse(text) == Prototxt(net=text_format.Parse(PLAIN, NetParameter()), notes=())


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("1e-5", 1e-5), ("1.0f", 1.0), ("2e-05f", 2e-5), (".5", 0.5), ("5.", 5.0), ("1", 1.0), ("-1E+2", -100.0)),
        *(("inf", math.inf), ("-inf", -math.inf), ("Infinity", math.inf), ("1e999", math.inf), ("-0", 0.0)),
    ],
)
def test_numbers(written: str, value: float) -> None:
    (layer,) = parse(f'layer {{ name: "a" batch_norm_param {{ eps: {written} }} }}').net.layer
    assert layer.batch_norm_param.eps == pytest.approx(value, rel=1e-7)


def test_not_a_number() -> None:
    (layer,) = parse("layer { batch_norm_param { eps: nan } power_param { shift: -1 } }").net.layer
    assert math.isnan(layer.batch_norm_param.eps)


def test_enums_by_name_and_by_number() -> None:
    for written in ("AVE", "1", "0x1"):
        (layer,) = parse(f"layer {{ pooling_param {{ pool: {written} }} }}").net.layer
        assert layer.pooling_param.pool == caffe_pb2.PoolingParameter.AVE


def test_names_in_other_scripts() -> None:
    (layer,) = parse('layer { name: "свёртка/7x7" top: "\\303\\251" }').net.layer
    assert (layer.name, layer.top[0]) == ("свёртка/7x7", "é")


def test_comments_need_not_be_utf8() -> None:
    text = PLAIN.encode().replace(b"layer {", 'layer { # 卷积层 "\n'.encode("gbk"))
    assert parse(text).net == parse(PLAIN).net


def test_names_must_be_utf8() -> None:
    error = refusal('layer {\n  name: "卷积" top: "a"\n}'.encode("gbk"))
    assert error.place == "line 2, column 28"  # protobuf names the place after the text; each byte is four characters
    assert "can't decode" in error.problem
    assert error.hint == "save the file as UTF-8 or plain ASCII"
    assert "UTF-8" in str(refusal(b'layer { name: "\\377" }').hint)


def test_the_rounding_of_a_pooling_has_two_names() -> None:
    (bvlc,) = parse("layer { pooling_param { round_mode: FLOOR } }").net.layer
    assert bvlc.pooling_param.round_mode == caffe_pb2.PoolingParameter.FLOOR
    assert not bvlc.pooling_param.HasField("ceil_mode")
    found = parse("layer { pooling_param { ceil_mode: false } }")
    (fork,) = found.net.layer
    assert not fork.pooling_param.ceil_mode
    assert not fork.pooling_param.HasField("round_mode")
    assert not found.notes  # it is read


# Older forms


def test_older_forms_are_upgraded() -> None:
    found = parse('input: "x" input_dim: [1, 3, 8, 8] layers { name: "r" type: RELU bottom: "x" top: "y" }').net
    assert [(layer.name, layer.type) for layer in found.layer] == [("input", "Input"), ("r", "ReLU")]
    assert not found.layers


def test_both_forms_are_refused_as_by_caffe() -> None:
    error = refusal('layer { name: "a" } layers { name: "b" }')
    assert "includes both 'layer' and 'layers'" in error.problem


def test_what_upgrades_refuse_has_a_hint() -> None:
    assert refusal('layers { layer { type: "reshape" } }').problem == "Unknown layer name"


# Fields that the schema lacks


def test_fields_of_forks_are_skipped_and_noted() -> None:
    found = parse(
        PLAIN.replace("pad: 3", "pad: 3 foo: 1 bar { a: 1 b < c: 'x' 'y' >; d: [1, -inf] } baz: [1, 'a' 'b', c]")
        + 'fork: "a"\nlayer { name: "x" convolution_param { foo: -0x1, foo: 2; pad: 1 } own_param: { pad: 1 foo: 3 } }'
        + "layer: [{ own_param {} }, { transform_param { crop_h: 1 } }]"
    )
    assert found.notes == (
        "convolution_param.foo: unknown to BVLC Caffe, skipped (3 times)",
        "convolution_param.bar: unknown to BVLC Caffe, skipped (1 time)",
        "convolution_param.baz: unknown to BVLC Caffe, skipped (1 time)",
        "fork: unknown to BVLC Caffe, skipped (1 time)",
        "own_param: unknown to BVLC Caffe, skipped (2 times)",
        "transform_param.crop_h: unknown to BVLC Caffe, skipped (1 time)",
    )
    assert len(found.net.layer) == 5
    assert found.net.layer[1] == parse(PLAIN).net.layer[1]
    assert list(found.net.layer[2].convolution_param.pad) == [1]


def test_in_older_forms_too() -> None:
    found = parse("layers { type: RELU relu_param { foo: 1 } include { bar: 2 } } layers { relu_param < foo: 2 > }")
    assert found.notes == (
        "relu_param.foo: unknown to BVLC Caffe, skipped (2 times)",
        "include.bar: unknown to BVLC Caffe, skipped (1 time)",
    )


def test_fields_of_bvlc_caffe_without_meaning_are_skipped_silently() -> None:
    found = parse(
        """force_backward: true debug_info: false
        layer { propagate_down: [true, false] loss_param { normalize: true }
                convolution_param { weight_filler { type: "gaussian" std: 0.01 } bias_filler < value: 0.1 > }
                pooling_param { engine: CUDNN } data_param { backend: LMDB prefetch: 4 }
                accuracy_param { top_k: 5 } sigmoid_param { engine: CAFFE } }"""
    )
    assert not found.notes
    assert not WITHOUT_MEANING & set(caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name)


def test_notes_are_few_however_many_fields_there_are() -> None:
    found = parse("".join(f"x{number}: 1 " for number in range(1000)) + "y" * 10_000 + ": 1 layer {}")
    assert len(found.notes) == 21
    assert found.notes[-1] == "981 more fields: unknown to BVLC Caffe, skipped"
    assert all(len(note) < 200 for note in found.notes)


def test_lists_of_messages_of_forks() -> None:
    text = "layer { own_param: { a: [{ b: [1] }, < >] } foo: [{}, {}] name: 'x' }"
    if int(protobuf.__version__.partition(".")[0]) < 5:  # protobuf 4 skips lists of numbers and texts alone
        assert refusal(text).place == "line 1"
        return
    found = parse(text)
    assert found.notes == (
        "own_param: unknown to BVLC Caffe, skipped (1 time)",
        "foo: unknown to BVLC Caffe, skipped (1 time)",
    )
    assert found.net.layer[0].name == "x"


def test_names_in_brackets_are_known_nowhere() -> None:
    assert parse("layer { own_param { [a.b.c/d.e] { f: 1 } [g] : 2 } }").notes
    assert "does not have extensions" in refusal("layer { [a.b] : 1 }").problem


# Bounds


@pytest.mark.parametrize("part", ["foo:1;", "foo:[1,2]", "foo{a:b}", "a:'b'", '"', "'", "\\", "[", "input:'a'\t", "é"])
def test_one_long_line_is_nothing_special(part: str) -> None:
    begin = time.process_time()
    with suppress(FormatError):
        parse("layer {} " + part * (100_000 // len(part)))
    assert time.process_time() - begin < 5


def test_time_grows_with_the_size_of_a_line_and_not_with_its_square() -> None:
    """protobuf alone takes a quarter of a minute."""
    begin = time.process_time()
    parse("layer {} " + "foo: 1 " * 100_000)
    assert time.process_time() - begin < 8


@pytest.mark.parametrize(
    "part", [" ", "\t", "#", "\n", "\n\r", ";", "x", "'x'", "layer{}", "layer{}\n", "a:b\n", '"\\a"']
)
def test_memory_is_bounded(part: str) -> None:
    """protobuf alone takes 150 bytes for each blank in a line."""
    data = b"layer {} " + part.encode() * (60_000 // len(part))
    tracemalloc.start()
    try:
        with suppress(FormatError):
            parse_prototxt(data, "net.prototxt")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < fuzz_prototxt.MEMORY_FACTOR * len(data)


# Chance


def test_mutations_are_read_or_refused() -> None:
    outcomes = fuzz_prototxt.run(800, seed=1)
    assert outcomes.total() == 800
    assert outcomes["built"] > 80  # the mutations reach what comes after the text
    assert len(outcomes) > 20


@pytest.mark.parametrize("seed", fuzz_prototxt.SEEDS, ids=("V2", "V1", "V0"))
def test_the_seeds_of_the_mutations_are_valid(seed: str) -> None:
    assert fuzz_prototxt.read_everything(seed.encode()) == "built"


# Real files


@pytest.mark.parametrize("path", sorted(CAFFE.rglob("*.prototxt")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fixtures(path: Path) -> None:
    """Against protobuf alone, which refuses what the schema lacks."""
    found = read_prototxt(path)
    assert not found.notes
    assert len(found.net.layer) > 5
    alone: NetParameter = text_format.Parse(path.read_text(), NetParameter(), allow_unknown_field=True)
    assert len(found.net.layer) == len(alone.layer) + len(alone.layers) + bool(alone.input)


RELEASES = {
    "cypw+ResNeXt-1/ResNeXt-50-deploy": 231,
    "cypw+ResNeXt-1/ResNeXt-101-deploy": 452,
    "cypw+ResNeXt-1/ResNeXt-152-deploy": 673,
    "soeaver+caffe-model/cls/resnext/deploy_resnext26-32x4d-priv": 125,
    "soeaver+caffe-model/cls/resnext/deploy_resnext50-32x4d": 229,
    "soeaver+caffe-model/cls/resnext/deploy_resnext101-32x4d": 450,
    "soeaver+caffe-model/cls/resnext/deploy_resnext101-64x4d": 450,
    "hujie-frank+SENet/models/SE-ResNeXt-50": 309,
    "hujie-frank+SENet/models/SE-ResNeXt-101": 615,
    "hujie-frank+SENet/models/SENet-154": 930,
}


@pytest.mark.acceptance
@pytest.mark.parametrize("name", RELEASES)
def test_published_prototxts(name: str) -> None:
    found = read_prototxt(shared(f"releases/{name}.prototxt"))
    assert len(found.net.layer) == RELEASES[name]
    assert found.net.layer[0].type == "Input"
    assert list(found.net.layer[0].input_param.shape[0].dim) == [1, 3, 224, 224]
    assert not found.notes


@pytest.mark.acceptance
def test_a_net_of_a_fork() -> None:
    found = read_prototxt(shared("weights/minivision_retinaface/deploy.prototxt"))
    assert found.notes == (
        "permute_param: unknown to BVLC Caffe, skipped (6 times)",
        "prior_box_param: unknown to BVLC Caffe, skipped (3 times)",
        "detection_output_param: unknown to BVLC Caffe, skipped (1 time)",
    )
