"""The layers of a network whose tensors were stored without a graph: what names tell, before shapes are looked at."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from resnext_convert.converter.graph import Role
from resnext_convert.converter.tensors import TensorStore


class Scheme(enum.Enum):
    """Whose names the tensors have; the value says it in words."""

    GLUON = "GluonCV's structural names (save_parameters)"
    GLUON_PREFIX = "GluonCV's names with a prefix (export, collect_params().save)"
    GLUONCV2 = "gluoncv2's structural names (save_parameters)"
    SIMPLEDET = "simpledet's names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with stored tensors.

    Attributes:
        name: the part that the names of its tensors have in common.
        params: the stored tensor (its full name) for each role.
    """

    name: str
    params: Mapping[Role, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A convolution and the normalisation behind it."""

    conv: Layer
    norm: Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A residual block.

    Attributes:
        name: for messages.
        units: the three of the residual.
        gate: the two convolutions of squeeze-and-excitation; () where there is none.
        projection: of the shortcut, where it has one.
        averages: whether the projection averages before it convolves; None where the names do not say.
    """

    name: str
    units: tuple[Unit, ...]
    gate: tuple[Layer, ...]
    projection: Unit | None
    averages: bool | None = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The layers of a network as its scheme has them.

    Attributes:
        scheme: whose names they are.
        stem: one convolution, or three.
        stem_pools: whether a pooling follows the stem; None where the names do not say.
        stages: the blocks.
        window: the side of the last pooling's window; None where that takes the whole map.
        classifier: the fully connected layer.
    """

    scheme: Scheme
    stem: tuple[Unit, ...]
    stem_pools: bool | None
    stages: tuple[tuple[Block, ...], ...]
    window: int | None
    classifier: Layer


def outline(description: Description, tensors: TensorStore) -> str:
    """A description in one line, for people."""
    stem = f"a stem of {len(description.stem)} convolution{'s' if len(description.stem) > 1 else ''}"
    depths = "-".join(str(len(stage)) for stage in description.stages)
    gated = ", with squeeze-and-excitation" if description.stages[0][0].gate else ""
    rows = tensors[description.classifier.params[Role.BIAS]].size
    return f"{description.scheme.value}: {stem}, stages of {depths} blocks{gated}, {rows} classes"
