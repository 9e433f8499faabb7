"""How pixels become a network's input: what a release declares, or the user states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # releases are listed without NumPy
    from resnext_convert.converter.tensors import Float64Array

Colour = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDomain:
    """``x = (pixel * range / 255 - mean) / std`` for each channel of an 8-bit image.

    Attributes:
        colour: the order of the network's input channels.
        range: what a pixel of full intensity is before ``mean`` and ``std``: 255 or 1.
        mean: per channel, in the order of ``colour``, in units of ``range``.
        std: per channel, likewise, none of them 0.
        resize: the length of the shorter side before the crop; None: not known.
        crop: the side of the central square; None: not known.
        source: who says so, to be read after "as ... says".
    """

    colour: Colour
    range: Literal[1, 255] = 255
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    resize: int | None = None
    crop: int | None = None
    source: str

    def prepare(self, pixels: Float64Array) -> Float64Array:
        """The network's input (N, 3, H, W) for RGB images (N, 3, H, W) of values in [0, 1]."""
        ordered = pixels[:, ::-1] if self.colour == "bgr" else pixels
        return (ordered * self.range - _channels(self.mean)) / _channels(self.std)

    def pixels(self, prepared: Float64Array) -> Float64Array:
        """The RGB images of which `prepare` makes ``prepared``."""
        ordered = (prepared * _channels(self.std) + _channels(self.mean)) / self.range
        return ordered[:, ::-1] if self.colour == "bgr" else ordered

    @property
    def text(self) -> str:
        """In words: ``RGB of 0..255, minus (123.68, 116.779, 103.939)``."""
        parts = [f"{self.colour.upper()} of 0..{self.range}"]
        parts += [f"minus ({_numbers(self.mean)})"] if any(self.mean) else []
        parts += [f"divided by ({_numbers(self.std)})"] if self.std != (1.0, 1.0, 1.0) else []
        return ", ".join(parts)


def stated_or_declared(stated: InputDomain | None, declared: InputDomain | None) -> InputDomain | None:
    """What is stated, else what is declared; sizes that are not stated are the declared ones."""
    if stated is None or declared is None:
        return stated or declared
    return replace(stated, resize=stated.resize or declared.resize, crop=stated.crop or declared.crop)


def _channels(values: Triple) -> Float64Array:
    import numpy as np

    return np.array(values).reshape(1, 3, 1, 1)


def _numbers(values: Triple) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
