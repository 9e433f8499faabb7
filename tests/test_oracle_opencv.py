"""The OpenCV oracle: what it says without OpenCV; and with it, that it agrees with real Caffe wherever it is asked.

Tests marked ``opencv`` need OpenCV and let the oracle start its child process.
"""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

import caffe_writer as writer
import numpy as np
import pytest
from caffe_base import layer
from opencv_cases import CONV, GATES, INPUT, RECORDINGS, SENET, SHAPE, TINY, X, pair, vector, y
from repository import ROOT, SHARED
from shared_data import shared
from single_node import of_peak

from resnext_convert.converter.caffe.source import read_pair
from resnext_convert.converter.errors import ConvertError, InputError, MissingFileError, UsageError
from resnext_convert.converter.oracles import opencv as oracle
from resnext_convert.converter.oracles import opencv_text
from resnext_convert.converter.tensors import Array

NOISE = 2e-5
"""Of peak: what float32 outputs of these small networks differ from real Caffe's and from float64; measured 1.9e-5."""

with_opencv = pytest.mark.opencv


def recorded(folder: Path) -> dict[str, Array]:
    with np.load(folder / "io.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def any_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if OpenCV 4.14 were installed."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.14.0.94")


def only(package: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name != package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)


# --- without OpenCV -------------------------------------------------------------------------------------------------


def test_absent_opencv_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only("numpy", "2.0.0", monkeypatch)
    assert oracle.version() == ""
    assert oracle.available() == "OpenCV is not installed"
    with pytest.raises(UsageError, match="OpenCV is not installed"):
        oracle.run(*pair(tmp_path, ""), {}, ["data"])


@pytest.mark.parametrize("package", oracle.PACKAGES)
def test_any_of_its_packages_will_do(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(package, "4.8.0.74", monkeypatch)
    assert oracle.version() == "4.8.0.74"
    assert oracle.available() is None


@pytest.mark.parametrize("version", ["4.7.0.72", "4.0.0.21", "3.4.18.65", "5.0.0.93"])
def test_other_series_are_not_asked(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only("opencv-python", version, monkeypatch)
    assert oracle.available() == (
        f"OpenCV {version} is installed, and the oracle needs 4.8 or a later 4.x, which have a Caffe importer"
    )


def test_hdf5_is_not_asked_about(tmp_path: Path) -> None:
    weights = writer.hdf5(tmp_path / "net.caffemodel.h5", {"fc": [vector(2, 3)]})
    assert oracle.cannot_read(TINY, weights) == "OpenCV does not read weights in HDF5"


@pytest.mark.usefixtures("any_opencv")
def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    weights = writer.hdf5(tmp_path / "net.caffemodel.h5", {"fc": [vector(2, 3)]})
    with pytest.raises(UsageError, match="HDF5"):
        oracle.run(TINY, weights, {}, ["fc1"])


@pytest.mark.usefixtures("any_opencv")
def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.caffemodel"):
        oracle.run(TINY, tmp_path / "nowhere.caffemodel", {}, ["fc1"])
    with pytest.raises(MissingFileError, match=r"nowhere\.prototxt"):
        oracle.run(tmp_path / "nowhere.prototxt", TINY.with_suffix(".caffemodel"), {}, ["fc1"])


@pytest.mark.usefixtures("any_opencv")
def test_no_output_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no output"):
        oracle.run(TINY, TINY.with_suffix(".caffemodel"), {}, [])


@pytest.mark.usefixtures("any_opencv")
def test_unknown_output_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        oracle.run(TINY, TINY.with_suffix(".caffemodel"), {}, ["fc1", "fc7"])
    assert caught.value.found == "no layer makes fc7"
    assert caught.value.file == str(TINY)


@pytest.mark.usefixtures("any_opencv")
@pytest.mark.parametrize(
    ("module", "error", "found"),
    [
        ("raise OSError('libGL.so.1: cannot open')", UsageError, "libGL.so.1: cannot open"),
        ("import os; os.abort()", InputError, "exit status -6 without a word"),
        ("import sys; sys.exit('as it pleases')", InputError, "as it pleases"),
        ("error = OSError", InputError, "module 'cv2' has no attribute 'dnn'"),
    ],
)
def test_engine_that_breaks_breaks_the_child_alone(
    module: str, error: type[ConvertError], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error) as caught:
        oracle.run(TINY, TINY.with_suffix(".caffemodel"), {"data": vector(1, 3, 8, 8)}, ["fc1"])
    assert caught.value.found == found
    assert "cv2" not in sys.modules or sys.modules["cv2"].__file__ != str(tmp_path / "cv2.py")


# --- with OpenCV ----------------------------------------------------------------------------------------------------


@with_opencv
def test_opencv_is_available() -> None:
    assert oracle.available() is None
    assert oracle.version().startswith("4.")


AXPY = layer("Axpy", "y", "gates z data")


@with_opencv
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_axpy_is_what_it_is_in_its_fork(images: int, flat: bool, tmp_path: Path) -> None:
    """a * x + y, which OpenCV by itself takes for a * y + x."""
    text = GATES + layer("Power", "z", "data", text="power_param { shift: 2 }")
    text += AXPY if flat else AXPY.replace("gates", "gate")
    image = vector(images, *SHAPE[1:])
    found = oracle.run(*pair(tmp_path, text), {"data": image}, ["y"])["y"]
    assert of_peak(found, image.mean((2, 3), keepdims=True) * (image + 2) + image) < 1e-6


@with_opencv
def test_axpy_as_it_is_would_be_another_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv_text, "rewritten", lambda text: text)
    text = GATES + layer("Power", "z", "data", text="power_param { shift: 2 }") + AXPY.replace("gates", "gate")
    found = oracle.run(*pair(tmp_path, text), {"data": X}, ["y"])["y"]
    assert of_peak(found, X.mean((2, 3), keepdims=True) * X + X + 2) < 1e-6


@with_opencv
@pytest.mark.parametrize("prototxt", [TINY, SENET], ids=lambda path: path.stem)
def test_agrees_with_float64_on_the_nets_of_the_project(prototxt: Path) -> None:
    values = recorded(prototxt.parent)
    outputs = [name.removeprefix("ref64:") for name in values if name.startswith("ref64:")]
    found = oracle.run(prototxt, prototxt.with_suffix(".caffemodel"), {"data": values["in:data"]}, outputs)
    assert list(found) == outputs
    for name in outputs:
        assert found[name].dtype == np.float32
        assert of_peak(found[name], values[f"ref64:{name}"]) < NOISE


@dataclass(frozen=True)
class Case:
    """A recording of real Caffe: its prototxt, its weights, and the cases whose weights or outputs those are."""

    folder: Path
    weights: Path
    recording: Path

    def compare(self) -> None:
        """Asks for all outputs that were recorded, for every input."""
        model = read_pair(self.folder / "deploy.prototxt", self.weights)
        assert oracle.limits(model) is None
        values = recorded(self.recording)
        tags = [name.removeprefix("input_") for name in values if name.startswith("input_")]
        compared = 0
        for tag in tags:
            doubles = [name for name in values if name.startswith(f"{tag}__") and name.endswith("__f64")]
            outputs = [name.removeprefix(f"{tag}__").removesuffix("__f64") for name in doubles]
            feed = {model.graph.inputs[0]: values[f"input_{tag}"]}
            found = oracle.run(self.folder / "deploy.prototxt", self.weights, feed, outputs)
            for name in outputs:
                assert of_peak(found[name], values[f"{tag}__{name}"]) < NOISE, name
                assert of_peak(found[name], values[f"{tag}__{name}__f64"]) < NOISE, name
                compared += 1
        assert compared


OF_OTHERS = {
    "g_mixed_inplace": ("a_cypw", "a_cypw"),
    "c_round_mode_floor": ("b_soeaver_floor", "b_soeaver_floor"),
    "c_soeaver_ceil": ("b_soeaver_floor", "c_soeaver_ceil"),
    "d_v1_mixed": ("d_v1", "d_v1"),
}
KEPT = [
    "a_cypw", "b_soeaver_floor", "d_v1", "l_fig3a", "l_fig3b", "l_fig3c", "n_bn_scale0", "r_eltwise", *OF_OTHERS
]  # fmt: skip


@with_opencv
@pytest.mark.parametrize("name", KEPT)
def test_agrees_with_recordings_of_real_caffe(name: str) -> None:
    weights, recording = OF_OTHERS.get(name, (name, name))
    Case(RECORDINGS / name, RECORDINGS / weights / "weights.caffemodel", RECORDINGS / recording).compare()


GOLDEN = "golden/caffe"
CASES = sorted(path.parent.name for path in (SHARED / GOLDEN).glob("*/deploy.prototxt")) or ["none"]
NOT_ASKED = {
    "f_double": "double precision",
    "j_hdf5": "HDF5",
    "m_shared_params": "does not share parameters",
    "n_bn_batchstats": "no statistics of a batch",
    "q_ip_variants": "does not look at an InnerProduct's transpose",
    "u_scale_axes": "does not read a Scale's single number",
}
NOT_READ = {"s_extra_and_missing", "s_truncated_layers", "p_pool_sweep"}  # without all weights; without any


@with_opencv
@pytest.mark.acceptance
@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_READ])
def test_every_recording_is_agreed_with_or_not_asked_about(name: str) -> None:
    folder = shared(f"{GOLDEN}/{name}")
    weights = next(path for path in (folder / "weights.caffemodel", folder / "weights.caffemodel.h5") if path.exists())
    if name in NOT_ASKED:
        assert NOT_ASKED[name] in str(oracle.limits(read_pair(folder / "deploy.prototxt", weights)))
    else:
        Case(folder, weights, folder).compare()


@with_opencv
def test_every_pooling_that_was_recorded_is_agreed_with_but_outside_the_map(tmp_path: Path) -> None:
    folder = RECORDINGS / "p_pool_sweep"
    values = recorded(folder)
    outputs = [name.removeprefix("random__") for name in values if name.startswith("random__")]
    (tmp_path / "none.caffemodel").write_bytes(writer.net())
    feed = {"data": values["input_random"]}
    found = oracle.run(folder / "deploy.prototxt", tmp_path / "none.caffemodel", feed, outputs)
    assert len(outputs) > 70
    assert {name for name in outputs if of_peak(found[name], values[f"random__{name}"]) > 1e-6} == {"max_outside"}


@with_opencv
def test_forms_of_the_text_are_one_net(tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, text instead of a file, and the older names of an axis."""
    text = INPUT + layer("ReLU", "r", "data") + y("Concat", "concat_param { concat_dim: 2 }", "data r")
    expected = np.concatenate([X, X.clip(0)], 2)
    prototxt, weights = pair(tmp_path, "")
    new = text.replace("concat_dim", "axis")
    for content in (text, new, new.replace(" ", "\r\n"), "\ufeff" + new):
        prototxt.write_bytes(content.encode())
        for net in (prototxt, content):
            assert of_peak(oracle.run(net, weights, {"data": X}, ["y"])["y"], expected) == 0


@with_opencv
def test_slices_go_where_they_belong(tmp_path: Path) -> None:
    text = layer("Slice", "s", "data", "a b", "slice_param { slice_dim: 3 }")
    text += layer("Power", "c", "b", text="power_param { shift: 1 }") + y("Concat", "concat_param { axis: 3 }", "c a")
    found = oracle.run(*pair(tmp_path, text), {"data": X}, ["y", "c"])
    assert of_peak(found["y"], np.concatenate([X[..., 3:] + 1, X[..., :3]], 3)) < 1e-6
    assert of_peak(found["c"], X[..., 3:] + 1) < 1e-6


@with_opencv
def test_versions_of_a_blob_that_is_overwritten_are_told_apart(tmp_path: Path) -> None:
    text = "".join(layer("Power", "p", "data", "data", "power_param { shift: 1 }") for _ in range(2))
    found = oracle.run(*pair(tmp_path, text + layer("ReLU", "r", "data", "data")), {"data": X}, ["data", "data@p"])
    assert of_peak(found["data"], (X + 2).clip(0)) < 1e-6
    assert of_peak(found["data@p"], X + 2) < 1e-6


@with_opencv
@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (3, 4, 9, 2)])
def test_images_may_be_of_another_size_than_declared(shape: tuple[int, ...], tmp_path: Path) -> None:
    image = vector(*shape)
    text = y("Pooling", "pooling_param { pool: AVE global_pooling: true }")
    found = oracle.run(*pair(tmp_path, text), {"data": image}, ["y"])["y"]
    assert of_peak(found, image.mean((2, 3), keepdims=True)) < 1e-6


@with_opencv
def test_float64_images_are_rounded(tmp_path: Path) -> None:
    found = oracle.run(*pair(tmp_path, y("Split")), {"data": X.astype(np.float64)}, ["y"])["y"]
    assert found.dtype == np.float32
    assert np.array_equal(found, X)


@with_opencv
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (y("Own"), 'Can\'t create layer "y" of type "Own"'),
        (y("Convolution", CONV), "blobs"),
        (y("ReLU", "relu_param { engine: MKL2017 }"), "Failed to parse NetParameter"),
        (layer("ReLU", "y", "nothing"), 'Can\'t find output blob "nothing"'),
    ],
)
def test_refusals_are_in_opencvs_own_words(text: str, said: str, tmp_path: Path) -> None:
    prototxt, weights = pair(tmp_path, text)
    with pytest.raises(InputError) as caught:
        oracle.run(prototxt, weights, {"data": X}, ["y"])
    assert said in str(caught.value.found)
    assert "\n" not in str(caught.value.found)
    assert caught.value.file == str(prototxt)


@with_opencv
def test_unknown_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        oracle.run(*pair(tmp_path, y("ReLU")), {"image": X}, ["y"])
    assert "image" in str(caught.value.found)


@with_opencv
def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "cut.caffemodel"
    weights.write_bytes(TINY.with_suffix(".caffemodel").read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        oracle.run(TINY, weights, {"data": vector(1, 3, 64, 64)}, ["fc1"])
    assert "Failed to parse" in str(caught.value.found)


@with_opencv
def test_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    threads, modules = torch.get_num_threads(), set(sys.modules)
    monkeypatch.chdir(ROOT / "converter" / "oracles")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    oracle.run(TINY, TINY.with_suffix(".caffemodel"), {"data": vector(1, 3, 64, 64)}, ["fc1"])
    assert torch.get_num_threads() == threads
    assert "cv2" not in set(sys.modules) - modules
    assert capfd.readouterr() == ("", "")
