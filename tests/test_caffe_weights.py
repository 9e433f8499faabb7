"""The reader of caffemodels: every encoding of a blob, every form of a net, files that lie, and other files."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from caffe_writer import (
    RAMP,
    blob,
    layer,
    legacy,
    message,
    net,
    number,
    packed,
    raw,
    shape,
    unpacked,
    v0_layer,
    v1_layer,
)
from fuzz_caffemodel import mutate, run, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnext_convert.converter.caffe.weights import StoredWeights, read_weights
from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingFileError,
)
from resnext_convert.converter.tensors import DType, TensorRef
from resnext_convert.schemas.caffe_pb2 import NetParameter, V1LayerParameter

Array = npt.NDArray[Any]

DOUBLE = RAMP.astype(np.float64) / 3
DIMS = shape(RAMP.shape)


def read(data: bytes, folder: Path) -> StoredWeights:
    path = folder / "evil.caffemodel"
    path.write_bytes(data)
    return read_weights(path)


def refusal(data: bytes, says: str, folder: Path, kind: type[InputError] = FormatError) -> InputError:
    """The error that the file is refused with; it always names the file and says what to do."""
    with pytest.raises(kind, match=says) as caught:
        read(data, folder)
    assert str(caught.value).startswith(f"{folder / 'evil.caffemodel'}: ")
    assert caught.value.hint
    return caught.value


def tensors(weights: StoredWeights) -> dict[str, TensorRef]:
    """All blobs by name; of several copies the last."""
    return {tensor.name: tensor for stored in weights.layers for tensor in stored.blobs if tensor is not None}


def arrays(weights: StoredWeights) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in tensors(weights).items()}


def assert_same_bits(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype, name
        assert array.shape == expected[name].shape, name
        assert array.tobytes() == expected[name].tobytes(), name


# --- literal bytes, and the writer -----------------------------------------------------------------------------------

# name "n"; layer: name "c", type "Scale", a blob with the numbers 1.0 and -2.0 and the shape (2)
GOLDEN = bytes.fromhex("0a016e a206 1b 0a0163 1205 5363616c65 3a0f 2a08 0000803f000000c0 3a03 0a0102")


def test_literal_bytes(tmp_path: Path) -> None:
    assert net(layer("c", [blob(np.array([1, -2], np.float32))], "Scale"), name="n") == GOLDEN
    weights = read(GOLDEN, tmp_path)
    assert (weights.file, weights.kind, weights.name) == (tmp_path / "evil.caffemodel", "caffemodel", "n")
    assert [(stored.name, stored.type, stored.legacy) for stored in weights.layers] == [("c", "Scale", (False,))]
    assert_same_bits(arrays(weights), {"c[0]": np.array([1, -2], np.float32)})


def test_the_writer_writes_what_protobuf_writes() -> None:
    message = NetParameter(name="net")
    written = message.layer.add(name="conv", type="Convolution")
    written.blobs.add(data=[RAMP.tobytes()]).shape.dim.extend([2, 3])
    written.blobs.add(num=1, channels=-1, height=2**31 - 1, width=3, double_data=[DOUBLE.tobytes()])
    written.blobs.add(raw_data=RAMP.tobytes(), raw_data_type="FLOAT")
    expected = net(
        layer(
            "conv",
            [blob(RAMP), legacy(num=1, channels=-1, height=2**31 - 1, width=3) + packed(DOUBLE), raw(RAMP)],
        )
    )
    assert message.SerializeToString(deterministic=True) == expected


def test_the_writer_writes_the_old_forms() -> None:
    found = NetParameter.FromString(net(old=[v1_layer("conv", [blob(RAMP)]), v0_layer("old", [blob(RAMP)])]))
    assert [old.name for old in found.layers] == ["conv", ""]
    assert found.layers[0].type == V1LayerParameter.CONVOLUTION
    assert (found.layers[1].layer.name, found.layers[1].layer.type) == ("old", "conv")
    assert [list(stored.shape.dim) for stored in (found.layers[0].blobs[0], found.layers[1].layer.blobs[0])] == [
        [2, 3]
    ] * 2


# --- encodings of a blob ---------------------------------------------------------------------------------------------

ENCODINGS: dict[str, tuple[bytes, Array]] = {
    "packed": (packed(RAMP) + DIMS, RAMP),
    "shape first": (DIMS + packed(RAMP), RAMP),
    "in three chunks": (packed(RAMP, chunks=3) + DIMS, RAMP),
    "in chunks, of which one is empty": (packed(RAMP[:0]) + packed(RAMP) + DIMS, RAMP),
    "unpacked": (unpacked(RAMP) + DIMS, RAMP),
    "unpacked, shape first": (DIMS + unpacked(RAMP), RAMP),
    "doubles": (packed(DOUBLE) + DIMS, DOUBLE),
    "doubles in two chunks": (packed(DOUBLE, chunks=2) + DIMS, DOUBLE),
    "unpacked doubles": (unpacked(DOUBLE) + DIMS, DOUBLE),
    "doubles win over floats": (packed(RAMP) + packed(DOUBLE) + DIMS, DOUBLE),
    "unpacked doubles win over packed floats": (packed(RAMP) + unpacked(DOUBLE) + DIMS, DOUBLE),
    "no doubles do not": (packed(RAMP) + packed(DOUBLE[:0]) + DIMS, RAMP),
    "raw floats": (raw(RAMP) + DIMS, RAMP),
    "raw halves": (raw(RAMP.astype(np.float16)) + DIMS, RAMP.astype(np.float16)),
    "raw doubles": (raw(DOUBLE) + DIMS, DOUBLE),
    "floats win over raw halves": (raw(RAMP.astype(np.float16)) + packed(RAMP) + DIMS, RAMP),
    "four dimensions": (packed(RAMP) + legacy(num=1, channels=1, height=2, width=3), RAMP.reshape(1, 1, 2, 3)),
    "four dimensions win over a shape": (
        packed(RAMP) + legacy(num=2, channels=1, height=3, width=1) + shape((6,)),
        RAMP.reshape(2, 1, 3, 1),
    ),
    "four dimensions, one of them said": (packed(RAMP[:0]) + legacy(height=5), np.zeros((0, 0, 5, 0), np.float32)),
    "shape with unpacked dimensions": (packed(RAMP) + message(7, number(1, 2) + number(1, 3)), RAMP),
    "shape in two parts": (packed(RAMP) + shape((2,)) + shape((3,)), RAMP),
    "a scalar": (packed(RAMP[0, 0]), RAMP[0, 0]),
    "no element": (shape((0, 3)), np.zeros((0, 3), np.float32)),
    "gradients beside": (packed(RAMP) + DIMS + packed(-RAMP, field=6) + packed(-DOUBLE, field=9), RAMP),
    "fields of a fork": (packed(RAMP) + DIMS + number(99, 7) + message(100, "fork"), RAMP),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding(encoding: str, tmp_path: Path) -> None:
    written, expected = ENCODINGS[encoding]
    weights = read(net(layer("conv", [blob(RAMP), written])), tmp_path)
    assert_same_bits(arrays(weights), {"conv[0]": RAMP, "conv[1]": expected})


def test_nan_and_negative_zero_keep_their_bits(tmp_path: Path) -> None:
    odd = np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45], np.float32)
    for encoded in (packed(odd), packed(odd, chunks=2), unpacked(odd), raw(odd)):
        assert_same_bits(arrays(read(net(layer("x", [encoded + shape((5,))])), tmp_path)), {"x[0]": odd})


def test_values_are_writable_aligned_and_their_own(tmp_path: Path) -> None:
    encoded = [packed(RAMP), packed(RAMP, chunks=2), unpacked(RAMP), packed(DOUBLE), raw(RAMP.astype(np.float16))]
    weights = read(net(layer("x", [item + DIMS for item in encoded])), tmp_path)
    for array in arrays(weights).values():
        assert array.flags.writeable
        assert array.flags.aligned
        array[:] = 7
    assert [float(array.sum()) for array in arrays(weights).values()] == [42.0] * 5
    assert float(arrays(read_weights(weights.file))["x[0]"].sum()) == float(RAMP.sum())


def test_where_a_blob_is(tmp_path: Path) -> None:
    weights = read(net(layer("data", kind="Input"), layer("fc/1", [blob(RAMP), blob(DOUBLE)])), tmp_path)
    (weight, bias) = tensors(weights).values()
    assert (weight.name, weight.dtype, weight.where) == ("fc/1[0]", DType.FLOAT32, "layer #1 'fc/1', blob 0")
    assert (bias.name, bias.dtype, bias.where) == ("fc/1[1]", DType.FLOAT64, "layer #1 'fc/1', blob 1")


def test_legacy_shapes_are_marked(tmp_path: Path) -> None:
    four = packed(RAMP) + legacy(num=1, channels=1, height=2, width=3)
    weights = read(net(layer("a", [blob(RAMP), four]), layer("b")), tmp_path)
    assert [stored.legacy for stored in weights.layers] == [(False, True), ()]


# --- forms of a net, and notes ---------------------------------------------------------------------------------------


def test_old_layers(tmp_path: Path) -> None:
    weights = read(
        net(old=[v1_layer("conv", [blob(RAMP)]), v1_layer("relu", kind=18), v1_layer("odd", kind=99)]), tmp_path
    )
    assert [(stored.name, stored.type) for stored in weights.layers] == [
        ("conv", "Convolution"),
        ("relu", "ReLU"),
        ("odd", ""),
    ]
    assert_same_bits(arrays(weights), {"conv[0]": RAMP})
    assert weights.notes == ("layers of an old form (V0 or V1): 3",)


def test_the_oldest_layers(tmp_path: Path) -> None:
    weights = read(net(old=[v0_layer("pad", kind="padding"), v0_layer("conv", [blob(RAMP)])]), tmp_path)
    assert [(stored.name, stored.type) for stored in weights.layers] == [("pad", ""), ("conv", "Convolution")]
    assert_same_bits(arrays(weights), {"conv[0]": RAMP})


def test_notes(tmp_path: Path) -> None:
    written = net(
        layer("a", [blob(RAMP) + packed(RAMP, field=6), blob(RAMP)]),
        layer("a", [raw(RAMP) + DIMS]),
        layer("b", [blob(RAMP)]),
        layer("c"),
        layer("c"),
        layer("a", [blob(-RAMP)]),
    )
    weights = read(written, tmp_path)
    assert weights.notes == (
        "blobs with gradients (diff), which are ignored: 1",
        "blobs stored as raw_data, as NVIDIA's fork does: 1",
        "layer 'a' is there 3 times; Caffe takes the last copy",
    )
    assert [stored.name for stored in weights.layers] == ["a", "a", "b", "c", "c", "a"]
    assert_same_bits({"a[0]": arrays(weights)["a[0]"]}, {"a[0]": -RAMP})


def test_a_plain_file_has_no_notes(tmp_path: Path) -> None:
    assert read(net(layer("a", [blob(RAMP)])), tmp_path).notes == ()


def test_the_geometry_in_the_file_is_not_looked_at(tmp_path: Path) -> None:
    # A pooling layer of the fork of pull request #3057, whose field 13 is ceil_mode; input dimensions of no image.
    pool = layer("pool", kind="Pooling", more=message(121, number(13, 0)))
    data = net(pool, layer("fc", [blob(RAMP)])) + message(3, "data") + number(4, 2**31 - 1)
    assert_same_bits(arrays(read(data, tmp_path)), {"fc[0]": RAMP})


def test_the_nets_name_may_be_in_any_encoding(tmp_path: Path) -> None:
    assert read(net(layer("a", [blob(RAMP)]), name="网"), tmp_path).name == "网"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.caffemodel", tmp_path):
        with pytest.raises(MissingFileError):
            read_weights(path)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_the_weights_are_copied_once(tmp_path: Path) -> None:
    path = tmp_path / "big.caffemodel"
    path.write_bytes(net(*(layer(f"conv{index}", [blob(np.zeros(250_000, np.float32))]) for index in range(40))))
    tracemalloc.start()
    weights = read_weights(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(tensor.nbytes for tensor in tensors(weights).values()) == 40_000_000
    assert kept < 40_500_000
    assert peak < 82_000_000  # 41 MB; protobuf's pure-Python runtime has its own copy where this counts it


PEAK = """
import resource, sys
from pathlib import Path
from resnext_convert.converter.caffe.weights import read_weights

def peak():
    status = Path("/proc/self/status")  # Linux counts what a process had before exec in ru_maxrss
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
weights = read_weights(Path(sys.argv[1]))
print(peak() - before)
"""


def test_the_peak_is_twice_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.caffemodel"
    path.write_bytes(net(*(layer(f"conv{index}", [blob(np.ones(250_000, np.float32))]) for index in range(60))))
    peak = int(subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, check=True).stdout)
    size = path.stat().st_size
    # 2.05 measured with protobuf 7, and 3.0 with 4.25, which copies the file's bytes once more
    assert 1.5 * size < peak < 3.3 * size


def test_many_small_blobs_take_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "small.caffemodel"
    path.write_bytes(net(*(layer(f"stage1_conv{index}", [blob(RAMP)] * 2) for index in range(500))))

    def seconds() -> float:
        begin = time.process_time()
        read_weights(path)
        return time.process_time() - begin

    assert min(seconds() for _ in range(5)) < 0.2  # 13 ms measured


# --- properties ------------------------------------------------------------------------------------------------------

SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4)
FLOATS = st.sampled_from(["float32", "float64"]).flatmap(lambda name: hnp.arrays(np.dtype(name), SHAPES))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.tuples(NAMES, st.lists(st.tuples(FLOATS, st.integers(1, 3), st.booleans()), max_size=3)), max_size=4)
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, list[tuple[Array, int, bool]]]]
) -> None:
    def encoded(array: Array, chunks: int, loose: bool) -> bytes:
        return (unpacked(array) if loose else packed(array, chunks=chunks)) + shape(array.shape)

    anchor = layer("anchor", [blob(RAMP)])
    written = net(*(layer(name, [encoded(*blob) for blob in blobs]) for name, blobs in items), anchor)
    weights = read(written, tmp_path_factory.getbasetemp())
    assert [stored.name for stored in weights.layers] == [*(name for name, _ in items), "anchor"]
    for stored, (name, blobs) in zip(weights.layers, items, strict=False):
        for index, (tensor, (array, *_)) in enumerate(zip(stored.blobs, blobs, strict=True)):
            assert tensor is not None
            assert tensor.name == f"{name}[{index}]"
            expected = array if array.size else array.astype(np.float32)  # of no numbers no type is stored
            assert_same_bits({"": tensor.numpy()}, {"": expected})


@given(st.binary(max_size=600), st.sampled_from([b"", b"\x0a\x01n\xa2\x06", b"\x12"]))
def test_any_bytes_raise_input_errors_only(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, beginning: bytes
) -> None:
    with contextlib.suppress(InputError):
        read(beginning + data, tmp_path_factory.getbasetemp())


def test_mutated_files_raise_input_errors_only() -> None:
    outcomes = run(800, seed=2)
    assert outcomes["read"] > 50
    assert outcomes.total() - outcomes["read as a mean image"] == 800
    assert len(outcomes) > 12


def test_the_fuzzer_is_repeatable_and_changes_files() -> None:
    def mutants() -> list[bytes]:
        rng = random.Random(1)
        return [mutate(data, rng, seeds()) for data in seeds() for _ in range(5)]

    assert mutants() == mutants()
    assert len(set(mutants()) - set(seeds())) > 50
