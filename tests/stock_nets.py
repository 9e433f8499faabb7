"""Small networks that have stock models, with what stock models lack: to be folded, and to be folded wrongly."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from graph_builder import Spelling, source_model
from mxnet_params_writer import dense, params_list

from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.preprocess import input_spec
from resnext_convert.converter.proof import VerificationReport
from resnext_convert.converter.resnext.config import (
    BlockConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    UnitConfig,
    resnext,
)
from resnext_convert.converter.resnext.fold import Folded, fold
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.resnext.stock import Library, find_stock
from resnext_convert.converter.tensors import Array
from resnext_convert.converter.verify import prove

PLAIN = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=1000)
RAW_RGB = InputDomain(colour="rgb", source="the test")
BGR = InputDomain(colour="bgr", mean=(104.0, 117.0, 123.0), source="the test")
WITH_STD = InputDomain(colour="bgr", mean=(103.52, 116.28, 123.675), std=(57.375, 57.12, 58.395), source="the test")
UNIT = InputDomain(colour="rgb", range=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), source="the test")


def with_eps(config: ResNeXtConfig, eps: float) -> ResNeXtConfig:
    return with_units(config, lambda unit: replace(unit, norm=NormConfig(channels=unit.conv.out_channels, eps=eps)))


def with_bias(config: ResNeXtConfig) -> ResNeXtConfig:
    return with_units(config, lambda unit: replace(unit, conv=replace(unit.conv, bias=True)))


def without_norms(config: ResNeXtConfig) -> ResNeXtConfig:
    return with_units(with_bias(config), lambda unit: replace(unit, norm=None))


def with_bn_data(config: ResNeXtConfig) -> ResNeXtConfig:
    return replace(config, data_norm=NormConfig(channels=3, eps=2e-5))


def with_units(config: ResNeXtConfig, change: object) -> ResNeXtConfig:
    assert callable(change)

    def unit(old: UnitConfig) -> UnitConfig:
        new = change(old)
        assert isinstance(new, UnitConfig)
        return new

    def block(old: BlockConfig) -> BlockConfig:
        down = old.downsample
        return replace(
            old,
            units=tuple(map(unit, old.units)),
            downsample=replace(down, unit=unit(down.unit)) if down else None,
        )

    return replace(
        config,
        stem=tuple(map(unit, config.stem)),
        stages=tuple(tuple(map(block, stage)) for stage in config.stages),
    )


def fixed_pool(config: ResNeXtConfig, side: int) -> ResNeXtConfig:
    return replace(config, head=replace(config.head, pool=PoolConfig(kind="avg", kernel=(side, side))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A source, folded."""

    model: SourceModel
    match: Match
    folded: Folded

    def state(self) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(np.array(values)) for key, values in self.folded.arrays.items()}

    def prove(self, state: dict[str, torch.Tensor] | None = None, size: int = 64) -> VerificationReport:
        return prove(
            self.model,
            self.match,
            state or self.state(),
            input_spec(self.model, self.match),
            folded=self.folded,
            image_size=size,
            oracle="none",
        )


def folded_case(
    config: ResNeXtConfig,
    library: Library = "torchvision",
    domain: InputDomain = RAW_RGB,
    order: ClassOrder | None = None,
    spelling: Spelling | None = None,
) -> Case:
    if config.data_norm and spelling is None:
        spelling = Spelling(fix_gamma=True)  # the gammas that are made are partly negative, as those of no input are
    model = source_model(config, spelling)
    model = replace(model, origin=replace(model.origin, framework="mxnet"))
    found = match(model)
    arrays = assemble(found, model.tensors)
    return Case(model=model, match=found, folded=fold(found, arrays, find_stock(found.config, library), domain, order))


def gluon_file(config: ResNeXtConfig, path: Path) -> Path:
    """The values of `source_model` as GluonCV saves a network with a stem of one convolution: names tell the graph."""
    model = source_model(config)
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
    stored: dict[str, Array] = {}
    for key, values in assemble(match(model), model.tensors).items():
        place, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        name = re.sub(r"layer(\d+)\.(\d+)\.", lambda found: f"features.{int(found[1]) + 3}.{found[2]}.", f"{place}.")
        for pattern, gluon in (
            (r"^conv1\.$", "features.0."),
            (r"^bn1\.$", "features.1."),
            (r"(conv)(\d)\.$", lambda found: f"body.{3 * int(found[2]) - 3}."),
            (r"(bn)(\d)\.$", lambda found: f"body.{3 * int(found[2]) - 2}."),
            (r"se\.fc(\d)\.$", lambda found: f"se.{2 * int(found[1]) - 2}."),
            (r"^fc\.$", "output."),
        ):
            name = re.sub(pattern, gluon, name)
        normalises = re.search(r"(bn\d|bn_data|downsample\.1)$", place)
        stored[name + (leaves[leaf] if normalises else leaf)] = values
    path.write_bytes(params_list([dense(values) for values in stored.values()], list(stored)))
    return path
