"""Prototxts that are damaged, and everything else that is found under their name."""

from __future__ import annotations

from pathlib import Path

import pytest
from repository import FIXTURES
from test_caffe_prototxt import PLAIN, parse, refusal

from resnext_convert.converter.caffe.prototxt import LARGEST, read_prototxt
from resnext_convert.converter.errors import FormatError, MissingFileError

# Files that are damaged or no nets


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ('layer {\n  name: "a"\n  name: "b"\n}', "line 3, column 9", 'should not have multiple "name" fields'),
        ('layer {\n  type: "P"\n  pooling_param { pool: MEAN }\n}', "line 3, column 25", "has no value named MEAN"),
        ("layer { pooling_param { pool: 7 } }", "line 1, column 31", "has no value with number 7"),
        ("layer {\n  name: 5\n}", "line 2, column 9", "Expected string but found: '5'"),
        ('layer { convolution_param { num_output: "8" } }', "line 1, column 41", 'parse integer: "8"'),
        ("layer { convolution_param { num_output: 1.5 } }", "line 1, column 41", "parse integer: 1.5"),
        ("layer { convolution_param { num_output: -1 } }", "line 1, column 41", "out of range: -1"),
        ("layer { convolution_param { num_output: 4294967296 } }", "line 1, column 41", "out of range"),
        ("layer { scale_param {} scale_param {} }", "line 1, column 36", '"LayerParameter" should not have multiple'),
        ("input_dim: 08 layer {}", "line 1, column 12", "parse integer: 08"),
        ("layer { convolution_param { bias_term: yes } }", "line 1, column 40", 'Expected "true" or "false"'),
        ("layer { batch_norm_param { eps: small } }", "line 1, column 33", "parse float: small"),
        ('layer {\n  name: "a\n}', "line 2, column 9", "missing ending quote"),
        ("layer {\n  name 'a'\n}", "line 2, column 8", 'Expected ":"'),
        ("layer {\n  bottom:\n}\n", "line 3, column 1", "Expected string"),
        ("layer {\n", "line 1, column", 'Expected "}"'),
        ("layer {}\n}", "line 2, column 1", "Expected identifier or number, got }"),
        ("layer { foo: } }", "line 1", "Invalid field value: }"),
        ("layer { foo: [1 2] }", "line 1, column 17", "Expected "),
        ("layer { pooling_param: 3 }", "line 1, column 24", 'Expected "{"'),
        ("layer { name: [] }", "line 1, column 15", "Expected string"),
        ('\nlayer {\nname: "\\q" }', "line 3", "a text has a backslash that stands for nothing"),
    ],
)
def test_errors_have_line_and_column(text: str, place: str, problem: str) -> None:
    error = refusal(text)
    assert str(error.place).startswith(place)
    assert error.problem.startswith("this is not the text of a Caffe net: ")
    assert problem in error.problem
    assert "layer" not in error.problem.partition(": ")[2]  # the line itself is not repeated


def test_places_in_long_lines_are_those_of_the_file() -> None:
    line = "layer { }" + " " * 5000 + "# x\nlayer { } " + "foo : [ 1,'}' ] ; " * 1000 + "layer { name: 5 }"
    column = line.split("\n")[1].index("5 }") + 1
    error = refusal(line)
    assert error.place == f"line 2, column {column}"
    assert error.problem.endswith("Expected string but found: '5'")


def test_hints_say_what_to_do() -> None:
    for text in ("layer { type: CONVOLUTION }", 'layers { type: "Convolution" }', "layers { type: BATCHNORM }"):
        assert "the type is a text in `layer" in str(refusal(text).hint)
    assert "put them into a .caffemodel" in str(refusal("layer { blobs { data: 0.5 data: 1 } }").hint)
    assert refusal("layer { top: 5 }").hint == "compare it with the publisher's file"


def test_an_error_shows_no_more_of_the_file_than_needed() -> None:
    assert len(str(refusal("layer { name: '" + "x" * 100_000))) < 400
    assert len(str(refusal("layer { type: " + "x" * 100_000 + " }"))) < 400


@pytest.mark.parametrize("opened", ["layer {", "a {", "a <", "a: [{", "layer { layer {", "layers { layer {"])
@pytest.mark.parametrize("closed", ["", "}"])
def test_deep_nesting(opened: str, closed: str) -> None:
    refusal(PLAIN + opened * 100_000 + closed * 100_000)
    refusal(PLAIN + f"{opened}\n" * 100_000 + closed * 100_000)


OTHERS = {
    "empty": (b"", "empty"),
    "blanks": (b" \r\n\t\n", "empty"),
    "HTML": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page (HTML or XML)"),
    "XML": (b'<?xml version="1.0"?><Error/>', "a web page (HTML or XML)"),
    "JSON": (b'{\n  "nodes": [\n', "JSON"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer, not the file itself"),
    "UTF-16": ("\ufefflayer {}".encode("utf-16-le"), "text in UTF-16"),
    "UTF-16 big": ("\ufefflayer {}".encode("utf-16-be"), "text in UTF-16"),
    "zip": (b"PK\x03\x04\x14", "a binary file"),
    "gzip": (b"\x1f\x8b\x08", "a binary file"),
    "pickle": (b"\x80\x02}q\x00", "a binary file"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_named(kind: str) -> None:
    content, what = OTHERS[kind]
    error = refusal(content)
    assert (error.problem, error.found) == ("this is not a prototxt", what)


@pytest.mark.parametrize(
    "name",
    [
        "caffe/recordings/a_cypw/weights.caffemodel",
        "caffe/recordings/d_v1/weights.caffemodel",
        "caffe/recordings/n_bn_scale0/weights.caffemodel",
        "caffe/recordings/m_shared_params/weights.caffemodel.h5",
        "caffe/recordings/a_cypw/io.npz",
        "resnext-tiny/resnext-tiny-0000.params",
    ],
)
def test_binaries_are_named(name: str) -> None:
    with pytest.raises(FormatError) as found:
        read_prototxt(FIXTURES / name)
    assert found.value.found == "a binary file"
    assert "--weights" in str(found.value.hint)


def test_an_mxnet_symbol_is_named() -> None:
    with pytest.raises(FormatError) as found:
        read_prototxt(FIXTURES / "resnext-tiny" / "resnext-tiny-symbol.json")
    assert found.value.found == "JSON"
    assert "resnext-convert mxnet" in str(found.value.hint)


def test_a_solver_is_named() -> None:
    error = refusal('net: "train_val.prototxt"\nbase_lr: 0.1\nlr_policy: "step"\nmax_iter: 9\ntype: "SGD"\n')
    assert error.problem == "this is a solver's settings, not a net"
    assert error.found == "base_lr, lr_policy, net"
    assert "names the prototxt of the net" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# nothing\n" * 1000, "nothing that Caffe knows"),
        ('name: "n" input: "a"', "nothing that Caffe knows"),
        ('title: "x" a: 1 b: 2 c {} d <> e: f', "'title', 'a', 'b', 'c', 'd'"),
        ("404: Not Found: x", "'404', 'Found'"),
    ],
)
def test_other_text_has_no_layer(text: str, found: str) -> None:
    error = refusal(text)
    assert (error.problem, error.found) == ("the net has no layer", found)


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    parse(PLAIN + "#" * (LARGEST - len(PLAIN)))
    assert refusal(PLAIN + "#" * (LARGEST - len(PLAIN) + 1)).problem == "this is too large for a prototxt"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    with pytest.raises(MissingFileError):
        read_prototxt(path)
    path.write_text(PLAIN)
    assert read_prototxt(path) == parse(PLAIN)
    path.write_text("layer {")
    with pytest.raises(FormatError, match=r"net\.prototxt: line 1"):
        read_prototxt(path)
