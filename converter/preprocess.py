"""What the network's own statistics say about its input: the only preprocessing that a file can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resnext_convert.converter.tensors import Float64Array, TensorStore


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The distribution of the network's input, as far as it is known.

    Attributes:
        channels: of the image.
        mean: per channel, in the units of the network's input.
        std: per channel.
        source: where mean and std come from.
        note: what they say about colour order and range; empty where they say nothing.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    note: str = ""


# The channel means of ImageNet in RGB, 0..255 (the values of MXNet's example/image-classification/common/data.py).
IMAGENET_RGB = (123.68, 116.779, 103.939)


def input_spec(channels: int, sources: Mapping[str, str | None], tensors: TensorStore) -> InputSpec:
    """Reads the input's distribution from the stored statistics of ``bn_data``, if the network has one.

    Args:
        channels: of the image.
        sources: the source tensor of each key of the state dict.
        tensors: the source tensors.
    """
    mean, var = (sources.get(f"bn_data.{statistic}") for statistic in ("running_mean", "running_var"))
    return announced_input(channels, tensors[mean].float64() if mean else None, tensors[var].float64() if var else None)


def announced_input(channels: int, mean: Float64Array | None, var: Float64Array | None) -> InputSpec:
    """Reads the input's distribution from the running statistics of ``bn_data``, if the network has one.

    Args:
        channels: of the image.
        mean: (channels,), the running mean of ``bn_data``, None without ``bn_data``.
        var: (channels,), its running variance.
    """
    if mean is None or var is None:
        return InputSpec(
            channels=channels,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            source="assumed: the network does not normalise its input, so the files do not say how it was prepared",
        )
    std = np.sqrt(np.maximum(var, 0))
    return InputSpec(
        channels=channels,
        mean=tuple(float(m) for m in mean),
        std=tuple(float(s) for s in std),
        source="the running statistics of bn_data",
        note=_reading(mean, std),
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
