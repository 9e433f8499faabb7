"""An engine in a process of its own: what the oracles share.

An engine is no good neighbour: it brings its own threads and its own protobuf, and a damaged file that crashes it would
end the caller too. So the oracle's module is also the program of a child, run as ``python -m``. The child is given a
folder, in which are ``request.json`` and ``feed.npz``, and leaves ``outputs.npz`` there, or ``refused.txt``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from resnext_convert.converter.errors import InputError, UsageError
from resnext_convert.converter.tensors import Array

NOT_ASKED = "ask no oracle: --oracle none"

_REFUSED = "refused.txt"  # what the child writes when it exits with one of these two
_DOES_NOT_RUN = 1
_DOES_NOT_IMPORT = 3


class RefusedError(Exception):
    """What the child has to say to the caller."""


def ask(
    module: str,
    engine: str,
    request: Mapping[str, Any],
    feed: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    graph: object,
    weights: object,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """Runs an oracle's module as a child and waits for its answer.

    Args:
        module: its dotted name; it calls `serve`.
        engine: the engine and its version, for errors.
        request: what its ``compute`` is given.
        feed: the arrays that go with the request.
        outputs: names for the arrays that come back, in their order.
        graph: the graph's file, for errors.
        weights: the weights' file, for errors.
        environment: variables for the child alone.

    Raises:
        UsageError: the engine cannot be imported.
        InputError: it refuses the files, or breaks; ``found`` is what it says.
    """
    with tempfile.TemporaryDirectory(prefix="resnext-convert-oracle-") as name:
        folder = Path(name)
        asked = {"feed": list(feed), "request": dict(request)}
        (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        np.savez(folder / "feed.npz", *feed.values())
        # -P keeps the current folder out of the child's path: a folder `mxnet` in it would be taken for MXNet.
        child = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-m", module, name],
            env=os.environ | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if child.returncode != 0:
            refused = folder / _REFUSED
            words = refused.read_text(encoding="utf-8") if refused.exists() else _last_words(child.stderr)
            if child.returncode == _DOES_NOT_IMPORT:
                raise UsageError(f"{engine} is installed but cannot be imported", found=words, hint=NOT_ASKED)
            raise InputError(
                f"{engine} does not run these files",
                file=graph,
                found=words or f"exit status {child.returncode} without a word",
                hint=f"the weights are {weights}; compare both with their source, or {NOT_ASKED}",
            )
        with np.load(folder / "outputs.npz") as archive:
            return dict(zip(outputs, archive.values(), strict=True))


def serve(
    load: Callable[[], Any], compute: Callable[[Any, Mapping[str, Any], Mapping[str, Array]], Sequence[Array]]
) -> None:
    """The child's side of `ask`; the folder is its only argument.

    Args:
        load: imports the engine.
        compute: the outputs, from the engine, the request and the feed.
    """
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with np.load(folder / "feed.npz") as archive:
        feed = dict(zip(asked["feed"], archive.values(), strict=True))
    try:
        engine = load()
    except Exception as error:  # whatever stops it, it is no fault of the files
        _refuse(folder, error, _DOES_NOT_IMPORT)
    try:
        outputs = compute(engine, asked["request"], feed)
    except Exception as error:  # engines have classes of their own for what is wrong with files
        _refuse(folder, error, _DOES_NOT_RUN)
    np.savez(folder / "outputs.npz", *outputs)


def _refuse(folder: Path, error: Exception, status: int) -> NoReturn:
    words = _last_words(str(error)) or type(error).__name__
    (folder / _REFUSED).write_text(words, encoding="utf-8")
    sys.exit(status)


def _last_words(text: str) -> str:
    """The last line that says something: MXNet and Python both put the reason there."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
