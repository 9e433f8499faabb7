"""The inputs of the proof: seeded draws from the distribution that the network announces, and one structured image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resnext_convert.converter.errors import UsageError
from resnext_convert.converter.preprocess import InputSpec
from resnext_convert.converter.resnext.config import ConvConfig, Pair, PoolConfig, ResNeXtConfig, UnitConfig

Float32Array = npt.NDArray[np.float32]

# Tried in this order where nobody says how large the images are: ImageNet's size, CIFAR's, then all.
SIZES = (224, 32, *range(8, 513))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """One input of the proof.

    Attributes:
        name: what it is, for the report.
        image: (N, C, H, W), float32, so that both sides get the same values in any precision.
    """

    name: str
    image: Float32Array


def features(config: ResNeXtConfig, size: Pair) -> Pair | None:
    """The size of the map that reaches the classifier for an image of ``size``; None if none does.

    None does where a map becomes too small for the next layer, or where the two sides of an addition differ: average
    pooling rounds odd sizes down in the shortcut while a strided convolution with padding rounds them up.
    """
    found = last_map(config, size)
    return None if found is None else _through([config.head.pool], found)


def last_map(config: ResNeXtConfig, size: Pair) -> Pair | None:
    """The size of the map behind the last block, before the final pooling; None as for `features`."""
    found = _through([*_convolutions(config.stem), config.stem_pool], size)
    for block in config.blocks():
        if found is None:
            return None
        down = block.downsample
        residual = _through(_convolutions(block.units), found)
        shortcut = _through([down.pool, down.unit.conv], found) if down else found
        if residual != shortcut:
            return None
        found = residual
    return found


def usable(config: ResNeXtConfig, size: Pair) -> bool:
    """Whether an image of ``size`` (height, width) fits the classifier."""
    channels = config.stages[-1][-1].units[-1].conv.out_channels
    found = features(config, size)
    return found is not None and channels * math.prod(found) == config.head.in_features


def image_size(config: ResNeXtConfig, asked: int | None, declared: tuple[int, ...] | None) -> Pair:
    """The size (height, width) of the images that the network takes.

    Args:
        config: the network.
        asked: what the user said, None for nothing.
        declared: the input shape (N, C, H, W) that the graph declares, with 0 where unknown.

    Raises:
        UsageError: the size asked for does not fit the network, or no size does.
    """
    if asked is not None:
        if usable(config, (asked, asked)):
            return asked, asked
        fitting = [size for size in SIZES if usable(config, (size, size))]
        found = features(config, (asked, asked))
        given = f"features of {found[0]}x{found[1]}" if found else "no features (a map gets too small, or sums differ)"
        raise UsageError(
            f"the network cannot take images of {asked}x{asked}",
            found=f"{given}, a classifier of {config.head.in_features} inputs",
            hint=f"--image-size {fitting[0]} fits" if fitting else None,
        )
    if declared is not None and len(declared) == 4 and min(declared[2:]) > 0 and usable(config, declared[2:]):
        return declared[2], declared[3]
    # A network that shrinks its input less than 16 times is made for small images, and slow on large ones.
    first = (32,) if (features(config, (224, 224)) or (0, 0))[0] > 14 or total_stride(config) < 16 else ()
    for size in (*first, *SIZES):
        if usable(config, (size, size)):
            return size, size
    raise UsageError("no square image of 8 to 512 pixels fits the classifier", hint="state --image-size")


def total_stride(config: ResNeXtConfig) -> int:
    """By how much the network shrinks an image before its final pooling, along the height."""
    strides = [unit.conv.stride[0] for unit in config.stem]
    strides += [config.stem_pool.stride[0]] if config.stem_pool else []
    strides += [unit.conv.stride[0] for block in config.blocks() for unit in block.units]
    return math.prod(strides)


def probes(config: ResNeXtConfig, spec: InputSpec, size: Pair, *, seed: int = 0) -> list[Probe]:
    """The structured image in full size, and random ones, small and of the other parity: two, or one if it is large.

    Small images meet every weight as large ones do, and an odd size beside an even one meets every rounding of a
    stride or a pooling. Where the classifier takes one size of map only, the nearest size to the full one that fits
    is taken, and the full one where no other fits.
    """
    random = np.random.default_rng(seed)
    name, other = _other_size(config, size)
    count = 2 if 4 * math.prod(other) <= math.prod(size) else 1
    return [
        Probe(name="structured image", image=_structured(spec, size)),
        Probe(name=f"random, {name} size, seed {seed}", image=_draw(spec, random, count, other)),
    ]


def _other_size(config: ResNeXtConfig, full: Pair) -> tuple[str, Pair]:
    """A size of odd sides, not square if that fits, where the full one is even; of even sides where it is odd."""
    parity = 1 - full[0] % 2
    smallest = max(8, total_stride(config))
    first = smallest + (smallest + parity) % 2
    around = sorted(range(8, 2 * max(full)), key=lambda side: abs(side - min(full)))
    sizes = [(first, first + 6), *((side, side + 2) for side in around), *((side, side) for side in around)]
    fitting = (pair for pair in sizes if pair[0] % 2 == parity and usable(config, pair))
    found = next(fitting, None)
    return (("odd" if parity else "even"), found) if found else ("full", full)


def _draw(spec: InputSpec, random: np.random.Generator, count: int, size: Pair) -> Float32Array:
    """Noise of all scales, mostly grey, as photographs have it: white noise excites filters that no photograph does."""
    image = np.zeros((count, spec.channels, *size))
    cells = 2
    while cells <= max(size):
        grey = random.standard_normal((count, 1, cells, cells))
        colour = random.standard_normal((count, spec.channels, cells, cells))
        down, across = _blend(size[0], cells), _blend(size[1], cells)
        image += down @ (grey + 0.5 * colour) @ across.T / math.sqrt(cells)
        cells *= 2
    deviation = image.std(axis=(2, 3), keepdims=True)
    return _as_input(spec, (image - image.mean(axis=(2, 3), keepdims=True)) / deviation)


def _blend(size: int, cells: int) -> npt.NDArray[np.float64]:
    """The matrix (size, cells) of linear interpolation between ``cells`` equidistant values."""
    place = np.linspace(0, cells - 1, size)[:, np.newaxis]
    blend: npt.NDArray[np.float64] = np.maximum(0, 1 - np.abs(place - np.arange(cells)))
    return blend


def _structured(spec: InputSpec, size: Pair) -> Float32Array:
    """A ramp, a disc, a checkerboard and an edge, different in each channel: what noise has none of."""
    y, x = (np.linspace(-1, 1, side) for side in size)
    yy, xx = np.meshgrid(y, x, indexing="ij")
    channels = []
    for channel in range(spec.channels):
        angle = 0.4 + 2 * channel
        ramp = np.cos(angle) * xx + np.sin(angle) * yy
        disc = np.where((xx - 0.2 * channel) ** 2 + yy**2 < 0.4, 0.6, -0.6)
        board = np.sign(np.sin(9 * np.pi * xx) * np.sin(7 * np.pi * yy))
        edge = np.where(xx > 0.2 * channel - 0.3, 0.5, -0.5)
        image = ramp + disc + 0.1 * (channel + 1) * board + edge
        channels.append((image - image.mean()) / image.std())
    return _as_input(spec, np.stack(channels)[np.newaxis])


def _as_input(spec: InputSpec, unit: npt.NDArray[np.float64]) -> Float32Array:
    """Values of mean 0 and variance about 1 in the network's own units."""
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return np.ascontiguousarray(unit * std + mean, dtype=np.float32)


def _convolutions(units: Iterable[UnitConfig]) -> list[ConvConfig]:
    return [unit.conv for unit in units]


def _through(layers: Iterable[ConvConfig | PoolConfig | None], size: Pair) -> Pair | None:
    """The size of the map behind some layers; None if it becomes too small on the way."""
    for layer in layers:
        if min(size) < 1:
            return None
        if isinstance(layer, ConvConfig):
            size = _conv(layer, size)
        elif layer is not None:
            size = _pool(layer, size)
    return size if min(size) > 0 else None


def _conv(conv: ConvConfig, size: Pair) -> Pair:
    height, width = (
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, t, p, d in zip(size, conv.kernel, conv.stride, conv.padding, conv.dilation, strict=True)
    )
    return height, width


def _pool(pool: PoolConfig, size: Pair) -> Pair:
    if pool.global_pool:
        return 1, 1
    height, width = (
        _windows(s + 2 * p - k, t, s + p, ceil=pool.ceil_mode) if s + 2 * p >= k else 0
        for s, k, t, p in zip(size, pool.kernel, pool.stride, pool.padding, strict=True)
    )
    return height, width


def _windows(room: int, stride: int, end: int, *, ceil: bool) -> int:
    """How many windows fit; one more where the size is rounded up, if it starts before the far padding (torch)."""
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= end else count
