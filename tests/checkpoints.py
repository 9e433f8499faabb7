"""Checkpoints of the smallest network, for the tests of what writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graph_builder import TINY, Spelling, source_model

from resnext_convert.converter import checkpoint
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.staging import StagedFile, commit
from resnext_convert.converter.tensors import Array


def tiny_arrays(spelling: Spelling | None = None) -> dict[str, Array]:
    model = source_model(TINY, spelling)
    return assemble(match(model), model.tensors)


def save(arrays: Mapping[str, Array], path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    with StagedFile(path) as staged:
        checkpoint.write(arrays, staged.file, path.suffix, metadata)
        commit([staged])
    return path
