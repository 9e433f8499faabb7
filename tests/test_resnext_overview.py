"""A network in words: every word is derived from the configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.overview import (
    conv_text,
    eps_text,
    facts,
    norms,
    parameter_count,
    pool_text,
    stage_rows,
)

RESNEXT_50 = resnext((3, 4, 6, 3), cardinality=32, base_width=4)


def with_block(config: ResNeXtConfig, stage: int, number: int, **changes: object) -> ResNeXtConfig:
    stages = [list(blocks) for blocks in config.stages]
    stages[stage][number] = replace(stages[stage][number], **changes)  # type: ignore[arg-type]
    return replace(config, stages=tuple(tuple(blocks) for blocks in stages))


def test_the_paper_s_network() -> None:
    # arXiv:1611.05431, table 1: 25.0 million parameters.
    assert parameter_count(RESNEXT_50) == 25_028_904
    assert dict(facts(RESNEXT_50)) == {
        "image": "3 channels",
        "stem": "7x7 convolution, 3 to 64 channels, stride 2, padding 3",
        "stem pool": "3x3 max, stride 2, padding 1",
        "final pool": "global average",
        "classifier": "2,048 features to 1,000 classes",
        "batch norm": "eps 1e-05 in 53 layers",
        "parameters": "25,028,904",
    }


def test_the_stages_of_the_paper_s_network() -> None:
    rows = [
        (row.name, row.blocks, row.kind, row.width, row.groups, row.channels, row.stride, row.shortcut, row.extras)
        for row in stage_rows(RESNEXT_50)
    ]
    shortcut = "1x1 conv, identity"
    assert rows == [
        ("layer1", "3", "bottleneck", "128", "32", "256", "1", shortcut, ""),
        ("layer2", "4", "bottleneck", "256", "32", "512", "2", shortcut, ""),
        ("layer3", "6", "bottleneck", "512", "32", "1024", "2", shortcut, ""),
        ("layer4", "3", "bottleneck", "1024", "32", "2048", "2", shortcut, ""),
    ]


def test_what_a_plain_resnext_does_not_have() -> None:
    block = RESNEXT_50.stages[0][0]
    first, grouped, last = block.units
    odd = replace(grouped, conv=replace(grouped.conv, dilation=(2, 3), bias=True))
    config = with_block(
        RESNEXT_50,
        0,
        0,
        units=(first, odd, last),
        squeeze_excitation=SqueezeExcitationConfig(channels=256, reduced=16),
        shortcuts=2,
    )
    (extras, *others) = [row.extras for row in stage_rows(config)]
    assert extras == (
        "squeeze-and-excitation through 16 channels; shortcut added 2 times; dilation 2x3; bias in 1 of 9 convolutions"
    )
    assert others == ["", "", ""]


def test_blocks_that_differ_are_all_named() -> None:
    first, _, last = RESNEXT_50.stages[1][2].units
    config = with_block(RESNEXT_50, 1, 2, units=(first, last))
    row = stage_rows(config)[1]
    assert row.kind == "bottleneck, basic"
    assert row.groups == "32, 1"


def test_a_projection_behind_a_pooling() -> None:
    block = RESNEXT_50.stages[1][0]
    assert block.downsample is not None
    pool = PoolConfig(kind="avg", kernel=(2, 2), stride=(2, 2))
    config = with_block(RESNEXT_50, 1, 0, downsample=DownsampleConfig(pool=pool, unit=block.downsample.unit))
    assert stage_rows(config)[1].shortcut == "2x2 average, stride 2, 1x1 conv, identity"


def test_every_eps_is_counted() -> None:
    first, *others = RESNEXT_50.stages[3][2].units
    assert first.norm is not None
    config = replace(
        with_block(RESNEXT_50, 3, 2, units=(replace(first, norm=replace(first.norm, eps=1e-4)), *others)),
        data_norm=NormConfig(channels=3, eps=2e-5),
    )
    assert eps_text(config) == "eps 1e-05 in 52 layers, eps 2e-05 in 1 layer, eps 0.0001 in 1 layer"
    assert len(list(norms(config))) == sum(key.endswith("running_mean") for key in config.state_shapes()) == 54
    assert dict(facts(config))["image"] == "3 channels, normalised by bn_data (eps 2e-05)"


def test_a_network_without_normalisation() -> None:
    def bare(unit: UnitConfig) -> UnitConfig:
        return replace(unit, norm=None)

    conv = ConvConfig(in_channels=3, out_channels=8, kernel=(3, 3))
    unit = UnitConfig(conv=conv, norm=None, relu=True)
    block = BlockConfig(units=tuple(map(bare, RESNEXT_50.stages[0][1].units)))
    config = replace(RESNEXT_50, stem=(unit,), stages=((block,),), stem_pool=None)
    assert eps_text(config) == "none"
    assert dict(facts(config))["stem pool"] == "none"
    assert stage_rows(config)[0].shortcut == "identity"


def test_a_stem_of_three_convolutions() -> None:
    (unit,) = RESNEXT_50.stem
    config = replace(RESNEXT_50, stem=(unit, unit))
    assert dict(facts(config))["stem"].count(", then ") == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "1x1 convolution, 4 to 8 channels"),
        ({"kernel": (3, 5), "stride": (1, 2)}, "3x5 convolution, 4 to 8 channels, stride 1x2"),
        ({"groups": 2, "bias": True}, "1x1 convolution, 4 to 8 channels, 2 groups, bias"),
        ({"dilation": (2, 2), "padding": (0, 1)}, "1x1 convolution, 4 to 8 channels, padding 0x1, dilation 2"),
    ],
)
def test_convolutions(changes: dict[str, object], text: str) -> None:
    conv = ConvConfig(in_channels=4, out_channels=8, kernel=(1, 1))
    assert conv_text(replace(conv, **changes)) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (None, "none"),
        (PoolConfig(kind="max", global_pool=True), "global max"),
        (PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), ceil_mode=True), "3x3 max, stride 2, size rounded up"),
        (PoolConfig(kind="avg", kernel=(7, 7)), "7x7 average, stride 1"),
        (
            PoolConfig(kind="avg", kernel=(3, 3), padding=(1, 1)),
            "3x3 average, stride 1, padding 1, padding counted",
        ),
        (
            PoolConfig(kind="avg", kernel=(3, 3), padding=(1, 1), count_include_pad=False),
            "3x3 average, stride 1, padding 1, padding not counted",
        ),
    ],
)
def test_poolings(pool: PoolConfig | None, text: str) -> None:
    assert pool_text(pool) == text
