"""Full-size weights for any published Caffe prototxt: random, but calibrated layer by layer so that mistakes show.

    python tests/calibrated_caffe.py PROTOTXT OUT.caffemodel [--image-size 224] [--seed 0] [--factor 999.98]

The sibling of tests/calibrated_weights.py, with the same aims. The prototxt is walked once, from top to bottom, by
torch on a few image-like inputs, and each layer's weights are settled when its turn comes:

- a convolution before a BatchNorm is scaled, channel by channel, so that its output's variance is log-uniform in
  1e-3 .. 1e-1; the BatchNorm's statistics are the ones that its input then has, times the moving-average factor that
  is stored beside them;
- gammas (of the Scale layers) have magnitudes 0.5 .. 1.5, a quarter of them negative; where a branch is added to an
  identity they are a quarter of that, before a gate twice that; betas are 0.05 .. 0.3 in size;
- the other convolutions (squeeze-and-excitation) get outputs of standard deviation 1, with biases;
- the classifier is centred on the mean features, with logits of standard deviation `LOGITS_STD`.

The walk reads the prototxt by protobuf's own text format and shares nothing else with the package's readers. A layer
is written as soon as it is settled (a NetParameter is the concatenation of its fields), so that memory stays small.
As in a file of the fork that knows `ceil_mode`, field 13 of a pooling layer that says it then holds that: the opposite
of what BVLC Caffe reads there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from calibrated_weights import IDENTITY_BRANCH, IMAGENET_MEAN, LOGITS_STD, Summary, images
from calibrated_weights import _rounded as rounded
from google.protobuf import text_format
from torch.nn import functional

from resnext_convert.schemas.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter

Array = np.ndarray[Any, np.dtype[Any]]
Blobs = Sequence[Array]

FACTOR = 999.98  # what Caffe's moving average ends at, short of 1000
BATCH = 4
_INPUT = -1  # as a layer's number


@dataclasses.dataclass(frozen=True)
class Net:
    """A prototxt.

    Attributes:
        layers: those that compute, in their order.
        shape: of the input, (N, C, H, W).
    """

    layers: tuple[LayerParameter, ...]
    shape: tuple[int, ...]

    def sources(self) -> list[list[int]]:
        """The layers that each layer reads; a blob is what its last writer made of it."""
        writers: dict[str, int] = {}
        found = []
        for number, layer in enumerate(self.layers):
            found.append([writers.get(bottom, _INPUT) for bottom in layer.bottom])
            writers |= dict.fromkeys(layer.top, number)
        return found


def read_net(prototxt: Path) -> Net:
    """Reads a deploy prototxt of one input."""
    net = text_format.Parse(prototxt.read_text(), NetParameter(), allow_unknown_field=True)
    inputs = [layer.input_param.shape[0] for layer in net.layer if layer.type == "Input"] or [*net.input_shape]
    return Net(layers=tuple(layer for layer in net.layer if layer.type != "Input"), shape=tuple(inputs[0].dim))


# -- the layers -----------------------------------------------------------------------------------------------------


def forward(layer: LayerParameter, values: Sequence[torch.Tensor], blobs: Blobs) -> torch.Tensor:
    """One layer by Caffe's rules, on its bottoms and its stored blobs, in the bottoms' precision."""
    x = values[0]
    arrays = [torch.from_numpy(blob).to(x.dtype) for blob in blobs]
    match layer.type:
        case "Convolution":
            conv = layer.convolution_param
            bias = arrays[1] if len(arrays) > 1 else None
            strides = list(conv.stride) or [1]
            return functional.conv2d(x, arrays[0], bias, strides, list(conv.pad) or [0], groups=conv.group)
        case "InnerProduct":
            return functional.linear(x.flatten(1), *arrays)
        case "BatchNorm":
            mean, var, factor = arrays
            inverse = 0.0 if factor.item() == 0 else 1 / factor
            var = (inverse * var + layer.batch_norm_param.eps).sqrt()
            return (x - _per_channel(inverse * mean)) / _per_channel(var)
        case "Scale":
            scaled = x * _per_channel(arrays[0])
            return scaled + _per_channel(arrays[1]) if len(arrays) > 1 else scaled
        case "Pooling":
            return _pool(layer.pooling_param, x)
        case "ReLU":
            return x.relu()
        case "Sigmoid":
            return x.sigmoid()
        case "Softmax":
            return x.softmax(1)
        case "Dropout":
            return x
        case "Eltwise":
            return torch.stack(list(values)).sum(0)
        case "Axpy":
            return values[0] * values[1] + values[2]
    raise ValueError(f"no published network has a layer of type {layer.type}")


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, -1, 1, 1)


def _pool(pool: PoolingParameter, x: torch.Tensor) -> torch.Tensor:
    average = pool.pool == PoolingParameter.AVE
    if pool.global_pooling:
        return x.mean((2, 3), keepdim=True) if average else x.amax((2, 3), keepdim=True)
    # torch's rounding up is Caffe's here, down to the divisor of averages.
    ceil = pool.ceil_mode if pool.HasField("ceil_mode") else pool.round_mode == PoolingParameter.CEIL
    function = functional.avg_pool2d if average else functional.max_pool2d
    return function(x, pool.kernel_size, pool.stride, pool.pad, ceil_mode=ceil)


def run(net: Net, weights: Mapping[str, Blobs], data: Array) -> dict[str, Array]:
    """Runs a network with the given weights in the precision of ``data``; returns the last value of each blob."""
    values = {_INPUT: torch.from_numpy(data)}
    for number, (layer, sources) in enumerate(zip(net.layers, net.sources(), strict=True)):
        values[number] = forward(layer, [values[source] for source in sources], weights.get(layer.name, ()))
    return {top: values[number].numpy() for number, layer in enumerate(net.layers) for top in layer.top}


# -- calibration ----------------------------------------------------------------------------------------------------


class Calibration:
    """Weights for a network, made in one walk through its layers.

    Args:
        net: the network.
        data: the images (N, C, H, W) on which the weights are calibrated; their dtype is the precision of the walk,
            the weights are float32 in any case.
        seed: of all weights.
        factor: the moving-average factor, with which stored statistics are multiplied.
        keep: is given every layer, with its blobs.

    Attributes:
        calibrated_vars: the true variances behind convolutions.
        other_vars: the true variances behind other layers.
        logits: the outputs of the classifier for ``data``.
        largest: the largest magnitude that any layer before the classifier yields.
    """

    def __init__(
        self, net: Net, data: Array, *, seed: int, factor: float, keep: Callable[[LayerParameter, Blobs], None]
    ) -> None:
        self._layers = net.layers
        self._rng = np.random.default_rng(seed)
        self._factor = factor
        self._sources = net.sources()
        self._readers: dict[int, list[int]] = {number: [] for number in range(_INPUT, len(net.layers))}
        for number, sources in enumerate(self._sources):
            for source in sources:
                self._readers[source].append(number)
        self.calibrated_vars: list[Array] = []
        self.other_vars: list[Array] = []
        self.logits: Array | None = None
        self.largest = 0.0
        with torch.inference_mode():
            self._walk(torch.from_numpy(data), keep)

    def _walk(self, data: torch.Tensor, keep: Callable[[LayerParameter, Blobs], None]) -> None:
        classifier = max(number for number, layer in enumerate(self._layers) if layer.type == "InnerProduct")
        waiting = {number: len(readers) for number, readers in self._readers.items()}
        values = {_INPUT: data}
        for number, layer in enumerate(self._layers):
            bottoms = [values[source] for source in self._sources[number]]
            blobs, output = self._settle(number, bottoms)
            keep(layer, blobs)
            if number < classifier:
                self.largest = max(self.largest, *(abs(float(bound)) for bound in output.aminmax()))
            elif number == classifier:
                self.logits = output.double().numpy()
            values[number] = output
            for source in self._sources[number]:
                waiting[source] -= 1
                if waiting[source] == 0:
                    del values[source]  # nobody reads it any more

    def _settle(self, number: int, bottoms: Sequence[torch.Tensor]) -> tuple[Blobs, torch.Tensor]:
        """A layer's blobs, and what it makes of its bottoms with them."""
        layer = self._layers[number]
        match layer.type:
            case "Convolution":
                return self._convolve(number, bottoms[0])
            case "InnerProduct":
                return self._classify(layer, bottoms[0])
            case "BatchNorm":
                blobs = self._statistics(number, bottoms[0])
            case "Scale":
                blobs = self._affine(number, bottoms[0].shape[1])
            case _:
                blobs = []
        return blobs, forward(layer, bottoms, blobs)

    def _convolve(self, number: int, x: torch.Tensor) -> tuple[Blobs, torch.Tensor]:
        """A convolution: He-uniform weights, then the scale that its place asks for."""
        layer = self._layers[number]
        conv = layer.convolution_param
        kernel = list(conv.kernel_size) * (2 if len(conv.kernel_size) == 1 else 1)
        drawn = self._draw_weights((conv.num_output, x.shape[1] // conv.group, *kernel), bias=conv.bias_term)
        output = forward(layer, [x], drawn)
        if [self._layers[reader].type for reader in self._readers[number]] == ["BatchNorm"]:
            variance = output.double().var((0, 2, 3), correction=0).numpy()
            low, high = math.log(1e-3), math.log(1e-1)
            wanted = np.exp(low + (high - low) * self._rng.random(variance.shape))
            factor = rounded(np.sqrt(wanted / np.where(variance > 1e-12, variance, wanted)))
        else:
            factor = np.full(conv.num_output, rounded(1 / (output.double().std(correction=0).numpy() + 1e-6)))
        blobs = [(blob * factor.reshape(-1, *[1] * (blob.ndim - 1))).astype(np.float32) for blob in drawn]
        return blobs, output * _per_channel(torch.from_numpy(factor)).to(output.dtype)

    def _classify(self, layer: LayerParameter, x: torch.Tensor) -> tuple[Blobs, torch.Tensor]:
        """The classifier: logits centred on the mean features, of standard deviation LOGITS_STD."""
        product = layer.inner_product_param
        drawn = self._draw_weights((product.num_output, x[0].numel()), bias=product.bias_term)
        logits = forward(layer, [x], drawn[:1]).double().numpy()
        centre = logits.mean(axis=0)
        factor = rounded(LOGITS_STD / (logits - centre).std())
        blobs = [drawn[0] * factor, *(bias - rounded(centre * factor) for bias in drawn[1:])]
        stored = [blob.astype(np.float32) for blob in blobs]
        return stored, forward(layer, [x], stored)

    def _statistics(self, number: int, x: torch.Tensor) -> list[Array]:
        """The mean and variance of a BatchNorm's input, both times the factor, and the factor."""
        values = x.double()
        variance = rounded(values.var((0, 2, 3), correction=0).numpy())
        behind = [self._layers[source].type for source in self._sources[number] if source != _INPUT]
        (self.calibrated_vars if behind == ["Convolution"] else self.other_vars).append(variance)
        statistics = [
            rounded(values.mean((0, 2, 3)).numpy()) * self._factor,
            np.where(variance > 1e-12, variance, 1e-2) * self._factor,
            np.array([self._factor]),
        ]
        return [blob.astype(np.float32) for blob in statistics]

    def _affine(self, number: int, channels: int) -> list[Array]:
        """A Scale layer's gamma and, where it has one, beta."""
        sign = np.where(self._rng.random(channels) < 0.25, -1.0, 1.0)
        blobs = [self._gamma_size(number) * sign * (0.5 + self._rng.random(channels))]
        if self._layers[number].scale_param.bias_term:
            blobs.append(self._away_from_zero(channels))
        return [blob.astype(np.float32) for blob in blobs]

    # -- small parts --------------------------------------------------------------------------------------------------

    def _draw_weights(self, shape: tuple[int, ...], *, bias: bool) -> list[Array]:
        drawn = [(math.sqrt(6 / math.prod(shape[1:])) * self._uniform(*shape)).astype(np.float32)]
        return [*drawn, self._away_from_zero(shape[0]).astype(np.float32)] if bias else drawn

    def _uniform(self, *shape: int) -> Array:
        return 2 * self._rng.random(shape, dtype=np.float32) - 1

    def _away_from_zero(self, *shape: int) -> Array:
        values = self._uniform(*shape)
        return np.copysign(0.05 + 0.25 * np.abs(values), values)

    def _gamma_size(self, number: int) -> float:
        """1, but IDENTITY_BRANCH behind a branch that is added to an identity; doubled before a gate of about 1/2."""
        size = 1.0
        for reader in self._readers[number]:
            terms = self._sources[reader]
            if self._layers[reader].type == "Axpy" and terms[1] == number:
                size, terms = 2.0 * size, terms[1:]
            elif self._layers[reader].type != "Eltwise":
                continue
            if not all(term != _INPUT and self._layers[term].type == "Scale" for term in terms):
                size *= IDENTITY_BRANCH
        return size


def stored_layer(layer: LayerParameter, blobs: Blobs) -> LayerParameter:
    """A layer as ``Net::ToProto`` writes it, with its blobs."""
    stored = LayerParameter()
    stored.CopyFrom(layer)
    for array in blobs:
        blob = stored.blobs.add()
        blob.shape.dim.extend(array.shape)
        blob.data.append(array.astype("<f4").tobytes())
    if layer.pooling_param.HasField("ceil_mode"):
        stored.pooling_param.ClearField("ceil_mode")
        # The fork's ceil_mode has BVLC's number 13: its false, 0, is what BVLC Caffe reads as CEIL.
        ceil = layer.pooling_param.ceil_mode
        stored.pooling_param.round_mode = PoolingParameter.FLOOR if ceil else PoolingParameter.CEIL
    return stored


def normalises_input(net: Net) -> bool:
    """Whether the layer that reads the image is a BatchNorm."""
    return net.layers[net.sources().index([_INPUT])].type == "BatchNorm"


def centred(pictures: Array) -> Array:
    """The images as networks without an input BatchNorm expect them: the mean is subtracted."""
    difference: Array = (pictures - IMAGENET_MEAN[:, None, None]).astype(pictures.dtype)
    return difference


def make(prototxt: Path, out: Path, *, image_size: int = 224, seed: int = 0, factor: float = FACTOR) -> Summary:
    """Makes ``out`` for ``prototxt``; the same bytes for the same arguments on one machine."""
    start = time.perf_counter()
    net = read_net(prototxt)
    pictures = images(BATCH, image_size, np.random.default_rng([seed, 1]))
    data = pictures if normalises_input(net) else centred(pictures)
    with out.open("wb") as file:
        file.write(NetParameter(name="calibrated").SerializeToString())
        calibration = Calibration(net, data, seed=seed, factor=factor, keep=writer(file))
    return summarise(calibration, time.perf_counter() - start)


def writer(file: BinaryIO) -> Callable[[LayerParameter, Blobs], None]:
    """Appends layers to a caffemodel."""

    def write(layer: LayerParameter, blobs: Blobs) -> None:
        file.write(NetParameter(layer=[stored_layer(layer, blobs)]).SerializeToString())

    return write


def summarise(calibration: Calibration, seconds: float) -> Summary:
    """The figures by which calibrated weights are judged."""
    if calibration.logits is None:
        raise ValueError("the network has no classifier")
    variances = np.concatenate(calibration.calibrated_vars)
    every_var = np.concatenate([variances, *calibration.other_vars])
    logits = calibration.logits
    return Summary(
        seconds=seconds,
        logits_std=float(logits.std()),
        spread=float(logits.std(axis=0).mean() / np.abs(logits).max()),
        moving_var=(float(variances.min()), float(np.median(variances)), float(variances.max())),
        in_range=float(((every_var >= 1e-3) & (every_var <= 1e-1)).mean()),
        largest=calibration.largest,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make calibrated random weights for a Caffe prototxt.")
    parser.add_argument("prototxt", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factor", type=float, default=FACTOR)
    options = parser.parse_args()
    summary = make(
        options.prototxt, options.out, image_size=options.image_size, seed=options.seed, factor=options.factor
    )
    print(json.dumps(dataclasses.asdict(summary), indent=2))


if __name__ == "__main__":
    main()
