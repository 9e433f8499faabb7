"""What the OpenCV oracle is not asked about; and with OpenCV, that each of these limits is one.

Tests marked ``opencv`` need OpenCV and let the oracle start its child process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import caffe_writer as writer
import numpy as np
import pytest
from caffe_base import layer
from opencv_cases import CONV, EYE, GATES, Stored, X, pair, vector, y
from single_node import of_peak

from resnext_convert.converter.caffe.source import read_pair
from resnext_convert.converter.errors import InputError
from resnext_convert.converter.oracles import opencv as oracle
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array

with_opencv = pytest.mark.opencv


def reason(folder: Path, text: str, stored: Stored) -> str | None:
    """What is said about these layers, and one with weights, without which the reader takes no file."""
    files = pair(folder, text + layer("Convolution", "last", "data", text=CONV), {"last": [EYE], **stored})
    return oracle.limits(read_pair(*files))


@dataclass(frozen=True)
class Limit:
    """Layers that OpenCV is not asked about, why, and what Caffe makes of the image in the blob ``y``."""

    text: str
    reason: str
    stored: Stored
    expected: Array | None = None  # None: OpenCV refuses by itself
    images: int = 1


FOUR, GAMMA, MATRIX = vector(4), vector(6), vector(120, 7)


STATISTICS = [np.ones(4, np.float32), 3 * np.ones(4, np.float32), np.ones(1, np.float32)]
SHAPE_LIMIT = "OpenCV gives the output of an InnerProduct or a Flatten along that axis another shape (node 'y' ({}))"

OF_NODES = {
    "batch statistics": Limit(
        y("BatchNorm", "batch_norm_param { use_global_stats: false }"),
        "OpenCV has no statistics of a batch (node 'y' (BatchNorm))",
        {"y": STATISTICS},
        images=2,
    ),
    "bias layer": Limit(y("Bias"), "OpenCV has no Bias layer (node 'y' (Bias))", {"y": [FOUR]}),
    "lrn": Limit(
        y("LRN", "lrn_param { local_size: 1 k: 2 beta: 1 }"),
        "OpenCV's LRN has other defaults, and does not look at k (node 'y' (LRN))",
        {},
        X / (2 + X**2),
    ),
    "transpose": Limit(
        y("InnerProduct", "inner_product_param { num_output: 7 bias_term: false transpose: true }"),
        "OpenCV does not look at an InnerProduct's transpose (node 'y' (InnerProduct))",
        {"y": [MATRIX]},
        X.reshape(1, -1) @ MATRIX,
    ),
    "product of all axes": Limit(
        y("InnerProduct", "inner_product_param { num_output: 7 bias_term: false axis: 0 }"),
        SHAPE_LIMIT.format("InnerProduct"),
        {"y": [vector(7, 120)]},
        vector(7, 120) @ X.reshape(-1),
    ),
    "flatten all axes": Limit(
        y("Flatten", "flatten_param { axis: 0 }"),
        SHAPE_LIMIT.format("Flatten"),
        {},
        X.reshape(-1),
    ),
    "average outside": Limit(
        y("Pooling", "pooling_param { pool: AVE kernel_size: 1 stride: 5 }"),
        "OpenCV has another value for a window outside the map (node 'y' (Pooling))",
        {},
        np.concatenate([X[:, :, :1, ::5], np.zeros((1, 4, 1, 2))], 2),
    ),
    "slice that is read in part": Limit(
        layer("Slice", "parts", "data", "one two", "slice_param { axis: 1 }") + y("ReLU", bottoms="one"),
        "OpenCV cuts a Slice into as many parts as are read (node 'parts' (Slice))",
        {},
        X[:, :2].clip(0),
    ),
    "negative axis": Limit(
        y("Scale", "scale_param { axis: -1 }"),
        "OpenCV does not count a Scale's axis from the end (node 'y' (Scale))",
        {"y": [GAMMA]},
    ),
    "number": Limit(
        y("Scale", "scale_param { num_axes: 0 }"),
        "OpenCV does not read a Scale's single number (node 'y' (Scale))",
        {"y": [np.array(2, np.float32)]},
    ),
    "scale of two with a bias": Limit(
        GATES + y("Scale", "scale_param { axis: 0 bias_term: true }", "data gates"),
        "OpenCV takes the bias of a Scale of two inputs for its factor (node 'y' (Scale))",
        {"y": [vector(1, 4)]},
        (X * X.mean((2, 3), keepdims=True)) + vector(1, 4, 1, 1),
    ),
    "padding along one axis": Limit(
        y("Pooling", "pooling_param { kernel_h: 1 kernel_w: 2 stride: 5 pad_h: 0 pad_w: 1 }"),
        "OpenCV leaves out the last window of a pooling only along axes that are padded (node 'y' (Pooling))",
        {},
        np.stack([X[:, :, :1, 0], X[:, :, :1, 4:].max(-1)], -1),
    ),
    "window outside": Limit(
        y("Pooling", "pooling_param { kernel_size: 1 stride: 5 }"),
        "OpenCV has another value for a window outside the map (node 'y' (Pooling))",
        {},
        np.concatenate([X[:, :, :1, ::5], np.full((1, 4, 1, 2), np.finfo(np.float32).min)], 2),
    ),
}
OF_TEXT = {
    "padding of one axis": Limit(
        y("Convolution", "convolution_param { num_output: 4 kernel_size: 1 bias_term: false pad_h: 1 }"),
        "OpenCV does not look at a convolution's padding where only one axis is stated (layer 'y', 'Convolution')",
        {"y": [EYE]},
        np.pad(X, ((0, 0), (0, 0), (1, 1), (0, 0))),
    ),
    "phase": Limit(
        layer("Power", "noise", "data", "data", "power_param { shift: 1 } include { phase: TRAIN }") + y("ReLU"),
        "OpenCV does not look at phases (layer 'noise', 'Power')",
        {},
        X.clip(0),
    ),
    "no phase": Limit(
        layer("Power", "noise", "data", "data", "power_param { shift: 1 } exclude { phase: TEST }") + y("ReLU"),
        "OpenCV does not look at phases (layer 'noise', 'Power')",
        {},
        X.clip(0),
    ),
    "data": Limit(
        layer("Data", "images", tops="more") + y("ReLU"), "OpenCV reads no data itself (layer 'images', 'Data')", {}
    ),
    "parameters of another type": Limit(
        layer("ReLU", "r", "data") + y("Concat", "softmax_param { axis: 2 }", "data r"),
        "OpenCV does not pass over the field 'softmax_param', as Caffe does (layer 'y', 'Concat')",
        {},
        np.concatenate([X, X.clip(0)], 1),
    ),
    "parameters of a fork": Limit(
        y("ReLU", "own_param { negative_slope: 3 other: 1 }"),
        "OpenCV does not pass over the field 'own_param', as Caffe does (layer 'y', 'ReLU')",
        {},
        X.clip(0),
    ),
    "field of a fork": Limit(
        y("BatchNorm", "batch_norm_param { eps: 1e-3 own: 1 }"),
        "OpenCV does not pass over the field 'batch_norm_param.own', as Caffe does (layer 'y', 'BatchNorm')",
        {"y": STATISTICS},
        (X - 1) / np.sqrt(np.float32(3.001)),
    ),
    "shared": Limit(
        layer("Convolution", "z", "data", text=f'{CONV} param {{ name: "w" }}')
        + y("Convolution", f'{CONV} param {{ name: "w" }}'),
        "OpenCV does not share parameters between layers (param { name: 'w' })",
        {"y": [2 * EYE], "z": [EYE]},
        X,
    ),
}  # fmt: skip
LIMITS = OF_NODES | OF_TEXT
every_limit = pytest.mark.parametrize("limit", LIMITS.values(), ids=list(LIMITS))


@every_limit
def test_limit_is_seen(limit: Limit, tmp_path: Path) -> None:
    assert reason(tmp_path, limit.text, limit.stored) == limit.reason


NO_LIMITS = {
    "statistics": (y("BatchNorm", "batch_norm_param { use_global_stats: true eps: 1e-3 }"), {"y": STATISTICS}),
    "product": (y("InnerProduct", "inner_product_param { num_output: 7 axis: -1 }"), {"y": [vector(7, 6), vector(7)]}),
    "axes": (y("Scale", "scale_param { axis: 2 num_axes: -1 bias_term: true }"), {"y": [vector(5, 6), vector(5, 6)]}),
    "two": (GATES + y("Scale", "scale_param { axis: 0 }", "data gates"), {}),
    "padding": (y("Pooling", "pooling_param { kernel_size: 2 stride: 4 pad: 1 }"), {}),
    "padding, down": (y("Pooling", "pooling_param { kernel_size: 2 pad_h: 0 pad_w: 1 round_mode: FLOOR }"), {}),
    "steps, down": (y("Pooling", "pooling_param { kernel_size: 1 stride: 5 round_mode: FLOOR }"), {}),
    "padding of both": (
        y("Convolution", "convolution_param { num_output: 4 kernel_size: 1 bias_term: false pad_h: 1 pad_w: 0 }"),
        {"y": [EYE]},
    ),
    "global": (y("Pooling", "pooling_param { pool: MAX global_pooling: true }"), {}),
    "names": (y("Convolution", f'{CONV} param {{ name: "w" lr_mult: 0 }}'), {"y": [EYE]}),
    "engine": (y("ReLU", "relu_param { engine: CAFFE } propagate_down: true"), {}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "stored"), NO_LIMITS.values(), ids=list(NO_LIMITS))
def test_no_limit_is_seen_where_none_is(text: str, stored: Stored, tmp_path: Path) -> None:
    assert reason(tmp_path, text, stored) is None


def test_double_precision_is_a_limit_where_it_is_used(tmp_path: Path) -> None:
    text = layer("Convolution", "last", "data", text=CONV)
    prototxt, weights = pair(tmp_path, text)
    doubles, unused = writer.layer("last", [writer.blob(EYE.astype(np.float64))]), writer.blob(FOUR.astype(np.float64))
    weights.write_bytes(writer.net(doubles))
    expected = "OpenCV does not read weights in double precision (node 'last' (Convolution))"
    assert oracle.limits(read_pair(prototxt, weights)) == expected
    weights.write_bytes(writer.net(writer.layer("last", [writer.blob(EYE)]), writer.layer("head", [unused])))
    assert oracle.limits(read_pair(prototxt, weights)) is None


def v1(name: str, array: Array) -> bytes:
    dims = dict(zip(writer.LEGACY, array.shape, strict=True))
    return writer.v1_layer(name, [writer.packed(array) + writer.legacy(**dims)])


@pytest.mark.parametrize("old", [False, True])
def test_copies_of_a_layer_are_a_limit(old: bool, tmp_path: Path) -> None:
    prototxt, weights = pair(tmp_path, y("Convolution", CONV))
    copies = [v1("y", EYE), v1("y", 2 * EYE)] if old else [writer.layer("y", [writer.blob(n * EYE)]) for n in (1, 2)]
    content = writer.net(old=copies) if old else writer.net(*copies)
    weights.write_bytes(content)
    expected = "OpenCV takes the first of a layer's copies in the file, Caffe the last ('y' has several)"
    assert oracle.cannot_read(prototxt, weights) == expected
    weights.write_bytes(content[: -len(copies[1]) - 2])
    assert oracle.cannot_read(prototxt, weights) is None
    weights.write_bytes(writer.net(writer.layer("y"), writer.layer("y", [writer.blob(EYE)])))
    assert oracle.cannot_read(prototxt, weights) is None


@pytest.mark.parametrize("end", [b"", b"\xa2\x06\xff\xff\xff\xff\x0f", b"\xff" * 12, b"\x0b", b"\x01", b"\x25\x00"])
def test_damaged_weights_are_left_to_opencv(end: bytes, tmp_path: Path) -> None:
    prototxt, weights = pair(tmp_path, y("Convolution", CONV))
    weights.write_bytes(writer.net(writer.layer("y", [writer.blob(EYE)])) + end)
    assert oracle.cannot_read(prototxt, weights) is None


# --- with OpenCV ----------------------------------------------------------------------------------------------------


def unseen(limit: Limit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """What OpenCV makes of a net that it would not be asked about."""
    monkeypatch.setattr(oracle, "cannot_read", lambda *_: None)
    feed = {"data": X.repeat(limit.images, 0)}
    return oracle.run(*pair(folder, limit.text, limit.stored), feed, ["y"])["y"]


@with_opencv
@every_limit
def test_limit_is_one(limit: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a later OpenCV have learnt something, this says so."""
    if limit.expected is None:
        with pytest.raises(InputError) as caught:
            unseen(limit, tmp_path, monkeypatch)
        assert caught.value.found
    else:
        found = unseen(limit, tmp_path, monkeypatch)
        assert found.shape != limit.expected.shape or not of_peak(found, limit.expected) <= 1e-3


@with_opencv
@pytest.mark.parametrize(("text", "stored"), NO_LIMITS.values(), ids=list(NO_LIMITS))
def test_opencv_agrees_with_the_reference_where_there_is_no_limit(text: str, stored: Stored, tmp_path: Path) -> None:
    files = pair(tmp_path, text + layer("Convolution", "last", "data", text=CONV), {"last": [EYE], **stored})
    model = read_pair(*files)
    expected = ReferenceExecutor(model.graph, model.tensors).run({"data": X.astype(np.float64)}, ["y"])["y"]
    assert of_peak(oracle.run(*files, {"data": X}, ["y"])["y"], expected) < 1e-6
