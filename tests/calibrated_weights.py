"""Full-size weights for any published graph: random, but calibrated layer by layer so that mistakes show.

    python tests/calibrated_weights.py SYMBOL OUT.params [--image-size 224] [--seed 0]

Published weights cannot be had, and plain random ones hide errors: after a hundred layers activations have died or
exploded, and with variances near 1 nobody sees a wrong eps. So the graph is executed once, in topological order and by
real MXNet operators, on a few image-like inputs, and each layer's weights are settled when its turn comes:

- a convolution before a BatchNorm is scaled, channel by channel, so that its output's variance is log-uniform in
  1e-3 .. 1e-1; the BatchNorm's statistics are the ones that its input then has;
- gammas have magnitudes 0.5 .. 1.5, every fourth is negative; where a branch is added to an identity they are a quarter
  of that, so that 152 layers stay of order one and float32 noise stays at the level of trained networks; betas are
  0.05 .. 0.3 in size; a gamma that `fix_gamma` ignores is as random;
- the other convolutions (squeeze-and-excitation) get outputs of standard deviation 1, with biases;
- the classifier is centred on the mean features, with logits of standard deviation `LOGITS_STD`, so that two images
  differ in their logits as much as one image's classes do.

The walk uses MXNet's own JSON and shapes, nothing of the package's readers. It imports MXNet into the process, which
costs torch half its threads (converter/oracles/mxnet.py): tests that also use torch run it as a command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext_convert.converter.oracles.mxnet import import_mxnet

Array = npt.NDArray[Any]

LOGITS_STD = 3.0
IDENTITY_BRANCH = 0.25
IMAGENET_MEAN = np.array([123.675, 116.28, 103.53])
IMAGENET_STD = np.array([58.395, 57.12, 57.375])

_WEIGHTED = {"Convolution", "FullyConnected"}
_IDENTITY = {"_copy", "identity", "Cast", "BlockGrad", "Dropout"}
_SUMS = {"_Plus", "_plus", "elemwise_add", "broadcast_add", "add_n", "ElementWiseSum"}
_BITS = 16  # of mantissa that measured figures keep: below float noise of float64, beyond float16 and bfloat16


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What was made, to judge whether the weights are any good.

    Attributes:
        seconds: the time that it took.
        logits_std: over all images and classes.
        spread: the standard deviation of a class over the images, averaged, as a part of the largest logit.
        moving_var: minimum, median and maximum of the variances behind convolutions.
        in_range: the share of all variances that are within 1e-3 .. 1e-1.
        largest: the largest magnitude that any operator before the classifier yields.
    """

    seconds: float
    logits_std: float
    spread: float
    moving_var: tuple[float, float, float]
    in_range: float
    largest: float


def images(count: int, size: int, rng: np.random.Generator) -> Array:
    """Smooth RGB images (count, 3, size, size) of whole numbers 0 .. 255, in float32.

    Noise at seven scales with the 1/f fall of photographs, mostly grey, of different brightness and contrast, around
    the mean colour of ImageNet.
    """
    picture = np.zeros((count, 3, size, size))
    for cells in (2, 3, 5, 9, 17, 33, 65):
        noise = rng.random((count, 3, cells, cells)) + 2 * rng.random((count, 1, cells, cells)) - 1.5
        position = np.linspace(0, cells - 1, size)[:, None]
        blend = np.maximum(0, 1 - np.abs(position - np.arange(cells)))  # linear interpolation, (size, cells)
        picture += (blend @ noise @ blend.T) / math.sqrt(cells)
    picture /= picture.std()
    contrast = 30 + 50 * rng.random((count, 1, 1, 1))
    brightness = 80 * rng.random((count, 1, 1, 1)) - 40
    picture = picture * contrast + brightness + IMAGENET_MEAN[:, None, None]
    rounded: Array = picture.round().clip(0, 255).astype(np.float32)
    return rounded


def normalised(pictures: Array) -> Array:
    """The images as networks without an input BatchNorm expect them."""
    scaled: Array = ((pictures - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]).astype(np.float32)
    return scaled


def normalises_input(symbol: Any) -> bool:
    """Whether the first operator that changes the image is a BatchNorm."""
    nodes = json.loads(symbol.tojson())["nodes"]
    source = next(i for i, node in enumerate(nodes) if node["name"] == "data")
    for index, node in enumerate(nodes):
        if node["inputs"] and node["inputs"][0][0] == source:
            if node["op"] not in _IDENTITY:
                return bool(node["op"] == "BatchNorm")
            source = index
    raise ValueError("nothing reads the input 'data'")


def _rounded(values: Array) -> Array:
    """Measured figures on a coarser grid, so that the last bits of a machine's arithmetic do not show in a file."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    rounded: Array = np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent - _BITS)
    return rounded


class Calibration:
    """Weights for a loaded symbol, made in one walk through its graph.

    Args:
        symbol: an MXNet symbol with the input ``data``.
        data: the images (N, C, H, W) on which the weights are calibrated.
        seed: of all weights.
        dtype: the precision of the walk; the weights themselves are float32.

    Attributes:
        params: every tensor under its bare name.
        calibrated_vars: the moving variances behind convolutions.
        logits: the outputs of the classifier for ``data``.
        largest: the largest magnitude that any operator before the classifier yields.
    """

    def __init__(self, symbol: Any, data: Array, *, seed: int, dtype: str = "float32") -> None:
        self._mx = import_mxnet()
        self._rng = np.random.default_rng(seed)
        self._dtype = dtype
        self._nodes: list[dict[str, Any]] = json.loads(symbol.tojson())["nodes"]
        self._consumers: list[list[int]] = [[] for _ in self._nodes]
        for index, node in enumerate(self._nodes):
            for source, *_ in node["inputs"]:
                self._consumers[source].append(index)
        arg_shapes, _, aux_shapes = symbol.infer_shape(data=data.shape)
        self._shapes: dict[str, tuple[int, ...]] = dict(zip(symbol.list_arguments(), arg_shapes, strict=True))
        self._shapes |= zip(symbol.list_auxiliary_states(), aux_shapes, strict=True)
        self._values: dict[int, Sequence[Any]] = {}
        self.params: dict[str, Array] = {}
        self.calibrated_vars: list[Array] = []
        self.logits: Array | None = None
        self.largest = 0.0
        self._walk(data)

    def _walk(self, data: Array) -> None:
        last_weighted = max(i for i, node in enumerate(self._nodes) if node["op"] in _WEIGHTED)
        waiting = [len(consumers) for consumers in self._consumers]
        for index, node in enumerate(self._nodes[: last_weighted + 1]):
            if node["op"] == "null":
                if node["name"] == "data":
                    self._values[index] = [self._mx.nd.array(data, dtype=self._dtype)]
                continue
            if node["op"] == "FullyConnected" and self._is_classifier(index):
                self._values[index] = [self._classify(node)]
            elif node["op"] in _WEIGHTED:
                self._values[index] = [self._weigh(index, node)]
            elif node["op"] == "BatchNorm":
                self._values[index] = [self._normalise(index, node)]
            else:
                self._values[index] = self._run(node, self._draw_remaining(node))
            if index < last_weighted and node["op"] not in _IDENTITY:
                self.largest = max(self.largest, *(float(np.abs(v.asnumpy()).max()) for v in self._values[index]))
            for source, *_ in node["inputs"]:
                waiting[source] -= 1
                if waiting[source] == 0:
                    self._values.pop(source, None)  # nobody reads it any more

    # -- operators ------------------------------------------------------------------------------------------------

    def _weigh(self, index: int, node: Mapping[str, Any]) -> Any:
        """A convolution or fully connected layer: He-uniform weights, then the scale that its place asks for."""
        params = self._draw_weights(node)
        output = self._run(node, params)[0]
        if [self._nodes[reader]["op"] for reader in self._consumers[index]] == ["BatchNorm"]:
            variance = output.asnumpy().var(axis=(0, 2, 3), dtype=np.float64)
            low, high = math.log(1e-3), math.log(1e-1)
            wanted = np.exp(low + (high - low) * self._rng.random(variance.shape))
            factor = _rounded(np.sqrt(wanted / np.where(variance > 1e-12, variance, wanted)))
        else:
            factor = np.full(output.shape[1], _rounded(1 / (output.asnumpy().std(dtype=np.float64) + 1e-6)))
        return self._settle(node, params, factor)

    def _classify(self, node: Mapping[str, Any]) -> Any:
        """The last fully connected layer: logits centred on the mean features, of standard deviation LOGITS_STD."""
        params = self._draw_weights(node)
        logits = self._run(node, params)[0].asnumpy().astype(np.float64)
        centre = logits.mean(axis=0)
        factor = np.full(centre.size, _rounded(LOGITS_STD / (logits - centre).std()))
        output = self._settle(node, params, factor)
        for bias in list(params)[1:]:
            centred = self.params[bias] - _rounded(centre * factor)
            self.params[bias] = (centred + params[bias]).astype(np.float32)
            output = self._run(node, {name: self.params[name] for name in params})[0]
        self.logits = output.asnumpy()
        return output

    def _settle(self, node: Mapping[str, Any], params: Mapping[str, Array], factor: Array) -> Any:
        """Scales the output channels of a weighted layer and stores its tensors."""
        for name, values in params.items():
            self.params[name] = (values * factor.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
        return self._run(node, {name: self.params[name] for name in params})[0]

    def _normalise(self, index: int, node: Mapping[str, Any]) -> Any:
        """A BatchNorm whose moving statistics are those of its input."""
        gamma, beta, mean, var = self._variables(node)
        values = self._inputs(node)[0].asnumpy()
        axes = (0, *range(2, values.ndim))
        channels = values.shape[1]
        sign = np.where(self._rng.random(channels) < 0.25, -1.0, 1.0)
        variance = _rounded(values.var(axis=axes, dtype=np.float64))
        drawn = {
            gamma: self._gamma_size(index) * sign * (0.5 + self._rng.random(channels)),
            beta: self._away_from_zero(channels),
            mean: _rounded(values.mean(axis=axes, dtype=np.float64)),
            var: np.where(variance > 1e-12, variance, 1e-2),
        }
        self.params |= {name: array.astype(np.float32) for name, array in drawn.items()}
        if self._nodes[node["inputs"][0][0]]["op"] in _WEIGHTED:
            self.calibrated_vars.append(variance)
        return self._run(node, {name: self.params[name] for name in drawn})[0]

    def _draw_remaining(self, node: Mapping[str, Any]) -> dict[str, Array]:
        """Parameters of any other operator: learned slopes; labels are left out."""
        drawn: dict[str, Array] = {}
        for name in self._variables(node):
            drawn[name] = (0.1 + 0.3 * self._rng.random(size=self._shapes[name])).astype(np.float32)
        self.params |= drawn
        return drawn

    # -- small parts ----------------------------------------------------------------------------------------------

    def _variables(self, node: Mapping[str, Any]) -> list[str]:
        sources = [self._nodes[source] for source, *_ in node["inputs"]]
        return [source["name"] for source in sources if source["op"] == "null" and source["name"] != "data"]

    def _inputs(self, node: Mapping[str, Any]) -> list[Any]:
        sources = [(source, slot) for source, slot, *_ in node["inputs"]]
        return [self._values[source][slot] for source, slot in sources if source in self._values]

    def _run(self, node: Mapping[str, Any], params: Mapping[str, Array]) -> list[Any]:
        """The node by the real operator; the variables of every operator here come behind its other inputs."""
        name = node["op"].removeprefix("_contrib_")
        home = self._mx.nd.contrib if name != node["op"] else self._mx.nd
        function = getattr(home, name, None) or getattr(self._mx.nd._internal, name)
        attributes = {k: v for k, v in node.get("attrs", {}).items() if not k.startswith("__") and k != "num_args"}
        arrays = [self._mx.nd.array(values, dtype=self._dtype) for values in params.values()]
        output = function(*self._inputs(node), *arrays, **attributes)
        return list(output) if isinstance(output, list | tuple) else [output]

    def _draw_weights(self, node: Mapping[str, Any]) -> dict[str, Array]:
        weight, *bias = self._variables(node)
        shape = self._shapes[weight]
        drawn = {weight: (math.sqrt(6 / math.prod(shape[1:])) * self._uniform(*shape)).astype(np.float32)}
        return drawn | {name: self._away_from_zero(*self._shapes[name]).astype(np.float32) for name in bias}

    def _uniform(self, *shape: int) -> Array:
        return 2 * self._rng.random(shape, dtype=np.float32) - 1

    def _away_from_zero(self, *shape: int) -> Array:
        values = self._uniform(*shape)
        return np.copysign(0.05 + 0.25 * np.abs(values), values)

    def _is_classifier(self, index: int) -> bool:
        """Whether no further layer with weights depends on this one."""
        todo, seen = [index], set()
        while todo:
            for reader in self._consumers[todo.pop()]:
                if self._nodes[reader]["op"] in _WEIGHTED:
                    return False
                if reader not in seen:
                    seen.add(reader)
                    todo.append(reader)
        return True

    def _gamma_size(self, index: int) -> float:
        """1, but IDENTITY_BRANCH behind a branch that is added to an identity; doubled before a gate of about 1/2."""
        size, value = 1.0, index
        for reader in self._consumers[index]:
            if self._nodes[reader]["op"] == "broadcast_mul":
                size, value = 2.0, reader
        for reader in self._consumers[value]:
            terms = {self._nodes[source]["op"] for source, *_ in self._nodes[reader]["inputs"]}
            if self._nodes[reader]["op"] in _SUMS and not terms <= {"BatchNorm", "broadcast_mul"}:
                size *= IDENTITY_BRANCH
        return size


def save(symbol: Any, params: Mapping[str, Array], out: Path) -> None:
    """Writes a params file as MXNet's save_checkpoint does: `arg:` and `aux:` names, in the graph's order."""
    mx = import_mxnet()
    names = [f"arg:{name}" for name in symbol.list_arguments()] + [f"aux:{n}" for n in symbol.list_auxiliary_states()]
    mx.nd.save(str(out), {name: mx.nd.array(params[name[4:]]) for name in names if name[4:] in params})


def centred(pictures: Array) -> Array:
    """The images less their mean: what networks expect that were trained without a std."""
    difference: Array = (pictures - IMAGENET_MEAN[:, None, None]).astype(np.float32)
    return difference


def make(
    symbol: Path,
    out_params: Path,
    *,
    image_size: int = 224,
    seed: int = 0,
    batch: int = 4,
    prepare: Callable[[Array], Array] = normalised,
) -> Summary:
    """Makes ``out_params`` for the graph in ``symbol``; the same bytes for the same arguments on one machine.

    ``prepare`` makes of images what a network without an input BatchNorm is fed.
    """
    start = time.perf_counter()
    network = import_mxnet().sym.load(str(symbol))
    pictures = images(batch, image_size, np.random.default_rng([seed, 1]))
    data = pictures if normalises_input(network) else prepare(pictures)
    calibration = Calibration(network, data, seed=seed)
    save(network, calibration.params, out_params)
    return summarise(calibration, time.perf_counter() - start)


def summarise(calibration: Calibration, seconds: float) -> Summary:
    """The figures by which calibrated weights are judged."""
    if calibration.logits is None:
        raise ValueError("the graph has no classifier")
    variances = np.concatenate(calibration.calibrated_vars)
    every_var = np.concatenate([v for k, v in calibration.params.items() if k.endswith("_var")])
    logits = calibration.logits.astype(np.float64)
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
    parser = argparse.ArgumentParser(description="Make calibrated random weights for an MXNet symbol file.")
    parser.add_argument("symbol", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--centred", action="store_true", help="the network is fed images less their mean, no std")
    options = parser.parse_args()
    prepare = centred if options.centred else normalised
    summary = make(options.symbol, options.out, image_size=options.image_size, seed=options.seed, prepare=prepare)
    print(json.dumps(dataclasses.asdict(summary), indent=2))


if __name__ == "__main__":
    main()
