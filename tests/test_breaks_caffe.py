"""The deliberate mistakes of tests/test_breaks.py on Caffe sources, and those that only a Caffe reader can make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import test_breaks as shared_breaks
import torch
from repository import FIXTURES
from test_breaks import Conversion, proof

from resnext_convert.converter.caffe.source import read_pair, read_source
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.resnext.match import Match, match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.verify import GATE
from resnext_convert.schemas.caffe_pb2 import NetParameter, PoolingParameter

RECORDINGS = FIXTURES / "caffe" / "recordings"
CYPW, FLOOR, CEIL, BIAS, SENET = "a_cypw", "b_soeaver_floor", "c_soeaver_ceil", "d_v1", "senet154"
OF_FLOOR = {CEIL: FLOOR}  # recordings that share their weights


@cache
def _read(case: str) -> tuple[SourceModel, Match]:
    if case == SENET:
        model = read_source(FIXTURES / "caffe" / "made" / case)
    else:
        weights = RECORDINGS / OF_FLOOR.get(case, case) / "weights.caffemodel"
        model = read_pair(RECORDINGS / case / "deploy.prototxt", weights)
    return model, match(model)


def conversion(case: str) -> Conversion:
    model, found = _read(case)
    arrays = assemble(found, model.tensors)
    return Conversion(model, found, {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})


def factor_not_divided(c: Conversion) -> None:
    """The moving-average factor overlooked: sums taken for means."""
    for statistic in ("running_mean", "running_var"):
        binding = next(b for b in c.match.bindings if b.target == f"layer2.0.bn2.{statistic}")
        c.state[binding.target] = torch.from_numpy(c.model.tensors[binding.sources[0]].float64())


def factor_in_float32(c: Conversion) -> None:
    """One mean divided in float32."""
    key = "layer2.0.bn2.running_mean"
    assert c.state[key].dtype is torch.float64
    c.state[key] = c.state[key].float()


def scale_bias_dropped(c: Conversion) -> None:
    """The bias of a Scale layer taken as 0, its default."""
    c.state["layer3.1.bn3.bias"] = torch.zeros_like(c.state["layer3.1.bn3.bias"])


def ceil_read_as_floor(c: Conversion) -> None:
    """Caffe's rounding up, which is its default, read as PyTorch's rounding down."""
    pool = c.config.stem_pool
    assert pool is not None
    assert pool.ceil_mode
    c.config = replace(c.config, stem_pool=replace(pool, ceil_mode=False))


def rounding_taken_from_the_binary(c: Conversion) -> None:
    """Field 13 of the caffemodel's pooling layer believed: it says `ceil_mode: false`, and BVLC reads it as CEIL."""
    net = NetParameter()
    net.ParseFromString((RECORDINGS / FLOOR / "weights.caffemodel").read_bytes())
    stored = next(
        layer.pooling_param for layer in net.layer if layer.type == "Pooling" and layer.pooling_param.stride == 2
    )
    assert stored.HasField("round_mode")
    assert stored.round_mode == PoolingParameter.CEIL
    pool = c.config.stem_pool
    assert pool is not None
    assert not pool.ceil_mode
    c.config = replace(c.config, stem_pool=replace(pool, ceil_mode=stored.round_mode == PoolingParameter.CEIL))


def eps_as_mxnet_has_it(c: Conversion) -> None:
    """eps 2e-5 of the input's normalisation read as 1e-3, MXNet's default."""
    norm = c.config.data_norm
    assert norm is not None
    c.config = replace(c.config, data_norm=replace(norm, eps=1e-3))


def bn_data_dropped(c: Conversion) -> None:
    """BatchNorm on the data blob taken for the identity."""
    for key, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        c.state[f"bn_data.{key}"] = torch.full_like(c.state[f"bn_data.{key}"], value)


BREAKS: list[tuple[str, Callable[[Conversion], None], str]] = [
    (CYPW, factor_not_divided, "layer2.0.bn2"),
    (CYPW, factor_in_float32, "layer2.0.bn2"),
    (CYPW, scale_bias_dropped, "layer3.1.bn3"),
    (CEIL, ceil_read_as_floor, "maxpool"),
    (FLOOR, rounding_taken_from_the_binary, "maxpool"),
    (CYPW, eps_as_mxnet_has_it, "bn_data"),
    (CYPW, bn_data_dropped, "bn_data"),
    # those of tests/test_breaks.py
    (CYPW, shared_breaks.eps_everywhere, "layer1.0.bn1"),
    (CYPW, shared_breaks.eps_by_a_thousandth, "layer3.1.bn1"),
    (CYPW, shared_breaks.eps_of_the_input, "bn_data"),
    (CYPW, shared_breaks.stride_moved, "layer2.0.conv1"),
    (FLOOR, shared_breaks.full_for_valid, "maxpool"),
    (CEIL, shared_breaks.valid_for_full, "maxpool"),
    (FLOOR, shared_breaks.pool_padding_moved, "maxpool"),
    (CYPW, shared_breaks.average_for_max, "maxpool"),
    (CYPW, shared_breaks.gamma_one, "layer3.1.bn2"),
    (CYPW, shared_breaks.convolutions_swapped, "layer3.0.conv3"),
    (CYPW, shared_breaks.norm_biases_swapped, "layer3.1.bn1"),
    (CYPW, shared_breaks.mean_and_bias_swapped, "layer2.0.bn3"),
    (CYPW, shared_breaks.groups_permuted, "layer2.0.conv2"),
    (CYPW, shared_breaks.channels_reversed, "conv1"),
    (CYPW, shared_breaks.kernel_transposed, "layer1.0.conv2"),
    (CYPW, shared_breaks.kernel_flipped, "layer1.0.conv2"),
    (CYPW, shared_breaks.rounded_to_half, "layer2.0.conv1"),
    (CYPW, shared_breaks.one_ulp, "layer3.0.conv2"),
    (CYPW, shared_breaks.fc_rows_permuted, "fc"),
    (CYPW, shared_breaks.fc_bias_dropped, "fc"),
    (BIAS, shared_breaks.conv_bias_dropped, "layer1.0.conv2"),
    (CYPW, shared_breaks.variance_for_deviation, "layer1.0.bn1"),
    (CYPW, shared_breaks.variance_clamped, "layer3.1.bn3"),
    (CYPW, shared_breaks.not_a_number, "layer3.0.conv1"),
    (SENET, shared_breaks.gate_bias_dropped, "layer1.0.se"),
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


def test_the_factor_is_no_number_that_hides_its_absence() -> None:
    model, found = _read(CYPW)
    factors = {float(model.tensors[name].float64()[0]) for binding in found.bindings for name in binding.factors}
    assert all(abs(factor - 999.98) < 0.01 for factor in factors)
    assert factors


def main() -> None:
    """Prints the table of docs/verification.md for Caffe: `python tests/test_breaks_caffe.py`."""
    for case, spoil, where in BREAKS[:7]:
        broken = conversion(case)
        spoil(broken)
        what = (spoil.__doc__ or "").rstrip(".")
        print(f"| {what} | {where} | {proof(broken).worst.max_of_peak:.0e} |")


if __name__ == "__main__":
    main()
