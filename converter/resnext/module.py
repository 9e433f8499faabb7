"""The target: a ResNeXt as ``torch.nn.Module``, built from its configuration, with torchvision's parameter names."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
)


class ResNeXt(nn.Sequential):
    """ResNeXt (arXiv:1611.05431); takes (N, C, H, W), returns logits (N, classes).

    A sequence of named layers: ``bn_data`` (where the network normalises its input), ``conv1``, ``bn1``, ``relu``,
    ``maxpool``, ``layer1`` ..., ``avgpool``, ``flatten``, ``fc``. The state dict of a plain ResNeXt has torchvision's
    keys and loads there. What a network lacks is an `nn.Identity` without keys. It scripts, exports, and runs
    channels-last and in half precision, since all layers are stock ones.

    Args:
        config: the layers; kept as ``config``.
    """

    def __init__(self, config: ResNeXtConfig) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if config.data_norm:
            layers["bn_data"] = _norm(config.data_norm)
        layers["conv1"] = _stem(config.stem)
        layers["bn1"] = _norm(config.stem[-1].norm)
        layers["relu"] = _relu(config.stem[-1].relu)
        layers["maxpool"] = _pool(config.stem_pool)
        for number, stage in enumerate(config.stages, 1):
            layers[f"layer{number}"] = nn.Sequential(*(Block(block) for block in stage))
        layers["avgpool"] = _pool(config.head.pool)
        layers["flatten"] = nn.Flatten(1)
        layers["fc"] = nn.Linear(config.head.in_features, config.head.classes, bias=config.head.bias)
        super().__init__(layers)
        self.config = config

    def __getitem__(self, place: int | slice) -> nn.Module:
        """One layer; or several, as a plain sequence: ``model[:-1]`` is the backbone."""
        return nn.Sequential(OrderedDict(self.named_children()))[place]


class Block(nn.Module):
    """A residual block of one to three units: the sum with the shortcut; ReLU. Units that it lacks are identities."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _unit(config.units, 0)
        self.conv2, self.bn2, self.relu2 = _unit(config.units, 1)
        self.conv3, self.bn3, self.relu3 = _unit(config.units, 2)
        self.se = _squeeze_excitation(config.squeeze_excitation)
        self.downsample = _downsample(config.downsample)
        self.shortcuts = config.shortcuts
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.relu3(self.bn3(self.conv3(y)))
        shortcut = self.downsample(x)
        if self.shortcuts != 1:
            shortcut = shortcut * self.shortcuts
        z: Tensor = self.relu(self.se(y) + shortcut)
        return z


class SqueezeExcitation(nn.Module):
    """Each channel times a gate in 0..1, computed from the channels' means (arXiv:1709.01507, section 3)."""

    def __init__(self, config: SqueezeExcitationConfig) -> None:
        super().__init__()
        # 1x1 convolutions, not linear layers: timm's names and shapes, so that its checkpoints are ours.
        self.fc1 = nn.Conv2d(config.channels, config.reduced, 1, bias=config.bias[0])
        self.fc2 = nn.Conv2d(config.reduced, config.channels, 1, bias=config.bias[1])

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


def _conv(config: ConvConfig) -> nn.Conv2d:
    return nn.Conv2d(
        config.in_channels,
        config.out_channels,
        config.kernel,
        config.stride,
        config.padding,
        config.dilation,
        config.groups,
        bias=config.bias,
    )


def _norm(config: NormConfig | None) -> nn.Module:
    if config is None:
        return nn.Identity()
    return nn.BatchNorm2d(config.channels, eps=config.eps, momentum=config.momentum)


def _relu(present: bool) -> nn.Module:
    # Never in place: the verifier keeps what the layer before it wrote.
    return nn.ReLU() if present else nn.Identity()


def _unit(units: tuple[UnitConfig, ...], number: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    if number >= len(units):
        return nn.Identity(), nn.Identity(), nn.Identity()
    unit = units[number]
    return _conv(unit.conv), _norm(unit.norm), _relu(unit.relu)


def _pool(config: PoolConfig | None) -> nn.Module:
    if config is None:
        return nn.Identity()
    if config.global_pool:
        return nn.AdaptiveAvgPool2d(1) if config.kind == "avg" else nn.AdaptiveMaxPool2d(1)
    if config.kind == "max":
        return nn.MaxPool2d(config.kernel, config.stride, config.padding, ceil_mode=config.ceil_mode)
    return nn.AvgPool2d(
        config.kernel,
        config.stride,
        config.padding,
        ceil_mode=config.ceil_mode,
        count_include_pad=config.count_include_pad,
    )


def _stem(units: tuple[UnitConfig, ...]) -> nn.Module:
    if len(units) == 1:
        return _conv(units[0].conv)
    inner = [layer for unit in units[:-1] for layer in (_conv(unit.conv), _norm(unit.norm), _relu(unit.relu))]
    return nn.Sequential(*inner, _conv(units[-1].conv))


def _squeeze_excitation(config: SqueezeExcitationConfig | None) -> nn.Module:
    return nn.Identity() if config is None else SqueezeExcitation(config)


def _downsample(config: DownsampleConfig | None) -> nn.Module:
    if config is None:
        return nn.Identity()
    pool = [] if config.pool is None else [_pool(config.pool)]
    norm = [] if config.unit.norm is None else [_norm(config.unit.norm)]
    return nn.Sequential(*pool, _conv(config.unit.conv), *norm)
