"""The reader of `.params` files against what MXNet 0.8.0 to 2.0.0b1 wrote, and against damaged and odd files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mxnet_params_checks import SHAPE, Array, arrays, assert_same_bits, parse
from mxnet_params_writer import LAYOUTS, csr, dense, npy, params_list, row_sparse, zip_of
from repository import FIXTURES

from resnext_convert.converter.errors import FormatError, TruncatedError, UnsupportedError
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.tensors import DType

CONTAINER = FIXTURES / "mxnet" / "container"
OLD_LAYOUTS = {"0.8.0": "legacy", "0.9.5.post2": "legacy", "0.10.0.post2": "legacy", "0.11.0": "V1"}
V2_VERSIONS = ["0.12.1", "1.2.1.post1", "1.4.1", "1.5.1.post0", "1.6.0", "1.8.0.post0", "1.9.1"]


def expected_arrays(folder: Path) -> dict[str, dict[str, Array]]:
    """The recorded values by file and array; in `mutations` the files go by their stems."""
    found: dict[str, dict[str, Array]] = {}
    with np.load(folder / "expected.npz") as stored:
        for key in stored.files:
            file, _, name = key.partition("|")
            found.setdefault(Path(file).stem, {})[name] = stored[key]
    return found


# --- literal bytes -----------------------------------------------------------------------------------------------

LIST_OF_ONE = "1201000000000000 0000000000000000 0100000000000000"
NAME_X = "0100000000000000 0100000000000000 78"
# shape (2, 3), a CPU context, uint8, the data 1 2 3 100 5 0
GOLDEN = {
    "legacy": f"{LIST_OF_ONE} 02000000 02000000 03000000 0100000000000000 03000000 010203640500 {NAME_X}",
    "V1": f"{LIST_OF_ONE} c8fa93f9 02000000 0200000000000000 0300000000000000 0100000000000000 03000000"
    f"010203640500 {NAME_X}",
    "V2": f"{LIST_OF_ONE} c9fa93f9 00000000 02000000 0200000000000000 0300000000000000 0100000000000000 03000000"
    f"010203640500 {NAME_X}",
    "V3": f"{LIST_OF_ONE} cafa93f9 00000000 02000000 0200000000000000 0300000000000000 0100000000000000 03000000"
    f"010203640500 {NAME_X}",
}
GOLDEN_ARRAY = np.array([[1, 2, 3], [100, 5, 0]], np.uint8)
# (1, 3) float32 as MXNet 2.0.0b1's npx.savez wrote it: local header, .npy, descriptor, directory, end record
GOLDEN_NPZ = (
    "504b0304 0000 0808 0000 0000 0000 00000000 00000000 00000000 0500 0000 772e6e7079"
    "934e554d5059 0100 7600 7b276465736372273a20273c6634272c2027666f727472616e5f6f72646572273a2046616c73652c"
    "20277368617065273a2028312c2033292c207d" + "20" * 58 + "0a 0000803f 00000040 00004040"
    "504b0708 1c08ab35 8c000000 8c000000"
    "504b0102 0000 0000 0808 0000 0000 0000 1c08ab35 8c000000 8c000000 0500 0000 0000 0000 0000 00000000 00000000"
    "772e6e7079 504b0506 0000 0000 0100 0100 33000000 bf000000 0000"
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_bytes_are_read(layout: str) -> None:
    file = parse(bytes.fromhex(GOLDEN[layout]))
    assert_same_bits(arrays(file), {"x": GOLDEN_ARRAY})
    assert (file.layouts, file.named, file.notes) == ((layout,), True, ())
    assert file.tensors["x"].where == f"{layout} record at byte 0x18"
    assert file.tensors["x"].dtype is DType.UINT8


def test_golden_zip_is_read() -> None:
    file = parse(bytes.fromhex(GOLDEN_NPZ))
    assert_same_bits(arrays(file), {"w": np.array([[1, 2, 3]], np.float32)})
    assert (file.layouts, file.named, file.notes) == (("npz",), True, ())
    assert file.tensors["w"].where == "zip entry at byte 0x0"


@pytest.mark.parametrize(("layout", "version"), [("legacy", "0.8.0"), ("V1", "0.11.0"), ("V2", "1.9.1")])
def test_golden_bytes_and_the_test_writer_are_what_mxnet_wrote(layout: str, version: str) -> None:
    recorded = (CONTAINER / version / "uint8.params").read_bytes()
    assert recorded == bytes.fromhex(GOLDEN[layout])
    assert recorded == params_list([dense(GOLDEN_ARRAY, layout)], ["x"])


def test_the_test_writer_writes_v3_sparse_and_zips_as_mxnet_did() -> None:
    newest = CONTAINER / "2.0.0b1"
    ones = np.array([[1, 2, 3]])
    assert params_list([dense(ones.astype(np.int16), "V3")], ["x"]) == (newest / "int16.params").read_bytes()
    assert zip_of({"w.npy": npy(ones.astype(np.float32))}) == (newest / "npx_savez.params").read_bytes()
    assert bytes.fromhex(GOLDEN_NPZ) == (newest / "npx_savez.params").read_bytes()

    recorded = expected_arrays(CONTAINER / "1.9.1")
    w = recorded["csr"]["arg:w"]
    rows, columns = np.nonzero(w)
    indptr = np.searchsorted(rows, np.arange(len(w) + 1))
    stale = csr(w.shape, indptr, columns, w[rows, columns], stored_shape=(0,))  # saved before the operator had ended
    assert params_list([stale], ["arg:w"]) == (CONTAINER / "1.9.1" / "csr.params").read_bytes()
    w = recorded["row_sparse"]["arg:w"]
    present = np.flatnonzero(w.any(axis=1))
    records = [row_sparse(w.shape, present, w[present]), dense(recorded["row_sparse"]["arg:dense"])]
    assert params_list(records, ["arg:w", "arg:dense"]) == (CONTAINER / "1.9.1" / "row_sparse.params").read_bytes()


# --- recordings of every MXNet version -------------------------------------------------------------------------------


def test_every_version_is_there() -> None:
    folders = {folder.name for folder in CONTAINER.iterdir() if folder.is_dir()}
    assert folders == {*OLD_LAYOUTS, *V2_VERSIONS, "2.0.0b1", "mutations"}


@pytest.mark.parametrize("version", [*OLD_LAYOUTS, *V2_VERSIONS])
def test_every_recorded_file_is_read_to_the_bit(version: str) -> None:
    recorded = expected_arrays(CONTAINER / version)
    files = sorted((CONTAINER / version).glob("*.params"))
    assert {path.stem for path in files} == {*recorded, "empty_dict", "empty_list"}
    for path in files:
        file = read_params(path)
        found = {name.removeprefix("#"): array for name, array in arrays(file).items()}
        expected = recorded.get(path.stem, {})
        assert_same_bits({name: found[name] for name in sorted(found)}, dict(sorted(expected.items())))
        assert file.named == (path.stem != "list_no_names")
        if path.stem in {"npshape", "npx_save"}:
            assert file.layouts == ("V3",)
        else:
            assert file.layouts == ((OLD_LAYOUTS.get(version, "V2"),) if expected else ())
        assert bool(file.notes) == ("sparse" in path.stem or path.stem == "csr")


@pytest.mark.parametrize("name", ["bool", "int16", "uint16", "uint32", "uint64"])
def test_the_types_that_only_mxnet_2_writes(name: str) -> None:
    file = read_params(CONTAINER / "2.0.0b1" / f"{name}.params")  # written from [[1, 2, 3]]
    assert_same_bits(arrays(file), {"x": np.array([[1, 2, 3]], name)})
    assert file.layouts == ("V3",)


def test_the_list_of_mxnet_2() -> None:
    file = read_params(CONTAINER / "2.0.0b1" / "nd_save.params")
    assert_same_bits(arrays(file), {"arg:w": np.array([[1, 2, 3]], np.float32), "aux:m": np.array([1, 1], np.float32)})


@pytest.mark.parametrize("name", ["2.0.0b1/export-0000", "2.0.0b1/npx_savez", "2.0.0b1/save_parameters"])
def test_the_zips_of_mxnet_2(name: str) -> None:
    path = CONTAINER / f"{name}.params"
    with np.load(path) as stored:
        expected = {key: stored[key] for key in stored.files}
    assert expected
    file = read_params(path)
    assert_same_bits(arrays(file), expected)
    assert (file.layouts, file.named) == (("npz",), True)


# --- damaged and odd files -------------------------------------------------------------------------------------------

READ = "read"
TRUNCATED = "the file ends inside"
NOT_PARAMS = "this is not an MXNet .params file"
NONE = 'an array without a shape and without data \\(MXNet\'s "none"\\)'

# What we do with each file of `mutations/`: read it to the bit, or refuse it for this reason.
MUTATIONS = {
    "ok_v2": READ,
    "ok_v0": READ,
    "ok_v1": READ,
    "v3": READ,
    "v3_scalar": READ,
    "v3_zero_size": READ,
    "mixed_versions": READ,
    "mixed_v1_v0": READ,
    "ctx_gpu0": READ,
    "ctx_gpu3": READ,
    "ctx_cpu_pinned": READ,
    "ctx_cpu_shared": READ,
    "ctx_cpu7": READ,
    "ctx_dev99": READ,
    "ctx_dev0": READ,
    "ctx_dev_negative": READ,
    "ctx_gpu0_legacy": READ,
    "ctx_gpu0_v1": READ,
    "reserved_nonzero": READ,
    "no_names": READ,
    "empty": READ,
    # MXNet ignores them; every byte must be accounted for.
    "trailing_bytes": "byte 0xaa: 7 bytes after the last name",
    "trailing_second_list": "byte 0xaa: 170 bytes after the last name",
    # MXNet silently takes the last one.
    "dup_names": "the name 'arg:w' stands for 2 arrays",
    "empty_name": READ,
    "no_prefix": READ,
    "odd_prefix": READ,
    "double_colon": READ,
    "name_not_utf8": "name #0, byte 0x90: a name that is not UTF-8 .*arg:",
    # MXNet's C interface cuts the name at the NUL.
    "name_nul": "a name with a NUL in it .*'arg:a.x00b'",
    "none_v2": f"tensor #1 of 2, before byte 0x64: {NONE}",
    "none_v2_minus1": f"tensor #1 of 2, before byte 0x64: {NONE}",
    "none_legacy": f"tensor #1 of 2, before byte 0x4c: {NONE}",
    "zero_size_v2": READ,
    "zero_size_legacy": READ,
    "trunc_000": "the file is empty",
    "trunc_001": f"byte 0x0: {TRUNCATED} the list's magic number .*found 1 left",
    "trunc_007": f"byte 0x0: {TRUNCATED} the list's magic number .*found 7 left",
    "trunc_008": f"byte 0x8: {TRUNCATED} the reserved word",
    "trunc_015": f"byte 0x8: {TRUNCATED} the reserved word",
    "trunc_016": f"byte 0x10: {TRUNCATED} the number of arrays",
    "trunc_020": f"byte 0x10: {TRUNCATED} the number of arrays",
    "trunc_023": f"byte 0x10: {TRUNCATED} the number of arrays",
    "trunc_024": "byte 0x10: the list announces 2 arrays, but only 0 bytes follow",
    "trunc_027": "byte 0x10: the list announces 2 arrays, but only 3 bytes follow",
    "trunc_031": "byte 0x10: the list announces 2 arrays, but only 7 bytes follow",
    "trunc_035": f"tensor #0 of 2, byte 0x20: {TRUNCATED} a number of dimensions",
    "trunc_040": f"tensor #0 of 2, byte 0x24: {TRUNCATED} a shape .*expected 16 bytes, found 4 left",
    "trunc_052": f"tensor #0 of 2, byte 0x34: {TRUNCATED} a context",
    "trunc_060": f"tensor #0 of 2, byte 0x3c: {TRUNCATED} a type flag",
    "trunc_064": f"tensor #0 of 2, byte 0x40: {TRUNCATED} the data of an array .*expected 24 bytes, found 0 left",
    "trunc_070": f"tensor #0 of 2, byte 0x40: {TRUNCATED} the data of an array .*expected 24 bytes, found 6 left",
    "trunc_140": f"byte 0x88: {TRUNCATED} the number of names",
    "trunc_150": f"byte 0x90: {TRUNCATED} the length of a name",
    "trunc_158": f"byte 0x9d: {TRUNCATED} the length of a name",
    "trunc_169": f"byte 0xa5: {TRUNCATED} a name .*expected 5 bytes, found 4 left",
    "bad_list_magic": f"byte 0x0: {NOT_PARAMS} .*expected 0x112, found 0x113",
    "byteswapped": f"{NOT_PARAMS}: its numbers are big-endian",
    # The names are taken for a third record, as in MXNet.
    "count_too_big": "tensor #2 of 3, .*: unknown type flag .*found 1399",
    # The second record is taken for the number of names, as in MXNet.
    "count_too_small": "byte 0x58: the number of names is not the number of arrays .*expected 1 .*found 4187224777",
    "count_huge": "byte 0x10: the list announces 4611686018427387904 arrays, but only 146 bytes follow",
    "names_fewer": "byte 0x88: the number of names is not the number of arrays .*expected 2 .*found 1",
    "names_more": "byte 0x88: the number of names is not the number of arrays .*expected 2 .*found 3",
    "name_len_huge": f"byte 0x68: {TRUNCATED} a name .*expected 1099511627776 bytes, found 5 left",
    "type_13": "tensor #0 of 1, .*: unknown type flag .*found 13",
    "type_minus1": "tensor #0 of 1, .*: unknown type flag .*found -1",
    "type_99": "tensor #0 of 1, .*: unknown type flag .*found 99",
    "stype_3": "tensor #0 of 1, .*: unknown storage type of a V2 record .*found 3",
    "stype_minus1": "tensor #0 of 1, .*: unknown storage type of a V2 record .*found -1",
    "dim_negative": f"tensor #0 of 1, .*: {SHAPE} .*found \\[2, -3\\]",
    "dim_huge": f"tensor #0 of 1, .*: {SHAPE} .*found \\[2147483648, 2147483648\\]",
    "dim_overflow": f"tensor #0 of 1, .*: {SHAPE} .*found \\[4294967296, 4294967296, 6\\]",
    "ndim_huge": "tensor #0 of 1, .*: an array with too many dimensions .*found 1073741824",
    "ndim_33": "tensor #0 of 1, .*: an array with too many dimensions .*found 33",
    "magic_v4": "tensor #0 of 1, .*: a record of an unknown version .*found 0xf993facb",
    "row_sparse_ok": READ,
    # MXNet reads zeros.
    "row_sparse_bad_index": "tensor 'arg:w', V2 record at byte 0x18: a row number outside .*0 to 3, found 9",
    "row_sparse_neg_index": "tensor 'arg:w', V2 record at byte 0x18: a row number outside .*0 to 3, found -1",
    # MXNet loads it, but cannot make it dense.
    "row_sparse_int32_index": READ,
    "row_sparse_stale_storage_shape": READ,
    # Written by MXNet 2.0; 1.9.1 cannot read it.
    "npz_mxnet2": READ,
}
UNLIKE_MXNET_191 = {
    "trailing_bytes",
    "trailing_second_list",
    "dup_names",
    "name_nul",
    "row_sparse_bad_index",
    "row_sparse_int32_index",
    "npz_mxnet2",
}
# Files that are read and have no recorded values: the arrays of ok_v2 under these names, or an array without elements.
SAME_AS_OK_V2: dict[str, dict[str, str | None]] = {
    "empty_name": {"": "arg:w", "aux:m": "aux:m"},
    "odd_prefix": {"auxx:w": "arg:w", "ARG:m": "aux:m"},
    "double_colon": {"arg:a:b": "arg:w", "aux::m": "aux:m"},
    "zero_size_v2": {"arg:w": None, "aux:m": "aux:m"},
    "zero_size_legacy": {"arg:w": None, "aux:m": "aux:m"},
    "npz_mxnet2": {"w": "arg:w", "m": "aux:m"},
    "empty": {},
}


def test_each_mutation_has_its_outcome() -> None:
    assert set(MUTATIONS) == {path.stem for path in (CONTAINER / "mutations").glob("*.params")}
    assert len(MUTATIONS) == 81


@pytest.mark.parametrize("name", [name for name, outcome in MUTATIONS.items() if outcome == READ])
def test_mutation_is_read_to_the_bit(name: str) -> None:
    recorded = expected_arrays(CONTAINER / "mutations")
    ok_v2 = recorded["ok_v2"]
    if name in SAME_AS_OK_V2:
        expected = {
            key: np.zeros((0, 3), np.float32) if source is None else ok_v2[source]
            for key, source in SAME_AS_OK_V2[name].items()
        }
    else:
        expected = recorded[name]
    found = arrays(read_params(CONTAINER / "mutations" / f"{name}.params"))
    assert_same_bits({key.removeprefix("#"): array for key, array in found.items()}, expected)


@pytest.mark.parametrize(("name", "says"), [(name, says) for name, says in MUTATIONS.items() if says != READ])
def test_mutation_is_refused(name: str, says: str) -> None:
    kind = UnsupportedError if name.startswith(("none", "ndim", "magic_v4")) else FormatError
    kind = TruncatedError if name.startswith("trunc") and name != "trunc_000" else kind
    with pytest.raises(kind, match=f"^[^:]*{name}.params: {says}") as caught:
        read_params(CONTAINER / "mutations" / f"{name}.params")
    assert caught.value.hint


def test_where_we_differ_from_mxnet() -> None:
    outcomes = json.loads((CONTAINER / "mutations" / "outcomes.json").read_bytes())

    def mxnet_reads(name: str) -> bool:
        runs = [outcomes[name][engine] for engine in ("1.9.1", "1.9.1+set_np") if engine in outcomes[name]]
        return any("ok" in run and "unusable" not in json.dumps(run) for run in runs)

    assert {name for name, says in MUTATIONS.items() if mxnet_reads(name) != (says == READ)} == UNLIKE_MXNET_191
