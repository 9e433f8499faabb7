"""Prints the requirements of a test environment, read from pyproject.toml, one a line.

requirements.py            the product's dependencies without torch, and the extra [test]
requirements.py --floor    all of the product's dependencies at the oldest version that they admit
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Prints; the only argument is ``--floor``."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies: list[str] = project["dependencies"]
    if arguments == ["--floor"]:
        # The one exception: torch's floor would be a download of some gigabytes, so torch is the pinned one.
        lines = [line.replace(">=", "==") for line in dependencies if not line.startswith("torch")]
    elif not arguments:
        lines = [line for line in dependencies if not line.startswith("torch")]
        lines += project["optional-dependencies"]["test"]
    else:
        raise SystemExit(f"unknown arguments: {arguments}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
