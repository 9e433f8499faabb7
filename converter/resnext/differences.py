"""Where two configurations differ, and how that is said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Final

from resnext_convert.converter.resnext import overview
from resnext_convert.converter.resnext.config import ConvConfig, PoolConfig, SqueezeExcitationConfig


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


_PLACES: Final[Mapping[str, str]] = {
    "stem_pool": "pooling behind the stem",
    "stem": "stem",
    "head.pool": "final pooling",
    "stages": "number of stages",
}


def place_text(path: str) -> str:
    """The module's path instead of the configuration's: ``layer2.0.conv1`` for ``stages[1][0].units[0].conv``."""
    path = re.sub(r"stages\[(\d+)\]", lambda found: f"layer{int(found[1]) + 1}", path)
    path = re.sub(r"\.?units\[(\d+)\]\.conv", lambda found: f".conv{int(found[1]) + 1}", path)
    path = re.sub(r"\[(\d+)\]", r".\1", path)
    block, _, squeeze = path.rpartition(".")
    if squeeze == "squeeze_excitation":
        return f"squeeze-and-excitation of {block}"
    return _PLACES.get(path, path.replace("_", " "))


def value_text(value: object) -> str:
    """What a configuration has in a place."""
    if isinstance(value, PoolConfig):
        return overview.pool_text(value)
    if isinstance(value, ConvConfig):
        return overview.conv_text(value)
    if isinstance(value, SqueezeExcitationConfig):
        return f"squeeze-and-excitation through {value.reduced} channels"
    if isinstance(value, tuple):
        return f"{len(value)} of them"
    return "none" if value is None else str(value)
