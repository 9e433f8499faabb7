"""The reader of MXNet 2.0's zips of `.npy` arrays: what is read, and zips that lie, one lie each."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mxnet_params_checks import ARRAYS, NAMES, RAMP, SHAPE, Array, arrays, assert_same_bits, parse, refusal
from mxnet_params_writer import TYPE_FLAGS, ZipLie, npy, zip_of

from resnext_convert.converter.errors import UnsupportedError
from resnext_convert.converter.mxnet.params import parse_params
from resnext_convert.converter.tensors import DType

W = {"w.npy": npy(RAMP)}
TWO = {"a.npy": npy(RAMP), "b.npy": npy(RAMP)}
END = "its end record says"


def numpy_zip(**stored: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **stored)
    return out.getvalue()


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def one_npy(**lie: Any) -> bytes:
    return zip_of({"w.npy": npy(RAMP, header=header(**lie))})


ZIP_LIES = {
    "wrong checksum": (zip_of(W, ZipLie(crc=1)), "entry 'w.npy', .*the checksum of this entry is wrong"),
    "2**32 - 2 bytes": (zip_of(W, ZipLie(size=2**32 - 2)), "ends inside an entry's content"),
    "one byte too few": (zip_of(W, ZipLie(size=len(W["w.npy"]) - 1)), "the checksum of this entry"),
    "two sizes": (zip_of(W, ZipLie(stored_size=5)), "entry 'w.npy' has two sizes"),
    "Zip64 size": (zip_of(W, ZipLie(size=2**32 - 1)), "beyond 4 GiB"),
    "entry elsewhere": (zip_of(W, ZipLie(offset=1)), "do not follow each other"),
    "entries that overlap": (zip_of(TWO, ZipLie(offset=0)), "follow each other"),
    "bytes between entries": (zip_of(TWO, ZipLie(gap=b"!")), "entry 'b.npy', .*do not follow each other"),
    "bytes after the last entry": (zip_of(W, ZipLie(gap=b"!!")), "2 bytes of the zip belong to no entry"),
    "compressed": (zip_of(W, ZipLie(method=8)), "entry 'w.npy' is compressed"),
    "compressed in its own header": (zip_of(W, ZipLie(local_method=8)), "own header contradicts"),
    "encrypted": (zip_of(W, ZipLie(flags=0x809)), "entry 'w.npy' is encrypted"),
    "encrypted in its own header": (zip_of(W, ZipLie(local_flags=0x809)), "own header contradicts"),
    "another name in its own header": (zip_of(W, ZipLie(local_name=b"v.npy")), "own header contradicts"),
    "second entry without magic": (
        b"PK\x03\x05".join(zip_of(TWO).rsplit(b"PK\x03\x04", 1)),
        "entry 'b.npy', .*own header contradicts",
    ),
    "descriptor of another size": (zip_of(W, ZipLie(descriptor=b"PK\x07\x08" + bytes(12))), "descriptor contradicts"),
    "no descriptor": (zip_of(W, ZipLie(descriptor=b"")), "ends inside an entry's data descriptor"),
    "no directory entry": (zip_of(W, ZipLie(directory_magic=b"PK\x01\x03")), "no zip directory entry"),
    "bytes after the directory": (zip_of(W, ZipLie(directory_gap=b"!")), "1 bytes after the last of 1"),
    "directory elsewhere": (zip_of(W, ZipLie(directory_start=5)), END),
    "directory past the end": (zip_of(W, ZipLie(directory_start=2**31)), END),
    "more entries": (zip_of(W, ZipLie(count=2)), "ends inside a directory entry"),
    "65535 entries": (zip_of(W, ZipLie(count=65535)), "ends inside a directory entry"),
    "fewer entries": (zip_of(W, ZipLie(count=0)), "51 bytes after the last of 0"),
    "second of several parts": (zip_of(W, ZipLie(disk=1)), "several parts"),
    "directory in another part": (zip_of(W, ZipLie(directory_disk=1)), "several parts"),
    "entries in other parts": (zip_of(W, ZipLie(count_here=2)), "several parts"),
    "a comment": (zip_of(W, ZipLie(comment_length=1)), "with a comment"),
    "Zip64 directory": (zip_of(W, ZipLie(directory_start=2**32 - 1)), "over 4 GiB"),
    "Zip64 directory size": (zip_of(W, ZipLie(directory_size=2**32 - 1)), "over 4 GiB"),
    "bytes after the end": (zip_of(W) + b"!", "does not end with a zip's end record"),
    "no .npy": (zip_of({"archive/data.pkl": b"\x80\x02."}), "not an .npy array .*data.pkl"),
    "no .npy behind one": (zip_of({**W, "readme.txt": b"hello"}), "not an .npy array .*readme.txt"),
    "name not UTF-8": (zip_of(W).replace(b"w.npy", b"\xff.npy"), "name is not UTF-8"),
    "name with a NUL": (zip_of({"a\0b.npy": npy(RAMP)}), "a NUL"),
    "name twice": (zip_of(TWO).replace(b"b.npy", b"a.npy"), "stands for 2"),
    "sparse": (zip_of({"w/indices.npy": npy(RAMP), "w/format.npy": npy(RAMP)}), "MXNet 2.0's sparse storage"),
    ".npy format 3.0": (zip_of({"w.npy": npy(RAMP, magic=b"\x93NUMPY\x03\x00")}), "format 1.0 or 2.0"),
    "not .npy": (zip_of({"w.npy": bytes(128)}), "format 1.0 or 2.0"),
    "empty .npy": (zip_of({"w.npy": b""}), "ends inside the .npy magic"),
    ".npy without its data": (zip_of({"w.npy": npy(RAMP)[:-1]}), "disagree on the size .*expected 24, found 23"),
    ".npy with more data": (zip_of({"w.npy": npy(RAMP) + b"!"}), "disagree on the size .*expected 24, found 25"),
    ".npy header past the end": (zip_of({"w.npy": npy(RAMP)[:40]}), "ends inside the .npy header"),
    "big-endian": (one_npy(descr="'>f4'"), "big-endian numbers.*found '>f4'"),
    "Python objects": (one_npy(descr="'|O'"), "Python objects.*found '|O'"),
    "text": (one_npy(descr="'<U1'"), "text.*found '<U1'"),
    "a record": (one_npy(descr="[('a', '<f4')]"), "not that of a plain array"),
    "code in the header": (one_npy(descr="__import__('os')"), "not that of a plain array"),
    "order unknown": (one_npy(fortran="None"), "not that of a plain array"),
    "negative dimension": (one_npy(shape="(-2, -3)"), "not that of a plain array"),
    "no tuple": (one_npy(shape="(6)"), "not that of a plain array"),
    "dimension of 20 digits": (one_npy(shape="(99999999999999999999,)"), "not that of a plain array"),
    "product that wraps": (one_npy(shape="(4194305, 4194305, 211106198978564)"), SHAPE),
    "33 dimensions": (one_npy(shape=f"({', '.join('1' * 33)})"), "too many dimensions"),
}


@pytest.mark.parametrize("lie", ZIP_LIES)
def test_a_zip_that_lies_is_refused(lie: str) -> None:
    data, says = ZIP_LIES[lie]
    refusal(data, says)


def test_a_zip_of_numpy_is_read_without_a_copy() -> None:
    stored = {"arg:w": RAMP, "aux:m": RAMP[0], "scalar": RAMP[0, 0], "nothing": RAMP[:0]}
    data = bytearray(numpy_zip(**stored))
    file = parse_params(memoryview(data), "x.params")
    assert_same_bits(arrays(file), {name: np.asarray(array) for name, array in stored.items()})
    place = data.index(RAMP.tobytes())
    data[place : place + 4] = np.float32(42).tobytes()
    assert file.tensors["arg:w"].numpy()[0, 0] == 42


@pytest.mark.parametrize("name", sorted(TYPE_FLAGS))
def test_every_type_in_a_zip(name: str) -> None:
    array = np.array([[0, 1], [1, 1], [0, 0]], "uint16" if name == "bfloat16" else name)
    descr = "[('bfloat16', '<u2')]" if name == "bfloat16" else repr(array.dtype.str)
    data = zip_of({"x.npy": npy(array, header=header(descr=descr, shape="(3, 2)"))})
    tensor = parse(data).tensors["x"]
    assert tensor.dtype is DType(name)
    assert bytes(tensor.data) == array.tobytes()


def test_fortran_order_is_rearranged() -> None:
    turned = np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4))
    file = parse(numpy_zip(a=turned, b=RAMP))
    assert_same_bits(arrays(file), {"a": np.ascontiguousarray(turned), "b": RAMP})
    assert file.notes == ("a: stored in Fortran order, rearranged into C order",)


def test_the_second_npy_format_is_read() -> None:
    data = zip_of({"w.npy": npy(RAMP, magic=b"\x93NUMPY\x02\x00")})
    assert_same_bits(arrays(parse(data)), {"w": RAMP})


def test_a_zip_without_entries_holds_no_arrays() -> None:
    file = parse(zip_of({}))
    assert (len(file.tensors), file.layouts) == (0, ("npz",))


def test_a_compressed_zip_of_numpy_is_refused() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, w=RAMP)
    assert "uncompressed" in str(refusal(out.getvalue(), "entry 'w.npy' is compressed", UnsupportedError).hint)


def test_a_pytorch_checkpoint_is_named() -> None:
    # the first entry of torch.save's zip; its end is in Zip64 form, which does not matter any more
    data = b"PK\x03\x04" + bytes(22) + b"\x10\0\0\0archive/data.pkl" + bytes(64)
    assert "PyTorch checkpoint" in str(refusal(data, "archive/data.pkl", UnsupportedError).hint)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_what_is_zipped_is_read(stored: dict[str, Array]) -> None:
    file = parse(zip_of({f"{name}.npy": npy(array) for name, array in stored.items()}))
    assert_same_bits(arrays(file), stored)
