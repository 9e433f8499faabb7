"""The original engine as a witness: real MXNet 1.9.1, run in a process of its own.

The oracle shares no reader with the rest of the package: MXNet itself loads both files. It runs in a child process
because it is no good neighbour (measured with torch 2.13 on two cores): ``libmxnet.so`` and torch share one libgomp,
in which MXNet halves the number of threads for everybody, whichever was imported first; its import needs names that
NumPy 2 no longer has; and a damaged file that crashes the engine would end the caller too.

Run as a module, this file is that child.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.metadata
import json
import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resnext_convert.converter.errors import MissingFileError, UsageError
from resnext_convert.converter.oracles import child
from resnext_convert.converter.tensors import Array

RELEASE = "1.9"  # the series whose import and behaviour the shim and the tests were written against

_ZIP_MAGIC = b"PK\x03\x04"

# Operators whose last input is a training label: at inference it is not used, and no file holds it.
_LABELLED = {"SoftmaxOutput", "Softmax", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"}


def available() -> str | None:
    """None if the oracle can be asked, else the reason in one sentence. MXNet is looked for, not imported."""
    if not version():
        return "MXNet is not installed"
    if not version().startswith(RELEASE + "."):
        return f"MXNet {version()} is installed, and the oracle needs {RELEASE}.x"
    if sys.platform == "linux":
        missing = [name for name in ("gomp", "quadmath") if ctypes.util.find_library(name) is None]
        if missing:
            return f"MXNet needs the system libraries {' and '.join(f'lib{name}' for name in missing)}"
    return None


def version() -> str:
    """The version of the installed MXNet, from its package metadata; empty where there is none."""
    try:
        return importlib.metadata.version("mxnet")
    except importlib.metadata.PackageNotFoundError:
        return ""


def cannot_read(params: Path) -> str | None:
    """None, or why MXNet 1.9.1 has no reader for a params file that is in order.

    Raises:
        MissingFileError: there is no such file.
    """
    try:
        with params.open("rb") as file:
            start = file.read(len(_ZIP_MAGIC))
    except OSError as error:
        raise MissingFileError(f"cannot be read: {error.strerror or error}", file=params) from error
    return "MXNet 1.9.1 cannot read the zip of arrays that MXNet 2.0 writes" if start == _ZIP_MAGIC else None


def run(
    symbol: Path,
    params: Path,
    feed: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    rename: Mapping[str, str] | None = None,
    dtype: Literal["float32", "float64"] = "float32",
) -> dict[str, Array]:
    """Computes outputs of a network at inference, on the CPU, with MXNet's unfused operators.

    Args:
        symbol: the symbol file, of any version.
        params: the params file, with ``arg:``/``aux:`` names or bare ones.
        feed: each input (``data``) by its variable's name. Labels are not fed.
        outputs: names of internal outputs, such as ``fc1_output`` or ``softmax_output``.
        rename: where the two files disagree: a tensor's bare name in the params file → its variable in the graph.
        dtype: the precision of the whole executor. Stored tensors of another type are cast to it.

    Returns:
        The outputs by name, in the order asked for, of type ``dtype``.

    Raises:
        UsageError: MXNet is not available or cannot be imported, cannot read this kind of file, or no output was
            asked for.
        InputError: MXNet refuses the files, or does not find in them what it needs; ``found`` is what it says.
    """
    reason = available() or cannot_read(params)
    if reason is not None:
        raise UsageError(reason, file=params, hint=child.NOT_ASKED)
    if not outputs:
        raise UsageError("the oracle was asked for no output", file=symbol)
    request = {
        "symbol": str(symbol.absolute()),
        "params": str(params.absolute()),
        "outputs": list(outputs),
        "rename": dict(rename or {}),
        "dtype": dtype,
    }
    return child.ask(
        __name__,
        f"MXNet {version()}",
        request,
        feed,
        outputs,
        graph=symbol,
        weights=params,
        environment={"MXNET_SUBGRAPH_BACKEND": "NONE"},
    )


def import_mxnet() -> types.ModuleType:
    """Imports MXNet 1.9.1 on NumPy 1.24 to 2.x and Python 3.11 to 3.13, silently.

    What its import needs and Python and NumPy no longer have is there during the import only; MXNet keeps its own
    references. What stays: the number of OpenMP threads is halved for the whole process (`run` therefore uses a
    child), and on NumPy 1.24 to 1.26 MXNet's NumPy-like front end (``mx.np``) still lacks ``numpy.bool``.
    """
    with warnings.catch_warnings(), _former_numpy_names(), _former_distutils():
        warnings.simplefilter("ignore")
        import mxnet
    module: types.ModuleType = mxnet
    return module


def split_params(
    symbol: Any, stored: Mapping[str, Any], rename: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and auxiliary states by their variable's name: by prefix, or where there is none by the graph."""
    auxiliary = set(symbol.list_auxiliary_states())
    args: dict[str, Any] = {}
    aux: dict[str, Any] = {}
    for full_name, array in stored.items():
        prefixed = full_name.startswith(("arg:", "aux:"))
        name = full_name[4:] if prefixed else full_name
        name = rename.get(name, name)
        is_aux = full_name.startswith("aux:") if prefixed else name in auxiliary
        (aux if is_aux else args)[name] = array
    return args, aux


@contextlib.contextmanager
def _former_numpy_names() -> Iterator[None]:
    """Names that NumPy dropped (1.24: bool; 2.0 and later: the rest) and that MXNet 1.9.1 copies while imported.

    Read in mxnet/numpy/utils.py and mxnet/numpy/fallback.py. The financial functions left NumPy in 1.20.
    """
    names: dict[str, object] = {
        "bool": np.bool_, "PZERO": 0.0, "NZERO": -0.0, "PINF": np.inf, "NINF": -np.inf, "Inf": np.inf,
        "NAN": np.nan, "NaN": np.nan, "alltrue": np.all, "sometrue": np.any, "product": np.multiply.reduce,
        "round_": np.round, "in1d": np.isin, "trapz": vars(np).get("trapezoid"), "msort": np.sort,
    }  # fmt: skip
    names |= dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"))
    added = [name for name in names if name not in vars(np)]
    for name in added:
        setattr(np, name, names[name])
    try:
        yield
    finally:
        for name in added:
            delattr(np, name)


def _version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: all that MXNet compares."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@contextlib.contextmanager
def _former_distutils() -> Iterator[None]:
    """``distutils.version``, which left Python in 3.12 (and warns before)."""
    stub = types.ModuleType("distutils.version")
    vars(stub).update(LooseVersion=_version_numbers, StrictVersion=_version_numbers)
    package = types.ModuleType("distutils")
    vars(package).update(version=stub)
    stubs = {"distutils": package, "distutils.version": stub}
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _load_params(mx: Any, path: str) -> Mapping[str, Any]:
    """The stored tensors. V3 records are read under NumPy shape semantics, where 1.9.1 refuses the older ones."""
    try:
        stored = mx.nd.load(path)
    except mx.base.MXNetError as error:
        if "np_shape" not in str(error):
            raise
        with mx.util.np_shape(True):
            stored = mx.nd.load(path)
    if not isinstance(stored, dict) or not stored:
        raise child.RefusedError("the params file holds no named tensor")
    return stored


def _labels(network: Any) -> set[str]:
    nodes = json.loads(network.tojson())["nodes"]
    return {nodes[node["inputs"][-1][0]]["name"] for node in nodes if node["op"] in _LABELLED}


def _compute(mx: Any, request: Mapping[str, Any], feed: Mapping[str, Array]) -> list[Array]:
    symbol = mx.sym.load(request["symbol"])
    internals = symbol.get_internals()
    if unknown := set(request["outputs"]) - set(internals.list_outputs()):
        raise child.RefusedError(f"the graph has no output {', '.join(sorted(unknown))}")
    network = mx.sym.Group([internals[name] for name in request["outputs"]])
    args, aux = split_params(network, _load_params(mx, request["params"]), request["rename"])

    fed = set(feed) | _labels(network)
    missing = [name for name in network.list_arguments() if name not in args and name not in fed]
    missing += [name for name in network.list_auxiliary_states() if name not in aux]
    if missing:
        raise child.RefusedError(f"the params file holds no {', '.join(missing[:5])} ({len(missing)} missing in all)")

    variables = [*network.list_arguments(), *network.list_auxiliary_states()]
    executor = network.simple_bind(
        mx.cpu(),
        grad_req="null",
        type_dict=dict.fromkeys(variables, request["dtype"]),  # stronger than a __dtype__ that Gluon has written
        **{name: array.shape for name, array in feed.items()},
    )
    executor.copy_params_from(args, aux, allow_extra_params=True)
    values = executor.forward(is_train=False, **{n: mx.nd.array(a, dtype=request["dtype"]) for n, a in feed.items()})
    return [value.asnumpy() for value in values]


if __name__ == "__main__":
    child.serve(import_mxnet, _compute)
