"""The stock models of torchvision and timm: which one has exactly the layers of a network, and how it is made.

Constructors and their arguments are those of torchvision 0.28 (``models/resnet.py``: ResNet, Bottleneck, BasicBlock)
and timm 1.0 (``models/resnet.py``: ResNet, make_blocks, downsample_conv; ``models/senet.py``: SENet,
SEResNeXtBottleneck, SEBottleneck). All of them normalise with an eps of 1e-5, have no bias in front of a normalisation,
and pool the last map globally. What of the source can be brought to that form without changing the function,
`folded_form` brings there; `fold` does the same with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Final, Literal

from resnext_convert.converter.errors import TargetError
from resnext_convert.converter.resnext import overview
from resnext_convert.converter.resnext.config import (
    GLOBAL_POOL,
    STEM_POOL,
    BlockConfig,
    ConvConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
    resnext,
)
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
    """The models of a library that are most like a network; all of them have four stages."""
    depths = (*form.depths, 1, 1, 1)[:4]
    return list(_CANDIDATES[library](form, depths))


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


def _torchvision(form: ResNeXtConfig, depths: tuple[int, ...]) -> Iterator[StockModel]:
    basic = form.stages[0][0].kind == "basic"
    groups, width = (1, 64) if basic else (form.cardinality, form.base_width)
    known = _TORCHVISION.get((basic, depths, groups, width))
    yield StockModel(
        library="torchvision",
        architecture=known or "ResNet",
        arguments={} if known else {"groups": groups, "width_per_group": width},
        config=resnext(depths, cardinality=groups, base_width=width, classes=form.head.classes, basic=basic),
    )


_TORCHVISION: Final[Mapping[tuple[bool, tuple[int, ...], int, int], str]] = {
    (True, (2, 2, 2, 2), 1, 64): "resnet18",
    (True, (3, 4, 6, 3), 1, 64): "resnet34",
    (False, (3, 4, 6, 3), 1, 64): "resnet50",
    (False, (3, 4, 23, 3), 1, 64): "resnet101",
    (False, (3, 8, 36, 3), 1, 64): "resnet152",
    (False, (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    (False, (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
    (False, (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    (False, (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
    (False, (3, 4, 23, 3), 64, 4): "resnext101_64x4d",
}
"""torchvision's constructors: (basic blocks, depths, groups, width per group)."""


def _timm(form: ResNeXtConfig, depths: tuple[int, ...]) -> Iterator[StockModel]:
    squeeze = any(block.squeeze_excitation for block in form.blocks())
    basic = form.stages[0][0].kind == "basic"
    groups, width = (1, 64) if basic else (form.cardinality, form.base_width)
    first = form.stages[0][0].units
    reduce_first = 2 if not basic and 2 * first[0].conv.out_channels == first[1].conv.out_channels else 1
    deep = len(form.stem) == 3
    down_kernel = _down_kernel(form)
    for legacy in (False, True) if squeeze and not basic else (False,):
        inner = form.stem[0].conv.out_channels
        stem = ((64, 64, 128) if legacy else (inner, inner, 2 * inner)) if deep else (64,)
        config = resnext(
            depths,
            cardinality=groups,
            base_width=4 if legacy else width,
            classes=form.head.classes,
            basic=basic,
            # In timm's ResNet, a basic block's squeeze-and-excitation is rounded to multiples of 8 channels.
            reduction=_REDUCTION if squeeze and not basic else 0,
            reduce_first=reduce_first,
            stem=stem,
            stem_pool=CAFFE_POOL if legacy else STEM_POOL,
            down_kernel=down_kernel,
        )
        name, arguments = (
            _legacy_name(depths, groups, deep)
            if legacy
            else _timm_name(depths, basic, squeeze, groups, width, stem, reduce_first, down_kernel)
        )
        # The block class that halves its first convolution is SENet-154's alone, and so are its stem and projections.
        if not legacy or (deep, reduce_first, down_kernel) in {(False, 1, 1), (True, 2, 3)}:
            yield StockModel(library="timm", architecture=name, arguments=arguments, legacy=legacy, config=config)


def _timm_name(
    depths: tuple[int, ...],
    basic: bool,
    squeeze: bool,
    groups: int,
    width: int,
    stem: tuple[int, ...],
    reduce_first: int,
    down_kernel: int,
) -> tuple[str, Mapping[str, Argument]]:
    """A constructor of timm's ResNet class and what must be changed of its arguments."""
    special = {"reduce_first": reduce_first, "down_kernel": down_kernel, "stem": stem}
    if squeeze and (depths, groups, width) == ((3, 8, 36, 3), 64, 4) and special == _SENET_154:
        return "senet154", {}
    prefix = "se" if squeeze else ""
    number = _NUMBERS.get((basic, depths))
    arguments: dict[str, Argument] = {}
    if (groups, width) == (1, 64):
        known = number in ("18", "34", "50", "101", "152")
        name = f"{prefix}resnet{number}" if known else f"{prefix}resnet{'18' if basic else '50'}"
    elif (squeeze, number, groups, width) in _RESNEXTS:
        known, name = True, f"{prefix}resnext{number}_{groups}x{width}d"
    else:
        known, name = number == "50", f"{prefix}resnext50_32x4d"
        arguments |= {"cardinality": groups} if groups != 32 else {}
        arguments |= {"base_width": width} if width != 4 else {}
    if not known:
        arguments["layers"] = list(depths)
    if len(stem) > 1:
        arguments |= {"stem_type": "deep", "stem_width": stem[0]}
    if reduce_first != 1:
        arguments["block_reduce_first"] = reduce_first
    if down_kernel != 1:
        arguments["down_kernel_size"] = down_kernel
    return name, arguments


_SENET_154: Final[Mapping[str, object]] = {"reduce_first": 2, "down_kernel": 3, "stem": (64, 64, 128)}

_NUMBERS: Final[Mapping[tuple[bool, tuple[int, ...]], str]] = {
    (True, (2, 2, 2, 2)): "18",
    (True, (3, 4, 6, 3)): "34",
    (False, (3, 4, 6, 3)): "50",
    (False, (3, 4, 23, 3)): "101",
    (False, (3, 8, 36, 3)): "152",
}

_RESNEXTS: Final = frozenset(
    {
        *((False, number, 32, 4) for number in ("50", "101")),
        *((False, "101", 32, width) for width in (8, 16, 32)),
        (False, "101", 64, 4),
        (True, "50", 32, 4),
        *((True, "101", groups, width) for groups, width in ((32, 4), (32, 8), (64, 4))),
    }
)
"""timm's ResNeXts: (squeeze-and-excitation, number, cardinality, base width)."""


def _legacy_name(depths: tuple[int, ...], groups: int, deep: bool) -> tuple[str, Mapping[str, Argument]]:
    """A constructor of timm's SENet class and what must be changed of its arguments."""
    if deep:
        known = (depths, groups) == ((3, 8, 36, 3), 64)
        return "legacy_senet154", {} if known else {"layers": list(depths), "groups": groups}
    names: Mapping[tuple[int, ...], str] = {(2, 2, 2, 2): "26", (3, 4, 6, 3): "50", (3, 4, 23, 3): "101"}
    arguments: dict[str, Argument] = {} if depths in names else {"layers": list(depths)}
    arguments |= {"groups": groups} if groups != 32 else {}
    return f"legacy_seresnext{names.get(depths, '50')}_32x4d", arguments


def _down_kernel(form: ResNeXtConfig) -> int:
    """The kernel of the first projection that strides; 1 where none does."""
    downs = (block.downsample.unit.conv for block in form.blocks() if block.downsample)
    return next((conv.kernel[0] for conv in downs if conv.stride != (1, 1)), 1)


_CANDIDATES: Final[Mapping[Library, Callable[[ResNeXtConfig, tuple[int, ...]], Iterator[StockModel]]]] = {
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


def differences(ours: object, theirs: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """(place, ours, theirs) for each layer, or number, in which two configurations differ."""
    if ours == theirs:
        return
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{path}[{number}]")
    elif type(ours) is type(theirs) and is_dataclass(ours) and not isinstance(ours, ConvConfig | PoolConfig):
        for field in fields(ours):
            pair = getattr(ours, field.name), getattr(theirs, field.name)
            yield from differences(*pair, f"{path}.{field.name}".lstrip("."))
    else:
        yield path, ours, theirs


def _refusal(config: ResNeXtConfig, library: Library, found: list[tuple[str, object, object]]) -> TargetError:
    # Squeeze-and-excitation says more than what comes before it, and torchvision has none.
    place, ours, theirs = next((item for item in found if isinstance(item[1], SqueezeExcitationConfig)), found[0])
    more = f", and so do {counted(len(found) - 1, 'other place')}" if len(found) > 1 else ""
    return TargetError(
        f"no stock model of {library} computes this network: the {_place(place)} differs{more}",
        expected=f"{_words(theirs)}, as {library} has it",
        found=_words(ours),
        hint=f"{_alternative(config, library)}--target reference converts it exactly",
    )


def _alternative(config: ResNeXtConfig, library: Library) -> str:
    others: tuple[Library, ...] = ("torchvision", "timm")
    for other in others:
        form = folded_form(config)
        if other != library and any(candidate.config == form for candidate in _candidates(form, other)):
            return f"--target {other} has a model that does, or "
    return ""


_PLACES: Final[Mapping[str, str]] = {
    "stem_pool": "pooling behind the stem",
    "stem": "stem",
    "head.pool": "final pooling",
    "stages": "number of stages",
}


def _place(path: str) -> str:
    """The module's path instead of the configuration's: ``layer2.0.conv1`` for ``stages[1][0].units[0].conv``."""
    path = re.sub(r"stages\[(\d+)\]", lambda found: f"layer{int(found[1]) + 1}", path)
    path = re.sub(r"\.?units\[(\d+)\]\.conv", lambda found: f".conv{int(found[1]) + 1}", path)
    path = re.sub(r"\[(\d+)\]", r".\1", path)
    block, _, squeeze = path.rpartition(".")
    if squeeze == "squeeze_excitation":
        return f"squeeze-and-excitation of {block}"
    return _PLACES.get(path, path.replace("_", " "))


def _words(value: object) -> str:
    if isinstance(value, PoolConfig):
        return overview.pool_text(value)
    if isinstance(value, ConvConfig):
        return overview.conv_text(value)
    if isinstance(value, SqueezeExcitationConfig):
        return f"squeeze-and-excitation through {value.reduced} channels"
    if isinstance(value, tuple):
        return f"{len(value)} of them"
    return "none" if value is None else str(value)
