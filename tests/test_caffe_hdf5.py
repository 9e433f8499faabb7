"""The reader of `.caffemodel.h5`: what Caffe writes, what h5py can write besides, and files that are hostile."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from caffe_writer import RAMP, hdf5
from fuzz_hdf5 import mutate, seeds
from repository import ROOT
from shared_data import shared

from resnext_convert.converter import libhdf5
from resnext_convert.converter.caffe import hdf5 as reader
from resnext_convert.converter.caffe.weights import StoredWeights, read_weights
from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    UsageError,
)
from resnext_convert.converter.tensors import TensorRef

Array = npt.NDArray[Any]

DOUBLE = RAMP.astype(np.float64) / 3
LAYERS = {"conv": [RAMP, RAMP[0]], "bn": [RAMP[0], RAMP[1], RAMP[0, :1]], "relu": []}


@pytest.fixture
def other_process() -> None:
    """For tests of the process that has libhdf5, which takes 0.1 s. The others run its code in this one."""


@pytest.fixture(autouse=True)
def _this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(path: Path, module: str, output: IO[bytes]) -> tuple[int, str]:
        reader.serve(str(path), output)
        output.flush()
        return 0, ""

    if "other_process" not in request.fixturenames:
        monkeypatch.setattr(libhdf5, "run_libhdf5", serve)
        monkeypatch.setattr(libhdf5, "_limit_resources", lambda **limits: None)


def tensors(weights: StoredWeights) -> dict[str, TensorRef]:
    return {tensor.name: tensor for layer in weights.layers for tensor in layer.blobs if tensor is not None}


def assert_reads(path: Path, expected: dict[str, Array]) -> None:
    """The file holds these arrays, to the bit, in memory that torch takes as it is."""
    found = tensors(read_weights(path))
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        values = found[name].numpy()
        assert values.dtype == array.dtype.newbyteorder("<"), name
        assert values.shape == array.shape, name
        assert values.tobytes() == array.astype(values.dtype).tobytes(), name
        assert values.flags.writeable, name


def refusal(path: Path, says: str, kind: type[InputError] = FormatError) -> InputError:
    """The error that the file is refused with; it always names the file and says what to do."""
    with pytest.raises(kind, match=says) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint
    return caught.value


def made(folder: Path, make: Callable[[h5py.File], object], **how: Any) -> Path:
    """A file that holds a good layer, `conv`, and what ``make`` adds to it."""
    path = folder / "evil.caffemodel.h5"
    with h5py.File(path, "w", **how) as file:
        file["data/conv/0"] = RAMP
        make(file)
    return path


# --- what Caffe writes -----------------------------------------------------------------------------------------------


def test_layers_and_blobs(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "net.caffemodel.h5", LAYERS)
    weights = read_weights(path)
    assert (weights.file, weights.kind, weights.name, weights.notes) == (path, "hdf5", "", ())
    assert [(layer.name, layer.type, len(layer.blobs), layer.legacy) for layer in weights.layers] == [
        ("bn", "", 3, (False, False, False)),
        ("conv", "", 2, (False, False)),
        ("relu", "", 0, ()),
    ]
    assert_reads(path, {f"{name}[{index}]": array for name in LAYERS for index, array in enumerate(LAYERS[name])})


@pytest.mark.usefixtures("other_process")
def test_it_is_told_by_its_content(tmp_path: Path) -> None:
    assert_reads(hdf5(tmp_path / "net.caffemodel", {"conv": [RAMP]}), {"conv[0]": RAMP})


def test_plain_datasets_are_mapped(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "net.caffemodel.h5", {"conv": [RAMP, DOUBLE]})
    for tensor in tensors(read_weights(path)).values():
        place, _, offset = tensor.where.partition(", byte ")
        assert place == f"/data/conv/{tensor.name[-2]}"
        assert path.read_bytes()[int(offset, 16) :].startswith(tensor.numpy().tobytes())


TYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def test_every_type_of_number_in_both_byte_orders(tmp_path: Path) -> None:
    little = {name: [np.arange(6, dtype=name).reshape(2, 3) + 1] for name in TYPES}
    big = {f"{name} big": [array.astype(array.dtype.newbyteorder(">"))] for name, [array] in little.items()}
    path = hdf5(tmp_path / "net.caffemodel.h5", little | big)
    assert_reads(path, {f"{name}[0]": array for name, [array] in (little | big).items()})


@pytest.mark.usefixtures("other_process")
@pytest.mark.parametrize("how", [{"chunks": (2, 2)}, {"compression": "gzip", "shuffle": True}, {"fletcher32": True}])
def test_chunks_and_compression(how: dict[str, Any], tmp_path: Path) -> None:
    path = hdf5(tmp_path / "net.caffemodel.h5", {"conv": [RAMP, DOUBLE]}, **how)
    assert_reads(path, {"conv[0]": RAMP, "conv[1]": DOUBLE})


def test_a_compact_dataset(tmp_path: Path) -> None:
    def make(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(RAMP.shape)
        h5py.h5d.create(file["data/conv"].id, b"1", h5py.h5t.IEEE_F32LE, space, plist).write(
            h5py.h5s.ALL, h5py.h5s.ALL, RAMP
        )

    assert_reads(made(tmp_path, make), {"conv[0]": RAMP, "conv[1]": RAMP})


@pytest.mark.parametrize("how", [{"libver": "latest"}, {"track_order": True}, {"fs_strategy": "page"}])
def test_newer_forms_of_the_file(how: dict[str, Any], tmp_path: Path) -> None:
    def make(file: h5py.File) -> None:
        file["data/bn/0"], file["data/bn/1"] = RAMP[0], RAMP[1]

    assert_reads(made(tmp_path, make, **how), {"conv[0]": RAMP, "bn[0]": RAMP[0], "bn[1]": RAMP[1]})


def test_scalars_and_no_element(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "net.caffemodel.h5", {"a": [RAMP[0, 0], RAMP[:0], np.zeros((), ">f8")]})
    assert_reads(path, {"a[0]": RAMP[0, 0], "a[1]": RAMP[:0], "a[2]": np.zeros(())})


def test_names_of_layers(tmp_path: Path) -> None:
    names = ("conv 1", "网", "a" * 200, "..", "x\n")
    path = hdf5(tmp_path / "net.caffemodel.h5", {name: [RAMP] for name in names})
    assert_reads(path, {f"{name}[0]": RAMP for name in names})


def test_a_blob_that_another_layer_owns_is_left_out(tmp_path: Path) -> None:
    # As Net::ToHDF5 does where the first of two blobs is shared (`param { name: }`) and the second is not.
    def make(file: h5py.File) -> None:
        file["data/shares/1"] = RAMP[0]

    weights = read_weights(made(tmp_path, make))
    (layer,) = (layer for layer in weights.layers if layer.name == "shares")
    assert layer.blobs[0] is None
    assert layer.blobs[1] is not None
    assert layer.blobs[1].name == "shares[1]"
    assert layer.legacy == (False, False)
    assert weights.notes == ("layer 'shares': blobs that another layer owns are left out (shared weights)",)


@pytest.mark.usefixtures("other_process")
def test_the_path_may_be_odd(tmp_path: Path) -> None:
    folder = tmp_path / "-P a 网 \n"
    folder.mkdir()
    assert_reads(hdf5(folder / "net%s.h5", {"conv": [RAMP]}), {"conv[0]": RAMP})


@pytest.mark.usefixtures("other_process")
def test_a_file_without_permission_to_write_or_lock(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "net.caffemodel.h5", {"conv": [RAMP]})
    path.chmod(0o444)
    with h5py.File(path, "r"):
        assert_reads(path, {"conv[0]": RAMP})


# --- what libhdf5 does not survive -----------------------------------------------------------------------------------


def endless(folder: Path) -> Path:
    """A file whose group has a free block in its heap that names itself as the next one."""
    path = hdf5(folder / "endless.h5", {"conv": [RAMP]})
    data = bytearray(path.read_bytes())
    heap = data.index(b"HEAP")
    block, start = (int.from_bytes(data[heap + offset : heap + offset + 8], "little") for offset in (16, 24))
    data[start + block : start + block + 8] = block.to_bytes(8, "little")
    path.write_bytes(data)
    return path


def crashing(folder: Path) -> Path:
    """A file with a chunk of one byte that should end with a checksum of four."""
    path = hdf5(folder / "crashing.h5", {"conv": [RAMP]}, chunks=(2, 3), fletcher32=True)
    data = bytearray(path.read_bytes())
    key = data.index(b"TREE\x01") + 24  # the node's type is 1, a chunk's; its first key is the chunk's size
    assert int.from_bytes(data[key : key + 4], "little") == RAMP.nbytes + 4
    data[key : key + 4] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.usefixtures("other_process")
def test_a_file_without_end_is_refused_for_its_memory(tmp_path: Path) -> None:
    refusal(endless(tmp_path), "libhdf5 cannot read this file .*memory")


@pytest.mark.usefixtures("other_process")
def test_a_file_that_crashes_libhdf5_is_refused(tmp_path: Path) -> None:
    refusal(crashing(tmp_path), r"libhdf5 (crashes on|cannot read) this file")


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hdf5(tmp_path / "slow.h5", {"conv": [RAMP]})
    monkeypatch.setattr(libhdf5, "run_libhdf5", lambda path, module, output: (-signal.SIGXCPU, ""))
    refusal(path, r"libhdf5 comes to no end with this file \(found SIGXCPU\)")


SPINNING = f"""
from {libhdf5.__name__} import _limit_resources
_limit_resources(memory=2**27, seconds=1)
while True: pass
"""
GREEDY = f"""
from {libhdf5.__name__} import _limit_resources
_limit_resources(memory=2**27, seconds=10)
bytearray(2**28)
"""


@pytest.mark.usefixtures("other_process")
def test_the_limits_hold() -> None:
    spinning = subprocess.run([sys.executable, "-c", SPINNING], check=False)
    assert spinning.returncode == -signal.SIGXCPU
    greedy = subprocess.run([sys.executable, "-c", GREEDY], check=False, capture_output=True, text=True)
    assert greedy.returncode == (sys.platform == "linux")  # macOS limits no memory
    assert ("MemoryError" in greedy.stderr) == (sys.platform == "linux")


@pytest.mark.usefixtures("other_process")
def test_no_limit_of_the_users_is_raised() -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (7, 8)); {SPINNING.strip().splitlines()[0]}; "
    code += "_limit_resources(memory=2**40, seconds=60); print(resource.getrlimit(resource.RLIMIT_CPU))"
    limited = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert limited.stdout == "(7, 8)\n"


@pytest.mark.usefixtures("other_process")
def test_the_limits_are_the_other_processs_alone(tmp_path: Path) -> None:
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]
    read_weights(hdf5(tmp_path / "net.h5", {"conv": [RAMP]}))
    assert before == [
        resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    ]


@pytest.mark.usefixtures("other_process")
def test_h5py_that_does_not_import_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"h5py, which reads HDF5 files, does not run here .*broken"):
        read_weights(hdf5(tmp_path / "net.h5", {"conv": [RAMP]}))


@pytest.mark.usefixtures("other_process")
def test_the_current_folder_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert_reads(hdf5(Path("net.h5"), {"conv": [RAMP]}), {"conv[0]": RAMP})


def test_the_reader_imports_no_h5py() -> None:
    code = f"import sys, {read_weights.__module__}; print('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


# --- mutations -------------------------------------------------------------------------------------------------------


def test_mutated_files_raise_input_errors_only() -> None:
    """In a process of its own, which has one thread and may be forked."""
    fuzzer = [sys.executable, str(ROOT / "tests" / "fuzz_hdf5.py"), "--count", "600", "--seed", "2"]
    done = subprocess.run(fuzzer, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = dict(line.split(maxsplit=1)[::-1] for line in done.stdout.splitlines()[:-1])
    assert int(outcomes["read"]) > 20
    assert sum(map(int, outcomes.values())) == 600
    assert len(outcomes) > 5


def test_the_fuzzer_is_repeatable_and_changes_files() -> None:
    def mutants() -> list[bytes]:
        rng = random.Random(1)
        return [mutate(data, rng, seeds()) for data in seeds() for _ in range(20)]

    assert mutants() == mutants()
    assert len(set(mutants()) - set(seeds())) > 70


# --- recordings and other people's files -----------------------------------------------------------------------------


@pytest.mark.usefixtures("other_process")
@pytest.mark.acceptance
@pytest.mark.parametrize("case", ["a_cypw", "j_hdf5", "k_train", "m_shared_params"])
def test_a_recording_is_read_as_h5py_reads_it(case: str) -> None:
    path = shared(f"golden/caffe/{case}/weights.caffemodel.h5")
    with h5py.File(path, "r") as file:
        expected = {
            f"{layer}[{index}]": dataset[()]
            for layer, group in file["data"].items()
            for index, dataset in group.items()
        }
        layers = list(file["data"])
    assert [layer.name for layer in read_weights(path).layers] == layers
    assert_reads(path, expected)


@pytest.mark.acceptance
def test_the_recording_of_shared_weights_has_the_owners_only() -> None:
    weights = read_weights(shared("golden/caffe/m_shared_params/weights.caffemodel.h5"))
    assert {layer.name for layer in weights.layers if layer.blobs} == {"u1_c1", "u1_c2", "u1_c3", "fc"}
    assert {"u2_c1", "u2_c2", "u2_c3"} <= {layer.name for layer in weights.layers}
    binary = tensors(read_weights(shared("golden/caffe/m_shared_params/weights.caffemodel")))
    for name, tensor in tensors(weights).items():
        assert tensor.numpy().tobytes() == binary[name].numpy().tobytes()


TRAINED = {
    "cifar10_quick_h5/cifar10_quick_iter_5000": 10,
    "cifar10_quick_h5_zj32/cifar10_quick_iter_5000": 10,
    "cifar10_full_h5/cifar10_full_iter_70000": 8,
}


@pytest.mark.usefixtures("other_process")
@pytest.mark.acceptance
@pytest.mark.parametrize("name", TRAINED)
def test_trained_weights(name: str) -> None:
    found = tensors(read_weights(shared(f"weights/{name}.caffemodel.h5")))
    assert len(found) == TRAINED[name]
    assert found["conv1[0]"].shape == (32, 3, 5, 5)
    for tensor in found.values():
        assert np.isfinite(tensor.numpy()).all(), tensor
        assert 1e-4 < np.abs(tensor.numpy()).max() < 10, tensor


@pytest.mark.usefixtures("other_process")
@pytest.mark.acceptance
def test_a_real_solvers_state_is_refused() -> None:
    path = shared("weights/cifar10_full_h5/cifar10_full_iter_10000.solverstate.h5")
    error = refusal(path, r"a solver's state \(\.solverstate\.h5\)")
    assert "'examples/cifar10/cifar10_full_iter_10000.caffemodel.h5'" in str(error.hint)
