"""What is said of networks that are exact, and may not be what was meant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from graph_builder import source_model
from stock_nets import PLAIN, UNIT, fixed_pool

from resnext_convert.converter.remarks import remarks
from resnext_convert.converter.resnext.config import PoolConfig, ResNeXtConfig
from resnext_convert.converter.resnext.ledger import Ignored
from resnext_convert.converter.resnext.match import UNUSED, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.targets import TargetName, render


def said(config: ResNeXtConfig, target: TargetName = "reference", **changes: object) -> list[str]:
    model = source_model(config)
    found = match(model)
    goal = render(target, found, assemble(found, model.tensors), domain=UNIT, class_order=None, wanted="source")
    return list(remarks(model, replace(found, **changes), goal, None))  # type: ignore[arg-type]


def test_a_usual_network_is_nothing_to_speak_of() -> None:
    assert said(PLAIN) == []


def test_unused_tensors_and_other_heads() -> None:
    unused, head = said(PLAIN, ignored=(Ignored(source="arg:extra", reason=UNUSED),), other_heads=("aux",))
    assert "arg:extra" in unused
    assert "'aux' is not the classifier" in head


def test_a_stem_that_pads_and_rounds_up() -> None:
    pool = PoolConfig(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True)
    (text,) = said(replace(PLAIN, stem_pool=pool))
    assert "8x8 for inputs of 224x224" in text
    assert "`ceil_mode: false`" in text


@pytest.mark.parametrize(("target", "count"), [("reference", 0), ("torchvision", 1)])
def test_a_pooling_of_one_size_in_a_stock_model(target: TargetName, count: int) -> None:
    texts = said(fixed_pool(PLAIN, 7), target)
    assert len(texts) == count
    assert all("7x7 average" in text for text in texts)
