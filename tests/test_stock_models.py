"""The real torchvision and timm load what was folded for them, with strict=True, and compute what the source does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from stock_nets import (
    BGR,
    PLAIN,
    RAW_RGB,
    UNIT,
    WITH_STD,
    Case,
    folded_case,
    gluon_file,
    with_bias,
    with_bn_data,
    with_eps,
)
from torch import nn

import resnext_convert as rc
from resnext_convert.converter.classes import places
from resnext_convert.converter.compare import compare
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import TargetError
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.origin import GraphFacts, StemPool
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.config import STEM_POOL, ResNeXtConfig, resnext
from resnext_convert.converter.resnext.match import as_rows
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.resnext.stock import CAFFE_POOL, Library, find_stock, stock_key

pytestmark = pytest.mark.peers

SE = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=1000, reduction=16)
SE_CAFFE = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=1000, reduction=16, stem_pool=CAFFE_POOL)
LEGACY = resnext((1, 2, 1, 1), cardinality=8, base_width=4, classes=1000, reduction=16, stem_pool=CAFFE_POOL)
SENET = resnext(
    (1, 1, 1, 1),
    cardinality=4,
    base_width=4,
    classes=1000,
    reduction=16,
    reduce_first=2,
    stem=(64, 64, 128),
    down_kernel=3,
)
DEEP = resnext((1, 2, 1, 1), cardinality=2, base_width=4, classes=10, stem=(32, 32, 64))
BASIC = resnext((1, 1, 2, 1), cardinality=1, base_width=64, classes=10, basic=True)


def stock_model(case: Case, library: Library, names: dict[str, Any]) -> nn.Module:
    """What the printed expression makes, with the folded weights in it, in float64."""
    stock = find_stock(case.match.config, library)
    model: nn.Module = eval(stock.call, names)  # the expression is our own, and a user types it
    model.double().eval()
    model.load_state_dict({stock_key(key, stock): value for key, value in case.state().items()}, strict=True)
    return model


@pytest.mark.parametrize(
    ("library", "config", "domain"),
    [
        ("torchvision", PLAIN, UNIT),
        ("torchvision", with_bias(with_eps(PLAIN, 2e-5)), BGR),
        ("torchvision", with_bn_data(with_eps(PLAIN, 2e-5)), RAW_RGB),
        ("torchvision", BASIC, WITH_STD),
        ("timm", with_bn_data(PLAIN), BGR),
        ("timm", with_eps(SE, 1e-4), WITH_STD),
        ("timm", with_eps(SE_CAFFE, 1e-4), BGR),
        ("timm", SENET, UNIT),
        ("timm", DEEP, UNIT),
        ("timm", BASIC, UNIT),
    ],
)
def test_a_stock_model_computes_what_the_source_does(
    torchvision: Any, timm: Any, library: Library, config: ResNeXtConfig, domain: InputDomain
) -> None:
    case = folded_case(config, library, domain, order="imagenet-2015" if config.head.classes == 1000 else None)
    model = stock_model(case, library, {"torchvision": torchvision, "timm": timm})
    pixels = np.random.default_rng(0).random((2, 3, 65, 70))
    assert case.folded.domain is not None
    normalize = torchvision.transforms.Normalize(case.folded.domain.mean, case.folded.domain.std)
    with torch.inference_mode():
        found = model(normalize(torch.from_numpy(pixels))).numpy()
    reference = ReferenceExecutor(case.model.graph, case.model.tensors)
    expected = as_rows(reference.run({"data": domain.prepare(pixels)}, [case.match.logits])[case.match.logits])
    assert compare("logits", expected, case.folded.logits(found)).within(1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
        "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    ],
)  # fmt: skip
def test_each_constructor_of_torchvision_is_known_by_its_layers(torchvision: Any, name: str) -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in getattr(torchvision.models, name)().state_dict().items()}
        assert_known("torchvision", f"torchvision.models.{name}(num_classes=1000)", shapes, torchvision.models)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d",
        "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_64x4d", "seresnet50", "seresnet101",
        "seresnet152", "seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d",
        "senet154", "legacy_seresnext26_32x4d", "legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d",
        "legacy_senet154",
    ],
)  # fmt: skip
def test_each_constructor_of_timm_is_known_by_its_layers(timm: Any, name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert_known("timm", f"timm.create_model({name!r}, num_classes=1000)", shapes, None)


@pytest.mark.parametrize(
    ("config", "pool", "architecture"),
    [
        (PLAIN, "3x3 max, stride 2, padding 1", "resnext50_32x4d"),
        (SE, "3x3 max, stride 2, padding 1", "seresnext50_32x4d"),
        (LEGACY, "3x3 max, stride 2, size rounded up", "legacy_seresnext50_32x4d"),
    ],
)
def test_timm_loads_a_folder(
    timm: Any, tmp_path: Path, config: ResNeXtConfig, pool: StemPool, architecture: str
) -> None:
    source = gluon_file(config, tmp_path / "net.params")
    facts = GraphFacts(eps=1e-5, stem_pool=pool)
    report = rc.convert(
        "mxnet",
        source,
        f"{tmp_path}/out/",
        target="timm",
        facts=facts,
        domain=replace(BGR, resize=256, crop=224),
        source_class_order="imagenet-2015",
        image_size=64,
        oracle="none",
    )
    assert report.verification is not None
    assert report.verification.passed
    model = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == architecture
    assert report.domain is not None
    assert (tuple(cfg["mean"]), tuple(cfg["std"])) == (report.domain.mean, report.domain.std)
    assert (cfg["crop_pct"], cfg["interpolation"], cfg["label_names"][0]) == (0.875, "bilinear", "n01440764")
    data = timm.data.resolve_model_data_config(model)
    assert (tuple(data["mean"]), tuple(data["std"])) == (report.domain.mean, report.domain.std)
    assert tuple(data["input_size"]) == (3, 224, 224)

    pixels = np.random.default_rng(0).random((2, 3, 64, 70))
    fed = torch.from_numpy(report.domain.prepare(pixels))
    ours = rc.load(tmp_path / "out")
    original = read_source(source, facts=facts)
    (head,) = original.graph.outputs
    reference = ReferenceExecutor(original.graph, original.tensors)
    expected = reference.run({"data": BGR.prepare(pixels)}, [head])[head]
    rows = list(places("imagenet-2012", "imagenet-2015"))
    with torch.inference_mode():
        # float32 weights, as timm has loaded them: what float64 had to hold was rounded then.
        assert compare("logits", expected[:, rows], model(fed.float()).numpy()).within(1e-5)
        # Ours has the same weights; where they are in memory decides the order of a sum, and so the last bits.
        stock, theirs = find_stock(ours.config, "timm"), model.state_dict()
        assert all(torch.equal(theirs[stock_key(key, stock)], value) for key, value in ours.state_dict().items())
        assert compare("logits", model(fed.float()).numpy(), ours(fed.float()).numpy()).within(1e-5)
        # The exact ones, in float64.
        model.double().load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "model.safetensors"))
        assert compare("logits", expected[:, rows], model(fed).numpy()).within(1e-12)


NETWORKS = [
    resnext(depths, cardinality=cardinality, base_width=width, basic=basic, **extra)
    for depths, cardinality, width, basic in (
        ((2, 2, 2, 2), 1, 64, True),
        ((3, 4, 6, 3), 1, 64, True),
        ((3, 4, 6, 3), 1, 64, False),
        ((3, 4, 23, 3), 1, 64, False),
        ((3, 8, 36, 3), 1, 64, False),
        ((3, 4, 6, 3), 1, 128, False),
        ((3, 4, 23, 3), 1, 128, False),
        ((2, 2, 2, 2), 32, 4, False),
        ((3, 4, 6, 3), 32, 4, False),
        ((3, 4, 23, 3), 32, 4, False),
        ((3, 4, 23, 3), 32, 8, False),
        ((3, 4, 23, 3), 32, 16, False),
        ((3, 4, 23, 3), 32, 32, False),
        ((3, 4, 23, 3), 64, 4, False),
    )
    for extra in ({}, {"reduction": 16}, {"reduction": 16, "stem_pool": CAFFE_POOL})
] + [
    replace(
        resnext(
            (3, 8, 36, 3),
            cardinality=64,
            base_width=4,
            reduction=16,
            reduce_first=2,
            stem=(64, 64, 128),
            down_kernel=3,
        ),
        stem_pool=pool,
    )
    for pool in (STEM_POOL, CAFFE_POOL)
]


def assert_known(library: Library, call: str, shapes: dict[str, tuple[int, ...]], models: Any) -> None:
    """A network of ours leads to this call, and has exactly the keys and shapes of what the call makes."""
    for config in NETWORKS:
        try:
            stock = find_stock(config, library)
        except TargetError:  # no model of the library
            continue
        if stock.call == call:
            assert {stock_key(key, stock): shape for key, shape in config.state_shapes().items()} == shapes
            with torch.device("meta"):
                ResNeXt(config)
            return
    raise AssertionError(f"no network leads to {call}")
