"""Caffemodels that lie, and what else is found under their name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from caffe_writer import (
    RAMP,
    blob,
    layer,
    legacy,
    message,
    net,
    number,
    packed,
    raw,
    shape,
    solver_state,
    unpacked,
    v1_layer,
)
from test_caffe_weights import DIMS, DOUBLE, read, refusal

from resnext_convert.converter.caffe.weights import read_weights
from resnext_convert.converter.errors import (
    TruncatedError,
    UnsupportedError,
)

# --- files that lie, one lie each ------------------------------------------------------------------------------------

COUNT = "the number of values is not what the shape says"
CUT = "an array of float32 ends inside a number"
LIES: dict[str, tuple[bytes, str]] = {
    "one value too few": (
        packed(RAMP.reshape(-1)[:5]) + DIMS,
        rf"{COUNT} \(expected 6 for the shape \[2, 3\], found 5\)",
    ),
    "one value too many": (packed(np.arange(7, dtype=np.float32)) + DIMS, rf"{COUNT}.* found 7\)"),
    "no value": (DIMS, rf"{COUNT}.* found 0\)"),
    "an empty blob": (b"", rf"{COUNT} \(expected 1 for the shape \[\], found 0\)"),
    "no shape": (packed(RAMP), rf"{COUNT} \(expected 1 for the shape \[\], found 6\)"),
    "doubles of another number than the floats": (packed(RAMP) + packed(DOUBLE[0]) + DIMS, rf"{COUNT}.* found 3\)"),
    "raw values too few": (raw(RAMP[0]) + DIMS, rf"{COUNT}.* found 3\)"),
    "gradients alone": (packed(RAMP, field=6) + DIMS, rf"{COUNT}.* found 0\)"),
    "one of four dimensions": (packed(RAMP) + legacy(num=6), rf"{COUNT} \(expected 0 for the shape \[6, 0, 0, 0\]"),
    "a negative dimension": (packed(RAMP) + shape((-2, -3)), "a shape that no array can have"),
    "a negative number of rows": (packed(RAMP) + legacy(num=-1, channels=-1, height=2, width=3), "a shape that no"),
    "a product that wraps to 4": (packed(RAMP) + shape((4194305, 4194305, 211106198978564)), "a shape that no array"),
    "2**62 columns of no row": (packed(RAMP[:0]) + shape((0, 2**62)), "a shape that no array can have"),
    "33 dimensions": (packed(RAMP[0, :1]) + shape((1,) * 33), "too many dimensions"),
    "seven bytes of floats": (message(5, bytes(7)) + shape((1,)), CUT),
    "chunks that cut a float": (message(5, bytes(6)) + message(5, bytes(2)) + shape((2,)), CUT),
    "twelve bytes of doubles": (message(8, bytes(12)) + shape((1,)), "an array of float64 ends inside a number"),
    "nine bytes of raw halves": (number(10, 2) + message(12, bytes(9)) + shape((4,)), "raw_data of float16 end inside"),
}  # fmt: skip
REFUSED: dict[str, tuple[bytes, str]] = {
    "packed and unpacked": (packed(RAMP[:1]) + unpacked(RAMP[1:]) + DIMS, "packed and unpacked numbers"),
    "unpacked and packed": (unpacked(RAMP[:1]) + packed(RAMP[1:]) + DIMS, "packed and unpacked numbers"),
    "packed and unpacked doubles": (packed(DOUBLE[:1]) + unpacked(DOUBLE[1:]) + DIMS, "packed and unpacked numbers"),
    "raw integers": (raw(RAMP.astype(np.int32)) + DIMS, r"raw_data that are no floats .*found INT\)"),
    "raw unsigned integers": (raw(RAMP.astype(np.uint32)) + DIMS, r"raw_data that are no floats .*found UINT\)"),
    "raw values of no type": (message(12, RAMP.tobytes()) + DIMS, r"raw_data .*found no raw_data_type\)"),
    "raw values of type 5": (raw(RAMP, type_flag=5) + DIMS, r"raw_data .*found no raw_data_type\)"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie: str, tmp_path: Path) -> None:
    written, says = LIES[lie]
    error = refusal(net(layer("a", [blob(RAMP)]), layer("fc", [blob(RAMP), written])), says, tmp_path)
    assert error.place == "layer #1 'fc', blob 1"


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_without_a_guess_is_refused(kind: str, tmp_path: Path) -> None:
    written, says = REFUSED[kind]
    error = refusal(net(layer("fc", [written])), says, tmp_path, UnsupportedError)
    assert error.place == "layer #0 'fc', blob 0"


def test_a_net_in_two_forms_is_refused(tmp_path: Path) -> None:
    data = net(layer("a", [blob(RAMP)]), old=[v1_layer("b", [blob(RAMP)])])
    refusal(data, "both 'layer' and 'layers'", tmp_path)


def test_a_layers_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    # protobuf's pure-Python runtime parses no such message at all
    refusal(net(layer(b"\xc3\x28", [blob(RAMP)])), "the name of layer #0 is not UTF-8|cannot be parsed", tmp_path)


def test_a_file_beyond_protobufs_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.caffemodel"
    with path.open("wb") as file:
        file.write(net(layer("a", [blob(RAMP)])))
        file.truncate(2**31)  # no byte of it is stored
    with pytest.raises(UnsupportedError, match="too large for a protobuf message"):
        read_weights(path)


# --- other files, and files that are cut off -------------------------------------------------------------------------

PROTOTXT = b'name: "ResNet"\nlayer {\n  name: "data"\n  type: "Input"\n}\n'
OTHER_FILES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "the file is empty", "download failed"),
    "HTML": (b"<!DOCTYPE html><html>404</html>", "web page", "download failed"),
    "HTML after a byte-order mark": (b"\xef\xbb\xbf\r\n <html>", "web page", "download failed"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer", "git lfs pull"),
    "prototxt": (PROTOTXT, "a prototxt, the net as text", "--prototxt"),
    "prototxt of old layers": (b"# ResNet\nlayers: <\n  type: CONVOLUTION >\n", "a prototxt", "--prototxt"),
    "prototxt in Latin-1": (b"# caf\xe9\r\ninput: 'data'\r\n", "a prototxt", "--prototxt"),
    "text": (b"hello world\n", "it is text", "--weights"),
    "JSON": (b'{\n  "nodes": [', "JSON", "--weights"),
    "MXNet's weights": (struct.pack("<3Q", 0x112, 0, 0) + bytes(8), "MXNet's weights", "resnext-convert mxnet"),
    "gzip": (gzip.compress(net(layer("a", [blob(RAMP)]))), "gzip", "gunzip"),
    "bzip2": (b"BZh91AY&SY\x00\x01", "bzip2", "bunzip2"),
    "xz": (b"\xfd7zXZ\x00", "xz", "unxz"),
    "zip": (b"PK\x03\x04\x14\x00", "a zip archive", "--weights"),
    "pickle": (b"\x80\x02}q\x00.", "pickle", "--weights"),
    "a mean image": (packed(RAMP) + legacy(num=1, channels=1, height=2, width=3), "a single array", "preprocessing"),
    "a mean image of doubles": (blob(DOUBLE), "a single array", "preprocessing"),
    "a solver's state": (solver_state("x.caffemodel", [blob(RAMP)]), "a solver's state", "with it, 'x.caffemodel'"),
    "a solver's state without a net": (solver_state(history=[blob(RAMP)]), "a solver's state", "name the .caffemodel"),
    "a net without weights": (net(layer("a"), layer("b")), "a net without weights .*2 layers without", "random start"),
    "an old net without weights": (net(old=[v1_layer("a")]), "a net without weights", "random start"),
    "a name alone": (net(), "this is not a caffemodel .*found no layer", "random start"),
    "noise": (b"\xff\xfe\xfd\x00\x01\x02\x03", "not a caffemodel, or it is damaged from", "checksum"),
    "zeros": (bytes(1000), "not a caffemodel, or it is damaged from", "checksum"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_kind_of_file_is_named(kind: str, tmp_path: Path) -> None:
    data, says, hint = OTHER_FILES[kind]
    assert hint in str(refusal(data, says, tmp_path).hint)


def test_no_length_of_the_nets_name_is_taken_for_another_kind(tmp_path: Path) -> None:
    # Of 60 bytes: the file begins with a line feed and "<".
    for size in range(300):
        assert read(net(layer("a", [blob(RAMP)]), name="n" * size), tmp_path).name == "n" * size


def test_each_kind_of_file_has_its_own_message() -> None:
    assert len({says for _, says, _ in OTHER_FILES.values()}) == 19


def test_a_file_cut_anywhere_is_refused_but_between_layers(tmp_path: Path) -> None:
    first, second = layer("conv", [blob(RAMP), blob(RAMP[0])]), layer("fc", [blob(RAMP)])
    data, start = net(first, second), len(net())
    boundary = len(net(first))
    for size in range(start + 1, len(data)):
        if size == boundary:  # a whole net of fewer layers: whoever has the prototxt sees what is missing
            assert [stored.name for stored in read(data[:size], tmp_path).layers] == ["conv"]
        elif size > boundary:
            error = refusal(data[:size], "the file ends inside a layer, or is damaged there", tmp_path, TruncatedError)
            assert error.place in {"in or after layer #0", "in or after layer #1"}
        else:
            refusal(data[:size], "ends inside a layer|it cannot be parsed", tmp_path)


def test_damage_inside_a_layer_is_told_from_a_cut(tmp_path: Path) -> None:
    inside = message(1, "fc") + message(7, message(7, b"\xff"))  # a shape that ends inside a number
    error = refusal(net(layer("a", [blob(RAMP)]), inside), "damaged inside a layer", tmp_path)
    assert not isinstance(error, TruncatedError)
    assert error.place in {"in or after layer #0", "in or after layer #1"}
