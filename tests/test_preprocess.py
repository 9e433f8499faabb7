"""What the statistics of ``bn_data`` say about the input, what they do not, and what they contradict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_builder import TINY, source_model

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.origin import PixelTransform
from resnext_convert.converter.preprocess import (
    IMAGENET_RGB,
    Reading,
    announced_input,
    contradictions,
    disagreements,
    input_spec,
    read_statistics,
)
from resnext_convert.converter.resnext.match import match

RGB = np.array(IMAGENET_RGB)
STD = np.array([58.4, 57.1, 57.4])
CIFAR, CIFAR_STD = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])

RAW_RGB = Reading(colour="rgb", range=255, mean_subtracted=False)
RAW_BGR = replace(RAW_RGB, colour="bgr")
CENTRED = Reading(range=255, mean_subtracted=True)
STANDARD = Reading(mean_subtracted=True, std_applied=True)


def test_without_statistics_nothing_is_known() -> None:
    spec = announced_input(4, None, None)
    assert (spec.channels, spec.mean, spec.std, spec.reading, spec.texts) == (4, (0.0,) * 4, (1.0,) * 4, None, ())
    assert spec.source.startswith("assumed")
    assert announced_input(3, RGB, None) == announced_input(3, None, None)


def test_statistics_that_were_never_gathered_say_nothing() -> None:
    spec = announced_input(3, np.zeros(3), np.ones(3))
    assert spec.reading is None
    assert spec.source.startswith("assumed")


def test_the_distribution_is_that_of_the_statistics() -> None:
    spec = announced_input(2, np.array([1.5, -2.0]), np.array([4.0, 0.25]))
    assert spec.mean == (1.5, -2.0)
    assert spec.std == (2.0, 0.5)
    assert spec.source == "the running statistics of bn_data"
    assert all(type(value) is float for value in (*spec.mean, *spec.std))


def test_a_variance_below_zero_counts_as_none() -> None:
    """Legal where eps makes up for it."""
    assert announced_input(1, np.array([1.0]), np.array([-1e-9])).std == (0.0,)


@pytest.mark.parametrize(
    ("mean", "std", "reading"),
    [
        (RGB, STD, RAW_RGB),
        (RGB[::-1], STD, RAW_BGR),
        (RGB + np.array([4, -3, 2]), STD, RAW_RGB),
        (CIFAR, CIFAR_STD, RAW_RGB),
        (CIFAR[::-1], CIFAR_STD, RAW_BGR),
        (RGB / 255, STD / 255, Reading(colour="rgb", range=1, mean_subtracted=False)),
        (RGB[::-1] / 255, STD / 255, Reading(colour="bgr", range=1, mean_subtracted=False)),
        (np.array([0.3, -1.2, 2.0]), STD, CENTRED),
        (np.array([0.01, 0.0, -0.02]), STD / 255, Reading(range=1, mean_subtracted=True)),
        (np.array([0.01, 0.0, -0.02]), np.array([1.02, 0.99, 1.0]), STANDARD),
        ((CIFAR - RGB) / STD, CIFAR_STD / STD, STANDARD),  # CIFAR-10 with the figures of ImageNet
        # grey images: raw, but of either order
        (np.array([115.0, 115.0, 115.0]), STD, Reading(range=255, mean_subtracted=False)),
        (RGB / 255, STD, CENTRED),
        (np.array([120.0, 20.0, 103.0]), STD, Reading(range=255)),
        (np.array([96.6, 88.6, 82.5]), np.array([53.9, 45.8, 50.9]), Reading(range=255)),
        (RGB, STD / 255, None),  # a mean of 123 is none of images in 0..1
        (RGB / 58, STD / 58, None),
        (RGB / 127.5 - 1, STD / 127.5, None),  # -1 .. 1
        (np.zeros(3), np.array([58.0, 58.0, 5.0]), None),
        (np.array([0.1]), np.array([0.3]), None),
        (np.full(4, 110.0), np.full(4, 57.0), None),
    ],
)
def test_what_a_person_would_conclude(mean: np.ndarray, std: np.ndarray, reading: Reading | None) -> None:
    assert read_statistics(mean, std) == reading
    assert announced_input(len(mean), mean, std**2).reading == reading


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (RAW_RGB, "raw RGB images in 0..255, no mean subtracted"),
        (Reading(range=1, mean_subtracted=False), "raw images in 0..1, no mean subtracted"),
        (CENTRED, "images in 0..255 after the mean was subtracted"),
        (STANDARD, "images after their mean was subtracted and their standard deviation divided out"),
        (Reading(range=255), "images in 0..255 (their means do not tell whether one was subtracted)"),
    ],
)
def test_a_reading_in_words(reading: Reading, text: str) -> None:
    assert reading.text == text


def test_the_spec_of_a_source() -> None:
    model = source_model(TINY)
    declared = InputDomain(colour="rgb", source="a test")
    origin = replace(model.origin, input_shape=(0, 3, 40, 48))
    spec = input_spec(replace(model, origin=origin), match(model), declared)
    assert (spec.size, spec.declared) == ((40, 48), declared)
    assert spec.texts[-1] == "RGB of 0..255, as a test says"
    assert input_spec(replace(model, origin=replace(origin, input_shape=(1, 3, 0, 0))), match(model)).size is None
    assert input_spec(replace(model, origin=replace(origin, input_shape=None)), match(model)).declared is None


# --- contradictions ---------------------------------------------------------------------------------------------

RAW = InputDomain(colour="rgb", source="the page")
MINUS_MEAN = replace(RAW, mean=IMAGENET_RGB)
STANDARDISED = replace(MINUS_MEAN, std=(58.395, 57.12, 57.375))
TORCHVISION = InputDomain(
    colour="rgb", range=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), source="the page"
)
UNIT = replace(RAW, range=1)


@pytest.mark.parametrize(
    ("reading", "declared"),
    [
        (RAW_RGB, RAW),
        (RAW_BGR, replace(RAW, colour="bgr")),
        (CENTRED, MINUS_MEAN),
        (CENTRED, replace(MINUS_MEAN, colour="bgr")),  # nothing tells the order after a mean was subtracted
        (STANDARD, STANDARDISED),
        (STANDARD, TORCHVISION),
        (Reading(colour="rgb", range=1, mean_subtracted=False), UNIT),
        (Reading(range=255), RAW),
        (Reading(range=255), MINUS_MEAN),
    ],
)
def test_what_agrees_is_not_mentioned(reading: Reading, declared: InputDomain) -> None:
    assert disagreements(reading, declared) == ()


@pytest.mark.parametrize(
    ("reading", "declared", "begins"),
    [
        (RAW_BGR, RAW, ["the channel means in bn_data are those of BGR images, but the page says RGB"]),
        (
            RAW_RGB,
            MINUS_MEAN,
            ["the channel means in bn_data are those of raw images, but the page says that (123.68, 116.779, 103.939)"],
        ),
        (CENTRED, RAW, ["the channel means in bn_data are near 0, as they are after the mean"]),
        (
            RAW_RGB,
            UNIT,
            ["the variances in bn_data are those of images in 0..255 (a standard deviation of about 58)"],
        ),
        (
            CENTRED,
            TORCHVISION,
            ["the variances in bn_data are those of images in 0..255 (a standard deviation of about 58)"],
        ),
        (
            STANDARD,
            RAW,
            [
                "the channel means in bn_data are near 0",
                "the variances in bn_data are those of images that were divided by their standard deviation",
            ],
        ),
        (
            RAW_BGR,
            TORCHVISION,
            [
                "the channel means in bn_data are those of BGR",
                "the channel means in bn_data are those of raw",
                "the var",
            ],
        ),
    ],
)
def test_each_contradiction_is_a_sentence(reading: Reading, declared: InputDomain, begins: list[str]) -> None:
    found = disagreements(reading, declared)
    assert len(found) == len(begins)
    for sentence, start in zip(found, begins, strict=True):
        assert sentence.startswith(start)


def test_the_figures_of_a_contradiction() -> None:
    (sentence,) = disagreements(RAW_RGB, UNIT)
    assert sentence == (
        "the variances in bn_data are those of images in 0..255 (a standard deviation of about 58), but photographs"
        " prepared as the page says have one of about 0.23"
    )


BGR_MEAN = PixelTransform(mean=(104.0, 117.0, 123.0), source="net.prototxt")


def contradicted(
    *, reading: Reading | None = None, files: PixelTransform | None = None, declared: InputDomain | None = None
) -> tuple[str, ...]:
    return contradictions(replace(announced_input(3, None, None, files), reading=reading, declared=declared))


@pytest.mark.parametrize(
    ("reading", "files", "declared"),
    [
        (None, None, RAW),
        (None, BGR_MEAN, None),
        (CENTRED, BGR_MEAN, None),
        (None, BGR_MEAN, InputDomain(colour="bgr", mean=(103.939, 116.779, 123.68), source="the page")),
        (STANDARD, PixelTransform(mean=(104.0, 117.0, 123.0), scale=0.017, source="net.prototxt"), None),
        (RAW_RGB, PixelTransform(mean=(1.0,), source="grey"), RAW),
        (RAW_RGB, PixelTransform(scale=0.0, source="nothing"), RAW),
        (
            None,
            PixelTransform(mean=(104.0, 117.0, 123.0), scale=0.017, source="net.prototxt"),
            InputDomain(
                colour="bgr", range=1, mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229), source="the page"
            ),
        ),
    ],
)
def test_nothing_is_contradicted(
    reading: Reading | None, files: PixelTransform | None, declared: InputDomain | None
) -> None:
    assert contradicted(reading=reading, files=files, declared=declared) == ()


def test_files_that_contradict_the_statistics() -> None:
    (mean,) = contradicted(reading=replace(RAW_RGB, colour=None), files=BGR_MEAN)
    assert "are those of raw images, but net.prototxt says that (104, 117, 123) is subtracted" in mean
    colour, _ = contradicted(reading=RAW_RGB, files=BGR_MEAN)
    assert "are those of RGB images, but net.prototxt says BGR" in colour
    (none,) = contradicted(reading=CENTRED, files=PixelTransform(crop=224, source="net.prototxt"))
    assert "net.prototxt says that nothing is subtracted" in none


def test_files_that_contradict_what_is_declared() -> None:
    (colour,) = contradicted(files=BGR_MEAN, declared=MINUS_MEAN)
    assert colour == (
        "net.prototxt subtracts (104, 117, 123), which has the order BGR, but the page says RGB: red and blue may be"
        " swapped"
    )
    (mean,) = contradicted(files=BGR_MEAN, declared=InputDomain(colour="bgr", source="the page"))
    assert mean.endswith("from pixels of 0..255, but what the page says subtracts nothing from them")
    (scale,) = contradicted(
        files=replace(BGR_MEAN, scale=0.017),
        declared=InputDomain(colour="bgr", mean=(104.0, 117.0, 123.0), source="the page"),
    )
    assert scale == "net.prototxt multiplies pixels by 0.017, but what the page says comes to 1"


def test_a_mean_in_the_wrong_order() -> None:
    (order,) = contradicted(declared=replace(RAW, mean=(104.0, 117.0, 123.0)))
    assert order.startswith("the page says RGB, but that (104, 117, 123) is subtracted, which has the order BGR")


@pytest.mark.parametrize(
    ("domain", "mean", "std"),
    [
        (InputDomain(colour="rgb", source="x"), (123.68, 116.779, 103.939), (58.0, 58.0, 58.0)),
        (InputDomain(colour="bgr", mean=(104, 117, 123), source="x"), (-0.061, -0.221, 0.68), (58.0, 58.0, 58.0)),
        (
            InputDomain(colour="rgb", range=1, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.25), source="x"),
            ((123.68 / 255 - 0.5) * 4, (116.779 / 255 - 0.5) * 2, (103.939 / 255 - 0.5) * 4),
            (58 / 255 * 4, 58 / 255 * 2, 58 / 255 * 4),
        ),
    ],
)
def test_without_statistics_inputs_are_drawn_as_declared(
    domain: InputDomain, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    spec = announced_input(3, None, None, declared=domain)
    assert spec.mean == pytest.approx(mean)
    assert spec.std == pytest.approx(std)
    assert spec.source == "photographs as x prepares them"
    # What the network's own statistics say counts more; of other than three channels nothing is said.
    assert announced_input(3, RGB, RGB, declared=domain) == announced_input(3, RGB, RGB)
    assert announced_input(1, None, None, declared=domain) == announced_input(1, None, None)
