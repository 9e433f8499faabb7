"""The maker of calibrated Caffe weights keeps its promises, computes what Caffe computes, and made good fixtures."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import calibrated_caffe
import numpy as np
import pytest
from calibrated_weights import LOGITS_STD
from repository import FIXTURES, ROOT

from resnext_convert.schemas.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter

CAFFE = FIXTURES / "caffe"
RECORDINGS = CAFFE / "recordings"
MADE = [CAFFE / "resnext-tiny", *sorted((CAFFE / "made").iterdir())]
folders = pytest.mark.parametrize("folder", MADE, ids=lambda folder: folder.name)


def the(folder: Path, suffix: str) -> Path:
    (found,) = folder.glob(f"*{suffix}")
    return found


def stored(caffemodel: Path) -> dict[str, LayerParameter]:
    return {layer.name: layer for layer in NetParameter.FromString(caffemodel.read_bytes()).layer}


def blobs(caffemodel: Path) -> dict[str, list[np.ndarray]]:
    """The numbers of each layer, by the schema and nothing else."""
    return {
        name: [np.frombuffer(b"".join(blob.data), "<f4").reshape(blob.shape.dim).copy() for blob in layer.blobs]
        for name, layer in stored(caffemodel).items()
    }


@folders
def test_weights_are_repeatable_and_in_range(folder: Path, tmp_path: Path) -> None:
    prototxt = the(folder, ".prototxt")
    first, again, other = (tmp_path / f"{name}.caffemodel" for name in ("first", "again", "other"))
    size = calibrated_caffe.read_net(prototxt).shape[2]
    summary = calibrated_caffe.make(prototxt, first, image_size=size)
    calibrated_caffe.make(prototxt, again, image_size=size)
    calibrated_caffe.make(prototxt, other, image_size=size, seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert summary.logits_std == pytest.approx(LOGITS_STD, rel=0.01)
    assert summary.spread > 0.1
    assert summary.in_range > 0.95
    assert 0.99e-3 < summary.moving_var[0] < 3e-3
    assert 3e-2 < summary.moving_var[2] < 1.01e-1
    assert 1 < summary.largest < 40


def test_every_layer_is_written_with_what_the_prototxt_says(tmp_path: Path) -> None:
    prototxt = the(MADE[0], ".prototxt")
    calibrated_caffe.make(prototxt, tmp_path / "weights.caffemodel", image_size=64)
    written = stored(tmp_path / "weights.caffemodel")
    declared = {layer.name: layer for layer in calibrated_caffe.read_net(prototxt).layers}
    assert list(written) == list(declared)
    for name, layer in written.items():
        assert len(layer.blobs) == {"Convolution": 1, "BatchNorm": 3, "Scale": 2, "InnerProduct": 2}.get(layer.type, 0)
        del layer.blobs[:]
        assert layer == declared[name]


def test_statistics_are_multiplied_by_the_factor(tmp_path: Path) -> None:
    prototxt = the(MADE[0], ".prototxt")
    calibrated_caffe.make(prototxt, tmp_path / "one", image_size=64, factor=1)
    calibrated_caffe.make(prototxt, tmp_path / "many", image_size=64, factor=999.98)
    one, many = blobs(tmp_path / "one"), blobs(tmp_path / "many")
    norms = [name for name, layer in stored(tmp_path / "one").items() if layer.type == "BatchNorm"]
    assert len(norms) == 21
    for name in norms:
        assert one[name][2] == np.float32(1)
        assert many[name][2] == np.float32(999.98)
        for plain, multiplied in zip(one[name][:2], many[name][:2], strict=True):
            assert np.abs(multiplied / 999.98 - plain).max() < 2e-4 * np.abs(plain).max()  # two walks, 16 bits each


def test_field_13_is_what_the_fork_writes(tmp_path: Path) -> None:
    text = the(MADE[0], ".prototxt").read_text()
    for ceil, field in (("false", PoolingParameter.CEIL), ("true", PoolingParameter.FLOOR)):
        prototxt = tmp_path / "deploy.prototxt"
        prototxt.write_text(
            text.replace("kernel_size: 3 stride: 2 }", f"kernel_size: 3 stride: 2 ceil_mode: {ceil} }}")
        )
        calibrated_caffe.make(prototxt, tmp_path / "weights.caffemodel", image_size=64)
        pool = stored(tmp_path / "weights.caffemodel")["pooling0"].pooling_param
        assert pool.HasField("round_mode")
        assert pool.round_mode == field
        assert not pool.HasField("ceil_mode")


def test_the_command(tmp_path: Path) -> None:
    script, out = ROOT / "tests" / "calibrated_caffe.py", tmp_path / "weights.caffemodel"
    command = [sys.executable, str(script), str(the(MADE[0], ".prototxt")), str(out), "--image-size=64", "--factor=2"]
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert summary["logits_std"] == pytest.approx(LOGITS_STD, rel=0.01)
    assert blobs(out)["bn0"][2] == 2


@pytest.mark.parametrize(
    ("case", "weights"),
    [
        ("a_cypw", "a_cypw"),
        ("b_soeaver_floor", "b_soeaver_floor"),
        ("c_soeaver_ceil", "b_soeaver_floor"),
        ("l_fig3c", "l_fig3c"),
    ],
)
def test_the_walk_computes_what_real_caffe_computed(case: str, weights: str) -> None:
    net = calibrated_caffe.read_net(RECORDINGS / case / "deploy.prototxt")
    with np.load(RECORDINGS / case / "io.npz") as recorded:
        image, prob = recorded["input_photo"], recorded["photo__prob__f64"]
    found = calibrated_caffe.run(net, blobs(RECORDINGS / weights / "weights.caffemodel"), image.astype(np.float64))
    assert np.abs(found["prob"] - prob).max() < 1e-12 * prob.max()


# -- the fixtures that were made with it ----------------------------------------------------------------------------


@folders
def test_folder_is_complete_and_small(folder: Path) -> None:
    sizes = {file.suffix: file.stat().st_size for file in folder.iterdir()}
    assert set(sizes) == {".prototxt", ".caffemodel", ".npz"}
    assert sum(sizes.values()) < 150_000


def test_readme_names_every_folder() -> None:
    text = (CAFFE / "README.md").read_text()
    cases = [folder for folder in RECORDINGS.iterdir() if folder.is_dir()]
    assert len(cases) == 18
    for folder in [*cases, *MADE]:
        assert f"`{folder.name}`" in text or f"`{folder.relative_to(CAFFE)}/`" in text


def test_recordings_are_small_together() -> None:
    assert sum(file.stat().st_size for file in RECORDINGS.rglob("*") if file.is_file()) < 3_000_000


@folders
def test_recording_is_complete_and_tells_images_and_classes_apart(folder: Path) -> None:
    with np.load(folder / "io.npz") as recorded:
        assert recorded["in:data"].dtype == np.float32
        names = [name.removeprefix("ref64:") for name in recorded.files if name.startswith("ref64:")]
        assert names == ["classifier" if folder.name == "senet154" else "fc1", "prob"]
        for name in names:
            single, double = recorded[f"out:{name}"], recorded[f"ref64:{name}"]
            assert (single.dtype, double.dtype) == (np.float32, np.float64)
            assert single.shape == double.shape == (2, 10)
            assert np.abs(single - double).max() < 1e-4 * np.abs(double).max()
        logits = recorded[f"ref64:{names[0]}"]
    assert np.abs(logits[0] - logits[1]).max() > 0.1 * np.abs(logits).max()
    assert np.diff(np.sort(logits, axis=1)).min() > 1e-4


@folders
def test_no_value_is_one_that_hides_a_mistake(folder: Path) -> None:
    weights, layers = blobs(the(folder, ".caffemodel")), stored(the(folder, ".caffemodel"))
    for name, arrays in weights.items():
        match layers[name].type:
            case "BatchNorm":
                mean, var, factor = arrays
                assert np.all(mean != 0)
                if name != "bn_data":
                    assert 0.99e-3 < (var / factor).min() <= (var / factor).max() < 1.01e-1, name
            case "Scale":
                gamma, beta = arrays
                assert not np.any(gamma == 1)
                assert np.all(beta != 0)
            case "Convolution" | "InnerProduct":
                assert not np.array_equal(arrays[0], arrays[0].astype(np.float16)), name
                assert all(np.all(bias != 0) for bias in arrays[1:])
    named = [(name, array) for name, arrays in weights.items() for array in arrays if array.size > 1]
    for (one, left), (other, right) in itertools.combinations(named, 2):
        assert left.shape != right.shape or not np.allclose(left, right, rtol=0.01), f"{one} and {other}"
