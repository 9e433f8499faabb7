"""The cases on which other converters are silently wrong, each in a network recorded from real MXNet: exact here.

What goes wrong elsewhere was measured: `fix_gamma` ignored moves logits by up to 1.83, pooling `full` by 0.16, average
pooling with padding by 0.018, grouped and dilated convolution by 0.040.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from repository import FIXTURES

from resnext_convert.converter import pipeline
from resnext_convert.converter.resnext.config import BlockConfig, ResNeXtConfig
from resnext_convert.converter.resnext.ledger import Transform

FLOAT32_DEFAULT_EPS = 0.0010000000474974513  # 1e-3 as the float32 that MXNet's default is


def first(config: ResNeXtConfig) -> BlockConfig:
    return config.stages[0][0]


def fix_gamma_and_eps_absent(config: ResNeXtConfig) -> bool:
    return config.data_norm is not None and config.data_norm.eps == FLOAT32_DEFAULT_EPS


def pooling_full(config: ResNeXtConfig) -> bool:
    return config.stem_pool is not None and config.stem_pool.ceil_mode and config.stem_pool.padding == (1, 1)


def pooling_full_without_padding(config: ResNeXtConfig) -> bool:
    return config.stem_pool is not None and config.stem_pool.ceil_mode and config.stem_pool.padding == (0, 0)


def average_pooling_with_padding_not_counted(config: ResNeXtConfig) -> bool:
    pool = config.stem_pool
    return pool is not None and pool.kind == "avg" and pool.padding == (1, 1) and not pool.count_include_pad


def grouped_dilated_convolution_with_bias(config: ResNeXtConfig) -> bool:
    conv = first(config).units[1].conv
    return conv.groups == 4 and conv.dilation == (2, 2) and conv.bias


def excitation_by_convolutions(config: ResNeXtConfig) -> bool:
    return first(config).squeeze_excitation is not None


CASES: list[tuple[str, Callable[[ResNeXtConfig], bool]]] = [
    ("recordings/1.9.1-bn_defaults", fix_gamma_and_eps_absent),
    ("recordings/1.9.1-pool_full_pad", pooling_full),
    ("made/senet154", pooling_full_without_padding),
    ("recordings/1.9.1-pool_avg_noinc", average_pooling_with_padding_not_counted),
    ("made/grouped_dilated_bias", grouped_dilated_convolution_with_bias),
    ("recordings/1.9.1-gluon_resnext_se", excitation_by_convolutions),
    ("made/se_dense", excitation_by_convolutions),
]


@pytest.mark.parametrize(("case", "is_the_case"), CASES, ids=[f"{check.__name__}-{case}" for case, check in CASES])
def test_is_exact(case: str, is_the_case: Callable[[ResNeXtConfig], bool], tmp_path: Path) -> None:
    folder = FIXTURES / "mxnet" / case
    report = pipeline.convert("mxnet", folder / "model", tmp_path / "out.pth", oracle="none", golden=folder / "io.npz")
    assert is_the_case(report.config)
    proof = report.verification
    assert proof is not None
    assert proof.passed, proof.failure
    recorded = [recording.diff for recording in proof.golden if recording.diff.name.startswith("ref64:")]
    assert recorded
    assert all(diff.within(1e-12) for diff in recorded)


def test_an_absent_fix_gamma_ignores_the_stored_gamma(tmp_path: Path) -> None:
    report = pipeline.convert(
        "mxnet", FIXTURES / "mxnet/recordings/1.9.1-bn_defaults/model", tmp_path / "out.pth", verify=False
    )
    gamma = next(binding for binding in report.bindings if binding.target == "bn_data.weight")
    assert gamma.sources == ("arg:bn_data_gamma",)
    assert gamma.transform is Transform.ONES
