"""The readers of Caffe's files and the reference executor against what real BVLC Caffe computed from the same files.

A recording holds every blob as it is after a forward pass in float32, and the outputs of Caffe in double. Differences
are in units of the largest value of the tensor. Broken files are refused, each with words of its own; what Caffe says
to them is recorded as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from caffe_base import CYPW, RECORDINGS, stored
from shared_data import shared
from single_node import of_peak

from resnext_convert.converter.caffe.binding import bind
from resnext_convert.converter.caffe.network import build_network
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.caffe.source import read_pair
from resnext_convert.converter.errors import (
    ConvertError,
    FormatError,
    MissingFileError,
    MissingTensorError,
    ShapeError,
    TruncatedError,
)
from resnext_convert.converter.graph import Graph
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array

FLOAT32_NOISE = 5e-5  # Caffe's own rounding, through 20 convolutions; measured over all recordings: 3.1e-5
FLOAT64_NOISE = 1e-13  # measured over all recordings: 1.8e-14
WEIGHTS, HDF5 = "weights.caffemodel", "weights.caffemodel.h5"

# Recordings whose weights, or whose recorded arrays, are those of another one (fixtures/caffe/README.md)
SAME_WEIGHTS = {
    "c_round_mode_floor": "b_soeaver_floor",
    "c_soeaver_ceil": "b_soeaver_floor",
    "d_v1_mixed": "d_v1",
    "g_mixed_inplace": "a_cypw",
}
SAME_ARRAYS = {"c_round_mode_floor": "b_soeaver_floor", "d_v1_mixed": "d_v1", "g_mixed_inplace": "a_cypw"}
WITHOUT_WEIGHTS = "p_pool_sweep"
GRAPHS_ONLY = "k_train"  # its weights are not among the fixtures

CASES = sorted(folder.name for folder in RECORDINGS.iterdir() if folder.is_dir())
assert len(CASES) > 15


def executor(prototxt: Path, weights: Path | None) -> ReferenceExecutor:
    if weights is not None:
        model = read_pair(prototxt, weights)
        return ReferenceExecutor(model.graph, model.tensors)
    bound = bind(build_network(read_prototxt(prototxt).net, prototxt), stored({}))
    return ReferenceExecutor(bound.graph, bound.tensors)


def at_the_end(graph: Graph, blob: str) -> str:
    """The value that a blob holds after a forward pass; of one that is fed, that is what was written over it last."""
    later = [value for value in graph.producers if value.startswith(f"{blob}@")]
    return later[-1] if blob in graph.inputs and later else blob


def differences(run: ReferenceExecutor, arrays: Path, tags: tuple[str, ...] = ()) -> dict[str, float]:
    """By recorded array (``photo__prob__f64``): the largest difference, of peak.

    Arrays of a tag in ``tags`` belong to the input ``random`` and to other weights; else a tag is that of an input.
    """
    with np.load(arrays) as recording:
        recorded = {name: recording[name] for name in recording.files}
    found = {}
    for tag in tags or [name.removeprefix("input_") for name in recorded if name.startswith("input_")]:
        image = recorded["input_random" if tags else f"input_{tag}"]
        wanted = {
            name: at_the_end(run.graph, name.removeprefix(f"{tag}__").removesuffix("__f64"))
            for name in recorded
            if name.startswith(f"{tag}__")
        }
        computed = run.run({run.graph.inputs[0]: image}, wanted.values())
        found.update({name: of_peak(computed[value], recorded[name]) for name, value in wanted.items()})
    return found


def check(found: dict[str, float]) -> int:
    """Holds each difference against its limit; returns how many there are of Caffe in double."""
    double = [name for name in found if name.endswith("__f64")]
    beyond = [name for name in found if not found[name] <= (FLOAT64_NOISE if name in double else FLOAT32_NOISE)]
    assert not beyond, {name: found[name] for name in beyond}
    assert len(found) > len(double)
    return len(double)


@pytest.mark.parametrize("case", sorted(set(CASES) - {GRAPHS_ONLY}))
def test_recording(case: str) -> None:
    weights = None if case == WITHOUT_WEIGHTS else RECORDINGS / SAME_WEIGHTS.get(case, case) / WEIGHTS
    run = executor(RECORDINGS / case / "deploy.prototxt", weights)
    double = check(differences(run, RECORDINGS / SAME_ARRAYS.get(case, case) / "io.npz"))
    assert double >= 1 or case == WITHOUT_WEIGHTS


def test_rounding_matters() -> None:
    """The weights of the net that rounds down, in the one that rounds up: the recording tells them apart."""
    run = executor(RECORDINGS / "c_soeaver_ceil" / "deploy.prototxt", RECORDINGS / "b_soeaver_floor" / WEIGHTS)
    found = differences(run, RECORDINGS / "c_soeaver_ceil" / "io.npz")
    with pytest.raises(AssertionError):
        check(differences(run, RECORDINGS / "b_soeaver_floor" / "io.npz"))
    assert check(found) == 1


@pytest.mark.parametrize("name", ["conflict.caffemodel", "owner_only.caffemodel", HDF5])
def test_shared_weights(name: str) -> None:
    folder = RECORDINGS / "m_shared_params"
    tag = {HDF5: "random"}.get(name, name.removesuffix(".caffemodel"))
    run = executor(folder / "deploy.prototxt", folder / name)
    found = differences(run, folder / "io.npz", (tag,))
    assert found
    assert max(found.values()) < 1e-6
    if tag == "conflict":
        plain = executor(folder / "deploy.prototxt", folder / WEIGHTS)
        assert min(differences(plain, folder / "io.npz", (tag,)).values()) > 1e-3


# All of them


@dataclass(frozen=True)
class Pair:
    """Two files of a case of the shared recordings."""

    case: str
    weights: str = WEIGHTS
    prototxt: str = "deploy.prototxt"

    def executor(self) -> ReferenceExecutor:
        folder = shared("golden/caffe") / self.case
        return executor(folder / self.prototxt, folder / self.weights)


@pytest.mark.acceptance
def test_every_recording() -> None:
    """All but the two with missing layers, which are among the broken ones."""
    golden = shared("golden/caffe")
    cases = sorted(path.parent.name for path in golden.glob("*/io.npz") if not path.parent.name.startswith("s_"))
    assert len(cases) == 35
    double, worst = 0, dict.fromkeys(("__f64", ""), 0.0)
    for case in cases:
        weights = next((golden / case / name for name in (WEIGHTS, HDF5) if (golden / case / name).exists()), None)
        assert (weights is None) == (case == WITHOUT_WEIGHTS)
        found = differences(executor(golden / case / "deploy.prototxt", weights), golden / case / "io.npz")
        double += check(found)
        for suffix in worst:
            worst[suffix] = max(worst[suffix], *(found[name] for name in found if name.endswith(suffix)), 0.0)
    assert double == 92
    print(f"worst in double {worst['__f64']:.1e}, of all {worst['']:.1e} of peak")


SIBLINGS: dict[str, list[Pair]] = {
    "a_cypw": [
        Pair("a_cypw"),
        Pair("a_cypw", HDF5),
        Pair("e_legacy4d"),
        Pair("j_hdf5", HDF5),
        Pair("g_mixed_inplace"),
        Pair("g_noninplace"),
    ],
    "a_cypw_sf1": [
        Pair("a_cypw_sf1"),
        Pair("e_with_diff"),
        Pair("t_errors", "../a_cypw_sf1/weights.caffemodel", "ok.prototxt"),
    ],
    "b_soeaver_floor": [
        Pair("b_soeaver_floor"),
        Pair("c_round_mode_floor"),
        Pair("c_soeaver_ceil", prototxt="../b_soeaver_floor/deploy.prototxt"),
    ],
    "c_soeaver_ceil": [Pair("c_soeaver_ceil"), Pair("c_ceil_mode_true")],
    "d_v1": [Pair("d_v1"), Pair("d_v1_mixed"), Pair("d_v1", "upgraded_v2.caffemodel", "upgraded_v2.prototxt")],
    "k_train": [
        Pair("k_train"),
        Pair("k_train", HDF5),
        Pair("k_train", prototxt="train_val.prototxt"),
        Pair("k_train", HDF5, "train_val.prototxt"),
    ],
    "m_shared_params": [
        Pair("m_shared_params"),
        Pair("m_shared_params", HDF5),
        Pair("m_shared_params", "owner_only.caffemodel"),
    ],
}


@pytest.mark.acceptance
@pytest.mark.parametrize("case", SIBLINGS)
def test_siblings_are_equal_bit_by_bit(case: str) -> None:
    outputs = [output(pair, case) for pair in SIBLINGS[case]]
    for pair, other in zip(SIBLINGS[case], outputs, strict=True):
        assert np.array_equal(outputs[0], other), pair
    assert np.ptp(outputs[0]) > 0


@pytest.mark.acceptance
def test_the_three_forms_of_figure_3_are_equal() -> None:
    grouped, *others = (output(Pair(case), "l_fig3c") for case in ("l_fig3c", "l_fig3b", "l_fig3a"))
    assert all(of_peak(other, grouped) < FLOAT64_NOISE for other in others)


@pytest.mark.acceptance
def test_what_differs_differs() -> None:
    floor = output(Pair("b_soeaver_floor"), "b_soeaver_floor")
    assert of_peak(output(Pair("c_soeaver_ceil"), "b_soeaver_floor"), floor) > 1e-3
    plain = output(Pair("m_shared_params"), "m_shared_params")
    assert of_peak(output(Pair("m_shared_params", "conflict.caffemodel"), "m_shared_params"), plain) > 1e-3


def output(pair: Pair, case: str) -> Array:
    """What the pair makes of an input of the case."""
    run = pair.executor()
    with np.load(shared("golden/caffe") / case / "io.npz") as recording:
        image = recording["input_random"]
    (value,) = run.graph.outputs
    return run.run({run.graph.inputs[0]: image}, [value])[value]


# Broken files

REFUSED: dict[str, tuple[type[ConvertError], str]] = {
    "bad_group": (FormatError, "Number of output should be multiples of group"),
    "bias_added": (ShapeError, "Incompatible number of blobs for layer 'conv0' (2 vs. 1) (19 more"),
    "blob_data_too_short": (FormatError, "the number of values is not what the shape says"),
    "bn_mean_shape_1C11": (ShapeError, "Cannot copy param 0 weights from layer 'bn0'; shape mismatch"),
    "bn_two_blobs": (ShapeError, "Incompatible number of blobs for layer 'bn0' (3 vs. 2)"),
    "both_layer_and_layers": (FormatError, "both 'layer' and 'layers'"),
    "classes_mismatch": (ShapeError, "Cannot copy param 0 weights from layer 'fc1'; shape mismatch (1 more"),
    "dup_top": (FormatError, "Top blob 'conv0' produced by multiple sources"),
    "duplicate_layer_names_in_prototxt": (FormatError, "2 layers have this name"),
    "eltwise_shape": (ShapeError, "all bottoms must have the same shape"),
    "empty_caffemodel": (FormatError, "the file is empty"),
    "global_pool_with_kernel": (FormatError, "With Global_pooling: true Filter size cannot specified"),
    "group_mismatch": (
        ShapeError,
        "Cannot copy param 0 weights from layer 'stage1_unit1_conv2'; shape mismatch (4 more",
    ),
    "html_as_caffemodel": (FormatError, "it is a web page"),
    "ip_weight_as_N_K_1_1": (ShapeError, "Cannot copy param 0 weights from layer 'fc1'; shape mismatch"),
    "kernel_mismatch": (ShapeError, "Cannot copy param 0 weights from layer 'conv0'; shape mismatch"),
    "missing_file": (MissingFileError, "there is no such file"),
    "scale_bias_removed": (ShapeError, "Incompatible number of blobs for layer 'scale_bn_data' (1 vs. 2)"),
    "truncated_caffemodel": (TruncatedError, "the file ends inside a layer"),
    "unknown_bottom": (FormatError, "Unknown bottom blob 'nope'"),
    "unknown_field_ceil_mode": (MissingTensorError, "layers of the net have no weights in the file (52)"),
    "unknown_layer_type": (FormatError, "Axpy Layer takes another number of blobs"),
}
"""The last but one is a net that is right, beside weights of another."""

# In a_cypw's net, which has 27 convolutions and not 20, more layers do not fit.
REFUSED_OF_CYPW = REFUSED | {
    "bias_added": (ShapeError, "Incompatible number of blobs for layer 'conv0' (2 vs. 1) (25 more"),
    "group_mismatch": (
        ShapeError,
        "Cannot copy param 0 weights from layer 'stage1_unit1_conv2'; shape mismatch (6 more",
    ),
}
CAFFE_TAKES_IT = {"duplicate_layer_names_in_prototxt", "empty_caffemodel", "html_as_caffemodel"}


def refusal(prototxt: Path, weights: Path, kind: type[ConvertError], words: str) -> ConvertError:
    with pytest.raises(ConvertError) as refused:
        read_pair(prototxt, weights)
    assert type(refused.value) is kind
    assert words in refused.value.problem
    assert refused.value.hint
    assert refused.value.exit_code == 3
    assert refused.value.file in {str(prototxt), str(weights)}
    return refused.value


BROKEN = json.loads((RECORDINGS / "errors.json").read_bytes())
assert set(BROKEN) < set(REFUSED)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_nets(case: str, tmp_path: Path) -> None:
    change = BROKEN[case]
    text = (CYPW / "deploy.prototxt").read_text()
    broken = tmp_path / "broken.prototxt"
    broken.write_text(text.replace(change["replace"], change["by"], change["count"]))
    assert broken.read_text() != text
    refusal(broken, CYPW / WEIGHTS, *REFUSED_OF_CYPW[case])


@pytest.mark.acceptance
def test_every_broken_pair_is_refused_with_words_of_its_own() -> None:
    folder = shared("golden/caffe/t_errors")
    recorded = json.loads((folder / "errors.json").read_bytes())
    assert set(recorded) == {*REFUSED, "ok", "duplicate_layer_name_in_caffemodel"}
    said = {}
    for case, expected in REFUSED.items():
        stated = recorded[case]["weights"]
        weights = folder / ("../a_cypw_sf1/weights.caffemodel" if stated == "-" else stated)
        error = refusal(folder / recorded[case]["prototxt"], weights, *expected)
        said[case] = f"{error.place}: {error.problem}, {error.expected}, {error.found}"
    assert len(set(said.values())) == len(REFUSED)
    assert {case for case in REFUSED if recorded[case]["ok"]} == CAFFE_TAKES_IT


@pytest.mark.acceptance
def test_of_a_layer_that_is_there_twice_the_last_copy_counts() -> None:
    """Caffe takes it, and so do we, with a warning."""
    folder = shared("golden/caffe/t_errors")
    name = "duplicate_layer_name_in_caffemodel"
    twice = read_pair(folder / f"{name}.prototxt", folder / f"{name}.caffemodel")
    once = read_pair(folder / "ok.prototxt", folder.parent / "a_cypw_sf1" / WEIGHTS)
    assert list(twice.tensors) == list(once.tensors)
    changed = [
        tensor for tensor in once.tensors if (twice.tensors[tensor].numpy() != once.tensors[tensor].numpy()).any()
    ]
    assert changed
    assert {tensor.partition("[")[0] for tensor in changed} == {"fc1"}
    assert any("'fc1' is there 2 times" in warning for warning in twice.origin.warnings)


@pytest.mark.acceptance
def test_a_renamed_layer_is_refused() -> None:
    folder = shared("golden/caffe/s_extra_and_missing")
    error = refusal(folder / "deploy.prototxt", folder / WEIGHTS, MissingTensorError, "in the file (1): fc1_new")
    assert error.found is not None
    assert error.found.endswith("layers that the net does not have: fc1")
    assert error.hint is not None
    assert "renamed" in error.hint


@pytest.mark.acceptance
def test_a_file_that_is_cut_at_a_layers_end_is_refused() -> None:
    folder = shared("golden/caffe/s_truncated_layers")
    error = refusal(folder / "deploy.prototxt", folder / WEIGHTS, MissingTensorError, "(31): stage2_unit2_conv2, ")
    assert error.hint is not None
    assert "behind 'scale_stage2_unit2_bn1': the file looks cut off" in error.hint
