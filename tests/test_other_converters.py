"""Side by side: what other converters make of Caffe's files, and what this one does.

Each mistake below is one that published converters of Caffe's files make without a word. It is repeated here in a few
lines, on the walk of tests/calibrated_caffe.py, which by itself computes what real Caffe computes
(tests/test_calibrated_caffe.py). Sizes are of the peak of the right answer, in float64: real Caffe's own, where there
is a recording, else the walk's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calibrated_caffe
import numpy as np
import pytest
import torch
from calibrated_caffe import Net
from google.protobuf import text_format
from repository import FIXTURES

from resnext_convert.converter import checkpoint, pipeline
from resnext_convert.converter.runner import ModuleRunner
from resnext_convert.schemas.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter

Array = np.ndarray[Any, np.dtype[np.float64]]
Weights = dict[str, list[np.ndarray[Any, np.dtype[np.float32]]]]

CAFFE = FIXTURES / "caffe"
TINY = CAFFE / "resnext-tiny" / "resnext-tiny.prototxt"
TINY_WEIGHTS = TINY.with_suffix(".caffemodel")
RIGHT = 1e-10


def ours(prototxt: Path, weights: Path, image: Array, out: Path) -> Array:
    """The probabilities of the converted network, in float64."""
    report = pipeline.convert("caffe", prototxt, out, weights=weights, oracle="none")
    module = ModuleRunner(report.config, checkpoint.read(out), torch.float64)
    logits = module.run(image.astype(np.float32), ["fc"])["fc"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def probabilities(net: Net, weights: Weights, image: Array) -> Array:
    """The walk's, in float64."""
    return calibrated_caffe.run(net, weights, image)["prob"]


def error(found: Array, right: Array) -> float:
    assert found.shape == right.shape
    return float(np.abs(found - right).max() / np.abs(right).max())


def read_weights(caffemodel: Path) -> Weights:
    return {
        layer.name: [
            np.frombuffer(b"".join(blob.data), "<f4").reshape(blob.shape.dim).astype(np.float32) for blob in layer.blobs
        ]
        for layer in NetParameter.FromString(caffemodel.read_bytes()).layer
    }


def write_weights(net: Net, weights: Weights, out: Path) -> Path:
    with out.open("wb") as file:
        write = calibrated_caffe.writer(file)
        for layer in net.layers:
            write(layer, weights[layer.name])
    return out


def altered(net: Net, change: Callable[[LayerParameter], bool]) -> Net:
    """The network with every layer changed in place; those for which ``change`` is false are left out."""
    layers = []
    for layer in net.layers:
        copy = LayerParameter()
        copy.CopyFrom(layer)
        if change(copy):
            layers.append(copy)
    return Net(layers=tuple(layers), shape=net.shape)


def recording(case: str) -> tuple[Array, Array]:
    """The photograph, and what real Caffe says about it in double."""
    with np.load(CAFFE / "recordings" / case / "io.npz") as stored:
        return stored["input_photo"].astype(np.float64), stored["photo__prob__f64"]


def with_variances_of(net: Net, weights: Weights, variance: float) -> Weights:
    """The same function but for eps: each BatchNorm's input is scaled to a variance, by the convolution before it."""
    scaled = dict(weights)
    for sources, layer in zip(net.sources(), net.layers, strict=True):
        if layer.type == "BatchNorm" and sources[0] >= 0:
            before = net.layers[sources[0]].name
            mean, var, factor = weights[layer.name]
            scale = np.sqrt(variance / (var / factor))
            scaled[before] = [weights[before][0] * scale.reshape(-1, 1, 1, 1).astype(np.float32)]
            scaled[layer.name] = [
                (mean * scale).astype(np.float32),
                np.full_like(var, variance * factor[0]),
                factor,
            ]
    return scaled


# -- batch normalisation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eps", "at_least"), [(1e-5, 0.02), (1e-3, 0.5)], ids=["PyTorch's default", "MXNet's default"])
def test_eps_of_the_file_and_not_of_the_framework(eps: float, at_least: float, tmp_path: Path) -> None:
    """eps is 2e-5 in the file; variances are 0.002, as they are in deep layers of trained networks."""
    net = calibrated_caffe.read_net(TINY)
    weights = with_variances_of(net, read_weights(TINY_WEIGHTS), 0.002)
    with np.load(TINY.with_name("io.npz")) as stored:
        image = stored["in:data"].astype(np.float64)
    right = probabilities(net, weights, image)

    def forget(layer: LayerParameter) -> bool:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.eps = eps
        return True

    wrong = error(probabilities(altered(net, forget), weights, image), right)
    print(f"eps {eps:g} instead of 2e-5: {wrong:.1e}")
    assert wrong > at_least
    files = TINY, write_weights(net, weights, tmp_path / "weights.caffemodel")
    assert error(ours(*files, image, tmp_path / "out.pth"), right) < RIGHT


def test_statistics_are_divided_by_the_moving_average_factor(tmp_path: Path) -> None:
    """999.98 in the file: the third blob is dropped by some converters."""
    folder = CAFFE / "recordings" / "a_cypw"
    net, weights = calibrated_caffe.read_net(folder / "deploy.prototxt"), read_weights(folder / "weights.caffemodel")
    image, right = recording("a_cypw")
    dropped = {
        name: [*blobs[:2], np.ones_like(blobs[2])] if len(blobs) == 3 else blobs for name, blobs in weights.items()
    }
    wrong = error(probabilities(net, dropped, image), right)
    print(f"the factor 999.98 ignored: {wrong:.1e}")
    assert wrong > 1
    files = folder / "deploy.prototxt", folder / "weights.caffemodel"
    assert error(ours(*files, image, tmp_path / "out.pth"), right) < RIGHT


@pytest.mark.parametrize("mistake", ["dropped", "folded"])
def test_batch_norm_on_the_data_blob_is_kept(mistake: str, tmp_path: Path) -> None:
    """It can be neither left out nor folded into the convolution behind it, which pads with zeros after it."""
    folder = CAFFE / "recordings" / "a_cypw"
    net, weights = calibrated_caffe.read_net(folder / "deploy.prototxt"), read_weights(folder / "weights.caffemodel")
    image, right = recording("a_cypw")
    without = altered(net, lambda layer: layer.name not in {"bn_data", "scale_bn_data"})
    changed: dict[str, Any] = dict(weights)
    if mistake == "folded":
        (mean, var, factor), (gamma, beta), (kernel,) = (weights[n] for n in ("bn_data", "scale_bn_data", "conv0"))
        slope = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) / factor + 2e-5)
        offset = beta - slope * mean / factor
        changed["conv0"] = [kernel * slope[:, None, None], (kernel * offset[:, None, None]).sum(axis=(1, 2, 3))]
        maps = [
            calibrated_caffe.run(Net(layers=layers, shape=net.shape), blobs, image)["conv0"]
            for layers, blobs in ((net.layers[:3], weights), (without.layers[:1], changed))
        ]
        assert error(maps[1][:, :, 3:-3, 3:-3], maps[0][:, :, 3:-3, 3:-3]) < RIGHT  # right but for the border
    wrong = error(probabilities(without, changed, image), right)
    print(f"bn_data {mistake}: {wrong:.1e}")
    assert wrong > 1
    files = folder / "deploy.prototxt", folder / "weights.caffemodel"
    assert error(ours(*files, image, tmp_path / "out.pth"), right) < RIGHT


# -- pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["b_soeaver_floor", "c_round_mode_floor"])
def test_rounding_of_the_prototxt_is_obeyed(case: str, tmp_path: Path) -> None:
    """``ceil_mode: false``, ``round_mode: FLOOR``: who does not know them, or deletes them, pools to another size."""
    prototxt = CAFFE / "recordings" / case / "deploy.prototxt"
    caffemodel = CAFFE / "recordings" / "b_soeaver_floor" / "weights.caffemodel"
    net, weights = calibrated_caffe.read_net(prototxt), read_weights(caffemodel)
    image, right = recording("b_soeaver_floor")

    def ignore(layer: LayerParameter) -> bool:
        layer.pooling_param.ClearField("ceil_mode")
        layer.pooling_param.round_mode = PoolingParameter.CEIL
        return True

    ceiled = probabilities(altered(net, ignore), weights, image)
    _, other_network = recording("c_soeaver_ceil")
    assert error(ceiled, other_network) < RIGHT  # what real Caffe says once the line is deleted
    wrong = error(ceiled, right)
    print(f"{case}, rounding ignored: {wrong:.1e}")
    assert wrong > 0.2
    assert error(ours(prototxt, caffemodel, image, tmp_path / "out.pth"), right) < RIGHT


# -- text -----------------------------------------------------------------------------------------------------------


def naive(text: str) -> dict[str, list[Any]]:
    """A prototxt as converters without protobuf read it: a line is ``key: value``, ``key {`` or ``}``."""
    root: dict[str, list[Any]] = {}
    open_blocks = [root]
    for line in (raw.strip() for raw in text.split("\n")):
        if line == "}":
            open_blocks = open_blocks[:-1] or [root]
        elif found := re.fullmatch(r"(\w+) *\{", line):
            block: dict[str, list[Any]] = {}
            open_blocks[-1].setdefault(found[1], []).append(block)
            open_blocks.append(block)
        elif found := re.fullmatch(r"(\w+) *: *(\S+)", line):
            open_blocks[-1].setdefault(found[1], []).append(found[2].strip('"'))
    return root


def plain(prototxt: Path) -> str:
    """One field in a line, as protobuf prints it: what even `naive` reads."""
    return text_format.MessageToString(text_format.Parse(prototxt.read_text(), NetParameter()))


# Each is legal in protobuf's text format and means the same.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "a brace on the next line": lambda text: text.replace(" {\n", "\n{\n"),
    "everything in one line": lambda text: text.replace("\n", " "),
    "no space": lambda text: re.sub(r"\s*([:{}])\s*", r"\1", text),
    "a colon before a brace": lambda text: text.replace(" {", ": {"),
    "angle brackets": lambda text: text.replace("{", "<").replace("}", ">"),
    "comments": lambda text: text.replace("\n", " # stride: 7\n"),
    "commas and semicolons": lambda text: text.replace("true\n", "true,\n").replace("1\n", "1;\n"),
    "a list": lambda text: re.sub(r"dim: 1\n +dim: 3\n +dim: 64\n +dim: 64\n", "dim: [1, 3,\n64, 64]\n", text),
    "a list of messages": lambda text: "layer: [" + text.replace("}\nlayer {", "}, {").removeprefix("layer") + "]",
    "hexadecimal": lambda text: text.replace("kernel_size: 3\n", "kernel_size: 0x3\n"),
    "octal": lambda text: text.replace("num_output: 8\n", "num_output: 010\n"),
    "single quotes": lambda text: text.replace('"', "'"),
    "a string in pieces": lambda text: text.replace('"conv0"', '"con" "v0"'),
    "an escape in a string": lambda text: text.replace('"conv0"', r'"c\157nv0"'),
    "other words for true and false": lambda text: text.replace("true", "True").replace("false", "f"),
    "an enum by its number": lambda text: text.replace("pool: AVE", "pool: 1").replace(": SUM", ": 1"),
    "a float with a suffix": lambda text: text.replace("2e-05", "0.00002f"),
    "fields of forks": lambda text: text.replace("pooling_param {", "pooling_param {\nengine: CAFFE"),
}


def test_the_plain_spelling_is_read_by_everybody() -> None:
    """Without this the comparisons below would show nothing."""
    read = naive(plain(TINY))["layer"]
    assert [block["name"] for block in read[1:]] == [[layer.name] for layer in calibrated_caffe.read_net(TINY).layers]
    norms = [block["batch_norm_param"][0]["eps"] for block in read if "batch_norm_param" in block]
    assert norms == [["2e-05"]] * 21


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_network(spelling: str, tmp_path: Path) -> None:
    text = plain(TINY).partition("\n")[2]  # without the name, which is no string to play with
    spelled = SPELLINGS[spelling](text)
    assert naive(spelled) != naive(text)
    reports, states = [], []
    for name, written in (("plain", text), ("spelled", spelled.replace("\n", "\r\n"))):
        (tmp_path / f"{name}.prototxt").write_bytes(written.encode())
        out = tmp_path / f"{name}.pth"
        reports.append(
            pipeline.convert("caffe", tmp_path / f"{name}.prototxt", out, weights=TINY_WEIGHTS, verify=False)
        )
        states.append(checkpoint.read(out))
    assert reports[0].config == reports[1].config
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_a_line_parser_loses_is_another_network_without_a_word(tmp_path: Path) -> None:
    """With the brace on the next line eps is no longer the BatchNorm's, and the default is taken instead."""
    spelled = SPELLINGS["a brace on the next line"](plain(TINY))
    assert "batch_norm_param" not in str(naive(spelled))
    net, weights = calibrated_caffe.read_net(TINY), read_weights(TINY_WEIGHTS)
    with np.load(TINY.with_name("io.npz")) as stored:
        image, right = stored["in:data"].astype(np.float64), stored["ref64:prob"]

    def forget(layer: LayerParameter) -> bool:
        layer.batch_norm_param.ClearField("eps")
        return True

    wrong = error(probabilities(altered(net, forget), weights, image), right)
    print(f"eps lost by a line parser: {wrong:.1e}")
    assert wrong > 0.01
    prototxt = tmp_path / "spelled.prototxt"
    prototxt.write_text(spelled)
    assert error(ours(prototxt, TINY_WEIGHTS, image, tmp_path / "out.pth"), right) < RIGHT
