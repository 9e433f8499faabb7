"""The acceptance data: recordings of real engines and other people's files, which are not part of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from repository import SHARED


def shared(path: str) -> Path:
    """A file or folder of the shared data; where it is absent, the test is skipped and says so."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"no {found}; the environment variable RESNEXT_CONVERT_SHARED says where the shared data are")
    return found
