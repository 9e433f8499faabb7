"""What the tests of inspections have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest
from repository import FIXTURES

from resnext_convert.converter.findings import Inspection
from resnext_convert.converter.inspection import inspect
from resnext_convert.converter.terminal import print_inspections

RECORDINGS = FIXTURES / "mxnet/recordings"
CONTAINER = FIXTURES / "mxnet/container"

Kind = TypeVar("Kind", bound=Inspection)


def inspected(kind: type[Kind], path: Path) -> Kind:
    """What is in a file that must be of this kind."""
    found = inspect(path)
    assert isinstance(found, kind)
    return found


def lines(found: Inspection, capsys: pytest.CaptureFixture[str], *, verbose: bool = False) -> list[str]:
    """How it is shown."""
    print_inspections([found], verbose=verbose)
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()
