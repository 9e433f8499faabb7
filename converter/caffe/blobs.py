"""What the layers of a net store, and which of them share a blob (net.cpp, AppendParam)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnext_convert.converter.caffe.shapes import Shape
from resnext_convert.converter.errors import FormatError, ShapeError
from resnext_convert.converter.graph import Role
from resnext_convert.schemas.caffe_pb2 import ParamSpec

Key = tuple[str, int]
"""A blob of a net: its layer's name, and its number there."""


def key_name(key: Key) -> str:
    """``conv1[0]``, as readers of weights call what they find."""
    return f"{key[0]}[{key[1]}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetLayer:
    """A layer of a net, as a weights file sees it.

    Attributes:
        name: by which a weights file knows it; unique where something is stored.
        type: its type.
        node: the node of the graph that uses what is stored.
        roles: what each of its blobs is; None where its type is not known, and so not what it stores.
        shapes: of the blobs, 0 where not known; without those of which not even the number of axes is known.
        params: what the prototxt says about the blobs, from the first on.
    """

    name: str
    type: str
    node: str
    roles: tuple[Role, ...] | None
    shapes: Mapping[Role, Shape]
    params: tuple[ParamSpec, ...]

    def __str__(self) -> str:
        return f"layer {self.name!r:.80} ({self.type:.80})"

    @property
    def keys(self) -> tuple[Key, ...]:
        """The blobs, in Caffe's order."""
        return tuple((self.name, index) for index in range(len(self.roles or ())))

    def shape(self, index: int) -> Shape | None:
        """That of a blob; None: nothing is known."""
        return self.shapes.get(self.roles[index]) if self.roles else None


def owners(layers: Sequence[NetLayer]) -> dict[Key, Key]:
    """Whose each blob is: its own, or that of the first layer that names it as it does.

    Raises:
        FormatError: layers with blobs have the same name, so that a weights file cannot tell them apart.
        ShapeError: layers share what does not have the same shape (number of values, where ``PERMISSIVE``).
    """
    times = Counter(layer.name for layer in layers)
    named: dict[str, Key] = {}
    shapes: dict[Key, Shape | None] = {}
    found: dict[Key, Key] = {}
    for layer in layers:
        if layer.roles and times[layer.name] > 1:
            raise FormatError(
                f"{times[layer.name]} layers have this name, and Caffe would give weights to one of them only",
                place=str(layer),
                expected="a name of its own for each layer with weights",
                hint="rename the copies as the weights file has them",
            )
        for index, key in enumerate(layer.keys):
            shapes[key] = layer.shape(index)
            param = layer.params[index] if index < len(layer.params) else ParamSpec()
            owner = named.setdefault(param.name, key) if param.name else key
            found[key] = owner
            if not _may_share(param, shapes[owner], shapes[key]):
                what = "count" if param.share_mode == ParamSpec.PERMISSIVE else "shape"
                raise ShapeError(
                    f"Cannot share param {param.name!r:.80} owned by layer {owner[0]!r:.80}; {what} mismatch",
                    place=f"{layer}, blob {index}",
                    expected=shapes[owner],
                    found=shapes[key],
                )
    return found


def _may_share(param: ParamSpec, owned: Shape | None, own: Shape | None) -> bool:
    if owned is None or own is None:
        return True
    if param.share_mode == ParamSpec.PERMISSIVE:
        return 0 in (*owned, *own) or math.prod(owned) == math.prod(own)
    pairs = zip(owned, own, strict=False)
    return len(owned) == len(own) and all(size == other or 0 in (size, other) for size, other in pairs)
