"""The proof of weights that were rounded on purpose: each is the rounding of a proven one, and the outputs stay near.

The rounding is made here by other means than those that made the weights: by the definition, on the grid of the values
that the precision has, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from resnext_convert.converter.compare import TensorDiff, compare, worst
from resnext_convert.converter.proof import RoundingRecord
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.fold import Folded
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.runner import ModuleRunner, State
from resnext_convert.converter.tensors import Array


@dataclass(frozen=True, slots=True)
class Grid:
    """A binary format: bits of the significand (the hidden one included), and the exponent of the smallest normal."""

    bits: int
    smallest: int

    @property
    def roundoff(self) -> float:
        """The unit roundoff: what one rounding changes a normal value by at most, relatively."""
        return 2.0**-self.bits


GRIDS: Final[Mapping[torch.dtype, Grid]] = {
    torch.float16: Grid(11, -14),
    torch.bfloat16: Grid(8, -126),
    torch.float32: Grid(24, -126),
}

ROUNDINGS: Final = 5
"""Of a layer: kernel, mean, variance, gamma and beta each are rounded, and each moves the layer's output."""

SAFETY: Final = 6.0
"""How many times the square root of the number of roundings the logits may be off, in unit roundoffs. Roundings are
as often up as down, so that n of them grow like the square root of n and not like n (Higham and Mary, 2019). Measured
on networks of 17 to 152 layers, the factor is 3.1 at most (docs/verification.md)."""


def nearest(exact: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The values of the grid that are nearest, ties to even, in float64; the grid has no largest value."""
    exact = exact.double()
    _, exponent = torch.frexp(exact)  # exact = m * 2**exponent, 0.5 <= |m| < 1
    place = exponent.clamp(min=grid.smallest + 1) - grid.bits  # the exponent of the last bit
    return torch.ldexp(torch.round(torch.ldexp(exact, -place)), place)


def is_rounding(exact: torch.Tensor, published: torch.Tensor) -> bool:
    """Whether a tensor is the rounding of the exact one to its own precision, to the bit; integers must be equal."""
    if not published.is_floating_point():
        return published.dtype == exact.dtype and torch.equal(published, exact)
    if published.dtype not in GRIDS or published.shape != exact.shape:
        return False
    wanted, found = nearest(exact, GRIDS[published.dtype]), published.double()
    return torch.equal(wanted, found) and torch.equal(wanted.signbit(), found.signbit())


def precision_of(state: State) -> torch.dtype | None:
    """The one dtype of all floating tensors, if it is one that weights are rounded to."""
    found = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 and found <= GRIDS.keys() else None


class Rounded:
    """Published weights beside the exact ones, and how far their outputs are from the reference's.

    Args:
        match: the network.
        folded: how the checkpoint's inputs and outputs are related to the network's.
        exact: the state dict that is proven in float64.
        published: the same, rounded; read back from what was written.
    """

    def __init__(self, match: Match, folded: Folded, exact: State, published: State) -> None:
        self.match = match
        self.folded = folded
        self.dtype = published["fc.weight"].dtype
        self.wrong = next(
            (
                key
                for key in exact
                if (exact[key].is_floating_point() and published[key].dtype != self.dtype)
                or not is_rounding(exact[key], published[key])
            ),
            "",
        )
        self._tensors = len(exact)
        self._small = _small(exact, published)
        self._module = ModuleRunner(folded.config, published, torch.float64)
        self._diffs: list[TensorDiff] = []

    def compare(self, image: Array, reference: Array) -> None:
        """Runs the rounded weights in float64, and compares the logits with the reference's."""
        _, prepared = self.folded.feeds(image)
        logits = self.folded.logits(self._module.run(prepared, ["fc"])["fc"])
        self._diffs.append(compare("fc", reference, logits))

    def record(self) -> RoundingRecord:
        """What was found over all inputs."""
        layers = longest_path(self.match.config)
        subnormal, zero, flat = self._small
        return RoundingRecord(
            dtype=str(self.dtype).removeprefix("torch."),
            tensors=self._tensors,
            wrong=self.wrong,
            layers=layers,
            bound=SAFETY * math.sqrt(ROUNDINGS * layers) * GRIDS[self.dtype].roundoff
            if self.dtype in GRIDS
            else math.nan,
            worst=worst(self._diffs),
            subnormal=subnormal,
            zero=zero,
            flat=flat,
        )


def longest_path(config: ResNeXtConfig) -> int:
    """Layers with weights one behind the other: stem, units of all blocks, classifier."""
    return len(config.stem) + sum(len(block.units) for block in config.blocks()) + 1


def _small(exact: State, published: State) -> tuple[int, int, int]:
    """How many values are subnormal, how many have become 0, and how many of those are running variances."""
    subnormal = zero = flat = 0
    for key, tensor in published.items():
        if tensor.dtype not in GRIDS:
            continue
        values, before = tensor.double().abs(), exact[key]
        lost = int(((values == 0) & (before != 0)).sum())
        subnormal += int(((values > 0) & (values < 2.0 ** GRIDS[tensor.dtype].smallest)).sum())
        zero += lost
        flat += lost if key.endswith("running_var") else 0
    return subnormal, zero, flat
