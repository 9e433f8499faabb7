"""Nets of a training as networks of inference: data layers, labels, losses, phases."""

from __future__ import annotations

import pytest
from caffe_base import DATA, INPUT, RECORDINGS, layer, network, nodes, refused_net

from resnext_convert.converter.caffe.network import build_network
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.errors import ShapeError, UnsupportedError
from resnext_convert.converter.graph import Activation, ActivationKind, Identity, Softmax

FC = "inner_product_param { num_output: 4 }"


def test_a_train_val_net() -> None:
    found = network(
        layer("InnerProduct", "fc", "data", text=FC),
        layer("SoftmaxWithLoss", "loss", "fc label"),
        layer("Accuracy", "accuracy", "fc label"),
        layer("Silence", "quiet", "label", ""),
        source=DATA,
    )
    assert nodes(found) == [("fc", "data", "fc"), ("loss", "fc", "fc@loss")]
    assert found.graph.nodes[1].attrs == Softmax(axis=1)
    assert (found.graph.inputs, found.graph.outputs) == (("data",), ("fc@loss",))
    assert found.input_shape == (0, 0, 8, 8)
    assert found.notes == (
        "the input is 'data', what layer 'data' (Data) yields",
        "a loss is read as what it does to its prediction: layer 'loss' (SoftmaxWithLoss)",
        "left out, since inference has no use for them: layer 'accuracy' (Accuracy), layer 'quiet' (Silence)",
    )


def test_a_loss_that_shows_its_prediction() -> None:
    found = network(layer("SoftmaxWithLoss", "loss", "data label", "loss prob"), source=DATA)
    assert nodes(found) == [("loss", "data", "prob")]
    followed = network(
        layer("SoftmaxWithLoss", "loss", "data label", "loss prob"), layer("TanH", "t", "prob"), source=DATA
    )
    assert nodes(followed) == [("loss", "data", "prob"), ("t", "prob", "t")]


def test_a_loss_without_a_top() -> None:
    found = network(layer("SoftmaxWithLoss", "loss", "data label", ""), source=DATA)
    assert nodes(found) == [("loss", "data", "data@loss")]


@pytest.mark.parametrize("bottoms", ["data label", "label data"])
def test_a_symmetric_loss_takes_the_bottom_that_is_no_label(bottoms: str) -> None:
    found = network(layer("EuclideanLoss", "loss", bottoms), source=DATA)
    assert nodes(found) == [("loss", "data", "data@loss")]
    assert found.graph.nodes[0].attrs == Identity()


def test_a_loss_that_does_not_fit_its_prediction() -> None:
    loss = layer("SoftmaxWithLoss", "loss", "data label", text="softmax_param { axis: 4 }")
    assert "axis 4 out of range" in refused_net(loss, source=DATA, kind=ShapeError).problem


def test_other_losses() -> None:
    found = network(layer("SigmoidCrossEntropyLoss", "loss", "data label"), source=DATA)
    assert found.graph.nodes[0].attrs == Activation(kind=ActivationKind.SIGMOID)


def test_a_net_with_both_a_head_and_a_loss() -> None:
    found = network(layer("Softmax", "prob", "data"), layer("SoftmaxWithLoss", "loss", "data label"), source=DATA)
    assert found.graph.outputs == ("data@loss", "prob")


def test_what_only_an_accuracy_reads_is_an_output() -> None:
    found = network(layer("TanH", "t", "data"), layer("Accuracy", "acc", "t label"), source=DATA)
    assert found.graph.outputs == ("t",)


def test_what_is_silenced_is_no_output() -> None:
    found = network(layer("Slice", "s", "data", "a b c"), layer("Silence", "quiet", "b", ""))
    assert found.graph.outputs == ("a", "c")


def test_what_hangs_on_labels_is_left_out() -> None:
    found = network(
        layer("Slice", "cut", "label", "coarse fine"),
        layer("TanH", "t", "data"),
        layer("SoftmaxWithLoss", "loss", "t fine"),
        layer("Accuracy", "acc", "t coarse"),
        layer("CenterLoss", "centre", "t fine", "centre_loss"),  # of a fork
        layer("Eltwise", "total", "loss centre_loss"),
        source=DATA,
    )
    assert nodes(found) == [("t", "data", "t"), ("loss", "t", "t@loss")]
    assert "'cut' (Slice), layer 'acc' (Accuracy), layer 'centre' (CenterLoss), layer 'total' (E" in found.notes[2]


def test_a_layer_that_computes_with_image_and_label() -> None:
    error = refused_net(layer("Eltwise", "sum", "data label"), source=DATA, kind=UnsupportedError)
    assert "computes with a label" in error.problem


def test_a_net_that_hangs_on_labels_alone() -> None:
    error = refused_net(layer("TanH", "t", "label"), layer("SoftmaxWithLoss", "loss", "t label"), source=DATA)
    assert "nothing leads" in error.problem
    assert error.found == "left out: layer 't' (TanH), layer 'loss' (SoftmaxWithLoss)"


def test_a_net_that_is_silenced() -> None:
    net = (layer("TanH", "t", "data"), layer("Silence", "quiet", "t", ""))
    assert "nothing leads" in refused_net(*net).problem


def test_a_layer_of_unknown_type_without_a_top_is_left_out() -> None:
    found = network(layer("TanH", "t", "data"), layer("Plot", "plot", "t", ""))
    assert nodes(found) == [("t", "data", "t")]
    assert found.graph.outputs == ("t",)
    assert found.notes == ("left out, since inference has no use for them: layer 'plot' (Plot)",)


def test_a_long_list_of_layers_is_cut() -> None:
    silences = [layer("Silence", f"s{number}", "label", "") for number in range(10)]
    for count, end in ((8, "'s7' (Silence)"), (9, "'s7' (Silence) and 1 more")):
        found = network(layer("TanH", "t", "data"), *silences[:count], source=DATA)
        assert found.notes[-1].endswith(end)


def data(name: str, rules: str, crop: int, kind: str = "Data") -> str:
    return layer(kind, name, "", f"{name} label", f"transform_param {{ crop_size: {crop} }} {rules}")


def test_of_several_data_layers_that_of_the_test_phase() -> None:
    sources = data("data", "include { phase: TRAIN }", 6) + data("data", "include { phase: TEST }", 8)
    found = network(layer("TanH", "t", "data"), source=sources)
    assert found.input_shape == (0, 0, 8, 8)


def test_without_one_in_the_test_phase_another_is_taken() -> None:
    rules = "include { phase: TRAIN }"
    found = network(layer("TanH", "t", "data"), source=data("data", rules, 6))
    assert found.input_shape == (0, 0, 6, 6)
    assert found.notes[0] == "the net has no data layer in the phase TEST; layer 'data' (Data) is taken"
    staged = data("data", rules, 6) + data("data", "include { stage: 'val' }", 8)
    assert network(layer("TanH", "t", "data"), source=staged).input_shape == (0, 0, 8, 8)


def test_two_data_layers_at_once() -> None:
    sources = data("data", "", 6) + data("data", "", 8)
    assert "multiple sources" in refused_net(layer("TanH", "t", "data"), source=sources).problem


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (layer("Data", "data"), None),
        (layer("Data", "data", text="transform_param { mean_value: 1 mean_value: 2 mean_value: 3 }"), (0, 3, 0, 0)),
        (layer("Data", "data", text="transform_param { mean_value: 1 crop_size: 5 }"), (0, 0, 5, 5)),
        (layer("ImageData", "data", text="image_data_param { new_height: 4 new_width: 5 }"), (0, 3, 4, 5)),
        (layer("ImageData", "data", text="image_data_param { is_color: false }"), (0, 1, 0, 0)),
        (
            layer("MemoryData", "data", text="memory_data_param { batch_size: 9 channels: 3 height: 4 width: 5 }"),
            (0, 3, 4, 5),
        ),
        (layer("WindowData", "data", text="transform_param { crop_size: 7 }"), (0, 3, 7, 7)),
        (layer("HDF5Data", "data"), None),
        (layer("DummyData", "data"), None),
        (layer("Python", "data"), None),
    ],
)
def test_shapes_that_data_layers_state(source: str, shape: tuple[int, ...] | None) -> None:
    found = network(layer("TanH", "t", "data"), source=source)
    assert found.input_shape == shape
    assert found.graph.inputs == ("data",)


def test_an_input_that_only_a_loss_reads_is_none() -> None:
    source = INPUT + layer("Input", "label", text="input_param { shape { dim: 1 } }")
    found = network(layer("SoftmaxWithLoss", "loss", "data label"), source=source)
    assert found.graph.inputs == ("data",)
    assert found.notes[0] == "the input 'label' is left out, since inference does not read it"


def test_a_real_train_val_is_its_deploy_net_but_for_the_head() -> None:
    def graph(name: str) -> list[tuple[object, ...]]:
        path = RECORDINGS / "k_train" / name
        found = build_network(read_prototxt(path).net, path)
        return [(node.name, node.attrs, node.inputs, node.outputs) for node in found.graph.nodes]

    deploy, train_val = graph("deploy.prototxt"), graph("train_val.prototxt")
    assert deploy[:-1] == train_val[:-1]
    assert deploy[-1] == ("prob", Softmax(axis=1), ("fc1",), ("prob",))
    assert train_val[-1] == ("loss", Softmax(axis=1), ("fc1",), ("fc1@loss",))
