"""A network in the words of the field, derived from its configuration: for pages and terminals, never for computing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    NormConfig,
    Pair,
    PoolConfig,
    ResNeXtConfig,
    UnitConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage in a table; where its blocks differ, a cell lists the distinct values in their order.

    Attributes:
        name: the module's (``layer1``).
        blocks: how many.
        kind: ``bottleneck`` or ``basic``, by the number of convolutions.
        width: channels of the grouped 3x3 convolution.
        groups: of that convolution.
        channels: of the output.
        stride: of the whole stage.
        shortcut: the projection of a block that has one, ``identity`` for the others.
        extras: squeeze-and-excitation, dilation, biases: whatever else a plain ResNeXt does not have.
    """

    name: str
    blocks: str
    kind: str
    width: str
    groups: str
    channels: str
    stride: str
    shortcut: str
    extras: str


_KINDS = {1: "one convolution", 2: "basic", 3: "bottleneck"}


def stage_rows(config: ResNeXtConfig) -> tuple[StageRow, ...]:
    """One row for each stage."""
    return tuple(_stage(f"layer{number}", blocks) for number, blocks in enumerate(config.stages, 1))


def facts(config: ResNeXtConfig) -> tuple[tuple[str, str], ...]:
    """What is not in the table of stages: (what it is, what the network has), from the image to the classifier."""
    norm = config.data_norm
    image = f"{config.in_channels} channels" + (f", normalised by bn_data (eps {norm.eps:g})" if norm else "")
    head = config.head
    return (
        ("image", image),
        ("stem", ", then ".join(conv_text(unit.conv) for unit in config.stem)),
        ("stem pool", pool_text(config.stem_pool)),
        ("final pool", pool_text(head.pool)),
        (
            "classifier",
            f"{head.in_features:,} features to {head.classes:,} classes{'' if head.bias else ', no bias'}",
        ),
        ("batch norm", eps_text(config)),
        ("parameters", f"{parameter_count(config):,}"),
    )


def parameter_count(config: ResNeXtConfig) -> int:
    """Elements of weights and biases; running statistics and counters are no parameters."""
    return sum(math.prod(shape) for key, shape in config.state_shapes().items() if key.endswith((".weight", ".bias")))


def eps_text(config: ResNeXtConfig) -> str:
    """Every eps of the network and how many layers have it, the most frequent first."""
    counts = Counter(norm.eps for norm in norms(config))
    if not counts:
        return "none"
    return ", ".join(f"eps {eps:g} in {count} layer{'s' * (count > 1)}" for eps, count in counts.most_common())


def norms(config: ResNeXtConfig) -> Iterator[NormConfig]:
    """Every batch normalisation, in the module's order."""
    if config.data_norm:
        yield config.data_norm
    for unit in _units(config):
        if unit.norm:
            yield unit.norm


def conv_text(conv: ConvConfig) -> str:
    """``7x7 convolution, 3 to 64 channels, stride 2, padding 3``; what is as usual is left out."""
    parts = [f"{_by(conv.kernel)} convolution", f"{conv.in_channels} to {conv.out_channels} channels"]
    parts += [f"stride {_pair(conv.stride)}"] if conv.stride != (1, 1) else []
    parts += [f"padding {_pair(conv.padding)}"] if conv.padding != (0, 0) else []
    parts += [f"dilation {_pair(conv.dilation)}"] if conv.dilation != (1, 1) else []
    parts += [f"{conv.groups} groups"] if conv.groups != 1 else []
    parts += ["bias"] if conv.bias else []
    return ", ".join(parts)


def pool_text(pool: PoolConfig | None) -> str:
    """``3x3 max, stride 2, padding 1``; the words say what rounding and what divisor are meant."""
    if pool is None:
        return "none"
    kind = "average" if pool.kind == "avg" else "max"
    if pool.global_pool:
        return f"global {kind}"
    parts = [f"{_by(pool.kernel)} {kind}", f"stride {_pair(pool.stride)}"]
    if pool.padding != (0, 0):
        parts.append(f"padding {_pair(pool.padding)}")
        if pool.kind == "avg":
            parts.append("padding counted" if pool.count_include_pad else "padding not counted")
    parts += ["size rounded up"] if pool.ceil_mode else []
    return ", ".join(parts)


def _units(config: ResNeXtConfig) -> Iterator[UnitConfig]:
    yield from config.stem
    for block in config.blocks():
        yield from block.units
        if block.downsample:
            yield block.downsample.unit


def _stage(name: str, blocks: tuple[BlockConfig, ...]) -> StageRow:
    grouped = [block.units[(len(block.units) - 1) // 2].conv for block in blocks]  # the middle, or the first of two
    return StageRow(
        name=name,
        blocks=str(len(blocks)),
        kind=_distinct(_KINDS.get(len(block.units), f"{len(block.units)} convolutions") for block in blocks),
        width=_distinct(conv.out_channels for conv in grouped),
        groups=_distinct(conv.groups for conv in grouped),
        channels=_distinct(block.units[-1].conv.out_channels for block in blocks),
        stride=_pair(_stride(blocks)),
        shortcut=_distinct(_shortcut(block) for block in blocks),
        extras="; ".join(_extras(blocks)),
    )


def _stride(blocks: tuple[BlockConfig, ...]) -> Pair:
    strides = [unit.conv.stride for block in blocks for unit in block.units]
    return math.prod(height for height, _ in strides), math.prod(width for _, width in strides)


def _shortcut(block: BlockConfig) -> str:
    if block.downsample is None:
        return "identity"
    pool = f"{pool_text(block.downsample.pool)}, " if block.downsample.pool else ""
    return f"{pool}{_by(block.downsample.unit.conv.kernel)} conv"


def _extras(blocks: tuple[BlockConfig, ...]) -> Iterator[str]:
    reduced = [block.squeeze_excitation.reduced for block in blocks if block.squeeze_excitation]
    if reduced:
        yield f"squeeze-and-excitation through {_distinct(reduced)} channels"
    repeated = [block.shortcuts for block in blocks if block.shortcuts != 1]
    if repeated:
        yield f"shortcut added {_distinct(repeated)} times"
    convs = [unit.conv for block in blocks for unit in block.units]
    dilated = [conv.dilation for conv in convs if conv.dilation != (1, 1)]
    if dilated:
        yield f"dilation {_distinct(map(_pair, dilated))}"
    biased = sum(conv.bias for conv in convs)
    if biased:
        yield f"bias in {biased} of {len(convs)} convolutions"


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _by(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


def _pair(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else _by(pair)
