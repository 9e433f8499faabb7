"""Networks of eight channels, built layer by layer: for graphs that are no ResNeXt."""

from __future__ import annotations

import pytest
from graph_builder import RELU, GraphBuilder

from resnext_convert.converter.errors import NotResNeXtError
from resnext_convert.converter.graph import Activation, ActivationKind, Add, Graph, Pool, PoolKind, Reshape
from resnext_convert.converter.normalize import restrict
from resnext_convert.converter.resnext.config import ConvConfig, NormConfig
from resnext_convert.converter.resnext.structure import Structure, find_structure

AVERAGE = Pool(kind=PoolKind.AVERAGE, global_pool=True)
SIGMOID = Activation(kind=ActivationKind.SIGMOID)

# How structure.py begins its refusals.
NOT_HERE = "no ResNeXt has this operator here"
NORMALISES = "normalises where no ResNeXt does"


class Net(GraphBuilder):
    """Layers of eight channels, by the shortest names."""

    def c(self, value: str, kernel: int = 3, channels: int = 8) -> str:
        """A convolution."""
        config = ConvConfig(in_channels=channels, out_channels=8, kernel=(kernel,) * 2, padding=(kernel // 2,) * 2)
        return self.conv(config, value)

    def b(self, value: str) -> str:
        """A normalisation."""
        return self.norm(NormConfig(channels=8), value)

    def r(self, value: str) -> str:
        """A ReLU."""
        return self.op(RELU, value)

    def cb(self, value: str, kernel: int = 3) -> str:
        return self.b(self.c(value, kernel))

    def cbr(self, value: str, kernel: int = 3) -> str:
        return self.r(self.cb(value, kernel))

    def stem(self) -> str:
        return self.r(self.b(self.c("data", 3, 3)))

    def ends(self, *values: str) -> str:
        """The sum and the ReLU of a block."""
        return self.r(self.op(Add(), *values))

    def basic(self, fork: str) -> str:
        return self.ends(self.cb(self.cbr(fork)), fork)

    def fc(self, value: str) -> str:
        return self.linear(value, 8, 5, bias=True)

    def head(self, value: str) -> str:
        return self.fc(self.op(AVERAGE, value))

    def gate(self, value: str, *, linear: bool = False) -> str:
        """The gate of squeeze-and-excitation as it should be."""
        self.spelling = type(self.spelling)(linear_gates=linear)
        value = self.r(self.gate_layer(self.op(AVERAGE, value), 8, 2, bias=True))
        value = self.op(SIGMOID, self.gate_layer(value, 2, 8, bias=True))
        return self.op(Reshape(shape=(0, 0, 1, 1)), value) if linear else value

    def leading_to(self, logits: str) -> Graph:
        return restrict(self.model(logits).graph, logits)


def found(net: Net, logits: str) -> Structure:
    return find_structure(net.leading_to(logits))


def refused(net: Net, logits: str, at: str, problem: str, expected: str) -> NotResNeXtError:
    """The refusal, if it is at the node that writes ``at`` and says what it should."""
    with pytest.raises(NotResNeXtError) as caught:
        found(net, logits)
    error = caught.value
    node = net.nodes[int(at[1:])]
    assert error.place == f"node {node.name!r} ({node.op})"
    assert problem in error.problem
    assert expected in str(error.expected)
    assert error.found
    assert error.exit_code == 4
    return error
