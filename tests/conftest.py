"""What holds for every test: property tests draw the same examples on every run, and machine speed fails none.

And the peers, imported in the one way that works on every machine.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

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
