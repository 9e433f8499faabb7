"""A match and the numbers of both sides: what the tests of the matcher are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from graph_builder import SYMBOL
from single_node import ramp

from resnext_convert.converter.compare import compare
from resnext_convert.converter.errors import ConvertError
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.resnext.ledger import Binding
from resnext_convert.converter.resnext.match import Match, as_rows, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.runner import ModuleRunner
from resnext_convert.converter.tensors import Array

# Two float64 computations of the same sums in another order; 3e-15 of peak was the most that was measured here.
ROUNDING = 1e-12


def state_of(found: Match, model: SourceModel) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(values)) for key, values in assemble(found, model.tensors).items()}


def both_sides(found: Match, model: SourceModel, image: Array) -> dict[str, tuple[Array, Array]]:
    """(reference, module) for every activation, in float64."""
    values = dict(found.activations)
    reference = ReferenceExecutor(model.graph, model.tensors).run({"data": image}, values.values())
    module = ModuleRunner(found.config, state_of(found, model), torch.float64).run(image, values)
    reference[found.logits] = as_rows(reference[found.logits])
    return {name: (reference[value], module[name]) for name, value in values.items()}


def agreed(model: SourceModel, size: int = 33) -> Match:
    """The match, if both sides compute the same for every activation."""
    found = match(model)
    diffs = [compare(name, *pair) for name, pair in both_sides(found, model, ramp(2, 3, size, size + 2)).items()]
    assert [str(diff) for diff in diffs if not diff.within(ROUNDING)] == []
    return found


def bound(found: Match, target: str) -> Binding:
    return next(binding for binding in found.bindings if binding.target == target)


def refused(model: SourceModel, kind: type[ConvertError], says: str) -> ConvertError:
    with pytest.raises(kind, match=says) as error:
        match(model)
    assert error.value.file == str(SYMBOL)
    return error.value


def replaced(model: SourceModel, place: int, **changes: object) -> SourceModel:
    """The source with another node in a place."""
    nodes = list(model.graph.nodes)
    nodes[place] = replace(nodes[place], **changes)  # type: ignore[arg-type]
    return replace(model, graph=replace(model.graph, nodes=tuple(nodes)))


def place_of(model: SourceModel, kind: type, number: int = 0) -> int:
    return [place for place, node in enumerate(model.graph.nodes) if isinstance(node.attrs, kind)][number]
