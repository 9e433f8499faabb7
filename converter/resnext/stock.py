"""The stock models of torchvision and timm: which one has exactly the layers of a network, and how it is made.

Constructors and their arguments are those of torchvision 0.28 (``models/resnet.py``: ResNet, Bottleneck, BasicBlock)
and timm 1.0 (``models/resnet.py``: ResNet, make_blocks, downsample_conv; ``models/senet.py``: SENet,
SEResNeXtBottleneck, SEBottleneck). All of them normalise with an eps of 1e-5, have no bias in front of a normalisation,
and pool the last map globally. What of the source can be brought to that form without changing the function,
`folded_form` brings there; `fold` does the same with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from resnext_convert.converter.errors import TargetError
from resnext_convert.converter.resnext.config import (
    GLOBAL_POOL,
    STEM_POOL,
    BlockConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.differences import differences, place_text, value_text
from resnext_convert.converter.text import counted

Library = Literal["torchvision", "timm"]
Argument = int | str | list[int]

EPS: Final = 1e-5
"""Of every normalisation of the stock models: PyTorch's default."""

MOMENTUM: Final = 0.1
"""Likewise; it matters in training only."""

CAFFE_POOL: Final = PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), ceil_mode=True)
"""The pooling behind the stem of timm's SENet class (``pool0``), which Caffe's releases have."""

_REDUCTION: Final = 16  # of squeeze-and-excitation in both classes of timm


@dataclass(frozen=True, slots=True, kw_only=True)
class StockModel:
    """A stock model that has the layers of a network.

    Attributes:
        library: whose it is.
        architecture: the function or class that makes it.
        arguments: what that has to be told besides ``num_classes``.
        legacy: it is timm's SENet class, whose parameters have other names (see `stock_key`).
        config: our module, configured exactly as the stock model is.
    """

    library: Library
    architecture: str
    arguments: Mapping[str, Argument]
    legacy: bool = False
    config: ResNeXtConfig

    @property
    def call(self) -> str:
        """The expression that makes it, such as ``timm.create_model('resnext101_32x4d', num_classes=1000)``."""
        named = [f"{name}={value!r}" for name, value in self.arguments.items()]
        named.insert(0, f"num_classes={self.config.head.classes}")
        if self.library == "timm":
            return f"timm.create_model({', '.join([repr(self.architecture), *named])})"
        if not self.arguments:
            return f"torchvision.models.{self.architecture}({named[0]})"
        block = "BasicBlock" if self.config.stages[0][0].kind == "basic" else "Bottleneck"
        first = f"torchvision.models.resnet.{block}, {list(self.config.depths)}"
        return f"torchvision.models.ResNet({', '.join([first, *named])})"


def find_stock(config: ResNeXtConfig, library: Library) -> StockModel:
    """The stock model of a library that computes what a network computes, once its weights are folded.

    Raises:
        TargetError: no model of the library has these layers; says which differs, and which target would do.
    """
    form = folded_form(config)
    candidates = _candidates(form, library)
    for candidate in candidates:
        if candidate.config == form:
            return candidate
    nearest = min((list(differences(form, candidate.config)) for candidate in candidates), key=len)
    raise _refusal(config, library, nearest)


def _candidates(form: ResNeXtConfig, library: Library) -> list[StockModel]:
    """The models of a library that are most like a network."""
    return list(_CANDIDATES[library](form))


def folded_form(config: ResNeXtConfig) -> ResNeXtConfig:
    """The configuration after all that can be folded is: what a stock model must be equal to.

    Raises:
        TargetError: a layer can neither be folded nor is in any stock model.
    """
    head = config.head
    return replace(
        config,
        data_norm=None,
        stem=tuple(map(_unit, config.stem)),
        stages=tuple(tuple(map(_block, stage)) for stage in config.stages),
        head=replace(head, pool=GLOBAL_POOL if takes_one_size(config) else head.pool, bias=True),
    )


def takes_one_size(config: ResNeXtConfig) -> bool:
    """Whether the final average pooling has a fixed window that must be the whole map for the classifier to fit.

    Then it is a global one wherever the network is defined (SENet's ``pool5`` of 7x7, stride 1).
    """
    pool = config.head.pool
    return (
        pool is not None
        and pool.kind == "avg"
        and not pool.global_pool
        and pool.padding == (0, 0)
        and (pool.stride == (1, 1) or pool.ceil_mode)
        and config.head.in_features == config.stages[-1][-1].units[-1].conv.out_channels
    )


def _unit(unit: UnitConfig) -> UnitConfig:
    norm = NormConfig(channels=unit.conv.out_channels, eps=EPS, momentum=MOMENTUM)
    return replace(unit, conv=replace(unit.conv, bias=False), norm=norm)


def _block(block: BlockConfig) -> BlockConfig:
    squeeze, down = block.squeeze_excitation, block.downsample
    return replace(
        block,
        units=tuple(map(_unit, block.units)),
        squeeze_excitation=replace(squeeze, bias=(True, True)) if squeeze else None,
        downsample=replace(down, unit=_unit(down.unit)) if down else None,
    )


# --- the models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What the constructors of both libraries vary, in the terms of `resnext`."""

    depths: tuple[int, ...]
    basic: bool = False
    squeeze: bool = False
    groups: int = 1
    width: int = 64
    reduce_first: int = 1
    stem: tuple[int, ...] = (64,)
    down_kernel: int = 1

    def config(self, stem_pool: PoolConfig, classes: int) -> ResNeXtConfig:
        # timm rounds the squeeze-and-excitation of basic blocks to multiples of 8 channels: not offered.
        return resnext(
            self.depths,
            cardinality=self.groups,
            base_width=self.width,
            classes=classes,
            basic=self.basic,
            reduction=_REDUCTION if self.squeeze and not self.basic else 0,
            reduce_first=self.reduce_first,
            stem=self.stem,
            stem_pool=stem_pool,
            down_kernel=self.down_kernel,
        )


def _layout(form: ResNeXtConfig) -> _Layout:
    """What the first blocks of a network say of the whole; all models of both libraries have four stages."""
    units = form.stages[0][0].units
    basic = len(units) == 2
    inner = form.stem[0].conv.out_channels
    downs = (block.downsample.unit.conv for block in form.blocks() if block.downsample)
    return _Layout(
        depths=(*form.depths, 1, 1, 1)[:4],
        basic=basic,
        squeeze=any(block.squeeze_excitation for block in form.blocks()),
        groups=1 if basic else form.cardinality,
        width=64 if basic else form.base_width,
        reduce_first=2 if not basic and 2 * units[0].conv.out_channels == units[1].conv.out_channels else 1,
        stem=(inner, inner, 2 * inner) if len(form.stem) == 3 else (64,),
        down_kernel=next((conv.kernel[0] for conv in downs if conv.stride != (1, 1)), 1),
    )


_18, _34, _50, _101, _152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)


def _torchvision(form: ResNeXtConfig) -> Iterator[StockModel]:
    layout = _layout(form)
    plain = _Layout(depths=layout.depths, basic=layout.basic, groups=layout.groups, width=layout.width)
    known = _TORCHVISION.get(plain)
    yield StockModel(
        library="torchvision",
        architecture=known or "ResNet",
        arguments={} if known else {"groups": plain.groups, "width_per_group": plain.width},
        config=plain.config(STEM_POOL, form.head.classes),
    )


_TORCHVISION: Final[Mapping[_Layout, str]] = {
    _Layout(depths=_18, basic=True): "resnet18",
    _Layout(depths=_34, basic=True): "resnet34",
    _Layout(depths=_50): "resnet50",
    _Layout(depths=_101): "resnet101",
    _Layout(depths=_152): "resnet152",
    _Layout(depths=_50, width=128): "wide_resnet50_2",
    _Layout(depths=_101, width=128): "wide_resnet101_2",
    _Layout(depths=_50, groups=32, width=4): "resnext50_32x4d",
    _Layout(depths=_101, groups=32, width=8): "resnext101_32x8d",
    _Layout(depths=_101, groups=64, width=4): "resnext101_64x4d",
}
"""torchvision's constructors."""


def _timm(form: ResNeXtConfig) -> Iterator[StockModel]:
    layout, classes = _layout(form), form.head.classes
    name, arguments = _timm_call(layout)
    yield StockModel(library="timm", architecture=name, arguments=arguments, config=layout.config(STEM_POOL, classes))
    deep = len(layout.stem) > 1
    # The block class that halves its first convolution is SENet-154's alone, and so are its stem and projections.
    if layout.squeeze and not layout.basic and (deep, layout.reduce_first, layout.down_kernel) in _LEGACY_KINDS:
        legacy = replace(layout, width=4, stem=(64, 64, 128) if deep else (64,))
        name, arguments = _legacy_call(legacy)
        config = legacy.config(CAFFE_POOL, classes)
        yield StockModel(library="timm", architecture=name, arguments=arguments, legacy=True, config=config)


def _timm_call(layout: _Layout) -> tuple[str, Mapping[str, Argument]]:
    """A constructor of timm's ResNet class, and what must be changed of its arguments."""
    if name := _TIMM.get(layout):
        return name, {}
    family = (
        "resnext50_32x4d" if (layout.groups, layout.width) != (1, 64) else "resnet18" if layout.basic else "resnet50"
    )
    name = f"{'se' if layout.squeeze else ''}{family}"
    base = _Layout(depths=_50, groups=32, width=4) if family == "resnext50_32x4d" else _Layout(depths=_50)
    arguments: dict[str, Argument] = {}
    if layout.groups != base.groups:
        arguments["cardinality"] = layout.groups
    if layout.width != base.width:
        arguments["base_width"] = layout.width
    if layout.depths != (_18 if layout.basic else _50):
        arguments["layers"] = list(layout.depths)
    if len(layout.stem) > 1:
        arguments |= {"stem_type": "deep", "stem_width": layout.stem[0]}
    if layout.reduce_first != 1:
        arguments["block_reduce_first"] = layout.reduce_first
    if layout.down_kernel != 1:
        arguments["down_kernel_size"] = layout.down_kernel
    return name, arguments


_TIMM: Final[Mapping[_Layout, str]] = {
    _Layout(depths=_18, basic=True): "resnet18",
    _Layout(depths=_34, basic=True): "resnet34",
    **{
        _Layout(depths=depths, squeeze=squeeze): f"{'se' if squeeze else ''}resnet{number}"
        for squeeze in (False, True)
        for number, depths in (("50", _50), ("101", _101), ("152", _152))
    },
    **{
        _Layout(depths=depths, groups=groups, width=width, squeeze=squeeze): (
            f"{'se' if squeeze else ''}resnext{number}_{groups}x{width}d"
        )
        for squeeze, number, depths, groups, width in (
            (False, "50", _50, 32, 4),
            (False, "101", _101, 32, 4),
            (False, "101", _101, 32, 8),
            (False, "101", _101, 32, 16),
            (False, "101", _101, 32, 32),
            (False, "101", _101, 64, 4),
            (True, "50", _50, 32, 4),
            (True, "101", _101, 32, 4),
            (True, "101", _101, 32, 8),
            (True, "101", _101, 64, 4),
        )
    },
    _Layout(
        depths=_152, groups=64, width=4, squeeze=True, reduce_first=2, stem=(64, 64, 128), down_kernel=3
    ): "senet154",
}
"""timm's constructors of its ResNet class."""

_LEGACY_KINDS: Final = {(False, 1, 1), (True, 2, 3)}
"""(three convolutions in the stem, reduction of the first convolution, kernel of projections) of timm's SENet class."""


def _legacy_call(layout: _Layout) -> tuple[str, Mapping[str, Argument]]:
    """A constructor of timm's SENet class, and what must be changed of its arguments."""
    if len(layout.stem) > 1:
        known = (layout.depths, layout.groups) == (_152, 64)
        return "legacy_senet154", {} if known else {"layers": list(layout.depths), "groups": layout.groups}
    names: Mapping[tuple[int, ...], str] = {_18: "26", _50: "50", _101: "101"}
    arguments: dict[str, Argument] = {} if layout.depths in names else {"layers": list(layout.depths)}
    arguments |= {"groups": layout.groups} if layout.groups != 32 else {}
    return f"legacy_seresnext{names.get(layout.depths, '50')}_32x4d", arguments


_CANDIDATES: Final[Mapping[Library, Callable[[ResNeXtConfig], Iterator[StockModel]]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}


# --- their names of parameters --------------------------------------------------------------------------------------


def stock_key(key: str, model: StockModel) -> str:
    """The stock model's name of one of our keys; ours are torchvision's and those of timm's ResNet class."""
    return legacy_key(key, model.config) if model.legacy else key


def legacy_key(key: str, config: ResNeXtConfig) -> str:
    """The name that timm's SENet class has for one of our keys."""
    path, _, leaf = key.rpartition(".")
    if path == "fc":
        return f"last_linear.{leaf}"
    if path in (stem := _legacy_stem(len(config.stem))):
        return f"layer0.{stem[path]}.{leaf}"
    return key.replace(".se.", ".se_module.")


def _legacy_stem(convolutions: int) -> Mapping[str, str]:
    if convolutions == 1:
        return {"conv1": "conv1", "bn1": "bn1"}
    inner = {
        f"conv1.{3 * i + j}": f"{kind}{i + 1}" for i in range(convolutions) for j, kind in enumerate(("conv", "bn"))
    }
    return inner | {"bn1": f"bn{convolutions}"}


# --- refusals -------------------------------------------------------------------------------------------------------


def _refusal(config: ResNeXtConfig, library: Library, found: list[tuple[str, object, object]]) -> TargetError:
    # Squeeze-and-excitation says more than what comes before it, and torchvision has none.
    place, ours, theirs = next((item for item in found if isinstance(item[1], SqueezeExcitationConfig)), found[0])
    more = f", and so do {counted(len(found) - 1, 'other place')}" if len(found) > 1 else ""
    return TargetError(
        f"no stock model of {library} computes this network: the {place_text(place)} differs{more}",
        expected=f"{value_text(theirs)}, as {library} has it",
        found=value_text(ours),
        hint=f"{_alternative(config, library)}--target reference converts it exactly",
    )


def _alternative(config: ResNeXtConfig, library: Library) -> str:
    others: tuple[Library, ...] = ("torchvision", "timm")
    for other in others:
        form = folded_form(config)
        if other != library and any(candidate.config == form for candidate in _candidates(form, other)):
            return f"--target {other} has a model that does, or "
    return ""
