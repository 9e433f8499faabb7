"""Options that say how images are prepared and which classes a network has, and what they mean together."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnext_convert.converter.classes import ORDERS, ClassOrder
from resnext_convert.converter.domain import InputDomain, Triple
from resnext_convert.converter.errors import UsageError


class ColourOption(enum.StrEnum):
    """The order of the network's input channels."""

    RGB = "rgb"
    BGR = "bgr"


class RangeOption(enum.StrEnum):
    """What a pixel of full intensity is before mean and std."""

    UNIT = "1"
    BYTE = "255"


class ClassOrderOption(enum.StrEnum):
    """The orders of `classes.ORDERS`."""

    IMAGENET_2012 = "imagenet-2012"
    IMAGENET_2015 = "imagenet-2015"
    CIFAR_10 = "cifar-10"


assert tuple(ClassOrderOption) == ORDERS

InputColour = Annotated[
    ColourOption | None,
    typer.Option("--input-colour", help="The order of the network's input channels. With --input-range."),
]
InputRange = Annotated[
    RangeOption | None,
    typer.Option("--input-range", help="A white pixel, before mean and std. With --input-colour."),
]
InputMean = Annotated[
    str | None,
    typer.Option(
        "--input-mean",
        metavar="A,B,C",
        help="The means that are subtracted, in the network's order of channels, in units of the range. Default: none.",
    ),
]
InputStd = Annotated[
    str | None,
    typer.Option(
        "--input-std", metavar="A,B,C", help="The deviations that are divided by after that, likewise. Default: none."
    ),
]
ClassOrderChoice = Annotated[
    ClassOrderOption | None,
    typer.Option(
        "--class-order",
        help="The order of the network's classes. imagenet-2012 begins with tench, imagenet-2015 with kit fox.",
    ),
]
SourceClassOrder = Annotated[
    ClassOrderOption | None,
    typer.Option(
        "--source-class-order",
        help="The order of the source's classes, where no release says it. imagenet-2012 begins with tench, "
        "imagenet-2015 with kit fox.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="The names of the network's classes in their order, one a line."),
]


def stated_domain(
    colour: ColourOption | None,
    range: RangeOption | None,
    mean: str | None,
    std: str | None,
    *,
    source: str = "the command line",
) -> InputDomain | None:
    """What the options say about the input; None where they say nothing.

    Args:
        colour: of ``--input-colour``.
        range: of ``--input-range``.
        mean: the text of ``--input-mean``.
        std: the text of ``--input-std``.
        source: who says so.

    Raises:
        UsageError: colour and range are not both stated, or mean or std is not three numbers that can be meant.
    """
    if colour is None and range is None and mean is None and std is None:
        return None
    if colour is None or range is None:
        absent = [name for name, value in (("--input-colour", colour), ("--input-range", range)) if value is None]
        raise UsageError(
            "the input is stated in part",
            expected=f"{' and '.join(absent)} as well",
            hint="--input-colour rgb|bgr and --input-range 1|255 go together; without --input-mean and --input-std"
            " nothing is subtracted and nothing divided by",
        )
    full: Literal[1, 255] = 255 if range is RangeOption.BYTE else 1
    means = (0.0, 0.0, 0.0) if mean is None else _triple("--input-mean", mean)
    deviations = (1.0, 1.0, 1.0) if std is None else _triple("--input-std", std)
    if min(deviations) <= 0:
        raise UsageError("--input-std is divided by", expected="three numbers above 0", found=std)
    outside = max(map(abs, means)) > full
    if outside or (full == 255 and any(means) and max(map(abs, means)) <= 1):
        raise UsageError(
            f"--input-mean is not in units of --input-range {full}",
            expected=f"means of pixels in 0..{full}",
            found=mean,
            hint=f"state --input-range {255 if full == 1 else 1}, or the mean in units of 0..{full}",
        )
    return InputDomain(colour=colour.value, range=full, mean=means, std=deviations, source=source)


def stated_order(order: ClassOrderOption | None) -> ClassOrder | None:
    """The order of ``--class-order``."""
    return None if order is None else order.value


def _triple(option: str, text: str) -> Triple:
    try:
        first, second, third = map(float, text.split(","))
    except ValueError:
        first = second = third = math.nan
    if not all(map(math.isfinite, (first, second, third))):
        raise UsageError(
            f"{option} is one number for each channel, separated by commas",
            expected="three numbers, such as 123.68,116.779,103.939",
            found=text,
        )
    return first, second, third
