"""The inputs of the proof: sizes that the network takes, and images that can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_builder import source_model
from hypothesis import given, settings
from random_configs import Network, networks
from single_node import ramp

from resnext_convert.converter.errors import UsageError
from resnext_convert.converter.preprocess import InputSpec, announced_input
from resnext_convert.converter.probe import features, image_size, probes, total_stride, usable
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    HeadConfig,
    NormConfig,
    Pair,
    PoolConfig,
    ResNeXtConfig,
    UnitConfig,
    resnext,
)

IMAGENET = resnext((1, 1, 1, 1), cardinality=2, base_width=4)
GLOBAL = PoolConfig(kind="avg", global_pool=True)


def unit(channels: int, out: int, kernel: int, *, stride: int = 1, padding: int | None = None) -> UnitConfig:
    conv = ConvConfig(
        in_channels=channels,
        out_channels=out,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 2 if padding is None else (padding,) * 2,
    )
    return UnitConfig(conv=conv, norm=NormConfig(channels=out), relu=True)


def cifar(pool: PoolConfig | None = GLOBAL, *, in_features: int = 8) -> ResNeXtConfig:
    """A 3x3 stem, and two stages of which the second halves the size: 32 becomes 16."""
    return ResNeXtConfig(
        stem=(unit(3, 8, 3),),
        stem_pool=None,
        stages=(
            (BlockConfig(units=(unit(8, 8, 3), unit(8, 8, 3))),),
            (
                BlockConfig(
                    units=(unit(8, 8, 3, stride=2), unit(8, 8, 3)),
                    downsample=DownsampleConfig(unit=unit(8, 8, 1, stride=2)),
                ),
            ),
        ),
        head=HeadConfig(pool=pool, in_features=in_features, classes=5),
    )


def fixed(kernel: int) -> ResNeXtConfig:
    """ImageNet's layers before a final pooling that is not global."""
    return replace(IMAGENET, head=replace(IMAGENET.head, pool=PoolConfig(kind="avg", kernel=(kernel, kernel))))


def average_down(*, ceil: bool) -> ResNeXtConfig:
    """`cifar` with an average pooling in the shortcut that rounds odd sizes down, or up as the residual does."""
    config = cifar()
    pool = PoolConfig(kind="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=ceil)
    block = replace(config.stages[1][0], downsample=DownsampleConfig(pool=pool, unit=unit(8, 8, 1)))
    return replace(config, stages=(config.stages[0], (block,)))


SPEC = InputSpec(channels=3, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0), source="a test")


# Sizes


@pytest.mark.parametrize(
    ("config", "size", "found"),
    [
        (IMAGENET, (224, 224), (1, 1)),
        (fixed(7), (224, 224), (1, 1)),
        (fixed(7), (256, 224), (2, 1)),
        (fixed(7), (192, 192), None),
        (IMAGENET, (1, 1), (1, 1)),
        (IMAGENET, (0, 224), None),
        (IMAGENET, (224, -3), None),
        (cifar(None), (32, 33), (16, 17)),
        (average_down(ceil=False), (32, 32), (1, 1)),
        (average_down(ceil=False), (33, 32), None),
        (average_down(ceil=False), (32, 33), None),
        (average_down(ceil=True), (33, 33), (1, 1)),
    ],
)
def test_the_features(config: ResNeXtConfig, size: Pair, found: Pair | None) -> None:
    assert features(config, size) == found


def test_a_map_that_becomes_too_small_on_the_way_does_not_recover() -> None:
    """A 1x1 convolution with padding would make a map of what is no map."""
    stem = (unit(3, 8, 5, padding=0), unit(8, 8, 1, padding=1))
    config = replace(cifar(), stem=stem)
    assert features(config, (5, 5)) == (1, 1)
    assert features(config, (4, 5)) is None
    assert features(config, (1, 1)) is None


@settings(max_examples=50)
@given(networks())
def test_the_features_are_those_that_the_reference_computes(network: Network) -> None:
    config = replace(network.config, head=replace(network.config.head, pool=None, bias=False))
    model = source_model(config)
    fed = {"data": ramp(1, config.in_channels, *network.size)}
    before_classifier = next(node for node in model.graph.nodes if node.outputs == model.graph.outputs).inputs[0]
    computed = ReferenceExecutor(model.graph, model.tensors).run(fed, [before_classifier])[before_classifier]
    assert computed.shape[2:] == features(config, network.size)


@pytest.mark.parametrize(
    ("config", "asked", "declared", "size"),
    [
        (IMAGENET, None, None, (224, 224)),
        (IMAGENET, 96, (1, 3, 200, 200), (96, 96)),
        (IMAGENET, None, (1, 3, 200, 160), (200, 160)),
        (IMAGENET, None, (0, 3, 0, 0), (224, 224)),
        (IMAGENET, None, (0, 3, 128, 0), (224, 224)),
        (IMAGENET, None, (1, 3, 224), (224, 224)),
        (fixed(7), None, None, (224, 224)),
        (fixed(7), None, (1, 3, 96, 96), (224, 224)),
        (fixed(2), None, None, (33, 33)),
        (fixed(1), None, None, (32, 32)),
        (cifar(), None, None, (32, 32)),
        (cifar(), None, (1, 3, 28, 28), (28, 28)),
        (cifar(PoolConfig(kind="avg", kernel=(8, 8))), None, None, (15, 15)),
        (cifar(None, in_features=8 * 14 * 14), None, None, (27, 27)),
    ],
)
def test_the_image_size(config: ResNeXtConfig, asked: int | None, declared: tuple[int, ...] | None, size: Pair) -> None:
    assert image_size(config, asked, declared) == size
    assert usable(config, size)


@pytest.mark.parametrize(
    ("config", "asked", "says", "hint"),
    [
        (fixed(7), 192, "cannot take images of 192x192", "--image-size 224 fits"),
        (fixed(7), 256, "cannot take images of 256x256", "--image-size 224 fits"),
        (IMAGENET, 0, "cannot take images of 0x0", "--image-size 224 fits"),
        (IMAGENET, -1, "cannot take images of -1x-1", "--image-size 224 fits"),
        (cifar(None, in_features=24), 32, "cannot take images of 32x32", None),
        (cifar(None, in_features=24), None, "no square image of 8 to 512 pixels", "state --image-size"),
    ],
)
def test_no_image_size(config: ResNeXtConfig, asked: int | None, says: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=says) as error:
        image_size(config, asked, None)
    assert error.value.hint == hint


def test_the_refusal_says_what_the_image_would_become() -> None:
    with pytest.raises(UsageError) as error:
        image_size(fixed(7), 256, None)
    assert error.value.found == "features of 2x2, a classifier of 2048 inputs"
    with pytest.raises(UsageError) as error:
        image_size(fixed(7), 100, None)
    assert error.value.found == ("no features (a map gets too small, or sums differ), a classifier of 2048 inputs")


def test_the_stride_of_the_whole_network() -> None:
    assert total_stride(IMAGENET) == 32
    assert total_stride(cifar()) == 2


# Images


def shapes(config: ResNeXtConfig, size: Pair) -> list[tuple[int, ...]]:
    return [probe.image.shape for probe in probes(config, SPEC, size)]


def test_an_even_and_an_odd_size() -> None:
    assert shapes(IMAGENET, (224, 224)) == [(1, 3, 224, 224), (2, 3, 33, 39)]
    assert shapes(IMAGENET, (200, 160)) == [(1, 3, 200, 160), (2, 3, 33, 39)]
    assert shapes(IMAGENET, (225, 225)) == [(1, 3, 225, 225), (2, 3, 32, 38)]
    assert shapes(cifar(), (32, 32)) == [(1, 3, 32, 32), (2, 3, 9, 15)]


def test_one_random_image_where_it_is_large() -> None:
    assert shapes(IMAGENET, (64, 64)) == [(1, 3, 64, 64), (1, 3, 33, 39)]


def test_a_fixed_pooling_takes_the_nearest_size_that_fits() -> None:
    assert shapes(fixed(7), (224, 224)) == [(1, 3, 224, 224), (1, 3, 221, 223)]


def test_a_classifier_without_pooling_takes_what_it_was_made_for() -> None:
    config = cifar(None, in_features=8 * 14 * 14)
    assert shapes(config, (27, 27)) == [(1, 3, 27, 27), (1, 3, 28, 28)]


def test_the_full_size_again_where_the_network_takes_no_other_parity() -> None:
    assert shapes(average_down(ceil=False), (32, 32)) == [(1, 3, 32, 32), (1, 3, 32, 32)]
    assert shapes(average_down(ceil=True), (32, 32))[-1] == (2, 3, 9, 15)


def test_a_rectangular_image_where_no_square_fits() -> None:
    config = cifar(PoolConfig(kind="avg", kernel=(8, 4)), in_features=8)
    assert shapes(config, (16, 8)) == [(1, 3, 16, 8), (1, 3, 16, 8)]


@settings(max_examples=60)
@given(networks())
def test_every_image_fits_its_network(network: Network) -> None:
    spec = announced_input(network.config.in_channels, None, None)
    found = probes(network.config, spec, network.size)
    assert found[0].image.shape == (1, network.config.in_channels, *network.size)
    for probe in found:
        height, width = probe.image.shape[2:]
        assert usable(network.config, (height, width))
        assert probe.image.dtype == np.float32
        assert probe.image.flags.c_contiguous
    assert len(found) >= 2


def test_images_are_the_same_each_time_and_differ_by_seed() -> None:
    first, again, other = (probes(IMAGENET, SPEC, (64, 64), seed=seed) for seed in (0, 0, 1))
    assert [probe.name for probe in first] == [
        "structured image",
        "random, odd size, seed 0",
    ]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert np.array_equal(first[0].image, other[0].image)
    assert not np.array_equal(first[1].image, other[1].image)
    assert other[1].name == "random, odd size, seed 1"


def test_random_images_have_the_announced_distribution() -> None:
    draws = probes(IMAGENET, SPEC, (224, 224))[1].image
    count = draws[:, 0].size
    for channel in range(3):
        values = draws[:, channel].astype(np.float64)
        # Five standard errors of a mean and of a standard deviation.
        assert abs(values.mean() - SPEC.mean[channel]) < 5 * SPEC.std[channel] / count**0.5
        assert abs(values.std() - SPEC.std[channel]) < 5 * SPEC.std[channel] / (2 * count) ** 0.5
    assert not np.array_equal(draws[0], draws[1])


def test_the_structured_image_tells_channels_sides_and_corners_apart() -> None:
    """A mirrored, turned or recoloured image is another one, so an exchange of axes or channels shows."""
    image = (probes(IMAGENET, SPEC, (64, 64))[0].image - np.reshape(SPEC.mean, (3, 1, 1))) / np.reshape(
        SPEC.std, (3, 1, 1)
    )
    mean, std = image.mean(axis=(0, 2, 3)), image.std(axis=(0, 2, 3))
    assert np.all(np.abs(mean) < 1)
    assert np.all((std > 0.5) & (std < 2))
    channels = list(image[0])
    changed = [
        *(np.flip(channels[0], axis) for axis in (0, 1, (0, 1))),
        channels[0].T,
        np.rot90(channels[0]),
        channels[1],
        channels[2],
    ]
    assert all(np.abs(channels[0] - other).mean() > 0.2 for other in changed)
    assert np.abs(channels[1] - channels[2]).mean() > 0.2


def test_the_structured_image_has_edges_that_noise_has_not() -> None:
    image = probes(IMAGENET, replace(SPEC, mean=(0.0,) * 3, std=(1.0,) * 3), (224, 224))[0].image
    steps = np.abs(np.diff(image, axis=3))
    assert np.median(steps) < 0.02
    assert steps.max() > 1


def test_one_channel_and_many() -> None:
    for channels in (1, 5):
        config = replace(cifar(), stem=(unit(channels, 8, 3),))
        spec = announced_input(channels, np.arange(channels, dtype=float), np.ones(channels))
        found = probes(config, spec, (32, 32))
        assert {probe.image.shape[1] for probe in found} == {channels}
