"""Arrays without a generator, and graphs of one node: what the tests of the reference executor are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnext_convert.converter.graph import Attrs, Graph, Node, Role
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array, DType, TensorRef, TensorStore

# Two float64 computations of the same sums in another order; the most that was measured on these tests is 1.8e-15.
ROUNDING = 1e-14


def ramp(*shape: int, phase: float = 0.0) -> Array:
    """Values in (-1, 1) without two alike or any regular sign, the same on every machine and NumPy version."""
    count = math.prod(shape)
    values: Array = np.modf((np.arange(1, count + 1) + phase) * 0.6180339887498949)[0] * 2 - 1
    return values.reshape(shape)


def of_peak(found: Array, expected: Array) -> float:
    """The largest difference in units of the largest expected value; the shapes must be equal."""
    assert found.shape == expected.shape
    peak = np.abs(expected).max()
    return float(np.abs(found - expected).max() / (peak if peak > 0 else 1.0))


def store(tensors: Mapping[str, Array]) -> TensorStore:
    refs = {}
    for name, values in tensors.items():
        refs[name] = TensorRef(name, DType(values.dtype.name), values.shape, "here", memoryview(values.tobytes()))
    return TensorStore(refs, "made.params")


def node(attrs: Attrs, inputs: Sequence[str], outputs: Sequence[str], roles: Mapping[Role, str] | None = None) -> Node:
    name = f"{type(attrs).__name__.lower()}_{outputs[0]}"
    return Node(name=name, op="Op", attrs=attrs, inputs=tuple(inputs), outputs=tuple(outputs), params=roles or {})


def run_all(attrs: Attrs, *xs: Array, parts: int = 1, dtype: Any = np.float64, **stored: Array) -> tuple[Array, ...]:
    """Runs one node alone; ``stored`` is by role."""
    inputs = [f"x{i}" for i in range(len(xs))]
    outputs = [f"y{i}" for i in range(parts)]
    roles = {Role(role): f"arg:{role}" for role in stored}
    graph = Graph(nodes=(node(attrs, inputs, outputs, roles),), inputs=tuple(inputs), outputs=tuple(outputs))
    tensors = store({f"arg:{role}": values for role, values in stored.items()})
    found = ReferenceExecutor(graph, tensors, dtype=dtype).run(dict(zip(inputs, xs, strict=True)), outputs)
    assert list(found) == outputs
    return tuple(found.values())


def run(attrs: Attrs, *xs: Array, **keywords: Any) -> Array:
    (y,) = run_all(attrs, *xs, **keywords)
    return y


def batch_norm_tensors(channels: int) -> dict[str, Array]:
    return {
        "gamma": 1 + ramp(channels, phase=0.1) / 2,
        "beta": ramp(channels, phase=0.2),
        "running_mean": ramp(channels, phase=0.3),
        "running_var": 1e-3 + np.abs(ramp(channels, phase=0.4)) / 100,
    }
