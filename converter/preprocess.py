"""What is known about a network's input: its own statistics, its files, and what somebody declares.

The running statistics of ``bn_data`` are those of what the network was fed while it was trained, so they tell how the
images were prepared. What they tell is compared with what is declared, and a contradiction is a warning. None of it is
used for a computation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from resnext_convert.converter.domain import Colour, InputDomain
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.origin import PixelTransform
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.tensors import Float64Array

# The channel means of ImageNet in RGB, 0..255 (the values of MXNet's example/image-classification/common/data.py).
IMAGENET_RGB = (123.68, 116.779, 103.939)
PIXEL_STD = 58.0  # of photographs in 0..255 around their mean

MEAN_TOLERANCE: Final = 15.0
"""Of 255: how far a channel's mean may be from ImageNet's, or from 0. Sets of photographs differ by some 10 (CIFAR-10's
blue: 113.9), and the nearest other reading, 0 for raw images, is 104 away."""

COLOUR_MARGIN: Final = 5.0
"""Of 255: by how much red must exceed blue, or blue red, to tell which is which. Of photographs red is the brighter: by
19.7 in ImageNet, 11.4 in CIFAR-10."""

VARIANCE_FACTOR: Final = 2.0
"""By how much a variance may differ from that of photographs: CIFAR-10's is 1.3 times ImageNet's, augmentation by
colour adds some, and the three readings (3364, 0.052 and 1) are at least 19 times apart."""

SAME_MEAN: Final = 3.0
"""Of 255: up to here two declared means are roundings of one another (123 and 123.68)."""

SAME_SCALE: Final = 1.25
"""Up to here two declared factors are roundings of one another (0.017 and 1 / 57.375), or one of three channels."""

_Spread = Literal[255, 1, "one"]
_DEVIATIONS: Final[dict[_Spread, float]] = {255: PIXEL_STD, 1: PIXEL_STD / 255, "one": 1.0}
_SPREADS: Final[dict[_Spread, str]] = {
    255: "images in 0..255",
    1: "images in 0..1",
    "one": "images that were divided by their standard deviation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the running statistics of ``bn_data`` say about the images that a network was trained with.

    Attributes:
        colour: the order of the channels; None: not told (after the mean was subtracted, nothing tells it).
        range: what a pixel of full intensity was, before a mean was subtracted; None: not told.
        mean_subtracted: whether the mean of the images had been subtracted; None: not told.
        std_applied: whether they had been divided by their standard deviation.
    """

    colour: Colour | None = None
    range: Literal[1, 255] | None = None
    mean_subtracted: bool | None = None
    std_applied: bool = False

    @property
    def text(self) -> str:
        """In words: ``raw RGB images in 0..255, no mean subtracted``."""
        if self.std_applied:
            return "images after their mean was subtracted and their standard deviation divided out"
        where = f"images in 0..{self.range}"
        if self.mean_subtracted is None:
            return f"{where} (their means do not tell whether one was subtracted)"
        if self.mean_subtracted:
            return f"{where} after the mean was subtracted"
        colour = f" {self.colour.upper()}" if self.colour else ""
        return f"raw{colour} {where}, no mean subtracted"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """The network's input, as far as it is known.

    Attributes:
        channels: of the image.
        mean: per channel, in the units of the network's input.
        std: per channel.
        source: where mean and std come from.
        size: height and width that the graph declares for its input; None: it declares none.
        transform: how pixels become the input, where the files declare it.
        reading: what the network's own statistics say; None where they say nothing.
        declared: how pixels become the input, as a release or the user says; None: nobody does.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    size: tuple[int, int] | None = None
    transform: PixelTransform | None = None
    reading: Reading | None = None
    declared: InputDomain | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is said about the preparation of images, and who says it, one phrase each."""
        said = [f"{self.reading.text}, as bn_data says"] if self.reading else []
        said += [self.transform.text] if self.transform else []
        said += [f"{self.declared.text}, as {self.declared.source} says"] if self.declared else []
        return tuple(said)


def input_spec(model: SourceModel, found: Match, declared: InputDomain | None = None) -> InputSpec:
    """What is known about a network's input.

    Args:
        model: the source.
        found: its configuration and bindings.
        declared: how images are prepared, as a release or the user says.
    """
    # Only what is asked for: whoever converts assembles the whole state dict once, and that is enough.
    of_input = tuple(binding for binding in found.bindings if binding.target.startswith("bn_data."))
    arrays = assemble(replace(found, bindings=of_input), model.tensors)
    mean, var = (arrays.get(f"bn_data.{statistic}") for statistic in ("running_mean", "running_var"))
    spec = announced_input(
        found.config.in_channels,
        None if mean is None else mean.astype(np.float64),
        None if var is None else var.astype(np.float64),
        model.origin.transform,
        declared,
    )
    shape = model.origin.input_shape or ()
    size = (shape[2], shape[3]) if len(shape) == 4 and min(shape[2:]) > 0 else None
    return replace(spec, size=size, declared=declared)


def announced_input(
    channels: int,
    mean: Float64Array | None,
    var: Float64Array | None,
    transform: PixelTransform | None = None,
    declared: InputDomain | None = None,
) -> InputSpec:
    """Reads the input's distribution from the running statistics of ``bn_data``, if the network has one.

    Args:
        channels: of the image.
        mean: (channels,), the running mean of ``bn_data``, None without ``bn_data``.
        var: (channels,), its running variance.
        transform: what the files declare.
        declared: what a release or the user declares.
    """
    if mean is None or var is None or (not mean.any() and (var == 1).all()):  # that is no statistic of anything
        return _declared_input(channels, transform, declared)
    std = np.sqrt(np.maximum(var, 0))
    return InputSpec(
        channels=channels,
        mean=tuple(float(m) for m in mean),
        std=tuple(float(s) for s in std),
        source="the running statistics of bn_data",
        transform=transform,
        reading=read_statistics(mean, std),
    )


def _declared_input(channels: int, transform: PixelTransform | None, declared: InputDomain | None) -> InputSpec:
    if declared is not None and channels == 3:
        centre = np.array(IMAGENET_RGB if declared.colour == "rgb" else IMAGENET_RGB[::-1]) * declared.range / 255
        return InputSpec(
            channels=channels,
            mean=tuple(float(m) for m in (centre - declared.mean) / declared.std),
            std=tuple(PIXEL_STD * declared.range / 255 / std for std in declared.std),
            source=f"photographs as {declared.source} prepares them",
            transform=transform,
        )
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
    middle = 0.0 if transform.mean else sum(IMAGENET_RGB) / 3 * transform.scale
    return InputSpec(
        channels=channels,
        mean=(middle,) * channels,
        std=(PIXEL_STD * abs(transform.scale),) * channels,
        source=f"photographs as {transform.source} prepares them",
        transform=transform,
    )


# --- what the statistics say ------------------------------------------------------------------------------------------


def read_statistics(mean: Float64Array, std: Float64Array) -> Reading | None:
    """What a person would conclude from the statistics of the input.

    Args:
        mean: (channels,), in the units of the network's input.
        std: (channels,), likewise.

    Returns:
        None where they are not of three channels, or not those of photographs in any preparation that is known:

        ====================  ======================  ==========================================
        mean                  variance                the images
        ====================  ======================  ==========================================
        ImageNet's, RGB, BGR  3364, or 1 / 255² of it  raw, in 0..255 or 0..1
        0                     the same                the mean was subtracted
        0                     1                       mean and standard deviation were applied
        something else        3364, or 1 / 255² of it  in 0..255 or 0..1, no more is told
        ====================  ======================  ==========================================
    """
    spread = _spread(std) if mean.shape == (3,) else None
    if spread is None:
        return None
    pixels = mean * PIXEL_STD / _DEVIATIONS[spread]  # as if they were of 0..255
    centred = bool(np.all(np.abs(pixels) <= MEAN_TOLERANCE))
    if spread == "one":
        return Reading(mean_subtracted=True, std_applied=True) if centred else None
    if centred:
        return Reading(range=spread, mean_subtracted=True)
    if _near_photographs(pixels):
        return Reading(range=spread, mean_subtracted=False, colour=_colour(pixels))
    return Reading(range=spread) if np.all(np.abs(pixels) <= 255) else None


def _spread(std: Float64Array) -> _Spread | None:
    """Whose deviation it is; None: of none of the three."""
    for spread, usual in _DEVIATIONS.items():
        ratio = (std / usual) ** 2
        if np.all((ratio >= 1 / VARIANCE_FACTOR) & (ratio <= VARIANCE_FACTOR)):
            return spread
    return None


def _near_photographs(pixels: Float64Array) -> bool:
    rgb = np.array(IMAGENET_RGB)
    return any(bool(np.all(np.abs(pixels - order) <= MEAN_TOLERANCE)) for order in (rgb, rgb[::-1]))


def _colour(pixels: Float64Array) -> Colour | None:
    """The order of the channels whose means in 0..255 these are, if they are those of photographs."""
    if not _near_photographs(pixels) or abs(pixels[0] - pixels[2]) < COLOUR_MARGIN:
        return None
    return "rgb" if pixels[0] > pixels[2] else "bgr"


# --- what contradicts what --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claim:
    """``(pixel - mean) * scale`` for pixels of 0..255 in the network's order of channels, and who says so."""

    source: str
    colour: Colour | None
    mean: Float64Array
    scale: float

    @property
    def subtracts(self) -> str:
        return f"({', '.join(f'{value:.6g}' for value in self.mean)})" if self.mean.any() else "nothing"


def disagreements(reading: Reading, declared: InputDomain) -> tuple[str, ...]:
    """Where the network's own statistics contradict what is declared: one sentence for each contradiction."""
    return _against(reading, _of_domain(declared))


def contradictions(spec: InputSpec) -> tuple[str, ...]:
    """All contradictions between the statistics, the files and what is declared: one sentence each, for warnings.

    Files of Caffe say nothing about the order of the channels but by the order of the means that they subtract. (What
    its own tools read is BGR, by OpenCV's convention, but nets were fed otherwise too.)
    """
    declared = _of_domain(spec.declared) if spec.declared else None
    files = _of_files(spec.transform) if spec.transform else None
    found: list[str] = []
    if declared and declared.colour and (order := _colour(declared.mean)) and order != declared.colour:
        found.append(
            f"{declared.source} says {declared.colour.upper()}, but that {declared.subtracts} is subtracted, which has"
            f" the order {order.upper()}: the mean is to be in the network's order of channels"
        )
    for claim in (declared, files):
        if claim and spec.reading:
            found += _against(spec.reading, claim)
    if declared and files:
        found += _between(files, declared)
    return tuple(found)


def _of_domain(domain: InputDomain) -> _Claim:
    return _Claim(
        source=domain.source,
        colour=domain.colour,
        mean=np.array(domain.mean) * 255 / domain.range,
        scale=float(np.mean(domain.range / 255 / np.array(domain.std))),
    )


def _of_files(transform: PixelTransform) -> _Claim | None:
    mean = np.array(transform.mean or (0.0,) * 3)
    if mean.shape != (3,) or not 0 < abs(transform.scale) < np.inf:
        return None
    return _Claim(source=transform.source, colour=_colour(mean), mean=mean, scale=transform.scale)


def _against(reading: Reading, claim: _Claim) -> tuple[str, ...]:
    found = []
    if reading.colour and claim.colour and reading.colour != claim.colour:
        found.append(
            f"the channel means in bn_data are those of {reading.colour.upper()} images, but {claim.source} says"
            f" {claim.colour.upper()}: if the statistics are right, red and blue would be swapped"
        )
    if reading.mean_subtracted is False and claim.mean.any():
        found.append(
            f"the channel means in bn_data are those of raw images, but {claim.source} says that {claim.subtracts} is"
            " subtracted: if the statistics are right, no mean is to be subtracted"
        )
    if reading.mean_subtracted and not claim.mean.any():
        found.append(
            "the channel means in bn_data are near 0, as they are after the mean of the images was subtracted, but"
            f" {claim.source} says that nothing is subtracted: if the statistics are right, the mean is"
        )
    spread: _Spread | None = "one" if reading.std_applied else reading.range
    given = PIXEL_STD * abs(claim.scale)
    if spread and _spread(np.array([given])) != spread:
        found.append(
            f"the variances in bn_data are those of {_SPREADS[spread]} (a standard deviation of about"
            f" {_DEVIATIONS[spread]:.2g}), but photographs prepared as {claim.source} says have one of about"
            f" {given:.2g}"
        )
    return tuple(found)


def _between(files: _Claim, declared: _Claim) -> tuple[str, ...]:
    found = []
    apart = np.abs(files.mean - declared.mean).max()
    if files.colour and declared.colour and files.colour != declared.colour:
        found.append(
            f"{files.source} subtracts {files.subtracts}, which has the order {files.colour.upper()}, but"
            f" {declared.source} says {declared.colour.upper()}: red and blue may be swapped"
        )
        apart = min(apart, np.abs(files.mean[::-1] - declared.mean).max())
    if apart > SAME_MEAN:
        found.append(
            f"{files.source} subtracts {files.subtracts} from pixels of 0..255, but what {declared.source} says"
            f" subtracts {declared.subtracts} from them"
        )
    ratio = abs(files.scale / declared.scale)
    if not 1 / SAME_SCALE <= ratio <= SAME_SCALE:
        found.append(
            f"{files.source} multiplies pixels by {files.scale:.3g}, but what {declared.source} says comes to"
            f" {declared.scale:.3g}"
        )
    return tuple(found)
