"""What a ResNeXt is made of: all that the module needs, all that the graph says, nothing that a name says.

The configuration is a tree of layers, so every member of the family has one: any depth, cardinality and width, any
stem, stride place, dilation, bias and epsilon per layer, squeeze-and-excitation, any shortcut projection. ResNet v1
is cardinality 1. The usual summary (``ResNeXt-50 (32x4d)``) is derived from the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvConfig:
    """A convolution, in the terms of ``torch.nn.Conv2d``; its weight is (out, in / groups, kh, kw)."""

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = False

    @property
    def weight_shape(self) -> Shape:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConfig:
    """A batch normalisation. ``momentum`` is PyTorch's: ``running = running * (1 - momentum) + batch * momentum``."""

    channels: int
    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitConfig:
    """Convolution, then normalisation if there is one, then ReLU if there is one."""

    conv: ConvConfig
    norm: NormConfig | None
    relu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """A pooling in the terms of ``torch.nn.MaxPool2d`` / ``AvgPool2d``; a global one takes the whole map."""

    kind: Literal["max", "avg"]
    global_pool: bool = False
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True


STEM_POOL: Final = PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
"""The usual pooling behind the stem."""

GLOBAL_POOL: Final = PoolConfig(kind="avg", global_pool=True)
"""The usual pooling before the classifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcitationConfig:
    """Global average, 1x1 to ``reduced`` channels, ReLU, 1x1 to ``channels``, sigmoid, product (arXiv:1709.01507)."""

    channels: int
    reduced: int
    bias: tuple[bool, bool] = (True, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownsampleConfig:
    """The projection of a shortcut: average pooling if there is one, then a convolution and its normalisation."""

    pool: PoolConfig | None = None
    unit: UnitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """A residual block: units (two: basic, three: bottleneck), excitation, shortcut; ReLU after the sum.

    ``shortcuts`` is how often the shortcut is added.
    """

    units: tuple[UnitConfig, ...]
    squeeze_excitation: SqueezeExcitationConfig | None = None
    downsample: DownsampleConfig | None = None
    shortcuts: int = 1

    @property
    def kind(self) -> Literal["basic", "bottleneck"]:
        return "bottleneck" if len(self.units) == 3 else "basic"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The final pooling and the fully connected layer (``fc.weight`` is (classes, in_features))."""

    pool: PoolConfig | None
    in_features: int
    classes: int
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class ResNeXtConfig:
    """The whole network; see `summary` for how the family calls it."""

    data_norm: NormConfig | None = None
    stem: tuple[UnitConfig, ...]
    stem_pool: PoolConfig | None
    stages: tuple[tuple[BlockConfig, ...], ...]
    head: HeadConfig

    @property
    def in_channels(self) -> int:
        """Channels of the input image."""
        return self.stem[0].conv.in_channels

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def _grouped(self) -> ConvConfig:
        """The convolution of the first block that carries the cardinality: the 3x3 in the middle."""
        units = self.stages[0][0].units
        return units[len(units) // 2].conv if len(units) != 2 else units[0].conv

    @property
    def cardinality(self) -> int:
        """Groups of the first block's 3x3 convolution (32 in 32x4d); 1 is a ResNet."""
        return self._grouped.groups

    @property
    def base_width(self) -> int:
        """Channels per group of the first block's 3x3 convolution (4 in 32x4d)."""
        return self._grouped.out_channels // self.cardinality

    @property
    def summary(self) -> str:
        """How the family calls it: ``SE-ResNeXt-50 (32x4d)``. The number counts layers as the papers do."""
        layers = 2 + sum(len(block.units) for block in self.blocks())
        squeeze = "SE-" if any(block.squeeze_excitation for block in self.blocks()) else ""
        if self.cardinality == 1:
            return f"{squeeze}ResNet-{layers}"
        return f"{squeeze}ResNeXt-{layers} ({self.cardinality}x{self.base_width}d)"

    def blocks(self) -> Iterator[BlockConfig]:
        """All blocks, first to last."""
        for stage in self.stages:
            yield from stage

    def state_shapes(self) -> dict[str, Shape]:
        """Every key of the state dict with its shape, in the module's order: torchvision's names.

        A stem of several convolutions and squeeze-and-excitation, which torchvision lacks, are named as timm names
        them (``conv1.0``, ``conv1.1``, ``conv1.3`` ... and ``bn1``; ``se.fc1``, ``se.fc2``), and so is a projection
        behind an average pooling (``downsample.1``, ``downsample.2``). ``bn_data`` is ours.
        """
        return dict(self._state())

    def _state(self) -> Iterator[tuple[str, Shape]]:
        if self.data_norm:
            yield from _norm("bn_data", self.data_norm)
        for unit, (conv, norm) in zip(self.stem, stem_names(len(self.stem)), strict=True):
            yield from _unit(conv, norm, unit)
        for stage_number, stage in enumerate(self.stages, 1):
            for block_number, block in enumerate(stage):
                yield from _block(f"layer{stage_number}.{block_number}", block)
        yield "fc.weight", (self.head.classes, self.head.in_features)
        if self.head.bias:
            yield "fc.bias", (self.head.classes,)


def stem_names(convolutions: int) -> list[tuple[str, str]]:
    """The names of each stem convolution and its normalisation; the last normalisation is always ``bn1``."""
    if convolutions == 1:
        return [("conv1", "bn1")]
    names = [(f"conv1.{3 * i}", f"conv1.{3 * i + 1}") for i in range(convolutions)]
    return [*names[:-1], (names[-1][0], "bn1")]


def downsample_names(*, has_pool: bool) -> tuple[str, str]:
    """The names of a projection's convolution and normalisation; a pooling takes place 0."""
    first = int(has_pool)
    return f"downsample.{first}", f"downsample.{first + 1}"


def _norm(name: str, norm: NormConfig) -> Iterator[tuple[str, Shape]]:
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{key}", (norm.channels,)
    yield f"{name}.num_batches_tracked", ()


def _conv(name: str, shape: Shape, *, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _unit(conv: str, norm: str, unit: UnitConfig) -> Iterator[tuple[str, Shape]]:
    yield from _conv(conv, unit.conv.weight_shape, bias=unit.conv.bias)
    if unit.norm:
        yield from _norm(norm, unit.norm)


def _block(name: str, block: BlockConfig) -> Iterator[tuple[str, Shape]]:
    for number, unit in enumerate(block.units, 1):
        yield from _unit(f"{name}.conv{number}", f"{name}.bn{number}", unit)
    if se := block.squeeze_excitation:
        yield from _conv(f"{name}.se.fc1", (se.reduced, se.channels, 1, 1), bias=se.bias[0])
        yield from _conv(f"{name}.se.fc2", (se.channels, se.reduced, 1, 1), bias=se.bias[1])
    if block.downsample:
        conv, norm = downsample_names(has_pool=block.downsample.pool is not None)
        yield from _unit(f"{name}.{conv}", f"{name}.{norm}", block.downsample.unit)


def resnext(
    depths: tuple[int, ...],
    *,
    cardinality: int,
    base_width: int,
    classes: int = 1000,
    eps: float = 1e-5,
    momentum: float = 0.1,
    basic: bool = False,
    reduction: int = 0,
    reduce_first: int = 1,
    stem: tuple[int, ...] = (64,),
    stem_pool: PoolConfig = STEM_POOL,
    down_kernel: int = 1,
) -> ResNeXtConfig:
    """The ResNeXt of the paper's table 1 (arXiv:1611.05431), as torchvision builds it: ``resnext((3, 4, 6, 3), ...)``.

    The arguments from ``basic`` on are what torchvision's and timm's constructors vary besides.

    Args:
        depths: blocks per stage.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels per group in the first stage; each later stage doubles it.
        classes: rows of ``fc``.
        eps: of every normalisation.
        momentum: of every normalisation, PyTorch's.
        basic: blocks of two 3x3 convolutions instead of bottlenecks; cardinality and base width say nothing then.
        reduction: of squeeze-and-excitation; 0: there is none.
        reduce_first: by how much the first 1x1 convolution is narrower than the 3x3 convolution (2 in SENet-154).
        stem: output channels of its convolutions: one of 7x7, or several of 3x3.
        stem_pool: the pooling behind the stem.
        down_kernel: of the projections that stride; those that do not are 1x1.
    """

    def unit(in_: int, out: int, size: int, *, stride: int = 1, groups: int = 1, relu: bool = True) -> UnitConfig:
        conv = ConvConfig(
            in_channels=in_,
            out_channels=out,
            kernel=(size, size),
            stride=(stride, stride),
            padding=(size // 2, size // 2),
            groups=groups,
        )
        return UnitConfig(conv=conv, norm=NormConfig(channels=out, eps=eps, momentum=momentum), relu=relu)

    def residual(in_: int, planes: int, stride: int) -> tuple[UnitConfig, ...]:
        if basic:
            return unit(in_, planes, 3, stride=stride), unit(planes, planes, 3, relu=False)
        width = planes * base_width // 64 * cardinality
        return (
            unit(in_, width // reduce_first, 1),
            unit(width // reduce_first, width, 3, stride=stride, groups=cardinality),
            unit(width, planes * 4, 1, relu=False),
        )

    size = 7 if len(stem) == 1 else 3
    ins = (3, *stem[:-1])
    stem_units = (unit(in_, out, size, stride=2 - bool(i)) for i, (in_, out) in enumerate(zip(ins, stem, strict=True)))
    stages = []
    channels = stem[-1]
    for stage, depth in enumerate(depths):
        planes = 64 * 2**stage
        blocks = []
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            units = residual(channels, planes, stride)
            out = units[-1].conv.out_channels
            squeeze = SqueezeExcitationConfig(channels=out, reduced=out // reduction) if reduction else None
            projection = None
            if stride != 1 or channels != out:
                kernel = down_kernel if stride != 1 else 1
                projection = DownsampleConfig(unit=unit(channels, out, kernel, stride=stride, relu=False))
            blocks.append(BlockConfig(units=units, squeeze_excitation=squeeze, downsample=projection))
            channels = out
        stages.append(tuple(blocks))
    return ResNeXtConfig(
        stem=tuple(stem_units),
        stem_pool=stem_pool,
        stages=tuple(stages),
        head=HeadConfig(pool=GLOBAL_POOL, in_features=channels, classes=classes),
    )
