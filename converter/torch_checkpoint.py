"""What of a checkpoint needs torch: `.pth` is written, and every format is read into torch's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open

from resnext_convert.converter import safetensors_file, tensor_tree
from resnext_convert.converter.errors import FormatError, MissingFileError
from resnext_convert.converter.sink import Sink
from resnext_convert.converter.tensors import Array

State = dict[str, torch.Tensor]


def tensors_of(arrays: Mapping[str, Array]) -> State:
    """Tensors over the arrays' memory; unaligned and read-only ones are copied, because torch may assume alignment."""
    return {key: _tensor(array) for key, array in arrays.items()}


def _tensor(array: Array) -> torch.Tensor:
    plain = np.require(array, requirements=["C", "A", "W"])
    if plain.dtype.name == "bfloat16":  # ml_dtypes', which torch does not know
        return torch.from_numpy(plain.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(plain)


def write(arrays: Mapping[str, Array], file: BinaryIO) -> None:
    """Writes a state dict that ``torch.load(weights_only=True)`` reads; the same arrays give the same bytes.

    The arrays are written from where they are (usually the mapped source file).

    Raises:
        OSError: of the operating system.
    """
    # A file object: given a path, torch would store its name in the archive, and the bytes would depend on it.
    with Sink(file) as sink:
        torch.save(tensors_of(arrays), sink)  # type: ignore[arg-type]  # all that torch calls is there


def read(path: Path) -> State:
    """Reads a plain state dict, mapped rather than copied.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no checkpoint, or holds more than a flat dictionary of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise MissingFileError("there is no such checkpoint", file=path) from error
    except Exception as error:  # damaged bytes lead torch's unpickler to KeyError, IndexError, TypeError ...
        raise FormatError(
            "this is no checkpoint that torch loads with weights_only=True",
            file=path,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error
    if not isinstance(state, dict):
        raise _not_plain(path, f"a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise _not_plain(path, f"a key {key!r}")
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
            raise _not_plain(path, f"{key!r} with a value of {kind}")
    return state


def _not_plain(path: Path, found: str) -> FormatError:
    return FormatError("this is no plain state dict", file=path, expected="a dictionary of dense tensors", found=found)


def read_safetensors(path: Path) -> State:
    """Reads `.safetensors` with the library, mapped rather than copied.

    Raises:
        FormatError: the file is damaged.
    """
    safetensors_file.read(path)  # whose errors say more
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dictionary
    except Exception as error:  # torch's own about tensors that are not aligned, or have too many dimensions
        raise safetensors_file.damaged(path, error) from error


def read_tree(path: Path) -> State:
    """Reads `.h5`; the elements are mapped.

    Raises:
        FormatError: the file is damaged, or another one.
    """
    return tensors_of({key: tensor.numpy() for key, tensor in tensor_tree.read(path).tensors.items()})
