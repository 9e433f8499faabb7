"""What a user should know of a network that was converted exactly, and might not be what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from resnext_convert.converter import probe
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.resnext.overview import pool_text
from resnext_convert.converter.resnext.stock import takes_one_size
from resnext_convert.converter.targets import Target


def remarks(model: SourceModel, found: Match, target: Target, image_size: int | None) -> Iterator[str]:
    """One sentence or more for each thing.

    Args:
        model: the source as read.
        found: the network.
        target: what goes out.
        image_size: the side of images that the user has stated.
    """
    unused = [ignored.source for ignored in found.ignored if ignored.reason.startswith("no node")]
    if unused:
        yield f"no node of the graph names these tensors, they are left out: {', '.join(unused)}"
    for head in found.other_heads:
        yield f"the head {head!r} is not the classifier and is not converted"
    yield from _rounding(found.config, image_size, model.origin.input_shape)
    if target.stock and takes_one_size(found.config) and found.config.head.pool:
        yield (
            f"the source's final pooling ({pool_text(found.config.head.pool)}) takes maps of one size; the stock model"
            " pools maps of any size and computes the same where the source computes anything"
        )


def _rounding(config: ResNeXtConfig, asked: int | None, declared: tuple[int, ...] | None) -> Iterator[str]:
    """On a stem pooling that pads and rounds up: exact, but seldom what the network was trained with."""
    pool = config.stem_pool
    if pool is None or not pool.ceil_mode or not any(pool.padding):
        return
    size = probe.image_size(config, asked, declared)
    found = probe.last_map(config, size)
    trained = probe.last_map(replace(config, stem_pool=replace(pool, ceil_mode=False)), size)
    if found is None or trained is None or found == trained:
        return
    yield (
        f"the map before the last pooling is {found[0]}x{found[1]} for inputs of {size[0]}x{size[1]}: the stem's"
        f" pooling pads and rounds up, and rounded down it would be {trained[0]}x{trained[1]}. That is what is left of"
        " a prototxt when its line `ceil_mode: false`, unknown to BVLC Caffe, is deleted. The result is exact for"
        " the file as it stands. If these weights were trained with rounding down (soeaver's were), that network loses"
        " about 1 % of its accuracy: put the line back, or write `round_mode: FLOOR`, and convert again"
    )
