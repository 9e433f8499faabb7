"""What every reader refuses in stored values."""

from __future__ import annotations

from typing import Final

import numpy as np

from resnext_convert.converter.errors import ValueRangeError
from resnext_convert.converter.graph import Node
from resnext_convert.converter.tensors import Array, TensorRef

_CHUNK: Final = 2**16  # elements; their flags stay in the cache


def check_finite(node: Node, tensor: TensorRef, hint: str) -> None:
    """Refuses NaN and infinity.

    Args:
        node: the operator that uses the tensor, for the error.
        tensor: of any shape and type.
        hint: what the user can do about it.

    Raises:
        ValueRangeError: with the first element that is not finite.
    """
    values: Array = tensor.numpy().reshape(-1)
    for start in range(0, values.size, _CHUNK):
        finite = np.isfinite(values[start : start + _CHUNK])
        if not finite.all():
            first = start + int(np.argmin(finite))
            where = tuple(int(index) for index in np.unravel_index(first, tensor.shape))
            raise ValueRangeError(
                "a stored value is not finite",
                place=f"{node}, {tensor.where}, tensor {tensor.name!r}, element {list(where)}",
                expected="a finite number",
                found=values[first],
                hint=hint,
            )
