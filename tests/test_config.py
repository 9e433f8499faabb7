"""The configuration: keys and shapes against lists written out by other rules, and the words of the field."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    HeadConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    Shape,
    SqueezeExcitationConfig,
    UnitConfig,
    downsample_names,
    resnext,
    stem_names,
)

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def unit(channels: int, out: int, kernel: int, *, groups: int = 1, bias: bool = False, norm: bool = True) -> UnitConfig:
    conv = ConvConfig(in_channels=channels, out_channels=out, kernel=(kernel, kernel), groups=groups, bias=bias)
    return UnitConfig(conv=conv, norm=NormConfig(channels=out) if norm else None, relu=True)


def small(
    *blocks: BlockConfig, stem: tuple[UnitConfig, ...] = (), data_norm: NormConfig | None = None
) -> ResNeXtConfig:
    """One stage behind a stem of eight channels."""
    return ResNeXtConfig(
        data_norm=data_norm,
        stem=stem or (unit(3, 8, 3),),
        stem_pool=None,
        stages=(blocks,),
        head=HeadConfig(pool=None, in_features=8, classes=5),
    )


def basic_resnet(depths: tuple[int, ...]) -> ResNeXtConfig:
    """ResNet-18 or -34: two 3x3 a block, a projection where the size changes."""
    stages, channels = [], 64
    for number, depth in enumerate(depths):
        width = 64 * 2**number
        blocks = []
        for _ in range(depth):
            down = None if channels == width else DownsampleConfig(unit=unit(channels, width, 1))
            blocks.append(BlockConfig(units=(unit(channels, width, 3), unit(width, width, 3)), downsample=down))
            channels = width
        stages.append(tuple(blocks))
    head = HeadConfig(pool=None, in_features=channels, classes=1000)
    return ResNeXtConfig(stem=(unit(3, 64, 7),), stem_pool=None, stages=tuple(stages), head=head)


def keys(*layers: str, last: tuple[str, ...] = ("fc.weight", "fc.bias")) -> list[str]:
    """The keys of some layers, convolutions without bias and normalisations."""
    found: list[str] = []
    for layer in layers:
        kind = layer.split(".")[-1]
        convolution = kind.startswith("conv") or kind == "0"
        found += [f"{layer}.{role}" for role in (("weight",) if convolution else NORM)]
    return [*found, *last]


def torchvision_layers(depths: tuple[int, ...], convolutions: int, *, first_projects: bool) -> list[str]:
    """The layers of torchvision.models.resnet (resnet.py of 0.28.0), in the order in which it makes them."""
    layers = ["conv1", "bn1"]
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            layers += [f"{name}.{kind}{n}" for n in range(1, convolutions + 1) for kind in ("conv", "bn")]
            if block == 0 and (stage > 1 or first_projects):
                layers += [f"{name}.downsample.0", f"{name}.downsample.1"]
    return layers


def parameters(config: ResNeXtConfig) -> int:
    shapes = config.state_shapes().items()
    return sum(math.prod(shape) for key, shape in shapes if key.endswith((".weight", ".bias")))


# The counts are those that torchvision documents for its weights (resnext50_32x4d and so on, "num_params").
@pytest.mark.parametrize(
    ("depths", "cardinality", "base_width", "count", "summary"),
    [
        ((3, 4, 6, 3), 32, 4, 25_028_904, "ResNeXt-50 (32x4d)"),
        ((3, 4, 23, 3), 32, 8, 88_791_336, "ResNeXt-101 (32x8d)"),
        ((3, 4, 23, 3), 64, 4, 83_455_272, "ResNeXt-101 (64x4d)"),
        ((3, 4, 6, 3), 1, 64, 25_557_032, "ResNet-50"),
        ((3, 8, 36, 3), 1, 64, 60_192_808, "ResNet-152"),
    ],
)
def test_the_published_networks(
    depths: tuple[int, ...], cardinality: int, base_width: int, count: int, summary: str
) -> None:
    config = resnext(depths, cardinality=cardinality, base_width=base_width)
    assert list(config.state_shapes()) == keys(*torchvision_layers(depths, 3, first_projects=True))
    assert parameters(config) == count
    assert config.summary == summary
    assert config.depths == depths
    assert (config.cardinality, config.base_width, config.in_channels) == (cardinality, base_width, 3)
    assert sum(1 for _ in config.blocks()) == sum(depths)


@pytest.mark.parametrize(("depths", "count", "summary"), [
    ((2, 2, 2, 2), 11_689_512, "ResNet-18"),
    ((3, 4, 6, 3), 21_797_672, "ResNet-34"),
])  # fmt: skip
def test_basic_blocks(depths: tuple[int, ...], count: int, summary: str) -> None:
    config = basic_resnet(depths)
    assert list(config.state_shapes()) == keys(*torchvision_layers(depths, 2, first_projects=False))
    assert parameters(config) == count
    assert config.summary == summary
    assert all(block.kind == "basic" for block in config.blocks())


def test_some_shapes_of_resnext_50() -> None:
    shapes = resnext((3, 4, 6, 3), cardinality=32, base_width=4, classes=10).state_shapes()
    expected: dict[str, Shape] = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (128, 64, 1, 1),
        "layer1.0.conv2.weight": (128, 4, 3, 3),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer4.2.conv2.weight": (1024, 32, 3, 3),
        "layer4.2.bn3.weight": (2048,),
        "fc.weight": (10, 2048),
        "fc.bias": (10,),
    }
    assert {key: shapes[key] for key in expected} == expected


def test_eps_and_momentum_are_those_of_every_normalisation() -> None:
    config = resnext((1, 1), cardinality=2, base_width=4, eps=2e-5, momentum=0.01)
    units = [*config.stem, *(unit for block in config.blocks() for unit in block.units)]
    assert {(unit.norm.eps, unit.norm.momentum) for unit in units if unit.norm} == {(2e-5, 0.01)}


def test_the_stem() -> None:
    assert stem_names(1) == [("conv1", "bn1")]
    assert stem_names(3) == [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]
    deep = (unit(3, 4, 3), unit(4, 4, 3, bias=True, norm=False), unit(4, 8, 3))
    block = BlockConfig(units=(unit(8, 8, 3), unit(8, 8, 3)))
    shapes = small(block, stem=deep, data_norm=NormConfig(channels=3)).state_shapes()
    stem = {key: shape for key, shape in shapes.items() if not key.startswith(("layer", "fc"))}
    assert stem == {
        **{f"bn_data.{role}": (3,) for role in NORM[:-1]},
        "bn_data.num_batches_tracked": (),
        "conv1.0.weight": (4, 3, 3, 3),
        **{f"conv1.1.{role}": (4,) for role in NORM[:-1]},
        "conv1.1.num_batches_tracked": (),
        "conv1.3.weight": (4, 4, 3, 3),
        "conv1.3.bias": (4,),
        "conv1.6.weight": (8, 4, 3, 3),
        **{f"bn1.{role}": (8,) for role in NORM[:-1]},
        "bn1.num_batches_tracked": (),
    }
    assert list(stem)[:5] == [f"bn_data.{role}" for role in NORM]


def test_a_block_with_everything() -> None:
    block = BlockConfig(
        units=(unit(8, 8, 1, bias=True), unit(8, 8, 3, groups=4), unit(8, 8, 1, norm=False)),
        squeeze_excitation=SqueezeExcitationConfig(channels=8, reduced=2, bias=(True, False)),
        downsample=DownsampleConfig(pool=PoolConfig(kind="avg", kernel=(2, 2)), unit=unit(8, 8, 1, bias=True)),
    )
    shapes = small(block).state_shapes()
    inside = [key.removeprefix("layer1.0.") for key in shapes if key.startswith("layer1.0.")]
    assert inside == [
        "conv1.weight", "conv1.bias", *(f"bn1.{role}" for role in NORM),
        "conv2.weight", *(f"bn2.{role}" for role in NORM),
        "conv3.weight",
        "se.fc1.weight", "se.fc1.bias", "se.fc2.weight",
        "downsample.1.weight", "downsample.1.bias", *(f"downsample.2.{role}" for role in NORM),
    ]  # fmt: skip
    assert shapes["layer1.0.conv2.weight"] == (8, 2, 3, 3)
    assert shapes["layer1.0.se.fc1.weight"] == (2, 8, 1, 1)
    assert shapes["layer1.0.se.fc2.weight"] == (8, 2, 1, 1)
    assert downsample_names(has_pool=False) == ("downsample.0", "downsample.1")


def test_a_head_without_bias() -> None:
    config = small(BlockConfig(units=(unit(8, 8, 3), unit(8, 8, 3))))
    without = replace(config, head=replace(config.head, bias=False))
    assert config.state_shapes().keys() - without.state_shapes().keys() == {"fc.bias"}


@pytest.mark.parametrize(
    ("block", "cardinality", "base_width", "summary"),
    [
        (BlockConfig(units=(unit(8, 8, 3, groups=4), unit(8, 8, 3))), 4, 2, "ResNeXt-4 (4x2d)"),
        (BlockConfig(units=(unit(8, 8, 3),)), 1, 8, "ResNet-3"),
        (BlockConfig(units=(unit(8, 4, 1), unit(4, 4, 3, groups=2), unit(4, 8, 1))), 2, 2, "ResNeXt-5 (2x2d)"),
        (
            BlockConfig(
                units=(unit(8, 8, 3), unit(8, 8, 3)),
                squeeze_excitation=SqueezeExcitationConfig(channels=8, reduced=2),
            ),
            1,
            8,
            "SE-ResNet-4",
        ),
    ],
)
def test_the_summary(block: BlockConfig, cardinality: int, base_width: int, summary: str) -> None:
    config = small(block)
    assert (config.cardinality, config.base_width, config.summary) == (cardinality, base_width, summary)
