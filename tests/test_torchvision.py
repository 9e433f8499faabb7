"""The real torchvision and timm: their checkpoints are ours and ours are theirs, and all compute the same.

torchvision has no deep stem, no pooling in a shortcut and no squeeze-and-excitation; there the names are timm's.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    HeadConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.module import ResNeXt

pytestmark = pytest.mark.peers


def unit(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True) -> UnitConfig:
    conv = ConvConfig(
        in_channels=channels,
        out_channels=out,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        groups=groups,
    )
    return UnitConfig(conv=conv, norm=NormConfig(channels=out), relu=relu)


def average(stride: int) -> PoolConfig:
    """The pooling of a shortcut; timm puts an identity where the stride is 1, which a 1x1 pooling is."""
    return PoolConfig(
        kind="avg", kernel=(stride, stride), stride=(stride, stride), ceil_mode=True, count_include_pad=False
    )


def resnet(
    depths: tuple[int, ...],
    *,
    expansion: int,
    cardinality: int = 1,
    base_width: int = 64,
    stem_width: int | None = None,
    average_down: bool = False,
    down_kernel: int = 1,
    reduce_first: int = 1,
    squeeze: int | None = None,
    classes: int = 1000,
) -> ResNeXtConfig:
    """The networks of torchvision and timm: ``expansion`` 1 is the basic block, 4 the bottleneck.

    ``squeeze`` is by how much squeeze-and-excitation reduces the channels, to 8 at least.
    """
    if stem_width:
        widths = (3, stem_width, stem_width, 2 * stem_width)
        stem = tuple(unit(widths[i], widths[i + 1], 3, stride=2 if i == 0 else 1) for i in range(3))
    else:
        stem = (unit(3, 64, 7, stride=2),)
    channels = stem[-1].conv.out_channels
    stages = []
    for number, depth in enumerate(depths):
        planes = 64 * 2**number
        width, out = planes * base_width // 64 * cardinality, planes * expansion
        blocks = []
        for place in range(depth):
            stride = 2 if number > 0 and place == 0 else 1
            units: tuple[UnitConfig, ...]
            if expansion == 1:
                units = (unit(channels, out, 3, stride=stride), unit(out, out, 3, relu=False))
            else:
                units = (
                    unit(channels, width // reduce_first, 1),
                    unit(width // reduce_first, width, 3, stride=stride, groups=cardinality),
                    unit(width, out, 1, relu=False),
                )
            down = None
            if stride != 1 or channels != out:
                kernel = 1 if stride == 1 else down_kernel
                down = DownsampleConfig(
                    pool=average(stride) if average_down else None,
                    unit=unit(channels, out, kernel, stride=1 if average_down else stride, relu=False),
                )
            gate = SqueezeExcitationConfig(channels=out, reduced=max(out // squeeze, 8)) if squeeze else None
            blocks.append(BlockConfig(units=units, downsample=down, squeeze_excitation=gate))
            channels = out
        stages.append(tuple(blocks))
    return ResNeXtConfig(
        stem=stem,
        stem_pool=PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        stages=tuple(stages),
        head=HeadConfig(pool=PoolConfig(kind="avg", global_pool=True), in_features=channels, classes=classes),
    )


def randomised(module: nn.Module) -> nn.Module:
    """Other values in every tensor; a fresh model has zeros and ones in its normalisations."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=random)
            elif value.ndim == 1:
                value.normal_(0.2, 0.5, generator=random)
            elif key.endswith("num_batches_tracked"):
                value.fill_(7)
    return module.eval()


def assert_interchangeable(theirs: nn.Module, config: ResNeXtConfig) -> None:
    """Each loads the other's checkpoint with strict=True; then both give the same bits."""
    randomised(theirs)
    ours = ResNeXt(config).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {key: tuple(value.shape) for key, value in theirs.state_dict().items()} == config.state_shapes()
    image = torch.rand(2, 3, 70, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(image)
        assert not torch.equal(ours(image), expected)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(ours(image), expected)
        other = randomised(ResNeXt(config))
        theirs.load_state_dict(other.state_dict(), strict=True)
        assert torch.equal(theirs(image), other(image))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnext50_32x4d", resnext((3, 4, 6, 3), cardinality=32, base_width=4)),
        ("resnet50", resnext((3, 4, 6, 3), cardinality=1, base_width=64)),
        ("resnet18", resnet((2, 2, 2, 2), expansion=1)),
        ("resnet34", resnet((3, 4, 6, 3), expansion=1)),
    ],
)
def test_torchvision(torchvision: Any, name: str, config: ResNeXtConfig) -> None:
    assert_interchangeable(getattr(torchvision.models, name)(weights=None), config)


def test_both_ways_to_write_a_configuration_agree() -> None:
    assert resnet((3, 4, 23, 3), expansion=4, cardinality=32, base_width=8) == resnext(
        (3, 4, 23, 3), cardinality=32, base_width=8
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"cardinality": 8, "base_width": 4}, {"cardinality": 8, "base_width": 4}),
        (
            {"cardinality": 8, "base_width": 4, "stem_width": 32, "stem_type": "deep"},
            {"cardinality": 8, "base_width": 4, "stem_width": 32},
        ),
        (
            {"cardinality": 8, "base_width": 4, "stem_width": 16, "stem_type": "deep", "avg_down": True},
            {"cardinality": 8, "base_width": 4, "stem_width": 16, "average_down": True},
        ),
        (
            {"cardinality": 8, "base_width": 4, "block_args": {"attn_layer": "se"}},
            {"cardinality": 8, "base_width": 4, "squeeze": 16},
        ),
        # SENet-154's kind: a deep stem, half the width in the first convolution, 3x3 projections.
        (
            {
                "cardinality": 16,
                "base_width": 4,
                "stem_width": 64,
                "stem_type": "deep",
                "down_kernel_size": 3,
                "block_reduce_first": 2,
                "block_args": {"attn_layer": "se"},
            },
            {
                "cardinality": 16,
                "base_width": 4,
                "stem_width": 64,
                "down_kernel": 3,
                "reduce_first": 2,
                "squeeze": 16,
            },
        ),
    ],
    ids=["plain", "deep stem", "average down", "squeeze and excitation", "senet"],
)
def test_timm(timm: Any, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    depths = (1, 2, 1, 1)
    model = timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, depths, num_classes=10, **theirs)
    assert_interchangeable(model, resnet(depths, expansion=4, classes=10, **ours))


def test_timm_basic_blocks(timm: Any) -> None:
    model = timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, (1, 2, 1, 1), num_classes=10, block_args={"attn_layer": "se"}
    )
    assert_interchangeable(model, resnet((1, 2, 1, 1), expansion=1, squeeze=16, classes=10))
