"""Writes and loads checkpoints: one table of formats, by suffix; and what the report beside a checkpoint says.

torch is imported only where it is needed: to write `.pth`, to read, and to load.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from resnext_convert.converter import safetensors_file, tensor_tree
from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, UsageError, WriteError
from resnext_convert.converter.libhdf5 import MAGIC as HDF5
from resnext_convert.converter.records import FOLDER_MODEL, report_path
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.stock import legacy_key
from resnext_convert.converter.staging import HINTS
from resnext_convert.converter.tensors import Array

if TYPE_CHECKING:
    import torch

    from resnext_convert.converter.resnext.module import ResNeXt


def _write_torch(arrays: Mapping[str, Array], file: BinaryIO, metadata: Mapping[str, str]) -> None:
    from resnext_convert.converter import torch_checkpoint

    torch_checkpoint.write(arrays, file)  # a plain state dict has no room for metadata


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    from resnext_convert.converter import torch_checkpoint

    return torch_checkpoint.read(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from resnext_convert.converter import torch_checkpoint

    return torch_checkpoint.read_safetensors(path)


def _read_tree(path: Path) -> dict[str, torch.Tensor]:
    from resnext_convert.converter import torch_checkpoint

    return torch_checkpoint.read_tree(path)


@dataclass(frozen=True, slots=True)
class Format:
    """How tensors are written to a file and read from it.

    Attributes:
        write: arrays by their keys, the file, texts for the header where the format has one.
        read: the same as torch's tensors.
        without: the precisions that it cannot hold.
    """

    write: Callable[[Mapping[str, Array], BinaryIO, Mapping[str, str]], None]
    read: Callable[[Path], dict[str, torch.Tensor]]
    without: frozenset[str] = frozenset()


_TORCH: Final = Format(_write_torch, _read_torch)
FORMATS: Final[Mapping[str, Format]] = {
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".safetensors": Format(safetensors_file.write, _read_safetensors),
    ".h5": Format(tensor_tree.write, _read_tree, without=frozenset({"bfloat16"})),
}


def is_folder(out: Path | str) -> bool:
    """Whether an output is to be a folder of the hub's form: it ends in a slash, or is a folder already.

    A folder that is called like a file (``out.pth``) is one only with the slash.
    """
    return str(out).endswith(("/", os.sep)) or (Path(out).suffix not in FORMATS and Path(out).is_dir())


def suffix_of(out: Path | str, dtype: str | None = None) -> str:
    """The suffix that says in which format an output is written.

    Args:
        out: the output as the user wrote it: the slash at its end counts, which a path would lose.
        dtype: of the tensors, where it is known.

    Raises:
        UsageError: the output's suffix is not one of `FORMATS`, or the format has no such ``dtype``.
    """
    suffix = Path(FOLDER_MODEL if is_folder(out) else out).suffix
    if suffix not in FORMATS:
        raise UsageError(
            "the suffix of the output says which format is wanted, and this one says none",
            file=out,
            expected=f"{', '.join(FORMATS)}, or a folder: a name that ends in /",
            found=suffix or "no suffix",
        )
    if dtype in FORMATS[suffix].without:
        raise UsageError(
            f"a {suffix} file cannot hold {dtype}",
            file=out,
            hint="take another precision, or write .safetensors or .pth",
        )
    return suffix


def write(
    arrays: Mapping[str, Array], file: BinaryIO, suffix: str = ".pth", metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a checkpoint; the same arrays give the same bytes.

    Args:
        arrays: float16, bfloat16 (ml_dtypes'), float32, float64, integers; of any layout, aligned or not.
        file: an empty file, open for reading and writing.
        suffix: of `FORMATS`.
        metadata: texts for the header; ``.pth`` has none and leaves them out.

    Raises:
        UsageError: the format cannot hold a tensor.
        WriteError: the disk is full, or another reason of the operating system.
    """
    try:
        FORMATS[suffix].write(arrays, file, metadata or {})
        file.flush()
    except OSError as error:
        raise WriteError(
            f"the checkpoint cannot be written: {error.strerror or error}", hint=HINTS.get(error.errno or 0)
        ) from error


def read(path: Path) -> dict[str, torch.Tensor]:
    """Reads a checkpoint of any format, told by its content; mapped rather than copied.

    Args:
        path: the file, or a folder of the hub's form.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no checkpoint, is damaged, or holds more than tensors by their names.
    """
    if path.is_dir():
        path = path / FOLDER_MODEL
    try:
        with path.open("rb") as file:
            beginning = file.read(16)
    except OSError:
        beginning = b""  # torch says what is wrong
    if beginning.startswith(HDF5):
        return FORMATS[".h5"].read(path)
    if safetensors_file.is_safetensors(beginning):
        return FORMATS[".safetensors"].read(path)
    return FORMATS[".pth"].read(path)


def load(path: Path | str) -> ResNeXt:
    """The module that a checkpoint and its report describe: exact configuration, evaluation mode, weights mapped.

    It has one dtype, that of the weights, and takes images of it. Where the checkpoint holds running statistics in
    float64 beside weights in float32 (quotients that float32 cannot hold), they are rounded here, as
    ``load_state_dict`` would round them.

    Args:
        path: a checkpoint of any format, or a folder of the hub's form.

    Raises:
        MissingFileError: the checkpoint or its report is not there.
        FormatError: either cannot be read, or they do not belong together.
    """
    from resnext_convert.converter.runner import build

    path = Path(path)
    report = read_report(report_path(path))
    config = read_config(report, report_path(path))
    path = path / FOLDER_MODEL if path.is_dir() else path
    output = report.get("output")
    expected = output.get("sha256") if isinstance(output, dict) else None
    if expected != (found := sha256(path)):
        raise FormatError(
            "the report beside the checkpoint is of another one",
            file=path,
            expected=f"SHA-256 {expected}",
            found=found,
            hint="convert again, or put the report that was written with it back",
        )
    state = read(path)
    if isinstance(stock := report.get("stock"), dict) and stock.get("legacy"):
        ours = {legacy_key(key, config): key for key in config.state_shapes()}
        state = {ours.get(key, key): value for key, value in state.items()}
    try:
        module = build(config, state)
        return module.to(module.get_parameter("fc.weight").dtype)
    except Exception as error:  # a damaged configuration asks torch for layers that it refuses in many ways
        raise FormatError(f"the checkpoint is not of the configuration in its report: {error}", file=path) from error


def read_report(path: Path) -> dict[str, Any]:
    """The report beside a checkpoint, as JSON.

    Raises:
        MissingFileError: there is none.
        FormatError: it is no JSON object.
    """
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(
            "there is no report beside the checkpoint",
            file=path,
            hint="the report that was written with the checkpoint holds the configuration; keep the two together",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"the report cannot be read: {error}", file=path) from error
    if not isinstance(report, dict):
        raise FormatError("the report is no JSON object", file=path)
    return report


def read_config(report: Mapping[str, Any], path: Path) -> ResNeXtConfig:
    """The configuration that a report holds.

    Raises:
        FormatError: it holds none, or one that no module has.
    """
    try:
        return TypeAdapter(ResNeXtConfig).validate_json(json.dumps(report.get("config")))
    except ValidationError as error:
        first = error.errors()[0]
        raise FormatError(
            f"the configuration in the report is damaged: {first['msg']}",
            file=path,
            place=".".join(str(part) for part in ("config", *first["loc"])),
        ) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        MissingFileError: it is not there.
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file", file=path) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
