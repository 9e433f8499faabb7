"""Where things are, and which files are the project's; for the tests that look at the project itself."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"
# The acceptance data: recordings of real engines and other people's graphs; not part of the repository.
SHARED = Path(os.environ.get("RESNEXT_CONVERT_SHARED", ROOT.parent / "shared"))

# Top-level folders that hold no module of the package.
NOT_PACKAGED = {".ci", "benchmarks", "docs", "fixtures", "tests"}


@cache
def files() -> tuple[str, ...]:
    """Every file that git tracks or would track, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = tuple(sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file()))
    assert "pyproject.toml" in found
    return found


def modules() -> dict[str, Path]:
    """The modules of the package, packages included: ``converter/mxnet/params.py`` and where it is."""
    return {
        name: ROOT / name
        for name in files()
        if name.endswith(".py") and ("/" not in name or name.split("/")[0] not in NOT_PACKAGED)
    }


def dotted(name: str) -> str:
    """The import name of a file of the package."""
    parts = ["resnext_convert", *name.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
