"""The layers of a prototxt as a graph: names of values, and Caffe's rules about blobs."""

from __future__ import annotations

import time

import pytest
from caffe_base import CONVOLUTION, DATA, conv, layer, network, nodes, refused_net

from resnext_convert.converter.errors import ShapeError
from resnext_convert.converter.graph import (
    Add,
    Conv,
    Identity,
    Multiply,
    Role,
    Scale,
    Split,
    Unknown,
)

STATISTICS = (Role.MEAN, Role.VAR, Role.FACTOR)

# Values


def test_a_chain() -> None:
    found = network(conv("c", "data"), layer("ReLU", "r", "c"), layer("Softmax", "p", "r"))
    assert nodes(found) == [("c", "data", "c"), ("r", "c", "r"), ("p", "r", "p")]
    assert (found.graph.inputs, found.graph.outputs) == (("data",), ("p",))
    assert found.graph.nodes[0].attrs == Conv(out_channels=3, kernel=(3, 3), padding=(1, 1), bias=True)
    assert found.graph.nodes[0].op == "Convolution"
    assert found.input_shape == (1, 3, 8, 8)
    assert found.notes == ()


def test_in_place_the_last_version_has_the_blobs_name() -> None:
    found = network(
        conv("c", "data"), layer("BatchNorm", "bn", "c", "c"), layer("ReLU", "r", "c", "c"), layer("Softmax", "p", "c")
    )
    assert nodes(found) == [("c", "data", "c@c"), ("bn", "c@c", "c@bn"), ("r", "c@bn", "c"), ("p", "c", "p")]


def test_in_place_on_the_input_the_input_keeps_its_name() -> None:
    found = network(layer("BatchNorm", "bn", "data", "data"), layer("Scale", "s", "data", "data"), conv("c", "data"))
    assert nodes(found) == [("bn", "data", "data@bn"), ("s", "data@bn", "data@s"), ("c", "data@s", "c")]
    assert found.graph.inputs == ("data",)


def test_in_place_on_the_input_at_the_very_end() -> None:
    found = network(layer("ReLU", "r", "data", "data"))
    assert found.graph.outputs == ("data@r",)


def test_names_of_versions_that_blobs_have_already() -> None:
    found = network(conv("c", "data"), layer("ReLU", "r", "c", "c"), layer("TanH", "t", "c", "c@c"))
    assert nodes(found) == [("c", "data", "c@c#1"), ("r", "c@c#1", "c"), ("t", "c", "c@c")]


def test_outputs_are_what_nobody_reads_sorted_by_name() -> None:
    found = network(*(layer("TanH", name, "data") for name in ("b", "a@", "B", "a")), layer("ReLU", "r", "a"))
    assert found.graph.outputs == ("B", "a@", "b", "r")


def test_a_blob_that_is_read_twice_by_a_layer() -> None:
    found = network(layer("Eltwise", "sum", "data data"))
    assert nodes(found) == [("sum", "data, data", "sum")]


def test_dropout_is_an_identity() -> None:
    found = network(layer("Dropout", "d", "data"))
    assert found.graph.nodes[0].attrs == Identity()


def test_splits_as_caffe_writes_them_into_its_files() -> None:
    found = network(layer("Split", "s", "data", "a b"), layer("Eltwise", "sum", "a b"))
    assert nodes(found) == [("s (a)", "data", "a"), ("s (b)", "data", "b"), ("sum", "a, b", "sum")]
    assert [node.attrs for node in found.graph.nodes] == [Identity(), Identity(), Add()]


def test_a_slice_has_several_outputs() -> None:
    found = network(layer("Slice", "s", "data", "a b c"))
    assert nodes(found) == [("s", "data", "a, b, c")]
    assert found.graph.nodes[0].attrs == Split(axis=1, parts=3)


def test_axpy_is_a_product_and_a_sum() -> None:
    """Its names say so; what its in-place relu leaves has the blob's name."""
    gate = layer("Pooling", "g", "data", text="pooling_param { pool: AVE global_pooling: true }")
    found = network(gate, conv("x", "data"), layer("Axpy", "sum", "g x data"), layer("ReLU", "r", "sum", "sum"))
    assert nodes(found)[2:] == [
        ("sum (a * x)", "x, g", "sum@sum (a * x)"),
        ("sum (+ y)", "sum@sum (a * x), data", "sum@sum"),
        ("r", "sum@sum", "sum"),
    ]
    assert [node.attrs for node in found.graph.nodes[2:4]] == [Multiply(), Add()]
    assert {node.op for node in found.graph.nodes[2:4]} == {"Axpy"}
    assert [stores.name for stores in found.layers if stores.roles == ()] == ["g", "sum", "r"]


def test_axpy_of_a_flat_gate() -> None:
    gate = layer("Pooling", "g", "data", text="pooling_param { pool: AVE global_pooling: true }")
    found = network(gate, layer("Flatten", "f", "g"), conv("x", "data"), layer("Axpy", "sum", "f x data"))
    assert found.graph.nodes[3].attrs == Scale(axis=0, bias=False)
    assert found.graph.outputs == ("sum",)


def test_axpy_of_blobs_that_nothing_is_known_about() -> None:
    found = network(layer("Axpy", "sum", "a x y"), source="".join(layer("Input", name) for name in "axy"))
    assert nodes(found) == [("sum (a * x)", "x, a", "sum@sum (a * x)"), ("sum (+ y)", "sum@sum (a * x), y", "sum")]
    assert found.graph.nodes[0].attrs == Multiply()


def test_what_a_layer_stores() -> None:
    found = network(conv("c", "data", "param { name: 'w' }"), layer("BatchNorm", "bn", "c"), layer("ReLU", "r", "bn"))
    stores = {stored.name: stored for stored in found.layers}
    assert stores["c"].roles == (Role.WEIGHT, Role.BIAS)
    assert stores["c"].shapes == {Role.WEIGHT: (3, 3, 3, 3), Role.BIAS: (3,)}
    assert [param.name for param in stores["c"].params] == ["w"]
    assert stores["bn"].roles == STATISTICS
    assert stores["bn"].shapes == {Role.MEAN: (3,), Role.VAR: (3,), Role.FACTOR: (1,)}
    assert stores["r"].roles == ()
    assert list(found.owners) == [("c", 0), ("c", 1), ("bn", 0), ("bn", 1), ("bn", 2)]


def test_unknown_types_stay_in_the_graph() -> None:
    found = network(layer("Permute", "p", "data", "a b"), layer("ReLU", "r", "a"))
    assert found.graph.nodes[0].attrs == Unknown()
    assert found.graph.outputs == ("b", "r")
    assert [stored.roles for stored in found.layers] == [None, ()]


def test_layers_without_weights_may_have_the_same_name() -> None:
    found = network(conv("c", "data"), layer("ReLU", "r", "c", "c"), layer("ReLU", "r", "c", "d"))
    assert nodes(found) == [("c", "data", "c@c"), ("r", "c@c", "c"), ("r#3", "c", "d")]


def test_layers_without_a_name() -> None:
    found = network(layer("ReLU", "", "data", "a"), layer("TanH", "", "a", "a"))
    assert nodes(found) == [("#1", "data", "a@"), ("#2", "a@", "a")]


def test_inputs_of_the_old_header() -> None:
    found = network(conv("c", "x"), source='input: "x" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 9')
    assert found.graph.inputs == ("x",)
    assert found.input_shape == (2, 3, 9, 9)


def test_an_input_without_a_shape() -> None:
    found = network(conv("c", "data"), source=layer("Input", "data"))
    assert found.input_shape is None
    assert found.layers[0].shapes[Role.WEIGHT] == (3, 0, 3, 3)


# Caffe's rules


def test_an_unknown_bottom() -> None:
    error = refused_net(conv("c", "nope"))
    assert error.problem == "Unknown bottom blob 'nope' (bottom index 0)"
    assert error.place == "layer 'c' (Convolution)"


def test_a_bottom_of_a_later_layer_is_unknown() -> None:
    assert "Unknown bottom blob 'b'" in refused_net(layer("TanH", "a", "b"), layer("TanH", "b", "data")).problem


def test_a_net_without_an_input_says_what_to_add() -> None:
    error = refused_net(conv("c", "data"), source="")
    assert error.problem == "Unknown bottom blob 'data' (bottom index 0)"
    assert error.hint is not None
    assert 'type: "Input"' in error.hint
    assert "input_param" in error.hint


def test_an_input_without_dimensions_is_none() -> None:
    """As in old caffemodels; Caffe drops it."""
    assert "Unknown bottom blob 'data'" in refused_net(conv("c", "data"), source='input: "data"').problem


@pytest.mark.parametrize(
    "second",
    [
        layer("TanH", "second", "data", "a"),
        layer("Eltwise", "second", "data a", "a"),  # in place at another index is not in place
        layer("Slice", "second", "a", "a a"),
        layer("Input", "second", "", "a", "input_param { shape { dim: 1 } }"),
    ],
)
def test_a_top_of_several_layers(second: str) -> None:
    error = refused_net(layer("TanH", "a", "data"), second)
    assert error.problem == "Top blob 'a' produced by multiple sources"
    assert error.place is not None
    assert "'second'" in error.place
    assert error.found in {"layer 'a' (TanH) writes it as well", "layer 'second' (Slice) writes it as well"}


def test_in_place_on_a_blob_that_another_layer_reads() -> None:
    error = refused_net(conv("c", "data"), layer("TanH", "t", "c"), layer("ReLU", "r", "c", "c"))
    assert "Top blob 'c' produced by multiple sources" in error.problem
    assert error.place == "layer 'r' (ReLU)"
    assert error.found == "layer 't' (TanH)"


def test_in_place_on_a_blob_that_the_layer_reads_twice() -> None:
    assert "multiple sources" in refused_net(layer("Eltwise", "e", "data data", "data")).problem


def test_readers_of_the_version_before_or_after_do_not_matter() -> None:
    found = network(conv("c", "data"), layer("ReLU", "r", "c", "c"), layer("TanH", "t", "c"), layer("TanH", "u", "c"))
    assert nodes(found)[2:] == [("t", "c", "t"), ("u", "c", "u")]


def test_a_reader_that_is_left_out_counts_as_well() -> None:
    """It is there in Caffe: an Accuracy that reads what a relu overwrites."""
    source = (DATA, conv("c", "data"), layer("Accuracy", "acc", "c label"), layer("ReLU", "r", "c", "c"))
    assert "multiple sources" in refused_net(*source[1:], source=source[0]).problem


def test_layers_with_weights_need_names_of_their_own() -> None:
    error = refused_net(conv("c", "data"), layer("Convolution", "c", "c", "d", CONVOLUTION))
    assert "2 layers have this name" in error.problem
    assert error.place == "layer 'c' (Convolution)"


def test_include_and_exclude() -> None:
    rules = "include { phase: TEST } exclude { phase: TRAIN }"
    assert "not both" in refused_net(layer("ReLU", "r", "data", text=rules)).problem


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (layer("Axpy", "a", "data data"), "Axpy Layer takes another number of blobs"),
        (layer("ReLU", "r"), "ReLU Layer takes another number of bottom blobs"),
        (layer("ReLU", "r\\n", "data"), "control characters"),
        (layer("ReLU", "r", "data", "\\033[2J"), "control characters"),
        (layer("Data", "d", "data", "e"), "a layer that yields the input takes no bottom"),
    ],
)
def test_layers_that_are_wrong_in_themselves(wrong: str, words: str) -> None:
    assert words in refused_net(wrong).problem


def test_layers_that_do_not_fit_each_other() -> None:
    half = "convolution_param { num_output: 3 kernel_size: 1 stride: 2 }"
    error = refused_net(conv("c", "data", kind=half), layer("Eltwise", "sum", "c data"), kind=ShapeError)
    assert error.place == "layer 'sum' (Eltwise)"


def test_a_net_of_nothing_but_an_input() -> None:
    error = refused_net()
    assert "nothing leads from an input to an output" in error.problem
    assert error.found == "none"


# Sharing by name

SHARED = "param { name: 'w' } param { name: 'b' }"


def test_the_first_that_names_a_blob_owns_it() -> None:
    found = network(conv("c", "data", SHARED), conv("d", "c", "param { name: 'w' }"), conv("e", "d", SHARED))
    assert found.owners[("c", 0)] == found.owners[("d", 0)] == found.owners[("e", 0)] == ("c", 0)
    assert found.owners[("e", 1)] == ("c", 1)
    assert found.owners[("d", 1)] == ("d", 1)


def test_shared_blobs_have_the_same_shape() -> None:
    other = "convolution_param { num_output: 3 kernel_size: 1 }"
    error = refused_net(conv("c", "data", SHARED), conv("d", "c", SHARED, kind=other), kind=ShapeError)
    assert error.problem == "Cannot share param 'w' owned by layer 'c'; shape mismatch"
    assert error.place == "layer 'd' (Convolution), blob 0"
    assert (error.expected, error.found) == ("(3, 3, 3, 3)", "(3, 3, 1, 1)")


def test_permissive_sharing_compares_the_number_of_values() -> None:
    """An InnerProduct (4, 27) takes the values of a convolution (4, 3, 3, 3)."""
    first = conv("c", "data", "param { name: 'w' }", kind="convolution_param { num_output: 4 kernel_size: 3 }")
    pooled = layer("Pooling", "p", "data", text="pooling_param { kernel_size: 6 }")

    def second(mode: str, size: int) -> str:
        text = f"inner_product_param {{ num_output: {size} }} param {{ name: 'w' share_mode: {mode} }}"
        return layer("InnerProduct", "f", "p", text=text)

    assert network(first, pooled, second("PERMISSIVE", 4)).owners[("f", 0)] == ("c", 0)
    assert "shape mismatch" in refused_net(first, pooled, second("STRICT", 4), kind=ShapeError).problem
    assert "count mismatch" in refused_net(first, pooled, second("PERMISSIVE", 5), kind=ShapeError).problem


@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE"])
def test_what_is_not_known_may_be_shared(mode: str) -> None:
    """A convolution and a scale of an input of unknown shape, with ones of a known shape."""
    share = f"param {{ name: 'w' share_mode: {mode} }}"
    unknown = layer("Input", "other")
    assert network(unknown, conv("c", "other", share), conv("d", "data", share)).owners[("d", 0)] == ("c", 0)
    scales = (
        layer("Scale", "s", "other", text=f"scale_param {{ num_axes: -1 }} {share}"),
        layer("Scale", "t", "data", text=f"scale_param {{ num_axes: -1 }} {share}"),
    )
    assert network(unknown, *scales).owners[("t", 0)] == ("s", 0)
    assert network(unknown, *reversed(scales)).owners[("s", 0)] == ("t", 0)


# Hostile nets


def test_many_layers_take_time_in_proportion() -> None:
    """In place on one blob, all of one name: names of values and nodes must not be sought one by one."""
    start = time.process_time()
    found = network(
        *[layer("ReLU", "r", "data", "data")] * 3000, layer("Split", "s", "data", " ".join(map(str, range(3000))))
    )
    assert len({node.name for node in found.graph.nodes}) == 6000
    assert len({value for node in found.graph.nodes for value in node.outputs}) == 6000
    assert time.process_time() - start < 10
    assert sum(len(node.name) for node in found.graph.nodes) < 100_000


@pytest.mark.parametrize("size", [2**32 - 1, 2**31, 65536])
def test_enormous_sizes(size: int) -> None:
    source = layer("Data", "data", text=f"transform_param {{ crop_size: {size} mean_value: 1 mean_value: 2 }}")
    with pytest.raises(ShapeError):
        network(layer("TanH", "t", "data"), source=source)
