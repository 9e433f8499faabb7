"""Acceptance: every case that was recorded from real BVLC Caffe converts and reproduces the recording, or is refused.

The recordings hold what Caffe computed in float32 and in double on the same files. What is no network of the family is
refused as such; what is broken is refused although Caffe itself takes some of it without a word.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from repository import SHARED
from shared_data import shared

from resnext_convert.converter import checkpoint, pipeline
from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingFileError,
    NotResNeXtError,
    ShapeError,
    TruncatedError,
)
from resnext_convert.converter.records import ConversionReport
from resnext_convert.schemas.caffe_pb2 import NetParameter

pytestmark = pytest.mark.acceptance

GOLDEN = "golden/caffe"
CASES = sorted(path.parent.name for path in (SHARED / GOLDEN).glob("*/deploy.prototxt")) or ["none"]

# Single layers and plain chains of them, and blocks without a stem that share their weights.
NOT_FAMILY = {
    "m_shared_params",
    "n_bn_batchstats",
    "n_bn_scale0",
    "q_ip_variants",
    "r_eltwise",
    "u_scale_axes",
    "y_rect_dilated",
}
INCOMPLETE = {
    "s_extra_and_missing": "fc1_new",
    "s_truncated_layers": "layers of the net have no weights in the file (31): stage2_unit2_conv2",
}
NO_WEIGHTS = {"p_pool_sweep"}
CONVERTED = [case for case in CASES if case not in {*NOT_FAMILY, *INCOMPLETE, *NO_WEIGHTS}]


@dataclass(frozen=True)
class Files:
    """A pair of files of a case; without weights, the graph alone is read."""

    case: str
    prototxt: str = "deploy.prototxt"
    weights: str = ""

    def found(self) -> tuple[Path, Path, Path]:
        """The folder, the prototxt, the weights: by default the caffemodel, or the HDF5 file where there is none."""
        folder = shared(f"{GOLDEN}/{self.case}")
        weights = [folder / name for name in (self.weights, "weights.caffemodel", "weights.caffemodel.h5") if name]
        return folder, folder / self.prototxt, next(path for path in weights if path.exists())

    def convert(self, out: Path, golden: Path | None = None) -> ConversionReport:
        folder, prototxt, weights = self.found()
        return pipeline.convert("caffe", folder, out, prototxt=prototxt, weights=weights, oracle="none", golden=golden)


def recordings(case: str, out: Path) -> Path:
    """A case's inputs in one batch, and what Caffe computed for them, under the names that a proof takes."""
    with np.load(shared(f"{GOLDEN}/{case}") / "io.npz") as stored:
        tags = [name.removeprefix("input_") for name in stored.files if name.startswith("input_")]
        arrays: dict[str, Any] = {
            "in:data": np.concatenate([stored[f"input_{tag}"] for tag in tags]),
            "out:prob": np.concatenate([stored[f"{tag}__prob"] for tag in tags]),
            "ref64:prob": np.concatenate([stored[f"{tag}__prob__f64"] for tag in tags]),
        }
    assert arrays["out:prob"].dtype == np.float32
    assert arrays["ref64:prob"].dtype == np.float64
    np.savez(out, **arrays)
    return out


@pytest.mark.parametrize("case", CONVERTED)
def test_converts_and_reproduces_the_recording(case: str, tmp_path: Path) -> None:
    report = Files(case).convert(tmp_path / "out.pth", recordings(case, tmp_path / "golden.npz"))
    proof = report.verification
    assert proof is not None
    assert proof.passed, proof.failure
    assert proof.worst.max_of_peak < 1e-12
    compared = {recording.diff.name: recording.diff for recording in proof.golden}
    assert set(compared) == {"out:prob", "ref64:prob"}
    assert compared["ref64:prob"].within(1e-9)
    assert compared["out:prob"].within(2e-5)


@pytest.mark.parametrize("case", sorted(NOT_FAMILY & set(CASES)) or ["none"])
def test_what_is_not_of_the_family_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(NotResNeXtError) as refusal:
        Files(case).convert(tmp_path / "out.pth")
    assert refusal.value.exit_code == 4
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("case", INCOMPLETE)
def test_layers_without_weights_are_refused_where_caffe_is_silent(case: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        Files(case).convert(tmp_path / "out.pth")
    assert refusal.value.exit_code == 3
    assert INCOMPLETE[case] in str(refusal.value)


def test_a_net_of_layers_without_weights_is_refused(tmp_path: Path) -> None:
    prototxt = shared(f"{GOLDEN}/p_pool_sweep") / "deploy.prototxt"
    weights = tmp_path / "saved.caffemodel"
    weights.write_bytes(text_format.Parse(prototxt.read_text(), NetParameter()).SerializeToString())
    with pytest.raises(FormatError, match="a net without weights"):
        pipeline.convert("caffe", prototxt, tmp_path / "out.pth", weights=weights)


HDF5 = "weights.caffemodel.h5"
SIBLINGS = [
    [
        Files("a_cypw"),
        Files("a_cypw", weights=HDF5),
        Files("e_legacy4d"),
        Files("j_hdf5"),
        Files("g_mixed_inplace"),
        Files("g_noninplace"),
    ],
    [Files("a_cypw_sf1"), Files("e_with_diff")],
    [Files("b_soeaver_floor"), Files("c_round_mode_floor")],
    [Files("c_soeaver_ceil"), Files("c_ceil_mode_true")],
    [Files("d_v1"), Files("d_v1_mixed"), Files("d_v1", "upgraded_v2.prototxt", "upgraded_v2.caffemodel")],
    [
        Files("k_train"),
        Files("k_train", weights=HDF5),
        Files("k_train", "train_val.prototxt"),
        Files("k_train", "train_val.prototxt", HDF5),
    ],
    [Files("l_fig3c"), Files("l_fig3b"), Files("l_fig3a")],
]


@pytest.mark.parametrize("siblings", SIBLINGS, ids=lambda siblings: siblings[0].case)
def test_siblings_give_the_same_bits(siblings: list[Files], tmp_path: Path) -> None:
    reports, states = [], []
    for number, files in enumerate(siblings):
        reports.append(files.convert(tmp_path / f"{number}.pth"))
        states.append(checkpoint.read(tmp_path / f"{number}.pth"))
    for files, report, state in zip(siblings[1:], reports[1:], states[1:], strict=True):
        assert report.config == reports[0].config, files
        assert list(state) == list(states[0]), files
        for key, tensor in state.items():
            assert torch.equal(tensor, states[0][key]), f"{files}: {key}"


def test_rounding_is_the_prototxts_and_not_that_of_field_13(tmp_path: Path) -> None:
    floor = Files("b_soeaver_floor").convert(tmp_path / "floor.pth")
    ceil = Files("c_soeaver_ceil").convert(tmp_path / "ceil.pth")
    assert floor.config.stem_pool is not None
    assert floor.config.stem_pool.padding == (1, 1)
    assert not floor.config.stem_pool.ceil_mode
    assert ceil.config == replace(floor.config, stem_pool=replace(floor.config.stem_pool, ceil_mode=True))


def test_factor_of_a_real_training_is_divided_out(tmp_path: Path) -> None:
    """Caffe's own snapshot after 20 iterations: the factor is (1 - 0.999^20) / 0.001."""
    Files("k_train").convert(tmp_path / "out.pth")
    var = checkpoint.read(tmp_path / "out.pth")["bn_data.running_var"]
    assert ((var > 0.1) & (var < 10)).all()  # of pixels times 0.017


# What is said about each of the inputs that are broken, in Caffe's words where it has some; the class and the words.
BROKEN: dict[str, tuple[type[InputError], str]] = {
    "bad_group": (FormatError, "Number of output should be multiples of group"),
    "bias_added": (ShapeError, "Incompatible number of blobs for layer 'conv0' (2 vs. 1)"),
    "blob_data_too_short": (FormatError, "the number of values is not what the shape says"),
    "bn_mean_shape_1C11": (ShapeError, "Cannot copy param 0 weights from layer 'bn0'"),
    "bn_two_blobs": (ShapeError, "Incompatible number of blobs for layer 'bn0' (3 vs. 2)"),
    "both_layer_and_layers": (FormatError, "Refusing to upgrade inconsistent NetParameter input"),
    "classes_mismatch": (ShapeError, "expected 11 256, found 10 256"),
    "dup_top": (FormatError, "Top blob 'conv0' produced by multiple sources"),
    "duplicate_layer_names_in_prototxt": (FormatError, "2 layers have this name"),
    "eltwise_shape": (ShapeError, "bottom[0]: 1 64 16 16, bottom[1]: 1 64 8 8"),
    "empty_caffemodel": (FormatError, "the file is empty"),
    "global_pool_with_kernel": (FormatError, "With Global_pooling: true Filter size cannot specified"),
    "group_mismatch": (ShapeError, "expected 16 2 3 3, found 16 4 3 3"),
    "html_as_caffemodel": (FormatError, "it is a web page"),
    "ip_weight_as_N_K_1_1": (ShapeError, "expected 10 256, found 10 256 1 1"),
    "kernel_mismatch": (ShapeError, "expected 8 3 5 5, found 8 3 7 7"),
    "missing_file": (MissingFileError, "there is no such file"),
    "scale_bias_removed": (ShapeError, "Incompatible number of blobs for layer 'scale_bn_data' (1 vs. 2)"),
    "truncated_caffemodel": (TruncatedError, "the file ends inside a layer"),
    "unknown_bottom": (FormatError, "Unknown bottom blob 'nope'"),
    "unknown_layer_type": (FormatError, "Axpy"),
}
# Three are not broken here: the base pair itself; the field of a fork, whose weights were not recorded (those of
# b_soeaver_floor were, with the same field); and a layer that is stored twice, of which Caffe takes the last.
NOT_BROKEN = {"ok", "unknown_field_ceil_mode", "duplicate_layer_name_in_caffemodel"}


def broken_pair(case: str) -> tuple[Path, Path]:
    """The prototxt and the weights of one of `t_errors`; those without weights of their own go with the base pair's."""
    folder = shared(f"{GOLDEN}/t_errors")
    weights = json.loads((folder / "errors.json").read_bytes())[case]["weights"]
    return folder / f"{case}.prototxt", folder / (weights if weights != "-" else "../a_cypw_sf1/weights.caffemodel")


def test_every_broken_input_is_listed() -> None:
    recorded = json.loads((shared(f"{GOLDEN}/t_errors") / "errors.json").read_bytes())
    assert set(recorded) == set(BROKEN) | NOT_BROKEN
    assert len({words for _, words in BROKEN.values()}) == len(BROKEN)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_inputs_are_refused_each_with_its_own_message(case: str, tmp_path: Path) -> None:
    prototxt, weights = broken_pair(case)
    kind, words = BROKEN[case]
    with pytest.raises(InputError) as refusal:
        pipeline.convert("caffe", prototxt, tmp_path / "out.pth", weights=weights, oracle="none")
    assert type(refusal.value) is kind
    assert refusal.value.exit_code == 3
    assert words in str(refusal.value)
    assert refusal.value.file in {str(prototxt), str(weights)}
    assert not list(tmp_path.iterdir())


def test_the_last_copy_of_a_layer_wins(tmp_path: Path) -> None:
    prototxt, weights = broken_pair("duplicate_layer_name_in_caffemodel")
    copies = [layer for layer in NetParameter.FromString(weights.read_bytes()).layer if layer.name == "fc1"]
    first, last = (np.frombuffer(layer.blobs[1].data[0], "<f4") for layer in copies)
    assert not np.array_equal(first, last)
    report = pipeline.convert("caffe", prototxt, tmp_path / "out.pth", weights=weights, oracle="none")
    assert np.array_equal(checkpoint.read(tmp_path / "out.pth")["fc.bias"].numpy(), last)
    (warning,) = report.warnings
    assert "'fc1'" in warning
    assert "the last copy" in warning
