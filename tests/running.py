"""Runs the command line in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import pytest

from resnext_convert import cli


@dataclass
class Result:
    """How a command ended and what it said."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Result:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.app([str(argument) for argument in arguments], prog_name="resnext-convert")
    assert isinstance(end.value.code, int)
    said = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err) if isinstance(stream.buffer, io.BytesIO)]
    return Result(end.value.code, *said)
