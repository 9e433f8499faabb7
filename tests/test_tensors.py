"""Tensors by reference: sizes in Python integers, values as stored."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from resnext_convert.converter.errors import FormatError, UnsupportedError
from resnext_convert.converter.tensors import DType, TensorRef, TensorStore, check_ndim, checked_size


def ref(dtype: DType, shape: tuple[int, ...], data: bytes) -> TensorRef:
    return TensorRef("arg:w", dtype, shape, "byte 0x18", memoryview(data))


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BFLOAT16], ids=lambda d: d.value)
def test_values_are_the_stored_ones(dtype: DType) -> None:
    values: list[Any] = [True, False, True] if dtype is DType.BOOL else [1, 0, 3]
    if dtype.is_float or dtype.value.startswith("int"):
        values[1] = -2
    code = {"bool": "?", "float16": "e", "float32": "f", "float64": "d"}.get(dtype.value)
    code = code or {1: "b", 2: "h", 4: "i", 8: "q"}[dtype.itemsize]
    data = struct.pack(f"<3{code.upper() if dtype.value.startswith('uint') else code}", *values)
    tensor = ref(dtype, (3, 1), data)
    assert tensor.numpy().dtype.name == dtype.value
    assert tensor.numpy().tolist() == [[value] for value in values]
    assert tensor.float64().tolist() == [[float(value)] for value in values]
    assert (tensor.size, tensor.nbytes) == (3, len(data))


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    values = np.array([1.0, -2.5, 3.140625, np.inf, 2.0**-130], np.float32)  # a denormal number among them
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    read = ref(DType.BFLOAT16, (5,), halves.tobytes()).numpy()
    assert read.dtype == np.float32
    assert read.tolist() == values.tolist()


def test_a_view_is_not_a_copy_and_float64_is() -> None:
    data = bytearray(struct.pack("<x2d", 1.0, 2.0))  # one byte off any alignment
    tensor = TensorRef("w", DType.FLOAT64, (2,), "", memoryview(data)[1:])
    copied = tensor.float64()
    data[1:9] = struct.pack("<d", 9.0)
    assert tensor.numpy().tolist() == [9.0, 2.0]
    assert copied.tolist() == [1.0, 2.0]
    assert copied.flags.aligned
    assert copied.flags.owndata
    assert copied.flags.c_contiguous


def test_a_scalar_and_an_empty_tensor() -> None:
    assert ref(DType.FLOAT32, (), struct.pack("<f", 3.0)).numpy().item() == 3.0
    assert ref(DType.FLOAT32, (0, 7), b"").numpy().shape == (0, 7)


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_tensor_has_all_of_its_bytes_and_no_more(length: int) -> None:
    with pytest.raises(ValueError, match=rf"arg:w: {length} bytes"):
        ref(DType.FLOAT32, (2,), bytes(length))


def test_a_tensor_shows_its_shape_and_no_values() -> None:
    assert repr(ref(DType.FLOAT16, (2, 1), bytes(4))) == "TensorRef<arg:w float16 [2, 1]>"


def test_which_types_are_floating_point() -> None:
    assert {dtype.value for dtype in DType if dtype.is_float} == {"float16", "bfloat16", "float32", "float64"}


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((3, 4), 12), ((0, 5), 0), ((2**31, 2**28), 2**59)])
def test_sizes(shape: tuple[int, ...], size: int) -> None:
    assert checked_size(shape) == size


@pytest.mark.parametrize(
    "shape",
    [
        (-1,),
        (0, -1),
        (-1, -1),
        (2**60,),
        (4194305, 4194305, 211106198978564),  # 4 in 64-bit arithmetic
        (2**32, 2**32),  # 0 in 64-bit arithmetic
        (0, 2**62),
    ],
)
def test_shapes_that_no_array_has(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="a shape that no array can have"):
        checked_size(shape)


def test_the_number_of_dimensions_is_bounded() -> None:
    check_ndim(32)
    for refuse in (lambda: check_ndim(33), lambda: checked_size((1,) * 33)):
        with pytest.raises(UnsupportedError, match="too many dimensions"):
            refuse()


def test_a_store_keeps_the_order_of_the_file() -> None:
    tensors = {name: ref(DType.INT8, (1,), b"\1") for name in ("b", "a", "c")}
    store = TensorStore(tensors, "a.params")
    assert list(store) == ["b", "a", "c"]
    assert store["a"] is tensors["a"]
    assert "a" in store
    assert "z" not in store
    assert len(store) == 3
    assert repr(store) == "TensorStore<3 tensors of a.params>"
    tensors.clear()
    assert len(store) == 3
