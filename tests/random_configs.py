"""Random members of the family, small ones: what no published network shows together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from graph_builder import Spelling
from hypothesis import assume
from hypothesis import strategies as st

from resnext_convert.converter.probe import features
from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    HeadConfig,
    NormConfig,
    Pair,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
)


@dataclass(frozen=True, slots=True)
class Network:
    """A configuration and an image size (height, width) that it takes."""

    config: ResNeXtConfig
    size: Pair


CHANNELS = st.sampled_from([4, 8, 12])
KERNELS = st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 3), (7, 7)])
STRIDES = st.sampled_from([(1, 1), (2, 2), (2, 1)])
EPS = st.sampled_from([1e-5, 2e-5, 1e-3, float(np.float32(1e-3)), 3e-2])
MOMENTA = st.sampled_from([0.1, 0.01, 0.003, 0.0, 1.0])
NOTHING: Pair = (1, 1)


@st.composite
def norms(draw: st.DrawFn, channels: int) -> NormConfig:
    return NormConfig(channels=channels, eps=draw(EPS), momentum=draw(MOMENTA))


@st.composite
def convs(
    draw: st.DrawFn, channels: int, out: int, *, stride: Pair = NOTHING, kernel: Pair | None = None
) -> ConvConfig:
    """A convolution that keeps the size of its input, divided by the stride and rounded up."""
    kernel = kernel or draw(KERNELS)
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    return ConvConfig(
        in_channels=channels,
        out_channels=out,
        kernel=kernel,
        stride=stride,
        padding=(dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)),
        dilation=dilation,
        groups=draw(st.sampled_from([1, 2, 4])),
        bias=draw(st.booleans()),
    )


@st.composite
def units(
    draw: st.DrawFn,
    channels: int,
    out: int,
    *,
    stride: Pair = NOTHING,
    kernel: Pair | None = None,
    relu: bool | None = None,
) -> UnitConfig:
    norm = draw(st.none() | norms(out))
    conv = draw(convs(channels, out, stride=stride, kernel=kernel))
    return UnitConfig(conv=conv, norm=norm, relu=draw(st.booleans()) if relu is None else relu)


@st.composite
def pools(draw: st.DrawFn, *, stride: Pair | None = None) -> PoolConfig:
    """Every pooling that PyTorch has, but the global ones."""
    kernel = draw(st.sampled_from([(2, 2), (3, 3), (3, 2)]))
    stride = stride or draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)]))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    kept = all(k >= p + s for k, p, s in zip(kernel, padding, stride, strict=True))
    return PoolConfig(
        kind=draw(st.sampled_from(["max", "avg"])),
        kernel=kernel,
        stride=stride,
        padding=padding,
        ceil_mode=draw(st.booleans()) if kept else False,
        count_include_pad=draw(st.booleans()),
    )


@st.composite
def excitations(draw: st.DrawFn, channels: int) -> SqueezeExcitationConfig:
    bias = draw(st.booleans()), draw(st.booleans())
    return SqueezeExcitationConfig(channels=channels, reduced=draw(st.integers(1, 3)), bias=bias)


@st.composite
def downsamples(draw: st.DrawFn, channels: int, out: int, stride: Pair, *, pool: bool) -> DownsampleConfig:
    """1x1 or 3x3, or an average pooling and 1x1: the size is divided by the stride and rounded up."""
    if not pool and draw(st.booleans()):
        kernel = draw(st.sampled_from([(1, 1), (3, 3)]))
        return DownsampleConfig(unit=draw(units(channels, out, stride=stride, kernel=kernel, relu=False)))
    counted = draw(st.booleans())
    average = PoolConfig(kind="avg", kernel=stride, stride=stride, ceil_mode=True, count_include_pad=counted)
    return DownsampleConfig(pool=average, unit=draw(units(channels, out, kernel=(1, 1), relu=False)))


@st.composite
def blocks(draw: st.DrawFn, channels: int, *, projects: bool) -> BlockConfig:
    out = draw(CHANNELS) if projects else channels
    stride = draw(STRIDES) if projects else NOTHING
    count = draw(st.sampled_from([2, 3, 3, 1]))
    place = draw(st.integers(0, count - 1))
    inside = channels
    residual = []
    for number in range(count):
        last = number == count - 1
        width = out if last else draw(CHANNELS)
        residual.append(draw(units(inside, width, stride=stride if number == place else NOTHING, relu=not last)))
        inside = width
    # Of two branches with one convolution each, the pooling tells the shortcut.
    downsample = draw(downsamples(channels, out, stride, pool=count == 1)) if projects else None
    return BlockConfig(
        units=tuple(residual),
        squeeze_excitation=draw(st.none() | excitations(out)),
        downsample=downsample,
        shortcuts=draw(st.sampled_from([1, 1, 1, 2])),
    )


@st.composite
def stages(draw: st.DrawFn, channels: int) -> tuple[tuple[BlockConfig, ...], ...]:
    """One to three stages; where the first has no projection, it is not told from the first block of the next."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        projects = number > 0 or draw(st.booleans())
        stage = [draw(blocks(channels, projects=projects))]
        channels = stage[0].units[-1].conv.out_channels
        stage += [draw(blocks(channels, projects=False)) for _ in range(draw(st.integers(0, 1)))]
        found.append(tuple(stage))
    return tuple(found)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A configuration, and an image size for which its classifier was made."""
    channels = draw(st.sampled_from([1, 3, 4]))
    data_norm = draw(st.none() | norms(channels))
    stem = []
    for _ in range(draw(st.sampled_from([1, 1, 3, 2]))):
        stem.append(_ungrouped(draw(units(channels, draw(CHANNELS), stride=draw(STRIDES)))))
        channels = stem[-1].conv.out_channels
    config = ResNeXtConfig(
        data_norm=data_norm,
        stem=tuple(stem),
        stem_pool=draw(st.none() | pools()),
        stages=draw(stages(channels)),
        head=HeadConfig(pool=None, in_features=1, classes=5, bias=draw(st.booleans())),
    )
    size = draw(st.integers(24, 40)), draw(st.integers(24, 40))
    found = features(config, size)
    assume(found is not None)  # the map may shrink below a pooling's kernel
    assert found is not None
    final = [
        None,
        PoolConfig(kind=draw(st.sampled_from(["avg", "max"])), global_pool=True),
        PoolConfig(kind="avg", kernel=found),
    ]
    pool = draw(st.sampled_from(final))
    cells = math.prod(found) if pool is None else 1
    features_in = cells * config.stages[-1][-1].units[-1].conv.out_channels
    return Network(replace(config, head=replace(config.head, pool=pool, in_features=features_in)), size)


def _ungrouped(unit: UnitConfig) -> UnitConfig:
    """The image's channels need not be divisible."""
    return replace(unit, conv=replace(unit.conv, groups=1))


spellings = st.builds(
    Spelling,
    norms=st.sampled_from(["whole", "whole", "apart", "apart", "unscaled", "scale"]),
    scale_bias=st.booleans(),
    scale_axis=st.sampled_from([1, -3]),
    factor=st.sampled_from([None, 1.0, 999.98, 19.811]),
    figure=st.sampled_from("abcd"),
    tree=st.booleans(),
    conv_head=st.booleans(),
    flat=st.sampled_from(["", "before softmax", "behind softmax"]),
    transposed=st.booleans(),
    linear_gates=st.booleans(),
    gate_rows=st.booleans(),
    flatten_nodes=st.booleans(),
    shortcut_first=st.booleans(),
    identities=st.booleans(),
    fix_gamma=st.booleans(),
    softmax=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "float64"]),
)
