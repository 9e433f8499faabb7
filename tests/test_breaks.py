"""Deliberate mistakes in mapping and semantics: the proof must notice each, and name where it begins.

Each break takes a right conversion of a recorded network and spoils one thing: the configuration (a wrong reading of
the graph) or the state dict (a wrong mapping). Top-1 and cosine are not used as evidence; for most of these mistakes
both stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from repository import FIXTURES

from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.mxnet.source import read_source
from resnext_convert.converter.preprocess import input_spec
from resnext_convert.converter.proof import VerificationReport
from resnext_convert.converter.resnext.config import BlockConfig, NormConfig, ResNeXtConfig, UnitConfig
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.verify import GATE, SENSITIVITY, _failure, _spread, prove

State = dict[str, torch.Tensor]


@dataclass
class Conversion:
    """A conversion that a break may spoil: the network that was read is ``model``, the rest is ours."""

    model: SourceModel
    match: Match
    state: State

    @property
    def config(self) -> ResNeXtConfig:
        return self.match.config

    @config.setter
    def config(self, config: ResNeXtConfig) -> None:
        self.match = replace(self.match, config=config)

    def change_block(self, stage: int, number: int, change: Callable[[BlockConfig], BlockConfig]) -> None:
        stages = [list(blocks) for blocks in self.config.stages]
        stages[stage][number] = change(stages[stage][number])
        self.config = replace(self.config, stages=tuple(tuple(blocks) for blocks in stages))

    def change_unit(self, stage: int, number: int, unit: int, change: Callable[[UnitConfig], UnitConfig]) -> None:
        def changed(block: BlockConfig) -> BlockConfig:
            units = list(block.units)
            units[unit] = change(units[unit])
            return replace(block, units=tuple(units))

        self.change_block(stage, number, changed)

    def swap(self, first: str, second: str) -> None:
        assert self.state[first].shape == self.state[second].shape
        assert not torch.equal(self.state[first], self.state[second])
        self.state[first], self.state[second] = self.state[second], self.state[first]


@cache
def _read(case: str) -> tuple[SourceModel, Match]:
    folder = FIXTURES / "mxnet" / "recordings" / case
    model = read_source(folder)
    return model, match(model)


def conversion(case: str) -> Conversion:
    model, found = _read(case)
    arrays = assemble(found, model.tensors)
    return Conversion(model, found, {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})


def proof(broken: Conversion) -> VerificationReport:
    return prove(broken.model, broken.match, broken.state, input_spec(broken.model, broken.match), oracle="none")


def eps(value: Callable[[float], float]) -> Callable[[UnitConfig], UnitConfig]:
    def change(unit: UnitConfig) -> UnitConfig:
        assert unit.norm is not None
        return replace(unit, norm=replace(unit.norm, eps=value(unit.norm.eps)))

    return change


def conv(**changes: Any) -> Callable[[UnitConfig], UnitConfig]:
    return lambda unit: replace(unit, conv=replace(unit.conv, **changes))


# Wrong readings of the graph.


def eps_everywhere(c: Conversion) -> None:
    """eps 1e-5 for 2e-5, in every normalisation but the input's."""
    for stage, blocks in enumerate(c.config.stages):
        for number, block in enumerate(blocks):
            for unit in range(len(block.units)):
                c.change_unit(stage, number, unit, eps(lambda value: 1e-5))


def eps_by_a_thousandth(c: Conversion) -> None:
    """One eps off by 0.1 %."""
    c.change_unit(2, 1, 0, eps(lambda value: value * 1.001))


def eps_of_the_input(c: Conversion) -> None:
    """eps of bn_data a hundred times too large, beside a variance in the thousands."""
    norm = c.config.data_norm
    assert isinstance(norm, NormConfig)
    c.config = replace(c.config, data_norm=replace(norm, eps=norm.eps * 100))


def eps_default_of_torch(c: Conversion) -> None:
    """eps absent read as PyTorch's default 1e-5, where MXNet's is 1e-3."""
    norm = c.config.data_norm
    assert isinstance(norm, NormConfig)
    assert norm.eps == float(np.float32(1e-3))
    c.config = replace(c.config, data_norm=replace(norm, eps=1e-5))


def stride_moved(c: Conversion) -> None:
    """The stride in the first 1x1 instead of the 3x3."""
    stride = c.config.stages[1][0].units[1].conv.stride
    assert stride == (2, 2)
    c.change_unit(1, 0, 0, conv(stride=stride))
    c.change_unit(1, 0, 1, conv(stride=(1, 1)))


def dilation_dropped(c: Conversion) -> None:
    """Dilation 2 with padding 2 read as the plain 3x3 with padding 1."""
    places = [
        (stage, number, unit)
        for stage, blocks in enumerate(c.config.stages)
        for number, block in enumerate(blocks)
        for unit, item in enumerate(block.units)
        if item.conv.dilation == (2, 2)
    ]
    assert places
    c.change_unit(*places[0], conv(dilation=(1, 1), padding=(1, 1)))


def full_for_valid(c: Conversion) -> None:
    """The stem's pooling rounded up instead of down."""
    assert c.config.stem_pool is not None
    assert not c.config.stem_pool.ceil_mode
    c.config = replace(c.config, stem_pool=replace(c.config.stem_pool, ceil_mode=True))


def valid_for_full(c: Conversion) -> None:
    """The stem's pooling rounded down instead of up."""
    assert c.config.stem_pool is not None
    assert c.config.stem_pool.ceil_mode
    c.config = replace(c.config, stem_pool=replace(c.config.stem_pool, ceil_mode=False))


def pool_padding_moved(c: Conversion) -> None:
    """Padding 0 and rounding up instead of padding 1 and rounding down: the same sizes, other windows."""
    assert c.config.stem_pool is not None
    c.config = replace(c.config, stem_pool=replace(c.config.stem_pool, padding=(0, 0), ceil_mode=True))


def padding_counted(c: Conversion) -> None:
    """Average pooling that counts its padding, where the source does not."""
    assert c.config.stem_pool is not None
    assert not c.config.stem_pool.count_include_pad
    c.config = replace(c.config, stem_pool=replace(c.config.stem_pool, count_include_pad=True))


def average_for_max(c: Conversion) -> None:
    """The stem's pooling averages instead of taking the maximum."""
    assert c.config.stem_pool is not None
    c.config = replace(c.config, stem_pool=replace(c.config.stem_pool, kind="avg"))


# Wrong mappings of tensors.


def gamma_one(c: Conversion) -> None:
    """A learned gamma taken as 1."""
    c.state["layer3.1.bn2.weight"] = torch.ones_like(c.state["layer3.1.bn2.weight"])


def ignored_gamma_used(c: Conversion) -> None:
    """fix_gamma overlooked: the stored gamma of bn_data applied."""
    stored = c.model.tensors["arg:bn_data_gamma"].numpy()
    assert not np.allclose(stored, 1)
    c.state["bn_data.weight"] = torch.from_numpy(np.array(stored))


def convolutions_swapped(c: Conversion) -> None:
    """Two convolutions of the same shape, in neighbouring blocks."""
    c.swap("layer3.0.conv3.weight", "layer3.1.conv3.weight")


def norm_biases_swapped(c: Conversion) -> None:
    """Two normalisations' biases, late in the network."""
    c.swap("layer3.1.bn1.bias", "layer3.1.bn2.bias")


def mean_and_bias_swapped(c: Conversion) -> None:
    """Of one normalisation, as a match by order would."""
    c.swap("layer2.0.bn3.running_mean", "layer2.0.bn3.bias")


def groups_permuted(c: Conversion) -> None:
    """The groups of a grouped convolution in another order."""
    weight = c.state["layer2.0.conv2.weight"]
    c.state["layer2.0.conv2.weight"] = weight.roll(weight.shape[0] // c.config.cardinality, 0)


def channels_reversed(c: Conversion) -> None:
    """RGB for BGR in the first convolution."""
    c.state["conv1.weight"] = c.state["conv1.weight"].flip(1)


def kernel_transposed(c: Conversion) -> None:
    """Height for width in one kernel."""
    c.state["layer1.0.conv2.weight"] = c.state["layer1.0.conv2.weight"].transpose(2, 3).contiguous()


def kernel_flipped(c: Conversion) -> None:
    """Convolution for cross-correlation in one kernel."""
    c.state["layer1.0.conv2.weight"] = c.state["layer1.0.conv2.weight"].flip(2, 3)


def rounded_to_half(c: Conversion) -> None:
    """One tensor through float16."""
    c.state["layer2.0.conv1.weight"] = c.state["layer2.0.conv1.weight"].half().float()


def one_ulp(c: Conversion) -> None:
    """The largest weight of one convolution off by the last bit of its float32."""
    weight = c.state["layer3.0.conv2.weight"].flatten()
    place = int(weight.abs().argmax())
    weight[place] = torch.nextafter(weight[place], torch.tensor(float("inf")))


def fc_rows_permuted(c: Conversion) -> None:
    """Classes in another order, weight and bias alike."""
    c.state["fc.weight"] = c.state["fc.weight"].roll(1, 0)
    c.state["fc.bias"] = c.state["fc.bias"].roll(1, 0)


def fc_bias_dropped(c: Conversion) -> None:
    """The classifier's bias taken as 0."""
    c.state["fc.bias"] = torch.zeros_like(c.state["fc.bias"])


def conv_bias_dropped(c: Conversion) -> None:
    """The bias of a convolution before a normalisation taken as 0."""
    c.state["layer1.0.conv2.bias"] = torch.zeros_like(c.state["layer1.0.conv2.bias"])


def variance_for_deviation(c: Conversion) -> None:
    """The variance stored where the deviation is meant."""
    c.state["layer1.0.bn1.running_var"] = c.state["layer1.0.bn1.running_var"].sqrt()


def variance_clamped(c: Conversion) -> None:
    """The smallest variance of a normalisation raised, as a clamp would."""
    var = c.state["layer3.1.bn3.running_var"]
    var[var.argmin()] += 1e-4


def not_a_number(c: Conversion) -> None:
    """One weight is NaN: NaN compares as nothing, and must not pass as equal."""
    c.state["layer3.0.conv1.weight"].view(-1)[0] = float("nan")


def gate_bias_dropped(c: Conversion) -> None:
    """A bias inside squeeze-and-excitation taken as 0."""
    c.state["layer1.0.se.fc2.bias"] = torch.zeros_like(c.state["layer1.0.se.fc2.bias"])


IMAGENET = "1.9.1-imagenet"

# The recording, the break, and the first activation that must differ.
BREAKS: list[tuple[str, Callable[[Conversion], None], str]] = [
    (IMAGENET, eps_everywhere, "layer1.0.bn1"),
    (IMAGENET, eps_by_a_thousandth, "layer3.1.bn1"),
    (IMAGENET, eps_of_the_input, "bn_data"),
    ("1.9.1-bn_defaults", eps_default_of_torch, "bn_data"),
    (IMAGENET, stride_moved, "layer2.0.conv1"),
    ("1.9.1-dilated", dilation_dropped, "layer2.0.conv2"),
    (IMAGENET, full_for_valid, "maxpool"),
    ("1.9.1-pool_full_pad", valid_for_full, "maxpool"),
    (IMAGENET, pool_padding_moved, "maxpool"),
    (IMAGENET, average_for_max, "maxpool"),
    ("1.9.1-pool_avg_noinc", padding_counted, "maxpool"),
    (IMAGENET, gamma_one, "layer3.1.bn2"),
    (IMAGENET, ignored_gamma_used, "bn_data"),
    (IMAGENET, convolutions_swapped, "layer3.0.conv3"),
    (IMAGENET, norm_biases_swapped, "layer3.1.bn1"),
    (IMAGENET, mean_and_bias_swapped, "layer2.0.bn3"),
    (IMAGENET, groups_permuted, "layer2.0.conv2"),
    (IMAGENET, channels_reversed, "conv1"),
    (IMAGENET, kernel_transposed, "layer1.0.conv2"),
    (IMAGENET, kernel_flipped, "layer1.0.conv2"),
    (IMAGENET, rounded_to_half, "layer2.0.conv1"),
    (IMAGENET, one_ulp, "layer3.0.conv2"),
    (IMAGENET, fc_rows_permuted, "fc"),
    (IMAGENET, fc_bias_dropped, "fc"),
    ("1.9.1-conv_bias", conv_bias_dropped, "layer1.0.conv2"),
    (IMAGENET, variance_for_deviation, "layer1.0.bn1"),
    (IMAGENET, variance_clamped, "layer3.1.bn3"),
    (IMAGENET, not_a_number, "layer3.0.conv1"),
    ("1.9.1-gluon_resnext_se", gate_bias_dropped, "layer1.0.se"),
]


@pytest.mark.parametrize("case", sorted({case for case, _, _ in BREAKS}))
def test_the_unbroken_conversion_is_proven(case: str) -> None:
    report = proof(conversion(case))
    assert report.passed, report.failure
    assert report.worst.max_of_peak < 1e-13


@pytest.mark.parametrize(("case", "spoil", "where"), BREAKS, ids=[spoil.__name__ for _, spoil, _ in BREAKS])
def test_each_mistake_is_noticed(case: str, spoil: Callable[[Conversion], None], where: str) -> None:
    broken = conversion(case)
    spoil(broken)
    report = proof(broken)
    assert not report.passed
    assert report.first_divergence is not None
    assert report.first_divergence.name == where
    assert report.worst.max_of_peak > GATE
    assert where in report.failure


def test_momentum_is_no_matter_of_inference() -> None:
    """It changes no output, so no comparison of outputs can guard it: its value is checked where it is mapped."""
    c = conversion(IMAGENET)
    c.change_unit(0, 0, 0, lambda unit: replace(unit, norm=replace(unit.norm, momentum=0.5) if unit.norm else None))
    assert proof(c).passed


def test_logits_that_do_not_depend_on_the_input_prove_nothing() -> None:
    """A dead network agrees with any other dead network."""
    c = conversion(IMAGENET)
    rows = [np.ones((1, 10)), np.ones((2, 10))]
    assert _spread([*rows, np.ones((1, 10))]) < SENSITIVITY
    report = replace(proof(c), sensitivity=1e-9)
    assert "prove nothing" in _failure(report)


def main() -> None:
    """Prints the table of docs/verification.md: `python tests/test_breaks.py`."""
    for case, spoil, where in BREAKS:
        broken = conversion(case)
        spoil(broken)
        what = (spoil.__doc__ or "").rstrip(".")
        print(f"| {what} | {where} | {proof(broken).worst.max_of_peak:.0e} |")


if __name__ == "__main__":
    main()
