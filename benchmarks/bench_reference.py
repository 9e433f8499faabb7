"""How long one float64 forward takes: the reference executor beside the PyTorch module of the same network.

    python benchmarks/bench_reference.py SYMBOL PARAMS [--size 224] [--runs 7]

Prints both times (smallest and median of the runs, taken in turns), their largest difference, and the executor's
time by operator. Both use the threads that their libraries choose.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from resnext_convert.converter import reference
from resnext_convert.converter.graph import Conv
from resnext_convert.converter.mxnet.source import read_pair
from resnext_convert.converter.operators import OPERATORS
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.runner import ModuleRunner
from resnext_convert.converter.tensors import Array


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def kind(op: Any, x: Array) -> str:
    """``Conv 3x3/1, 32 groups, 56x56``: what is alike is summed."""
    if not isinstance(op, Conv):
        return type(op).__name__
    groups = f", {op.groups} groups, {x.shape[2]}x{x.shape[3]}" if op.groups > 1 else ""
    return f"Conv {op.kernel[0]}x{op.kernel[1]}/{op.stride[0]}{groups}"


def by_operator(run: Callable[[], object]) -> dict[str, float]:
    """Seconds in each kind of operator during one run."""
    spent: dict[str, float] = defaultdict(float)

    def timed(operator: Callable[..., Any]) -> Callable[..., Any]:
        def call(op: Any, *xs: Array, **stored: Array) -> Any:
            start = time.perf_counter()
            result = operator(op, *xs, **stored)
            spent[kind(op, xs[0])] += time.perf_counter() - start
            return result

        return call

    with patch.object(reference, "OPERATORS", {attrs: timed(operator) for attrs, operator in OPERATORS.items()}):
        run()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbol", type=Path)
    parser.add_argument("params", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()

    model = read_pair(arguments.symbol, arguments.params)
    found = match(model)
    state = {name: torch.from_numpy(array.copy()) for name, array in assemble(found, model.tensors).items()}
    module = ModuleRunner(found.config, state, torch.float64)
    executor = reference.ReferenceExecutor(model.graph, model.tensors)
    image = np.random.default_rng(0).normal(0, 1, (1, found.config.in_channels, arguments.size, arguments.size))

    def run_module() -> Array:
        return module.run(image, ["fc"])["fc"]

    def run_reference() -> Array:
        return executor.run({model.graph.inputs[0]: image}, [found.logits])[found.logits]

    expected = run_module()
    first = seconds(run_reference)
    difference = np.abs(run_reference() - expected).max() / np.abs(expected).max()
    times = [(seconds(run_module), seconds(run_reference)) for _ in range(arguments.runs)]
    for name, taken in zip(("module", "reference"), zip(*times, strict=True), strict=True):
        print(f"{name:10} smallest {min(taken) * 1e3:6.0f} ms, median {statistics.median(taken) * 1e3:6.0f} ms")
    ratios = [ours / theirs for theirs, ours in times]
    print(
        f"reference / module: median {statistics.median(ratios):.2f}; first run of the reference {first * 1e3:.0f} ms"
    )
    print(f"largest difference of the logits: {difference:.1e} of peak")
    for operator, spent in sorted(by_operator(run_reference).items(), key=lambda item: -item[1]):
        print(f"  {operator:32} {spent * 1e3:7.1f} ms")


if __name__ == "__main__":
    main()
