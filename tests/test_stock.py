"""Which stock model has the layers of a network, how it is made, and why none has where none has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resnext_convert.converter.errors import TargetError
from resnext_convert.converter.resnext.config import (
    HeadConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    resnext,
)
from resnext_convert.converter.resnext.stock import (
    CAFFE_POOL,
    Library,
    find_stock,
    folded_form,
    stock_key,
    takes_one_size,
)

RESNEXT_50: dict[str, Any] = {"depths": (3, 4, 6, 3), "cardinality": 32, "base_width": 4}
SENET_154: dict[str, Any] = {
    "depths": (3, 8, 36, 3),
    "cardinality": 64,
    "base_width": 4,
    "reduction": 16,
    "reduce_first": 2,
    "stem": (64, 64, 128),
    "down_kernel": 3,
}


@pytest.mark.parametrize(
    ("library", "network", "call"),
    [
        ("torchvision", RESNEXT_50, "torchvision.models.resnext50_32x4d(num_classes=1000)"),
        ("torchvision", RESNEXT_50 | {"classes": 7}, "torchvision.models.resnext50_32x4d(num_classes=7)"),
        (
            "torchvision",
            RESNEXT_50 | {"depths": (3, 4, 23, 3)},
            (
                "torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [3, 4, 23, 3], "
                "num_classes=1000, groups=32, width_per_group=4)"
            ),
        ),
        (
            "torchvision",
            {"depths": (2, 2, 2, 2), "cardinality": 1, "base_width": 64, "basic": True},
            "torchvision.models.resnet18(num_classes=1000)",
        ),
        ("timm", RESNEXT_50, "timm.create_model('resnext50_32x4d', num_classes=1000)"),
        (
            "timm",
            RESNEXT_50 | {"depths": (2, 2, 2, 2)},
            "timm.create_model('resnext50_32x4d', num_classes=1000, layers=[2, 2, 2, 2])",
        ),
        (
            "timm",
            RESNEXT_50 | {"cardinality": 64, "base_width": 2, "reduction": 16},
            "timm.create_model('seresnext50_32x4d', num_classes=1000, cardinality=64, base_width=2)",
        ),
        (
            "timm",
            RESNEXT_50 | {"reduction": 16, "stem_pool": CAFFE_POOL},
            "timm.create_model('legacy_seresnext50_32x4d', num_classes=1000)",
        ),
        (
            "timm",
            RESNEXT_50 | {"reduction": 16, "stem_pool": CAFFE_POOL, "depths": (1, 2, 1, 1), "cardinality": 16},
            "timm.create_model('legacy_seresnext50_32x4d', num_classes=1000, layers=[1, 2, 1, 1], groups=16)",
        ),
        ("timm", SENET_154, "timm.create_model('senet154', num_classes=1000)"),
        ("timm", SENET_154 | {"stem_pool": CAFFE_POOL}, "timm.create_model('legacy_senet154', num_classes=1000)"),
        (
            "timm",
            RESNEXT_50 | {"stem": (32, 32, 64)},
            "timm.create_model('resnext50_32x4d', num_classes=1000, stem_type='deep', stem_width=32)",
        ),
        (
            "timm",
            {"depths": (3, 8, 36, 3), "cardinality": 1, "base_width": 64},
            "timm.create_model('resnet152', num_classes=1000)",
        ),
    ],
)
def test_a_network_has_its_stock_model(library: Library, network: dict[str, Any], call: str) -> None:
    config = resnext(**network)
    stock = find_stock(config, library)
    assert stock.call == call
    assert stock.config == config


@pytest.mark.parametrize(
    ("library", "config", "place", "expected", "hint"),
    [
        (
            "torchvision",
            resnext(**RESNEXT_50, stem_pool=CAFFE_POOL),
            "the pooling behind the stem differs",
            "3x3 max, stride 2, padding 1, as torchvision has it",
            "--target reference",
        ),
        (
            "timm",
            resnext(**RESNEXT_50, stem_pool=CAFFE_POOL),
            "the pooling behind the stem differs",
            "3x3 max, stride 2, padding 1, as timm has it",
            "--target reference",
        ),
        (
            "torchvision",
            resnext(**RESNEXT_50, reduction=16),
            "the squeeze-and-excitation of layer1.0 differs, and so do 15 other places",
            "none, as torchvision has it",
            "--target timm has a model that does",
        ),
        (
            "timm",
            resnext((1, 1), cardinality=2, base_width=4),
            "the number of stages differs",
            "4 of them, as timm has it",
            "--target reference",
        ),
    ],
)
def test_a_network_without_stock_model_is_refused(
    library: Library, config: ResNeXtConfig, place: str, expected: str, hint: str
) -> None:
    with pytest.raises(TargetError) as refusal:
        find_stock(config, library)
    error = refusal.value
    assert error.exit_code == 4
    assert place in error.problem
    assert expected in str(error.expected)
    assert hint in str(error.hint)


def with_head(pool: PoolConfig | None, features: int = 2048) -> ResNeXtConfig:
    config = resnext(**RESNEXT_50)
    return replace(config, head=HeadConfig(pool=pool, in_features=features, classes=1000))


@pytest.mark.parametrize(
    ("pool", "one_size"),
    [
        (PoolConfig(kind="avg", kernel=(7, 7)), True),
        (PoolConfig(kind="avg", kernel=(7, 7), stride=(7, 7), ceil_mode=True), True),
        (PoolConfig(kind="avg", kernel=(7, 7), stride=(7, 7)), False),  # takes maps of 7 to 13 cells as well
        (PoolConfig(kind="avg", kernel=(7, 7), padding=(1, 1)), False),
        (PoolConfig(kind="max", kernel=(7, 7)), False),
        (PoolConfig(kind="avg", global_pool=True), False),
        (None, False),
    ],
)
def test_a_fixed_pooling_that_must_be_the_whole_map_is_a_global_one(pool: PoolConfig | None, one_size: bool) -> None:
    config = with_head(pool)
    assert takes_one_size(config) is one_size
    if one_size:
        assert find_stock(config, "torchvision").config == resnext(**RESNEXT_50)


def test_a_fixed_pooling_that_leaves_more_than_one_cell_is_refused() -> None:
    config = with_head(PoolConfig(kind="avg", kernel=(6, 6)), features=2048 * 4)
    assert not takes_one_size(config)
    with pytest.raises(TargetError, match=r"the final pooling differs"):
        find_stock(config, "torchvision")


def test_the_folded_form_has_the_stock_s_normalisations_and_no_bias() -> None:
    config = resnext(**RESNEXT_50, eps=2e-5, momentum=0.01)
    first = config.stem[0]
    biased = replace(first, conv=replace(first.conv, bias=True), norm=None)
    odd = replace(
        config,
        stem=(biased,),
        data_norm=NormConfig(channels=3),
        head=replace(config.head, bias=False),
    )
    assert folded_form(odd) == resnext(**RESNEXT_50)


def test_a_second_shortcut_cannot_be_folded() -> None:
    config = resnext(**RESNEXT_50)
    doubled = replace(config.stages[0][0], shortcuts=2)
    config = replace(config, stages=((doubled, *config.stages[0][1:]), *config.stages[1:]))
    with pytest.raises(TargetError, match=r"layer1\.0\.shortcuts"):
        find_stock(config, "torchvision")


def test_legacy_models_have_other_names() -> None:
    config = resnext(**SENET_154, stem_pool=CAFFE_POOL)
    stock = find_stock(config, "timm")
    names = {key: stock_key(key, stock) for key in config.state_shapes()}
    assert len(set(names.values())) == len(names)
    assert {key: names[key] for key in (
        "conv1.0.weight", "conv1.1.running_var", "conv1.3.weight", "conv1.6.weight", "bn1.weight", "fc.bias",
        "layer2.0.se.fc1.weight", "layer2.0.downsample.0.weight", "layer4.2.conv3.weight",
    )} == {
        "conv1.0.weight": "layer0.conv1.weight",
        "conv1.1.running_var": "layer0.bn1.running_var",
        "conv1.3.weight": "layer0.conv2.weight",
        "conv1.6.weight": "layer0.conv3.weight",
        "bn1.weight": "layer0.bn3.weight",
        "fc.bias": "last_linear.bias",
        "layer2.0.se.fc1.weight": "layer2.0.se_module.fc1.weight",
        "layer2.0.downsample.0.weight": "layer2.0.downsample.0.weight",
        "layer4.2.conv3.weight": "layer4.2.conv3.weight",
    }  # fmt: skip
    plain = find_stock(resnext(**SENET_154), "timm")
    assert all(stock_key(key, plain) == key for key in config.state_shapes())
