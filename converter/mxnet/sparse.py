"""Turns row_sparse and csr storage into dense arrays; a wrong index is refused, never read around.

MXNet 1.9.1 checks none of these indices when it loads a file: an index past the end gives zeros in silence, a
negative one corrupts the heap. What is accepted here is what its NDArray::SyncCheckFormat (src/ndarray/ndarray.cc,
full_check) accepts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.tensors import Array, DType, checked_size

Storage = Literal["dense", "row_sparse", "csr"]

_HINT = "the file is damaged, or the array was never filled; save the network again with dense parameters"


def stored_shape(storage: Storage, shape: tuple[int, ...], index_shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the stored values, as the lengths of the index arrays demand it.

    Args:
        storage: ``dense`` (no index array), ``row_sparse`` (row numbers) or ``csr`` (indptr, column numbers).
        shape: the shape of the whole array.
        index_shapes: the shapes of the index arrays.

    Raises:
        FormatError: the shapes do not belong together.
    """
    if storage == "dense":
        return shape
    if any(len(index_shape) != 1 for index_shape in index_shapes):
        raise FormatError(
            f"a {storage} array whose index arrays are not one-dimensional", found=index_shapes, hint=_HINT
        )
    if storage == "row_sparse":
        return (*index_shapes[0], *shape[1:])
    if len(shape) != 2 or index_shapes[0] != (shape[0] + 1,):
        raise FormatError(
            "a csr array whose shapes do not belong together",
            expected="a matrix, and one row pointer more than it has rows",
            found=f"shape {list(shape)}, {index_shapes[0][0]} row pointers",
            hint=_HINT,
        )
    return index_shapes[1]


def densify(
    storage: Storage, shape: tuple[int, ...], dtype: DType, values: memoryview, indices: tuple[Array, ...]
) -> memoryview:
    """The bytes of the dense array, C order: the stored values at their places, zero elsewhere.

    Args:
        storage: ``row_sparse`` or ``csr``.
        shape: of the dense array.
        dtype: of the values.
        values: the stored values, of the shape that `stored_shape` gives.
        indices: the index arrays, of int32 or int64.

    Raises:
        FormatError: an index is out of range or out of order.
    """
    dense_bytes = np.zeros(checked_size(shape) * dtype.itemsize, np.uint8)
    dense = dense_bytes.view(dtype.stored).reshape(shape)
    stored = np.frombuffer(values, dtype.stored)
    if storage == "row_sparse":
        (rows,) = indices
        _check_range("row", rows, shape[0])
        if np.any(rows[1:] <= rows[:-1]):
            raise FormatError("row numbers of a row_sparse array that do not strictly increase", hint=_HINT)
        dense[rows] = stored.reshape((len(rows), *shape[1:]))
    else:
        rows, columns = _csr_places(shape, *indices)
        dense[rows, columns] = stored
    return dense_bytes.data


def _csr_places(shape: tuple[int, ...], indptr: Array, columns: Array) -> tuple[Array, Array]:
    """The row and the column of each stored value; row r holds the values indptr[r] to indptr[r + 1]."""
    if indptr[0] != 0 or indptr[-1] != len(columns) or np.any(indptr[1:] < indptr[:-1]):
        raise FormatError(
            "row pointers of a csr array that do not divide its values",
            expected=f"from 0 to {len(columns)}, never falling",
            found=f"from {indptr[0]} to {indptr[-1]}",
            hint=_HINT,
        )
    _check_range("column", columns, shape[1])
    rows = np.repeat(np.arange(shape[0]), np.diff(indptr))
    if np.any((rows[1:] == rows[:-1]) & (columns[1:] <= columns[:-1])):
        raise FormatError("column numbers of a csr array that do not strictly increase within a row", hint=_HINT)
    return rows, columns


def _check_range(what: str, indices: Array, end: int) -> None:
    wrong = indices[(indices < 0) | (indices >= end)]
    if len(wrong):
        raise FormatError(f"a {what} number outside the array", expected=f"0 to {end - 1}", found=wrong[0], hint=_HINT)
