"""The MXNet oracle: what it says without MXNet, and with it, that it is the real engine and a quiet neighbour.

Tests marked ``mxnet`` need MXNet 1.9.1 and let the oracle start its child process; none imports MXNet here.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import mxnet_params_writer as writer
import numpy as np
import pytest
from repository import FIXTURES, ROOT

from resnext_convert.converter.errors import InputError, MissingFileError, UsageError
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.oracles import mxnet as oracle
from resnext_convert.converter.tensors import Array

TINY = FIXTURES / "resnext-tiny"
SYMBOL, PARAMS = TINY / "resnext-tiny-symbol.json", TINY / "resnext-tiny-0000.params"
RUNNING = FIXTURES / "mxnet" / "made" / "running_names"
RECORDINGS = [*sorted((FIXTURES / "mxnet" / "made").iterdir()), *sorted((FIXTURES / "mxnet" / "recordings").iterdir())]
HEADS = ["fc1_output", "softmax_output"]

with_mxnet = pytest.mark.mxnet


def recorded(folder: Path) -> dict[str, Array]:
    with np.load(folder / "io.npz") as archive:
        return dict(archive)


def stored() -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in read_params(PARAMS).tensors.items()}


def params_file(path: Path, arrays: dict[str, Array], layout: str = "V2") -> Path:
    records = [writer.dense(array, layout) for array in arrays.values()]
    path.write_bytes(writer.params_list(records, list(arrays)))
    return path


def logits(params: Path, **options: object) -> Array:
    feed = {"data": recorded(TINY)["in:data"]}
    return oracle.run(SYMBOL, params, feed, ["fc1_output"], **options)["fc1_output"]  # type: ignore[arg-type]


@pytest.fixture
def without_mxnet(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)


@pytest.fixture
def any_mxnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if MXNet 1.9.1 were installed."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.9.1")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.1")


# --- without MXNet ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_mxnet")
def test_absent_mxnet_is_a_usage_error() -> None:
    assert oracle.version() == ""
    assert oracle.available() == "MXNet is not installed"
    with pytest.raises(UsageError, match="MXNet is not installed"):
        logits(PARAMS)


def test_other_series_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0b1")
    assert oracle.available() == "MXNet 2.0.0b1 is installed, and the oracle needs 1.9.x"


@pytest.mark.usefixtures("any_mxnet")
def test_system_libraries_are_looked_for_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    assert oracle.available() is None
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    assert oracle.available() == "MXNet needs the system libraries libgomp and libquadmath"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert oracle.available() is None


@pytest.mark.usefixtures("any_mxnet")
def test_zip_of_arrays_is_a_usage_error(tmp_path: Path) -> None:
    assert oracle.cannot_read(PARAMS) is None
    path = tmp_path / "model.params"
    path.write_bytes(writer.zip_of({"a": writer.npy(np.ones(2, np.float32))}))
    assert "zip of arrays" in str(oracle.cannot_read(path))
    with pytest.raises(UsageError, match="zip of arrays"):
        logits(path)


@pytest.mark.usefixtures("any_mxnet")
def test_absent_params_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.params"):
        logits(tmp_path / "nowhere.params")


@pytest.mark.usefixtures("any_mxnet")
def test_no_output_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no output"):
        oracle.run(SYMBOL, PARAMS, {}, [])


@pytest.mark.usefixtures("any_mxnet")
@pytest.mark.parametrize(
    ("module", "error", "found"),
    [
        ("raise OSError('libopenblas.so.0: cannot open')", UsageError, "libopenblas.so.0: cannot open"),
        ("import os; os.abort()", InputError, "exit status -6 without a word"),
        ("import sys; sys.exit('as it pleases')", InputError, "as it pleases"),
    ],
)
def test_engine_that_breaks_breaks_the_child_alone(
    module: str, error: type[Exception], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mxnet.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error) as caught:
        logits(PARAMS)
    assert caught.value.found == found  # type: ignore[attr-defined]


class TwoVariables:
    """As much of a symbol as the split looks at."""

    def list_auxiliary_states(self) -> list[str]:
        return ["bn_moving_mean"]


@pytest.mark.parametrize(
    ("names", "args", "aux"),
    [
        (["arg:w", "aux:bn_moving_mean"], ["w"], ["bn_moving_mean"]),
        (["w", "bn_moving_mean"], ["w"], ["bn_moving_mean"]),
        (["w", "bn_running_mean"], ["w"], ["bn_moving_mean"]),
        (["arg:bn_moving_mean"], ["bn_moving_mean"], []),
        (["arg:a:b", "c:d"], ["a:b", "c:d"], []),
    ],
)
def test_tensors_are_split_by_prefix_or_by_the_graph(names: list[str], args: list[str], aux: list[str]) -> None:
    found = oracle.split_params(TwoVariables(), dict.fromkeys(names), {"bn_running_mean": "bn_moving_mean"})
    assert [list(group) for group in found] == [args, aux]


@pytest.mark.filterwarnings("ignore:`product` is deprecated:DeprecationWarning")  # NumPy 1.26 still has its own
def test_shim_is_undone() -> None:
    numpy_before, modules_before = dict(vars(np)), dict(sys.modules)
    with oracle._former_numpy_names(), oracle._former_distutils():
        from distutils.version import LooseVersion, StrictVersion

        assert LooseVersion("2.4.6") >= LooseVersion("1.17")
        assert StrictVersion("1.6.0") < StrictVersion("1.16.2")
        for name in ("bool", "PZERO", "NINF", "NaN", "alltrue", "product", "in1d", "trapz", "msort", "mirr", "rate"):
            assert name in vars(np)
        assert vars(np)["product"]([2, 3]) == 6
    assert dict(vars(np)) == numpy_before
    assert dict(sys.modules) == modules_before


def test_shim_is_undone_after_an_error() -> None:
    before = dict(vars(np))
    with pytest.raises(ImportError), oracle._former_numpy_names(), oracle._former_distutils():
        raise ImportError
    assert dict(vars(np)) == before


# --- with MXNet ---------------------------------------------------------------------------------------------------


@with_mxnet
def test_mxnet_is_available() -> None:
    assert oracle.available() is None
    assert oracle.version() == "1.9.1"


@with_mxnet
@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_agrees_with_every_recording(folder: Path) -> None:
    """0.8.0 to 1.9.1: today's engine on today's NumPy yields what the recordings hold, in both precisions."""
    values = recorded(folder)
    files = folder / "model-symbol.json", folder / "model-0000.params"
    feed = {key.removeprefix("in:"): array for key, array in values.items() if key.startswith("in:")}
    rename = {}
    if folder == RUNNING:
        names = [name.split(":")[1] for name in read_params(files[1]).tensors]
        rename = {name: name.replace("_running_", "_moving_") for name in names if "_running_" in name}
    compared = 0
    for prefix, dtype, tolerance in (("out:", "float32", 2e-5), ("ref64:", "float64", 1e-12)):
        wanted = {key.removeprefix(prefix): array for key, array in values.items() if key.startswith(prefix)}
        if not wanted or folder.name == "1.9.1-net_float16":
            continue
        found = oracle.run(*files, feed, list(wanted), rename=rename, dtype=dtype)  # type: ignore[arg-type]
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == dtype
            assert np.abs(found[name] - array).max() <= tolerance * np.abs(array).max(), name
            compared += 1
    assert compared or folder.name == "1.9.1-net_float16"


@with_mxnet
def test_engine_without_float16_says_so() -> None:
    folder = FIXTURES / "mxnet" / "recordings" / "1.9.1-net_float16"
    feed = {"data": recorded(folder)["in:data"]}
    with pytest.raises(InputError) as caught:
        oracle.run(folder / "model-symbol.json", folder / "model-0000.params", feed, ["softmax_output"])
    assert "MXNetError" in str(caught.value.found)


@with_mxnet
def test_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    threads, names = torch.get_num_threads(), set(vars(np))
    monkeypatch.chdir(ROOT / "converter")  # where a folder `mxnet` is, which must not be taken for MXNet
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    legacy = FIXTURES / "mxnet" / "recordings" / "0.8.0-imagenet"  # MXNet reports the upgrade on stderr
    feed = {"data": recorded(legacy)["in:data"]}
    oracle.run(legacy / "model-symbol.json", legacy / "model-0000.params", feed, ["softmax_output"])
    assert torch.get_num_threads() == threads
    assert set(vars(np)) == names
    assert "mxnet" not in sys.modules
    assert capfd.readouterr() == ("", "")


@with_mxnet
@pytest.mark.parametrize("layout", ["legacy", "V1", "V2", "V3"])
def test_reads_bare_names_in_every_layout(layout: str, tmp_path: Path) -> None:
    bare = {name.split(":")[1]: array for name, array in stored().items()}
    found = logits(params_file(tmp_path / "bare.params", bare, layout))
    assert np.abs(found - recorded(TINY)["out:fc1_output"]).max() < 1e-4


@with_mxnet
def test_missing_tensor_is_named(tmp_path: Path) -> None:
    arrays = stored()
    del arrays["aux:bn0_moving_var"], arrays["arg:fc1_bias"]
    with pytest.raises(InputError) as caught:
        logits(params_file(tmp_path / "cut.params", arrays))
    assert caught.value.found == "the params file holds no fc1_bias, bn0_moving_var (2 missing in all)"


@with_mxnet
def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    arrays = stored()
    arrays["arg:fc1_weight"] = arrays["arg:fc1_weight"].T.copy()
    with pytest.raises(InputError) as caught:
        logits(params_file(tmp_path / "turned.params", arrays))
    assert "expected [48,10], got [10,48]" in str(caught.value.found)


@with_mxnet
def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.params"
    path.write_bytes(PARAMS.read_bytes()[:-10])
    with pytest.raises(InputError) as caught:
        logits(path)
    assert "Invalid NDArray file format" in str(caught.value.found)
    assert str(caught.value.file) == str(SYMBOL)


@with_mxnet
def test_file_without_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.params"
    path.write_bytes(writer.params_list([writer.dense(np.ones(2, np.float32))]))
    with pytest.raises(InputError) as caught:
        logits(path)
    assert caught.value.found == "the params file holds no named tensor"


@with_mxnet
def test_unknown_output_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        oracle.run(SYMBOL, PARAMS, {"data": recorded(TINY)["in:data"]}, ["fc7_output"])
    assert caught.value.found == "the graph has no output fc7_output"


@with_mxnet
def test_unknown_input_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        oracle.run(SYMBOL, PARAMS, {"image": recorded(TINY)["in:data"]}, HEADS)
    assert "data" in str(caught.value.found)


@with_mxnet
def test_unreadable_symbol_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model-symbol.json"
    path.write_text(json.dumps(json.loads(SYMBOL.read_text())["nodes"]))
    with pytest.raises(InputError) as caught:
        oracle.run(path, PARAMS, {"data": recorded(TINY)["in:data"]}, HEADS)
    assert caught.value.found


@with_mxnet
@pytest.mark.parametrize("first", ["torch", "mxnet"])
def test_import_is_silent_and_leaves_numpy_alone(first: str) -> None:
    """What fixtures/make_fixtures.py relies on; the shared OpenMP runtime is why `run` does not do it."""
    load = {
        "torch": "import torch",
        "mxnet": "from resnext_convert.converter.oracles.mxnet import import_mxnet; mx = import_mxnet()",
    }
    second = load["mxnet" if first == "torch" else "torch"]
    check = (
        "import numpy as np; names = set(vars(np))\n"
        f"{load[first]}\n{second}\n"
        "assert not {'PZERO', 'mirr', 'alltrue', 'msort'} & (set(vars(np)) - names)\n"
        "x = np.linspace(-1, 1, 3 * 8 * 8, dtype='f4').reshape(1, 3, 8, 8); w = x[:, :, :3, :3].copy()\n"
        "ours = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w)).numpy()\n"
        "theirs = mx.nd.Convolution(mx.nd.array(x), mx.nd.array(w), kernel=(3, 3), num_filter=1, no_bias=True)\n"
        "assert abs(ours - theirs.asnumpy()).max() < 1e-5\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
