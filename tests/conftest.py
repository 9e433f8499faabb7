"""What holds for every test: property tests draw the same examples on every run, and machine speed fails none.

And the fixtures of tests that fetch, and of those with peers, which are imported in the one way that works everywhere.
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from fetching import Call
    from file_server import Server

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def torchvision() -> Iterator[Any]:
    """torchvision, also where its compiled operators cannot be loaded (its wheel is for CUDA, our torch is not).

    At import it wants two of them declared. The models need none.
    """
    try:
        yield importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        yield importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    """timm, which imports torchvision."""
    return importlib.import_module("timm")


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on this machine."""
    from file_server import serving

    with serving() as one:
        yield one


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`fetch` with an empty cache, whatever the environment says, and in a world where this machine is all there is."""
    from fetching import Call

    from resnext_convert.converter.fetch import CACHE_VARIABLE, MIRROR_VARIABLE

    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setenv("no_proxy", "*")
    for variable in (CACHE_VARIABLE, MIRROR_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    return Call(tmp_path / "cache")
