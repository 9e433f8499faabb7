"""Convert ResNeXt weights of Apache MXNet and Caffe to PyTorch, and prove that the outputs are the same.

    import resnext_convert as rc

    report = rc.convert("mxnet", "models/resnext-101", "out.pth")
    model = rc.load("out.pth")
    rc.verify("out.pth", "mxnet", "models/resnext-101").passed
    rc.inspect("resnext-101-0000.params")

What `convert` must be told besides, if anything, is stated with `InputDomain` (what the network is fed) and
`GraphFacts` (of weights without a graph).

Importing this package imports neither torch nor NumPy; the functions do when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnext_convert.converter.errors import ConvertError

if TYPE_CHECKING:
    from resnext_convert.converter.checkpoint import load
    from resnext_convert.converter.domain import InputDomain
    from resnext_convert.converter.inspection import inspect
    from resnext_convert.converter.origin import GraphFacts
    from resnext_convert.converter.pipeline import convert, verify

__version__ = "0.1.0"
__all__ = ["ConvertError", "GraphFacts", "InputDomain", "__version__", "convert", "inspect", "load", "verify"]

_HOMES = {
    "GraphFacts": "origin",
    "InputDomain": "domain",
    "convert": "pipeline",
    "inspect": "inspection",
    "load": "checkpoint",
    "verify": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"resnext_convert.converter.{_HOMES[name]}"), name)
