"""Writes and loads checkpoints: a plain state dict of tensors, and the report beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, UsageError, WriteError
from resnext_convert.converter.report import report_path
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.runner import build
from resnext_convert.converter.staging import HINTS
from resnext_convert.converter.tensors import Array

SUFFIXES: Final = (".pth", ".pt")


def check_suffix(path: Path) -> None:
    """Refuses a name whose suffix no writer has.

    Raises:
        UsageError: it is not one of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            "the suffix of the output says which format is wanted, and this one says none",
            file=path,
            expected=" or ".join(SUFFIXES),
            found=path.suffix or "no suffix",
        )


def write(arrays: Mapping[str, Array], file: BinaryIO) -> None:
    """Writes a state dict that ``torch.load(weights_only=True)`` reads; the same arrays give the same bytes.

    The arrays are written from where they are (usually the mapped source file); unaligned ones are copied, because
    torch may assume alignment.

    Raises:
        WriteError: the disk is full, or another reason of the operating system.
    """
    state = {key: torch.from_numpy(np.require(array, requirements=["C", "A", "W"])) for key, array in arrays.items()}
    # A file object: given a path, torch would store its name in the archive, and the bytes would depend on it.
    sink = _Sink(file)
    try:
        torch.save(state, sink)  # type: ignore[arg-type]  # all that torch calls is there
    except RuntimeError as error:
        # A Ctrl-C that Python notices on the way into `_Sink.write` comes out of torch as "unexpected pos ...".
        if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
            raise error.__context__ from None
        raise
    finally:
        sink.file = None
    try:
        if sink.error is not None:
            raise sink.error
        file.flush()
    except OSError as error:
        raise WriteError(
            f"the checkpoint cannot be written: {error.strerror or error}", hint=HINTS.get(error.errno or 0)
        ) from error


class _Sink:
    """What torch writes into: a file that never fails, but keeps its first error and writes no more after it.

    torch's archive writer answers an error with one of its own ("unexpected pos ..."), and where it is destroyed before
    it has finished, it writes the rest then: an error there, or a closed file, would end the process (std::terminate).
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file: BinaryIO | None = file
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        if self.file is not None:
            try:
                self.file.write(data)
            except BaseException as error:  # Ctrl-C as well; `write` raises it
                self.file, self.error = None, error
        return len(data)

    def flush(self) -> None:
        """Nothing is kept here."""


def read(path: Path) -> dict[str, torch.Tensor]:
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


def load(path: Path | str) -> ResNeXt:
    """The module that a checkpoint and its report describe: exact configuration, evaluation mode, weights mapped.

    It has one dtype, that of the weights, and takes images of it. Where the checkpoint holds running statistics in
    float64 beside weights in float32 (quotients that float32 cannot hold), they are rounded here, as
    ``load_state_dict`` would round them.

    Raises:
        MissingFileError: the checkpoint or its report is not there.
        FormatError: either cannot be read, or they do not belong together.
    """
    path = Path(path)
    report = read_report(report_path(path))
    config = read_config(report, report_path(path))
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
