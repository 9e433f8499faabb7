"""Tensors by reference: name, dtype, shape and where the bytes are; the bytes are touched once, at the end."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnext_convert.converter.errors import FormatError, UnsupportedError

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]


class DType(enum.Enum):
    """Element types that source files store; the value is the field's usual name."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    BOOL = "bool"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy dtype of the stored bytes, little-endian; bfloat16, which NumPy lacks, is stored as uint16."""
        return _STORED[self]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.stored.itemsize

    @property
    def is_float(self) -> bool:
        return self in {DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64}


_STORED = {dtype: np.dtype("uint16" if dtype is DType.BFLOAT16 else dtype.value).newbyteorder("<") for dtype in DType}

MAX_DIMENSIONS = 32  # of a NumPy 1 array; NumPy 2 holds 64
_MAX_ELEMENTS = (2**63 - 1) // 8  # what NumPy can address as float64


def check_ndim(ndim: int) -> None:
    """Refuses a number of dimensions that NumPy cannot hold; readers call it before they read the dimensions.

    Raises:
        UnsupportedError: more than 32.
    """
    if ndim > MAX_DIMENSIONS:
        raise UnsupportedError(
            "an array with too many dimensions",
            expected=f"at most {MAX_DIMENSIONS}",
            found=ndim,
            hint="no weight of a network has so many: the file is damaged; fetch it again and compare its checksum",
        )


def checked_size(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape that a file states, in Python integers, which do not wrap.

    A size of 0 says nothing about the other dimensions, so those are bounded as well: NumPy cannot hold an array
    of shape (0, 2**62).

    Raises:
        FormatError: a dimension is negative, or NumPy cannot hold such an array in float64.
    """
    check_ndim(len(shape))
    size = math.prod(shape)
    if min(shape, default=0) < 0 or (size or math.prod(dim for dim in shape if dim)) > _MAX_ELEMENTS:
        raise FormatError(
            "a shape that no array can have",
            expected=f"dimensions from 0 on, at most {_MAX_ELEMENTS} elements",
            found=list(shape),
            hint="the file is damaged; fetch it again and compare its size and checksum",
        )
    return size


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TensorRef:
    """One stored tensor. Shape and dtype are free; `numpy` is a view of the file's bytes.

    Attributes:
        name: the full name in the file (``arg:conv0_weight``), or ``#3`` where the file has no names.
        dtype: the element type as stored.
        shape: C order.
        where: the place in the file, for messages and for ``inspect`` (``V2 record at byte 0x18``).
        data: exactly ``prod(shape) * itemsize`` bytes.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    where: str
    data: memoryview

    def __post_init__(self) -> None:
        if self.data.nbytes != self.nbytes:
            raise ValueError(f"{self.name}: {self.data.nbytes} bytes for {self.shape} {self.dtype}")

    def __repr__(self) -> str:
        return f"TensorRef<{self.name} {self.dtype.value} {list(self.shape)}>"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored elements."""
        return self.size * self.dtype.itemsize

    def numpy(self) -> Array:
        """The values: a view of the mapped bytes (possibly unaligned), but bfloat16 as a float32 copy.

        A bfloat16 is the upper half of a float32 (MXNet 1.9.1, 3rdparty/mshadow/mshadow/bfloat.h), so that is exact.
        """
        array: Array = np.frombuffer(self.data, self.dtype.stored).reshape(self.shape)
        if self.dtype is DType.BFLOAT16:
            return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return array

    def float64(self) -> Float64Array:
        """The values as an owned, aligned float64 array; exact but for 64-bit integers beyond 2**53."""
        return np.array(self.numpy(), dtype=np.float64, order="C")


class TensorStore(Mapping[str, TensorRef]):
    """The tensors of one file by name, in the file's order."""

    __slots__ = ("_tensors", "file")

    def __init__(self, tensors: Mapping[str, TensorRef], file: object) -> None:
        self._tensors = dict(tensors)
        self.file = file

    def __getitem__(self, name: str) -> TensorRef:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"TensorStore<{len(self)} tensors of {self.file}>"
