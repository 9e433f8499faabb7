"""What the source's files say about the network's input: its own statistics, and Caffe's transform parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.origin import PixelTransform
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.tensors import Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The distribution of the network's input, as far as it is known.

    Attributes:
        channels: of the image.
        mean: per channel, in the units of the network's input.
        std: per channel.
        source: where mean and std come from.
        note: what they say about colour order and range; empty where they say nothing.
        transform: how pixels become the input, where the files declare it.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    note: str = ""
    transform: PixelTransform | None = None


# The channel means of ImageNet in RGB, 0..255 (the values of MXNet's example/image-classification/common/data.py).
IMAGENET_RGB = (123.68, 116.779, 103.939)
PIXEL_STD = 58.0  # of photographs in 0..255 around their mean


def input_spec(model: SourceModel, found: Match) -> InputSpec:
    """The distribution of a network's input, as its statistics announce or its files declare it."""
    # Only what is asked for: whoever converts assembles the whole state dict once, and that is enough.
    of_input = tuple(binding for binding in found.bindings if binding.target.startswith("bn_data."))
    arrays = assemble(replace(found, bindings=of_input), model.tensors)
    mean, var = (arrays.get(f"bn_data.{statistic}") for statistic in ("running_mean", "running_var"))
    return announced_input(
        found.config.in_channels,
        None if mean is None else mean.astype(np.float64),
        None if var is None else var.astype(np.float64),
        model.origin.transform,
    )


def announced_input(
    channels: int, mean: Float64Array | None, var: Float64Array | None, transform: PixelTransform | None = None
) -> InputSpec:
    """Reads the input's distribution from the running statistics of ``bn_data``, if the network has one.

    Args:
        channels: of the image.
        mean: (channels,), the running mean of ``bn_data``, None without ``bn_data``.
        var: (channels,), its running variance.
        transform: what the files declare.
    """
    if mean is None or var is None or (not mean.any() and (var == 1).all()):  # that is no statistic of anything
        return _declared_input(channels, transform)
    std = np.sqrt(np.maximum(var, 0))
    return InputSpec(
        channels=channels,
        mean=tuple(float(m) for m in mean),
        std=tuple(float(s) for s in std),
        source="the running statistics of bn_data",
        note=_reading(mean, std),
        transform=transform,
    )


def _declared_input(channels: int, transform: PixelTransform | None) -> InputSpec:
    # A scale of 0 or NaN is declared by no network that works; what it would say about the input is nothing.
    says = transform is not None and (transform.mean or transform.scale != 1) and 0 < abs(transform.scale) < np.inf
    if transform is None or not says:
        return InputSpec(
            channels=channels,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            source="assumed: the network does not normalise its input, so the files do not say how it was prepared",
            transform=transform,
        )
    centre = 0.0 if transform.mean else sum(IMAGENET_RGB) / 3 * transform.scale
    return InputSpec(
        channels=channels,
        mean=(centre,) * channels,
        std=(PIXEL_STD * abs(transform.scale),) * channels,
        source=f"photographs as {transform.source} prepares them",
        transform=transform,
    )


def _reading(mean: Float64Array, std: Float64Array) -> str:
    """What a person would conclude from the statistics; never used for a computation."""
    if mean.shape != (3,):
        return ""
    scale = "0..255" if float(std.mean()) > 20 else "0..1" if 0.05 < float(std.mean()) < 0.6 else ""
    rgb = np.array(IMAGENET_RGB) / (1 if scale != "0..1" else 255)
    tolerance = 0.1 * float(rgb.mean())
    if scale and np.all(np.abs(mean - rgb) < tolerance) and mean[0] > mean[2]:
        return f"raw RGB images in {scale}, no mean subtracted"
    if scale and np.all(np.abs(mean - rgb[::-1]) < tolerance) and mean[0] < mean[2]:
        return f"raw BGR images in {scale}, no mean subtracted"
    if scale and np.all(np.abs(mean) < tolerance):
        return f"images in {scale} after the mean was subtracted"
    return ""
