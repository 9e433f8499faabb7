"""What timm is told of a folder, and what a checkpoint's header says."""

from __future__ import annotations

import json

import pytest
from graph_builder import source_model
from stock_nets import BGR, PLAIN

from resnext_convert.converter import releases
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.hub import hub_config, metadata
from resnext_convert.converter.resnext.config import ResNeXtConfig, resnext
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.resnext.stock import CAFFE_POOL
from resnext_convert.converter.targets import Target, render

SIZED = InputDomain(colour="bgr", mean=(104.0, 117.0, 123.0), resize=256, crop=224, source="the test")
SE = resnext((1, 1, 1, 1), cardinality=32, base_width=4, reduction=16, stem_pool=CAFFE_POOL)


def goal(config: ResNeXtConfig = PLAIN, target: str = "timm", domain: InputDomain = SIZED) -> Target:
    model = source_model(config)
    found = match(model)
    arrays = assemble(found, model.tensors)
    return render(target, found, arrays, domain=domain, class_order="imagenet-2015")  # type: ignore[arg-type]


def test_what_timm_is_told() -> None:
    release = releases.find("SE-ResNeXt-50", "caffe")
    told = hub_config(goal(SE), release, (224, 224))
    assert told["architecture"] == "legacy_seresnext50_32x4d"
    assert told["model_args"] == {"layers": [1, 1, 1, 1]}
    assert (told["num_classes"], told["num_features"]) == (1000, 2048)
    cfg = told["pretrained_cfg"]
    assert cfg["input_size"] == [3, 224, 224]
    assert cfg["pool_size"] == [7, 7]
    assert cfg["crop_pct"] == 0.875
    assert cfg["interpolation"] == "bilinear"
    assert cfg["std"] == [0.229, 0.224, 0.225]
    assert cfg["mean"] == pytest.approx([123 / 255, 117 / 255, 104 / 255])
    assert (cfg["first_conv"], cfg["classifier"]) == ("layer0.conv1", "last_linear")
    assert cfg["license"] == "Apache-2.0"
    assert cfg["origin_url"].startswith("https://")
    assert told["label_names"][0] == "n01440764"
    assert told["label_descriptions"]["n01440764"] == "tench, Tinca tinca"
    json.dumps(told)


def test_a_network_that_nobody_published_of_unknown_crop() -> None:
    told = hub_config(goal(domain=BGR), None, (96, 96))
    cfg = told["pretrained_cfg"]
    assert (cfg["tag"], cfg["input_size"], cfg["crop_pct"], cfg["pool_size"]) == ("converted", [3, 96, 96], 1.0, [3, 3])
    assert not {"license", "origin_url", "description"} & cfg.keys()


@pytest.mark.parametrize("target", ["reference", "torchvision"])
def test_timm_is_not_told_what_it_could_not_build(target: str) -> None:
    told = hub_config(goal(target=target), None, (224, 224))
    assert "architecture" not in told
    assert told["library_name"] == "resnext_convert"


def test_a_checkpoint_s_header() -> None:
    texts = metadata(goal(), "ResNeXt-14 (2x4d)")
    assert texts["target"] == "timm"
    assert texts["model"].startswith("timm.create_model('resnext50_32x4d'")
    assert texts["class_order"] == "imagenet-2012"
    fed = json.loads(texts["preprocessing"])
    assert (fed["colour"], fed["range"], fed["resize"], fed["crop"]) == ("rgb", 1, 256, 224)
