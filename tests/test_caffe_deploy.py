"""The deploy net of a net: the graph that the converter reads from the net itself, with nothing left of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import FIXTURES

from resnext_convert.converter.caffe.deploy import deploy_text, obstacles
from resnext_convert.converter.caffe.network import Network, build_network
from resnext_convert.converter.caffe.prototxt import parse_prototxt, read_prototxt
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array, TensorStore
from resnext_convert.schemas.caffe_pb2 import NetParameter

RECORDINGS = FIXTURES / "caffe" / "recordings"
SHAPE = (2, 3, 4, 4)

# Layers without weights, so that they can be run as they are.
DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 8 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST } data_param { batch_size: 4 } }
layer { name: "train" type: "Power" bottom: "data" top: "data" power_param { scale: 9 } include { phase: TRAIN } }
layer { name: "test" type: "Power" bottom: "data" top: "data" power_param { scale: 2 } exclude { phase: TRAIN } }
layer {
  name: "pool" type: "Pooling" bottom: "data" top: "pool" include { phase: TEST }
  pooling_param { pool: AVE global_pooling: true }
}
"""
ACCURACY = 'layer { name: "accuracy" type: "Accuracy" bottom: "pool" bottom: "label" top: "accuracy" }\n'
LOSSES = {
    "softmax": ("SoftmaxWithLoss", "", "Softmax"),
    "softmax-axis": ("SoftmaxWithLoss", "softmax_param { axis: 2 }", "Softmax"),
    "sigmoid": ("SigmoidCrossEntropyLoss", "", "Sigmoid"),
    "identity": ("EuclideanLoss", "", "Split"),
}
AXPY = """
input: "data" input_shape { dim: 2 dim: 3 dim: 4 dim: 4 }
layer { name: "x" type: "Power" bottom: "data" top: "x" power_param { scale: 3 shift: 0.5 } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "gate" type: "Sigmoid" bottom: "pool" top: "gate" }
%s
layer { name: "sum" type: "Axpy" bottom: "%s" bottom: "x" bottom: "data" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" }
"""


def parsed(text: str) -> NetParameter:
    return parse_prototxt(text.encode(), "net.prototxt").net


def deployed(net: NetParameter, shape: tuple[int, ...] = SHAPE) -> NetParameter:
    return parsed(deploy_text(net, {"data": shape}))


def computed(network: Network) -> Mapping[str, Array]:
    image = np.random.default_rng(1).normal(size=SHAPE)
    graph = network.graph
    return ReferenceExecutor(graph, TensorStore({}, "none")).run({"data": image}, graph.outputs)


def assert_same_outputs(net: NetParameter) -> NetParameter:
    """The deploy net has outputs of the same names and the same bits, and needs no deploy net itself."""
    deploy = deployed(net)
    assert obstacles(deploy) == ()
    wanted, found = computed(build_network(net, "net")), computed(build_network(deploy, "deploy"))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    return deploy


def test_training_net_is_the_graph_that_the_converter_reads() -> None:
    net = read_prototxt(RECORDINGS / "k_train" / "train_val.prototxt").net
    deploy = deployed(net, (1, 3, 64, 64))
    own, graph = build_network(net, "train_val").graph, build_network(deploy, "deploy").graph
    assert graph.inputs == own.inputs == ("data",)
    assert graph.outputs == own.outputs == ("fc1@loss",)

    def facts(nodes: Any) -> list[tuple[Any, ...]]:
        return [(node.name, node.attrs, node.inputs, node.outputs) for node in nodes]

    assert facts(graph.nodes) == facts(own.nodes)


def test_training_net_is_the_deploy_net_that_was_made_by_hand() -> None:
    """But for the name of the probabilities, which the training net does not have."""
    deploy = deployed(read_prototxt(RECORDINGS / "k_train" / "train_val.prototxt").net, (1, 3, 64, 64))
    by_hand = read_prototxt(RECORDINGS / "k_train" / "deploy.prototxt").net
    assert [layer.name for layer in deploy.layer[1:-1]] == [layer.name for layer in by_hand.layer[1:-1]]
    assert [node.attrs for node in build_network(deploy, "deploy").graph.nodes] == [
        node.attrs for node in build_network(by_hand, "by hand").graph.nodes
    ]


def test_obstacles_of_a_training_net_are_named() -> None:
    assert obstacles(read_prototxt(RECORDINGS / "k_train" / "train_val.prototxt").net) == (
        "phases",
        "layers that read data",
        "losses",
        "layers without a use at inference",
    )


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*/deploy.prototxt")), ids=lambda path: path.parent.name)
def test_recorded_deploy_nets_have_none(path: Path) -> None:
    assert obstacles(read_prototxt(path).net) == ()


@pytest.mark.parametrize("shown", [False, True], ids=["hidden", "shown"])
@pytest.mark.parametrize("case", LOSSES)
def test_loss_becomes_what_it_does_to_its_prediction(case: str, shown: bool) -> None:
    kind, parameters, stand_in = LOSSES[case]
    shown = shown and kind == "SoftmaxWithLoss"  # those that have a second top
    tops = 'top: "loss"' + ' top: "prediction"' * shown
    net = parsed(DATA + f'layer {{ name: "loss" type: "{kind}" bottom: "pool" bottom: "label" {tops} {parameters} }}')
    deploy = assert_same_outputs(net)
    assert [layer.type for layer in deploy.layer] == ["Input", "Power", "Pooling", stand_in]
    assert list(deploy.layer[-1].top) == ["prediction" if shown else "pool@loss"]


def test_phase_is_test() -> None:
    deploy = assert_same_outputs(parsed(DATA + ACCURACY))
    assert [layer.name for layer in deploy.layer] == ["data", "test", "pool"]
    assert not any(layer.include or layer.exclude for layer in deploy.layer)


def test_what_hangs_on_labels_is_left_out() -> None:
    on_label = (
        'layer { name: "cut" type: "Power" bottom: "label" top: "cut" }\n'
        'layer { name: "weighed" type: "Power" bottom: "cut" top: "cut" }\n'
        'layer { name: "silence" type: "Silence" bottom: "cut" }\n'
    )
    deploy = assert_same_outputs(parsed(DATA + on_label + ACCURACY))
    assert [layer.name for layer in deploy.layer] == ["data", "test", "pool"]


def test_sinks_are_left_out() -> None:
    sinks = (
        'layer { name: "a" type: "Silence" bottom: "data" }\nlayer { name: "b" type: "HDF5Output" bottom: "pool" }\n'
    )
    deploy = deployed(parsed(DATA + sinks))
    assert obstacles(deploy) == ()
    assert [layer.name for layer in deploy.layer] == ["data", "test", "pool"]


def test_input_has_the_shape_that_is_fed() -> None:
    net = parsed(AXPY % ("", "gate"))
    text = deploy_text(net, {"data": (5, 3, 7, 9)})
    (first, *others) = parsed(text).layer
    assert (first.type, list(first.top), list(first.input_param.shape[0].dim)) == ("Input", ["data"], [5, 3, 7, 9])
    assert "Input" not in {layer.type for layer in others}


def test_senet_is_the_same_network() -> None:
    net = read_prototxt(FIXTURES / "caffe" / "made" / "senet154" / "model.prototxt").net
    deploy = deployed(net, (1, 3, 36, 36))
    assert obstacles(net) == obstacles(deploy) == ()
    assert build_network(deploy, "deploy").graph.outputs == build_network(net, "net").graph.outputs
    stored = [layer.name for layer in net.layer if layer.type in {"Convolution", "BatchNorm", "Scale", "InnerProduct"}]
    assert set(stored) <= {layer.name for layer in deploy.layer}  # by which the weights file knows them
