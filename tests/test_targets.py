"""What a target needs to be known, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph_builder import source_model
from stock_nets import BGR, PLAIN, RAW_RGB, with_eps

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import TargetError, UsageError
from resnext_convert.converter.resnext.config import resnext
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.resnext.stock import CAFFE_POOL
from resnext_convert.converter.targets import Target, TargetName, render


def rendered(
    name: str = "torchvision", config: Any = PLAIN, domain: InputDomain | None = RAW_RGB, **more: Any
) -> Target:
    model = source_model(config)
    found = match(model)
    arguments: dict[str, Any] = {"domain": domain, "class_order": None} | more
    return render(name, found, assemble(found, model.tensors), **arguments)  # type: ignore[arg-type]  # wrong ones too


def test_the_reference_needs_to_know_nothing() -> None:
    target = rendered("reference", domain=None)
    assert (target.stock, target.domain, target.class_order) == (None, None, None)
    assert list(target.keys().values()) == list(PLAIN.state_shapes())


def test_the_reference_keeps_domain_and_order() -> None:
    target = rendered("reference", domain=BGR, class_order="imagenet-2015")
    assert (target.domain, target.class_order) == (BGR, "imagenet-2015")


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_a_stock_model_has_rgb_in_0_to_1_and_the_order_of_2012(name: TargetName) -> None:
    target = rendered(name, domain=BGR, class_order="imagenet-2015")
    assert target.stock is not None
    assert target.domain is not None
    assert (target.domain.colour, target.domain.range) == ("rgb", 1)
    assert target.class_order == "imagenet-2012"
    assert target.folded.order == "imagenet-2015"


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_an_unknown_order_of_a_thousand_classes_is_refused_unless_it_is_to_stay(name: TargetName) -> None:
    with pytest.raises(TargetError, match="order of the source's classes is not known") as refusal:
        rendered(name)
    assert "--source-class-order" in str(refusal.value.hint)
    assert refusal.value.exit_code == 4
    kept = rendered(name, wanted="source")
    assert kept.class_order is None
    assert kept.folded.order is None


def test_other_numbers_of_classes_keep_their_order() -> None:
    ten = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=10)
    assert rendered("torchvision", ten).class_order is None
    assert rendered("torchvision", ten, class_order="cifar-10").class_order == "cifar-10"


def test_an_order_of_other_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be in the order cifar-10"):
        rendered("reference", class_order="cifar-10")
    ten = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=10)
    with pytest.raises(UsageError, match="not those of ImageNet"):
        rendered("reference", ten, class_order="cifar-10", wanted="imagenet-2012")


def test_the_reference_moves_the_classes_if_that_is_wanted() -> None:
    kept = rendered("reference", class_order="imagenet-2015")
    moved = rendered("reference", class_order="imagenet-2015", wanted="imagenet-2012")
    assert moved.class_order == "imagenet-2012"
    assert not np.array_equal(moved.folded.arrays["fc.bias"], kept.folded.arrays["fc.bias"])
    same = rendered("reference", class_order="imagenet-2012", wanted="imagenet-2012")
    assert same.folded.order is None
    with pytest.raises(TargetError):
        rendered("reference", wanted="imagenet-2012")


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(TargetError, match="what the source network is fed is not known") as refusal:
        rendered("timm", domain=None, class_order="imagenet-2012")
    assert "--input-colour" in str(refusal.value.hint)


def test_the_layers_are_looked_at_before_anything_else() -> None:
    caffe = replace(PLAIN, stem_pool=CAFFE_POOL)
    with pytest.raises(TargetError, match="the pooling behind the stem differs"):
        rendered("timm", caffe, domain=None)


def test_there_is_no_other_target() -> None:
    with pytest.raises(UsageError, match="no target 'keras'"):
        rendered("keras")


def test_legacy_names() -> None:
    config = resnext((1, 1, 1, 1), cardinality=2, base_width=4, reduction=16, stem_pool=CAFFE_POOL)
    target = rendered("timm", with_eps(config, 1e-4), class_order="imagenet-2015")
    names = target.keys()
    assert names["conv1.weight"] == "layer0.conv1.weight"
    assert list(names) == list(target.folded.arrays)
