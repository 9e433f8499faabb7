"""What the tests of the `.params` reader ask of a file that is read, and of one that is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mxnet_params_writer import TYPE_FLAGS

from resnext_convert.converter.errors import FormatError, InputError
from resnext_convert.converter.mxnet.params import ParamsFile, parse_params

Array = npt.NDArray[Any]

RAMP = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
SHAPE = "a shape that no array can have"

DTYPES = st.sampled_from([name for name in TYPE_FLAGS if name != "bfloat16"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4)
ARRAYS = DTYPES.flatmap(lambda name: hnp.arrays(np.dtype(name), SHAPES))
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)


def parse(data: bytes) -> ParamsFile:
    return parse_params(memoryview(data), "evil.params")


def arrays(file: ParamsFile) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in file.tensors.items()}


def assert_same_bits(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype, name
        assert array.shape == expected[name].shape, name
        assert array.tobytes() == expected[name].tobytes(), name


def refusal(data: bytes, says: str, kind: type[InputError] = FormatError) -> InputError:
    """The error that the file is refused with; it always names the file and says what to do."""
    with pytest.raises(kind, match=says) as caught:
        parse(data)
    assert str(caught.value).startswith("evil.params: ")
    assert caught.value.hint
    return caught.value
