"""The reader of `.params` files: what it says of a file, files that lie, one lie each, and any bytes."""

from __future__ import annotations

import contextlib
import gzip
import math
import random
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fuzz_params import MEMORY_CONSTANT, mutate, read_everything, run, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mxnet_params_checks import ARRAYS, NAMES, RAMP, SHAPE, Array, arrays, assert_same_bits, parse, refusal
from mxnet_params_writer import LAYOUTS, csr, dense, none, params_list, row_sparse, sparse

from resnext_convert.converter.errors import InputError, MissingFileError, TruncatedError, UnsupportedError
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.tensors import DType

NONE = 'an array without a shape and without data \\(MXNet\'s "none"\\)'
NOT_PARAMS = "this is not an MXNet .params file"

# --- what a ParamsFile says ------------------------------------------------------------------------------------------


def test_layouts_are_told_in_order_of_appearance() -> None:
    records = [dense(RAMP, layout) for layout in ("V2", "legacy", "V2", "V3", "V1", "legacy")]
    file = parse(params_list(records, ["a", "b", "c", "d", "e", "f"]))
    assert file.layouts == ("V2", "legacy", "V3", "V1")
    assert_same_bits(arrays(file), dict.fromkeys("abcdef", RAMP))


def test_a_list_without_names_is_numbered() -> None:
    file = parse(params_list([dense(RAMP), dense(RAMP[0])]))
    assert not file.named
    assert_same_bits(arrays(file), {"#0": RAMP, "#1": RAMP[0]})


def test_notes_tell_what_is_odd() -> None:
    records = [row_sparse((4, 3), [0, 3], RAMP), dense(RAMP), csr((2, 3), [0, 1, 1], [2], RAMP[0, :1])]
    file = parse(params_list(records, ["a", "b", "c"], reserved=7))
    assert file.notes == (
        "the reserved word is 0x7, MXNet writes 0; it has no meaning",
        "a: stored as row_sparse, made dense",
        "c: stored as csr, made dense",
    )


def test_the_store_knows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model-0000.params"
    path.write_bytes(params_list([dense(RAMP)], ["arg:w"]))
    assert read_params(path).tensors.file == path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_is_the_upper_half_of_a_float32(layout: str) -> None:
    halves = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16)
    file = parse(params_list([dense(halves, layout, bfloat16=True)], ["x"]))
    assert file.tensors["x"].dtype is DType.BFLOAT16
    assert_same_bits(arrays(file), {"x": np.array([1, -2, np.inf, 2.0**-133], np.float32)})


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.params", tmp_path):
        with pytest.raises(MissingFileError):
            read_params(path)


# --- cost ------------------------------------------------------------------------------------------------------------


def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "big.params"
    record = dense(np.zeros(10_000, np.float32))
    path.write_bytes(params_list([record] * 1000, [f"arg:conv{index}_weight" for index in range(1000)]))
    assert path.stat().st_size > 40_000_000
    tracemalloc.start()
    file = read_params(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file.tensors) == 1000
    assert peak < 2_000_000


def test_indexing_a_thousand_tensors_takes_milliseconds() -> None:
    record = dense(np.zeros((4, 1, 1, 1), np.float32))
    data = params_list([record] * 1000, [f"arg:stage1_conv{index}_weight" for index in range(1000)])

    def seconds() -> float:
        begin = time.process_time()
        parse(data)
        return time.process_time() - begin

    assert min(seconds() for _ in range(5)) < 0.1  # 9 ms measured


# --- files that lie, one lie each ------------------------------------------------------------------------------------

LIES = {
    "legacy ndim 33": (params_list([dense(RAMP, "legacy", ndim=33)], ["x"]), "too many dimensions"),
    "legacy ndim one more": (params_list([dense(RAMP, "legacy", ndim=3)], ["x"]), "unknown type flag"),
    "V1 ndim 2**31 - 1": (params_list([dense(RAMP, "V1", ndim=2**31 - 1)], ["x"]), "too many dimensions"),
    "V2 ndim -2": (params_list([dense(RAMP, ndim=-2)], ["x"]), "a negative number of dimensions"),
    "V3 ndim -2": (params_list([dense(RAMP, "V3", ndim=-2)], ["x"]), "a negative number of dimensions"),
    "V1 negative dimension": (params_list([dense(RAMP, "V1", dims=(-2, -3))], ["x"]), SHAPE),
    "V2 dimension -1": (params_list([dense(RAMP, dims=(2, -1))], ["x"]), SHAPE),
    "one row too many": (params_list([dense(RAMP, dims=(3, 3))], ["x"]), "inside the number of names"),
    "one row too few": (params_list([dense(RAMP, dims=(1, 3))], ["x"]), "number of names is not"),
    "product that wraps to 6": (
        params_list([dense(RAMP, dims=(4194305, 4194305, 211106198978564))], ["x"]),  # np.prod says 4
        SHAPE,
    ),
    "no element, but 2**62 columns": (params_list([dense(RAMP[:0], dims=(0, 2**62))], ["x"]), SHAPE),
    "a wider type": (params_list([dense(RAMP, type_flag=1)], ["x"]), "the data of an array"),
    "type 13": (params_list([dense(RAMP, "legacy", type_flag=13)], ["x"]), "unknown type flag"),
    "storage 3": (params_list([dense(RAMP, storage=3)], ["x"]), "unknown storage type of a V2"),
    "V3 storage 1": (params_list([dense(RAMP, "V3", storage=1)], ["x"]), "unknown storage type of a V3"),
    "record version 4": (params_list([dense(RAMP, magic=0xF993FACB)], ["x"]), "unknown version"),
    "record version -1": (params_list([dense(RAMP, magic=0xF993FA00)], ["x"]), "unknown version"),
    "list magic": (params_list([dense(RAMP)], ["x"], magic=0x113), NOT_PARAMS),
    "count 2**64 - 1": (params_list([dense(RAMP)], ["x"], count=2**64 - 1), "announces 18446744073709551615"),
    "count one more": (params_list([dense(RAMP)], ["x"], count=2), "tensor #1 of 2"),
    "count one less": (params_list([dense(RAMP), dense(RAMP)], ["x", "y"], count=1), "number of names is not"),
    "name count 2**63": (params_list([dense(RAMP)], ["x"], name_count=2**63), "number of names is not"),
    "name count 0": (params_list([dense(RAMP)], ["x"], name_count=0), "9 bytes after the last name"),
    "name length 2**64 - 1": (params_list([dense(RAMP)], ["x"], name_length=2**64 - 1), "inside a name"),
    "name length 0": (params_list([dense(RAMP)], ["x"], name_length=0), "1 bytes after the last name"),
    "one byte more": (params_list([dense(RAMP)], ["x"], tail=b"\0"), "1 bytes after the last name"),
    "name twice": (params_list([dense(RAMP)] * 3, ["x", "y", "x"]), "the name 'x' stands for 2 arrays"),
    "name not UTF-8": (params_list([dense(RAMP)], [b"\xc3\x28"]), "not UTF-8"),
    "name with a surrogate": (params_list([dense(RAMP)], [b"\xed\xa0\x80"]), "not UTF-8"),
    "name that is a NUL": (params_list([dense(RAMP)], ["\0"]), "a NUL"),
    "row twice": (params_list([row_sparse((4, 3), [1, 1], RAMP)], ["x"]), "strictly increase"),
    "rows fall": (params_list([row_sparse((4, 3), [2, 1], RAMP)], ["x"]), "strictly increase"),
    "row = number of rows": (params_list([row_sparse((4, 3), [1, 4], RAMP)], ["x"]), "row number outside"),
    "row 2**63 - 1": (params_list([row_sparse((4, 3), [1, 2**63 - 1], RAMP)], ["x"]), "row number outside"),
    "row of nothing": (params_list([row_sparse((0, 3), [0], RAMP[:1])], ["x"]), "row number outside"),
    "a row without values": (
        params_list([row_sparse((4, 3), [1], RAMP[:0], stored_shape=(0, 3))], ["x"]),
        "ends inside",
    ),
    "stored shape of other rows": (
        params_list([row_sparse((4, 3), [1, 2], RAMP, stored_shape=(3, 3))], ["x"]),
        "contradicts its index arrays",
    ),
    "stored shape of other columns": (
        params_list([row_sparse((4, 4), [1, 2], RAMP)], ["x"]),
        "contradicts its index arrays",
    ),
    "indices of float32": (
        params_list([row_sparse((4, 3), [1, 2], RAMP, index_flag=0)], ["x"]),
        "type of the index array",
    ),
    "indices of two dimensions": (
        params_list([row_sparse((4, 3), [1, 2], RAMP, index_shape=(2, 1))], ["x"]),
        "not one-dimensional",
    ),
    "2**40 indices": (
        params_list([row_sparse((2**40, 3), [1, 2], RAMP, stored_shape=(0, 3), index_shape=(2**40,))], ["x"]),
        "the data of an array",
    ),
    "csr of three dimensions": (
        params_list([csr((2, 3, 1), [0, 1, 2], [0, 1], RAMP[0, :2])], ["x"]),
        "csr array whose shapes do not belong together",
    ),
    "csr with a row pointer too few": (
        params_list([csr((2, 3), [0, 2], [0, 1], RAMP[0, :2])], ["x"]),
        "csr array whose shapes do not belong together",
    ),
    "csr that begins at 1": (params_list([csr((2, 3), [1, 1, 2], [0, 1], RAMP[0, :2])], ["x"]), "row pointers"),
    "csr that ends early": (params_list([csr((2, 3), [0, 1, 1], [0, 1], RAMP[0, :2])], ["x"]), "row pointers"),
    "csr that ends late": (params_list([csr((2, 3), [0, 1, 3], [0, 1], RAMP[0, :2])], ["x"]), "row pointers"),
    "csr that falls": (params_list([csr((3, 3), [0, 2, 1, 2], [0, 1], RAMP[0, :2])], ["x"]), "row pointers"),
    "csr that falls from 2**62": (
        params_list([csr((3, 3), [0, 2**62, -(2**62), 2], [0, 1], RAMP[0, :2])], ["x"]),
        "row pointers",
    ),
    "csr column = number of columns": (
        params_list([csr((2, 3), [0, 1, 2], [0, 3], RAMP[0, :2])], ["x"]),
        "column number outside",
    ),
    "csr column -1": (params_list([csr((2, 3), [0, 1, 2], [-1, 0], RAMP[0, :2])], ["x"]), "column number outside"),
    "csr column twice": (params_list([csr((2, 3), [0, 2, 2], [1, 1], RAMP[0, :2])], ["x"]), "column numbers"),
    "csr columns fall": (params_list([csr((2, 3), [0, 2, 2], [2, 1], RAMP[0, :2])], ["x"]), "column numbers"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie: str) -> None:
    data, says = LIES[lie]
    refusal(data, says)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_without_a_shape_is_refused(layout: str) -> None:
    shapeless = none(layout, ndim=-1 if layout == "V3" else 0)
    error = refusal(params_list([dense(RAMP), shapeless], ["x", "y"]), NONE, UnsupportedError)
    assert error.place is not None
    assert error.place.startswith("tensor #1 of 2")


def test_an_unknown_dimension_under_np_shape_is_none() -> None:
    refusal(params_list([none("V3", 2, (2, -1))], ["x"]), NONE, UnsupportedError)


def test_a_scalar_is_an_array_under_np_shape_only() -> None:
    assert_same_bits(arrays(parse(params_list([dense(RAMP[0, 0], "V3")], ["x"]))), {"x": np.array(-2.5, np.float32)})


@pytest.mark.parametrize("storage", ["row_sparse", "csr"])
def test_a_small_file_cannot_ask_for_much_memory(storage: str) -> None:
    if storage == "row_sparse":
        record = row_sparse((2**38, 3), [5], RAMP[:1])
    else:
        record = csr((1, 2**38), [0, 1], [5], RAMP[0, :1])
    tracemalloc.start()
    error = refusal(params_list([record], ["x"]), "far bigger than the file", UnsupportedError)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert "16 times the file" in str(error)


def test_the_most_memory_that_a_small_file_takes_is_within_the_bound_of_the_fuzzer() -> None:
    data = params_list([row_sparse((2**19, 1), [5], np.full((1, 1), 0x3F80, np.uint16), bfloat16=True)])  # 1 MiB dense
    tracemalloc.start()
    outcome = read_everything(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome == "read"
    assert 2**21 < peak < MEMORY_CONSTANT


def test_many_sparse_arrays_share_one_bound() -> None:
    record = row_sparse((64, 1024), [5], np.ones((1, 1024), np.float32))  # 256 KiB dense
    assert len(parse(params_list([record] * 4)).tensors) == 4
    thin = row_sparse((2**16, 1), [5], np.ones((1, 1), np.float32))  # 256 KiB dense
    assert len(parse(params_list([thin] * 4)).tensors) == 4
    refusal(params_list([thin] * 5), "found 1310720 bytes", UnsupportedError)


def test_a_big_file_may_hold_big_sparse_arrays() -> None:
    thin = row_sparse((2**19, 1), [5], np.ones((1, 1), np.float32))  # 2 MiB dense
    refusal(params_list([thin]), "far bigger than the file", UnsupportedError)
    assert parse(params_list([thin, dense(np.zeros(2**17, np.uint8))])).tensors["#0"].numpy().sum() == 1


def test_sparse_arrays_of_rank_one_and_int32_indices() -> None:
    rows = np.array([0, 3], np.int32)
    values = np.array([1.5, -2], np.float16)
    file = parse(params_list([sparse(1, (5,), values, [rows])], ["x"]))
    assert_same_bits(arrays(file), {"x": np.array([1.5, 0, 0, -2, 0], np.float16)})


def test_a_stale_stored_shape_of_csr_goes_by_the_index_arrays() -> None:
    record = csr((2, 3), [0, 1, 2], [2, 0], np.array([7, 8], np.float32), stored_shape=(0,))
    assert_same_bits(arrays(parse(params_list([record], ["x"]))), {"x": np.array([[0, 0, 7], [8, 0, 0]], np.float32)})


# --- files of another kind, files that are cut off -------------------------------------------------------------------

OTHER_FILES = {
    "HTML": (b"<!DOCTYPE html><html>404</html>", "web page", "download failed"),
    "HTML after a byte-order mark": (b"\xef\xbb\xbf\r\n <html>", "web page", "download failed"),
    "XML error of a cloud store": (b'<?xml version="1.0"?><Error>', "web page", "download failed"),
    "gzip": (gzip.compress(params_list([dense(RAMP)])), "gzip", "gunzip"),
    "bzip2": (b"BZh91AY&SY", "bzip2", "bunzip2"),
    "xz": (b"\xfd7zXZ\x00", "xz", "unxz"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5", "name the .params file"),
    "pickle": (b"\x80\x02}q\x00.", "pickle", "name the .params file"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", "git lfs pull"),
    "symbol file": (b'{\n  "nodes": [', "JSON", "PREFIX-symbol.json"),
    "big-endian": (b"\0\0\0\0\0\0\x01\x12" + bytes(16), "big-endian", "little-endian"),
    "noise": (b"0123456789abcdef", "expected 0x112, found 0x3736353433323130", "PREFIX-NNNN.params"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_kind_of_file_is_named(kind: str) -> None:
    data, says, hint = OTHER_FILES[kind]
    error = refusal(data, f"{NOT_PARAMS}.*{says}")
    assert hint in str(error.hint)


def test_an_empty_file() -> None:
    assert "download failed" in str(refusal(b"", "the file is empty").hint)


@pytest.mark.parametrize("data", seeds(), ids=range(len(seeds())))
def test_a_file_cut_anywhere_is_refused(data: bytes) -> None:
    parse(data)
    for size in range(1, len(data)):
        refusal(data[:size], "the file ends|the list announces|does not end with", TruncatedError)


# --- properties ------------------------------------------------------------------------------------------------------

CONTEXTS = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))


@given(
    st.lists(st.tuples(NAMES, ARRAYS, st.sampled_from(LAYOUTS), CONTEXTS), max_size=5, unique_by=lambda item: item[0])
)
def test_what_is_written_is_read(items: list[tuple[str, Array, str, tuple[int, int]]]) -> None:
    records = [dense(array, layout, context=context) for _, array, layout, context in items]
    file = parse(params_list(records, [name for name, *_ in items]))
    assert_same_bits(arrays(file), {name: array for name, array, *_ in items})
    assert file.layouts == tuple(dict.fromkeys(layout for _, _, layout, _ in items))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), st.data())
def test_sparse_rows_are_made_dense(array: Array, draw: st.DataObject) -> None:
    present = np.array(draw.draw(st.lists(st.booleans(), min_size=len(array), max_size=len(array))), bool)
    array = np.where(present.reshape(-1, *[1] * (array.ndim - 1)), array, np.float32(0))
    data = params_list([row_sparse(array.shape, np.flatnonzero(present), array[present])], ["x"])
    assert_same_bits(arrays(parse(data)), {"x": array})


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.sampled_from([0, 0, 1.5, -2]))
)
def test_csr_is_made_dense(array: Array) -> None:
    rows, columns = np.nonzero(array)
    indptr = np.searchsorted(rows, np.arange(len(array) + 1))
    data = params_list([csr(array.shape, indptr, columns, array[rows, columns])], ["x"])
    assert_same_bits(arrays(parse(data)), {"x": array})


@given(st.binary(max_size=600), st.sampled_from([b"", b"\x12\x01" + bytes(14), b"PK\x03\x04"]))
def test_any_bytes_raise_input_errors_only(data: bytes, beginning: bytes) -> None:
    with contextlib.suppress(InputError):
        for tensor in parse(beginning + data).tensors.values():
            assert tensor.numpy().size == math.prod(tensor.shape)


def test_mutated_files_raise_input_errors_only() -> None:
    outcomes = run(3000, seed=2)
    assert outcomes.total() == 3000
    assert outcomes["read"] > 100
    assert len(outcomes) > 40


def test_the_fuzzer_is_repeatable_and_changes_files() -> None:
    def mutants() -> list[bytes]:
        rng = random.Random(1)
        return [mutate(data, rng) for data in seeds() for _ in range(5)]

    assert mutants() == mutants()
    assert len(set(mutants()) - set(seeds())) > 50
