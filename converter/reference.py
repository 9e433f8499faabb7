"""The reference executor: runs a source graph as it was read, in NumPy.

It is one of the two sides of the proof and shares nothing with the other: no pass has touched the graph, torch is
not imported, and each operator is its formula (`resnext_convert.converter.operators`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from resnext_convert.converter.errors import (
    FormatError,
    MissingTensorError,
    ShapeError,
    UnsupportedOperatorError,
    UsageError,
    in_file,
)
from resnext_convert.converter.graph import Add, Bias, Concat, Graph, Maximum, Multiply, Node, Scale
from resnext_convert.converter.operators import OPERATORS
from resnext_convert.converter.tensors import Array, TensorStore

MOST_INPUTS: Final = {Scale: 2, Bias: 2} | dict.fromkeys((Add, Multiply, Maximum, Concat), math.inf)
"""How many inputs an operator can have, where that is more than one."""


class ReferenceExecutor:
    """Runs the source graph.

    It keeps nothing between runs: each weight is converted where it is used, which costs less time than to fill the
    memory that would hold them all (ResNeXt-101 32x4d: 350 MB).

    Args:
        graph: the graph as read; each node has the stored tensors of its operator (readers see to that).
        tensors: the stored tensors that ``Node.params`` names.
        dtype: the precision of weights, activations and results.
    """

    def __init__(self, graph: Graph, tensors: TensorStore, *, dtype: npt.DTypeLike = np.float64) -> None:
        self.graph = graph
        self.tensors = tensors
        self.dtype = np.dtype(dtype)

    def run(self, feed: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Computes ``wanted`` and what it depends on, no more; every other value is freed after its last reader.

        NaN and infinity are carried along, never hidden: relu and max pooling keep NaN (MXNet's do not).

        Args:
            feed: the graph's inputs that are needed; images are (N, C, H, W).
            wanted: names of values, of inputs or of node outputs.

        Returns:
            The wanted values in the order asked, in ``dtype``. They may share memory with each other: do not write.

        Raises:
            UsageError: a name in ``feed`` or ``wanted`` is not in the graph, or an input that is needed is not fed.
            UnsupportedOperatorError: a needed node has an operator without a rule here; nothing has been run.
            MissingTensorError: a stored tensor that a node names is not there.
            ShapeError: a stored tensor or an input of a node does not fit its operator.
            ValueRangeError: a variance plus eps is not positive.
            FormatError: a node has a number of inputs that its operator cannot have.
        """
        names = tuple(dict.fromkeys(wanted))
        nodes = tuple(self.graph.ancestors(names))
        self._check(feed, names, nodes)
        values = {name: np.asarray(array, self.dtype) for name, array in feed.items()}
        last_reader = {value: node for node in nodes for value in node.inputs}
        for node in nodes:
            values.update(self._run_node(node, [values[value] for value in node.inputs]))
            for value in set(node.inputs) - set(names):
                if last_reader[value] is node:
                    del values[value]
        return {name: values[name] for name in names}

    def _check(self, feed: Mapping[str, Array], names: Sequence[str], nodes: Sequence[Node]) -> None:
        inputs, computed = set(self.graph.inputs), self.graph.producers.keys()
        if unknown := feed.keys() - inputs:
            raise UsageError(f"the graph has no input {sorted(unknown)}", expected=sorted(inputs))
        if unknown := set(names) - inputs - computed:
            raise UsageError(f"the graph has no value {sorted(unknown)}", hint=f"its outputs are {self.graph.outputs}")
        if missing := ({value for node in nodes for value in node.inputs} | set(names)) - computed - feed.keys():
            raise UsageError(f"no array was fed for {sorted(missing)}", found=f"arrays for {sorted(feed)}")
        for node in nodes:
            if type(node.attrs) not in OPERATORS:
                raise UnsupportedOperatorError(
                    "the reference executor has no rule for this operator",
                    file=self.tensors.file,
                    place=str(node),
                    hint=f"it has rules for {', '.join(sorted(attrs.__name__ for attrs in OPERATORS))}",
                )

    def _run_node(self, node: Node, inputs: Sequence[Array]) -> dict[str, Array]:
        with in_file(self.tensors.file, str(node)):
            if not 1 <= len(inputs) <= MOST_INPUTS.get(type(node.attrs), 1):
                raise FormatError("the operator cannot have this number of inputs", found=len(inputs))
            stored = {role.value: self._weight(name) for role, name in node.params.items()}
            try:
                with np.errstate(all="ignore"):  # NaN and infinity go on to the comparison, which passes neither
                    result = OPERATORS[type(node.attrs)](node.attrs, *inputs, **stored)
                results = result if isinstance(result, list) else [result]
                return dict(zip(node.outputs, results, strict=True))
            except (ValueError, IndexError, ArithmeticError, MemoryError) as error:
                shapes = ", ".join(str(x.shape) for x in inputs)
                raise ShapeError(f"cannot be computed on these inputs: {error}", found=f"shapes {shapes}") from error

    def _weight(self, name: str) -> Array:
        if name not in self.tensors:
            raise MissingTensorError(
                f"the graph names {name!r}, which is not among the {len(self.tensors)} stored tensors",
                hint="are the two files from the same checkpoint (same prefix)?",
            )
        return np.array(self.tensors[name].numpy(), self.dtype, order="C")
