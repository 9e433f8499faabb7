"""Blobs of a weights file for the layers of a net: by name, in number and shape, and shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from caffe_base import CYPW, RECORDINGS, conv, layer, network, stored
from single_node import ramp

from resnext_convert.converter.caffe.binding import Bound, bind
from resnext_convert.converter.caffe.network import Network, build_network
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.caffe.source import read_pair
from resnext_convert.converter.caffe.weights import read_weights
from resnext_convert.converter.errors import ConvertError, MissingTensorError, ShapeError
from resnext_convert.converter.graph import Role
from resnext_convert.converter.tensors import Array

Layers = Mapping[str, Sequence[Array | None]] | Sequence[tuple[str, Sequence[Array | None]]]

FC = "inner_product_param { num_output: 4 bias_term: false }"
WEIGHT, BIAS = ramp(3, 3, 3, 3).astype(np.float32), ramp(3, phase=0.5).astype(np.float32)
CONV = [WEIGHT, BIAS]
NORM = [ramp(3), ramp(3) + 2, np.ones(1)]
NET = (conv("c", "data"), layer("BatchNorm", "bn", "c"), layer("InnerProduct", "fc", "bn", text=FC))
BLOBS: dict[str, Sequence[Array | None]] = {"c": CONV, "bn": NORM, "fc": [ramp(4, 192)]}


def usual() -> Network:
    return network(*NET)


def refused(found: Network, layers: Layers, kind: type[ConvertError] = ShapeError, **options: Any) -> ConvertError:
    with pytest.raises(kind) as refusal:
        bind(found, stored(layers, **options))
    assert type(refusal.value) is kind
    assert refusal.value.hint
    return refusal.value


def values(found: Bound, name: str) -> Array:
    return found.tensors[name].numpy()


# By name


def test_each_layer_gets_the_blobs_of_its_name() -> None:
    found = bind(usual(), stored(BLOBS))
    params = {node.name: node.params for node in found.graph.nodes}
    assert params == {
        "c": {Role.WEIGHT: "c[0]", Role.BIAS: "c[1]"},
        "bn": {Role.MEAN: "bn[0]", Role.VAR: "bn[1]", Role.FACTOR: "bn[2]"},
        "fc": {Role.WEIGHT: "fc[0]"},
    }
    assert list(found.tensors) == ["c[0]", "c[1]", "bn[0]", "bn[1]", "bn[2]", "fc[0]"]
    assert np.array_equal(values(found, "c[0]"), WEIGHT)
    assert found.tensors["bn[1]"].where == "the blob bn[1]"
    assert found.warnings == ()


def test_the_order_of_the_file_means_nothing() -> None:
    found = bind(usual(), stored(dict(reversed(BLOBS.items()))))
    assert list(found.tensors) == list(bind(usual(), stored(BLOBS)).tensors)


def test_of_several_copies_the_last_counts() -> None:
    copies = [*BLOBS.items(), ("c", [WEIGHT + 1, BIAS])]
    found = bind(usual(), stored(copies))
    assert np.array_equal(values(found, "c[0]"), WEIGHT + 1)


def test_a_copy_that_does_not_fit_is_refused_though_it_does_not_count() -> None:
    """Caffe copies each in turn, and dies of the first that it cannot."""
    refused(usual(), [("c", [WEIGHT[:2], BIAS]), *BLOBS.items()])


def test_layers_that_only_the_file_has_are_left_over() -> None:
    """A deploy net and the weights of its training, which has another head."""
    found = bind(usual(), stored(BLOBS | {"aux/fc": [ramp(2, 2), ramp(2)], "loss": []}))
    assert list(found.tensors)[6:] == ["aux/fc[0]", "aux/fc[1]"]
    assert found.warnings == ()  # the ledger lists them, and the report says so


def test_blobs_of_a_layer_of_unknown_type_are_left_over() -> None:
    found = bind(network(*NET, layer("Normalize", "n", "data")), stored(BLOBS | {"n": [ramp(3)]}))
    assert found.tensors["n[0]"].shape == (3,)
    assert found.graph.producers["n"].params == {}
    assert found.warnings == ()


def test_blobs_of_a_layer_that_stores_none() -> None:
    error = refused(network(*NET, layer("ReLU", "r", "fc")), BLOBS | {"r": [ramp(3)]})
    assert error.problem == "Incompatible number of blobs for layer 'r' (0 vs. 1)"
    assert (error.expected, error.found) == ("none", "1: (3)")


# What is missing


def missing(found: Network, layers: Layers) -> MissingTensorError:
    error = refused(found, layers, MissingTensorError)
    assert isinstance(error, MissingTensorError)
    return error


def without(*names: str, **more: Sequence[Array | None]) -> dict[str, Sequence[Array | None]]:
    return {name: blobs for name, blobs in BLOBS.items() if name not in names} | more


def test_a_renamed_layer() -> None:
    error = missing(usual(), without("bn", bn_new=NORM))
    assert error.problem == "layers of the net have no weights in the file (1): bn"
    assert error.found == "3 layers with weights; layers that the net does not have: bn_new"
    assert error.hint is not None
    assert "renamed" in error.hint


def test_a_file_that_is_cut_off_between_two_layers() -> None:
    error = missing(usual(), {"c": CONV})
    assert error.problem == "layers of the net have no weights in the file (2): bn, fc"
    assert error.hint is not None
    assert "behind 'c': the file looks cut off" in error.hint


@pytest.mark.parametrize("name", ["c", "bn"])
def test_a_layer_in_the_middle_is_missing(name: str) -> None:
    error = missing(usual(), without(name))
    assert error.hint == "the two files do not belong together; take the prototxt that was published with the weights"


def test_two_files_of_different_networks() -> None:
    error = missing(usual(), {"conv1": CONV})
    assert error.hint == "no layer name agrees: the two files belong to different networks"


def test_weights_into_which_batch_norm_was_merged() -> None:
    net = network(*NET, layer("BatchNorm", "bn2", "data"))
    error = missing(net, without("bn"))
    assert error.hint is not None
    assert "merged" in error.hint


def test_a_layer_that_is_stored_without_blobs() -> None:
    assert "(1): bn" in missing(usual(), without("bn", bn=[])).problem


def test_all_missing_layers_are_counted_and_some_named() -> None:
    net = network(*(conv(f"c{i}", "data") for i in range(20)))
    error = missing(net, {"c0": CONV})
    assert "(19): c1, c2, c3, c4, c5, c6, c7, c8 and 11 more" in error.problem
    eight = missing(network(*(conv(f"c{i}", "data") for i in range(9))), {"c0": CONV})
    assert eight.problem.endswith("(8): c1, c2, c3, c4, c5, c6, c7, c8")


# Numbers and shapes


@pytest.mark.parametrize(
    ("name", "blobs", "numbers", "hint"),
    [
        ("c", [WEIGHT], "(2 vs. 1)", "bias"),
        ("fc", [ramp(4, 192), ramp(4)], "(1 vs. 2)", "bias"),
        ("fc", [ramp(4, 192), ramp(4), ramp(4)], "(1 vs. 3)", "belong together"),
        ("bn", [ramp(3)], "(3 vs. 1)", "forks"),
        ("bn", [ramp(3), ramp(3)], "(3 vs. 2)", "forks"),
        ("bn", [*NORM, ramp(3), ramp(3)], "(3 vs. 5)", "forks"),
    ],
)
def test_numbers_of_blobs(name: str, blobs: list[Array], numbers: str, hint: str) -> None:
    error = refused(usual(), BLOBS | {name: blobs})
    assert error.problem == f"Incompatible number of blobs for layer {name!r} {numbers}"
    roles = {"c": "2: weight, bias", "fc": "1: weight", "bn": "3: running_mean, running_var, moving_average_factor"}
    assert error.expected == roles[name]
    assert error.hint is not None
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "index", "array", "expected", "hint"),
    [
        ("c", 0, ramp(3, 3, 5, 5), "3 3 3 3", "belong together"),
        ("c", 0, ramp(4, 3, 3, 3), "3 3 3 3", "number of outputs"),
        ("c", 1, ramp(3, 1), "3", "axes of size 1"),
        ("c", 1, ramp(1, 1, 1, 3), "3", "axes of size 1"),
        ("bn", 0, ramp(1, 3, 1, 1), "3", "axes of size 1"),
        ("bn", 2, ramp(2), "1", "number of outputs"),
        ("bn", 2, np.ones(()), "1", "axes of size 1"),
        ("fc", 0, ramp(5, 192), "4 192", "number of outputs"),
        ("fc", 0, ramp(192, 4), "4 192", "transposed"),
        ("fc", 0, ramp(4, 192, 1, 1), "4 192", "axes of size 1"),
        ("fc", 0, ramp(4, 3, 8, 8), "4 192", "belong together"),
    ],
)
def test_shapes(name: str, index: int, array: Array, expected: str, hint: str) -> None:
    blobs = list(BLOBS[name])
    blobs[index] = array
    error = refused(usual(), BLOBS | {name: blobs})
    assert error.problem == f"Cannot copy param {index} weights from layer {name!r}; shape mismatch"
    assert error.place == f"the blob {name}[{index}]"
    assert error.expected == expected
    assert error.found == (" ".join(map(str, array.shape)) or "no axes")
    assert error.hint is not None
    assert hint in error.hint


def test_one_error_for_all_that_does_not_fit() -> None:
    error = refused(usual(), BLOBS | {"c": [ramp(4, 3, 3, 3), ramp(4)], "bn": [ramp(3)]})
    assert error.problem.endswith("from layer 'c'; shape mismatch (2 more do not fit either)")


def test_the_old_shape_of_four_dimensions() -> None:
    old = {
        "c": [WEIGHT, BIAS.reshape(1, 1, 1, 3)],
        "bn": [array.reshape(1, 1, 1, -1) for array in NORM],
        "fc": [ramp(1, 1, 4, 192)],
    }
    found = bind(usual(), stored(old, legacy=True))
    new = bind(usual(), stored(BLOBS))
    for name, tensor in new.tensors.items():
        assert found.tensors[name].shape == tensor.shape
        assert np.array_equal(values(found, name), tensor.numpy())
    refused(usual(), old)


def test_the_old_shape_is_compared_from_the_right() -> None:
    refused(usual(), BLOBS | {"fc": [ramp(4, 192, 1, 1)]}, legacy=True)


def test_where_the_net_does_not_say_the_shape_the_file_does() -> None:
    """A train_val net: how many channels an image of its data base has is not in it."""
    source = layer("Data", "data", "", "data label")
    found = bind(network(conv("c", "data"), source=source), stored({"c": CONV}))
    assert found.tensors["c[0]"].shape == (3, 3, 3, 3)
    refused(network(conv("c", "data"), source=source), {"c": [ramp(3, 3, 3), BIAS]})
    refused(network(conv("c", "data"), source=source), {"c": [np.ones((3, 0, 3, 3)), BIAS]})
    unknown = network(layer("Scale", "s", "data", text="scale_param { num_axes: -1 }"), source=source)
    assert bind(unknown, stored({"s": [ramp(3, 8, 8)]})).tensors["s[0]"].shape == (3, 8, 8)


# Sharing

W, B = "param { name: 'w' }", "param { name: 'w' } param { name: 'b' }"


def sharing(first: str = B, second: str = B) -> Network:
    return network(conv("c", "data", first), conv("d", "c", second))


def test_every_layer_gets_a_tensor_of_its_own_of_what_is_shared() -> None:
    found = bind(sharing(), stored({"c": CONV, "d": CONV}))
    assert found.graph.producers["d"].params == {Role.WEIGHT: "d[0]", Role.BIAS: "d[1]"}
    assert np.array_equal(values(found, "d[0]"), WEIGHT)
    assert [tensor.where for tensor in found.tensors.values()] == [
        "the blob d[0]",
        "the blob d[1]",
        "shared with c[0]",
        "shared with c[1]",
    ]
    assert found.warnings == ("layers share blobs by name: d[0] is c[0], d[1] is c[1]",)


@pytest.mark.parametrize(
    ("order", "winner"), [(("c", "d"), BIAS + 1), (("d", "c"), BIAS)], ids=["sharer last", "owner last"]
)
def test_the_last_copy_is_everybodys(order: tuple[str, str], winner: Array) -> None:
    blobs = {"c": CONV, "d": [WEIGHT, BIAS + 1]}
    found = bind(sharing(), stored({name: blobs[name] for name in order}))
    assert np.array_equal(values(found, "c[1]"), winner)
    assert np.array_equal(values(found, "d[1]"), winner)
    assert len(found.warnings) == 2
    assert "c[1] and" in found.warnings[1]
    assert "different values: the last copy in the file counts for both" in found.warnings[1]


@pytest.mark.parametrize("name", ["c", "d"])
def test_one_layer_is_enough_for_all(name: str) -> None:
    found = bind(sharing(), stored({name: CONV}))
    assert np.array_equal(values(found, "c[0]"), WEIGHT)
    assert np.array_equal(values(found, "d[0]"), WEIGHT)


def test_what_is_not_shared_is_missing() -> None:
    assert "(1): d" in missing(sharing(W, W), {"c": CONV}).problem


def test_caffemodels_repeat_what_is_shared_and_hdf5_leaves_it_out() -> None:
    layers: Layers = {"c": CONV, "d": [None, BIAS + 1]}
    found = bind(sharing(W, W), stored(layers, kind="hdf5"))
    assert np.array_equal(values(found, "d[0]"), WEIGHT)
    assert np.array_equal(values(found, "d[1]"), BIAS + 1)
    assert (
        "Incompatible number of blobs for layer 'd' (2 vs. 1)"
        in refused(sharing(W, W), {"c": CONV, "d": [BIAS]}).problem
    )


@pytest.mark.parametrize(
    "blobs", [[None, BIAS], [WEIGHT], [WEIGHT, None], [*CONV, BIAS]], ids=["first", "last", "none", "more"]
)
def test_hdf5_leaves_out_nothing_else(blobs: list[Array | None]) -> None:
    with pytest.raises(ShapeError, match=r"Incompatible number of blobs for layer 'c' \(2 vs\. "):
        bind(network(conv("c", "data")), stored({"c": blobs}, kind="hdf5"))


def test_a_shared_blob_of_another_shape() -> None:
    flat = "inner_product_param { num_output: 4 bias_term: false } param { name: 'w' share_mode: PERMISSIVE }"
    small = "convolution_param { num_output: 4 kernel_size: 8 bias_term: false }"
    net = network(conv("c", "data", W, kind=small), layer("InnerProduct", "fc", "data", text=flat))
    found = bind(net, stored({"c": [ramp(4, 3, 8, 8)]}))
    assert found.tensors["fc[0]"].shape == (4, 192)
    assert np.array_equal(values(found, "fc[0]"), ramp(4, 192))


def test_a_shared_blob_whose_shape_follows_from_the_file() -> None:
    """Of the permissive sharer one dimension is not known; it is what is left."""
    flat = "inner_product_param { num_output: 4 bias_term: false } param { name: 'w' share_mode: PERMISSIVE }"
    source = layer("Data", "data", text="transform_param { crop_size: 8 }")
    small = "convolution_param { num_output: 4 kernel_size: 8 bias_term: false }"
    net = network(conv("c", "data", W, kind=small), layer("InnerProduct", "fc", "data", text=flat), source=source)
    assert bind(net, stored({"c": [ramp(4, 3, 8, 8)]})).tensors["fc[0]"].shape == (4, 192)
    wrong = flat.replace("4", "5")
    net = network(conv("c", "data", W, kind=small), layer("InnerProduct", "fc", "data", text=wrong), source=source)
    refused(net, {"c": [ramp(4, 3, 8, 8)]})


def test_the_recorded_conflict() -> None:
    """What real Caffe computes from it is compared in test_caffe_recordings.py."""
    folder = RECORDINGS / "m_shared_params"
    found = read_pair(folder / "deploy.prototxt", folder / "conflict.caffemodel")
    plain = read_pair(folder / "deploy.prototxt", folder / "weights.caffemodel")
    assert np.array_equal(found.tensors["u1_c1[1]"].numpy(), plain.tensors["u1_c1[1]"].numpy() + 1)
    assert np.array_equal(found.tensors["u2_c1[1]"].numpy(), plain.tensors["u1_c1[1]"].numpy() + 1)


# The recorded files


def test_a_recorded_pair() -> None:
    text, weights = CYPW / "deploy.prototxt", CYPW / "weights.caffemodel"
    found = bind(build_network(read_prototxt(text).net, text), read_weights(weights))
    factors = [tensor.float64() for name, tensor in found.tensors.items() if name.endswith("[2]")]
    assert len(factors) == 27
    assert all(abs(float(factor[0]) - 999.98) < 0.01 for factor in factors)
    assert sum(tensor.nbytes for tensor in found.tensors.values()) > 800_000
    assert found.warnings == ()
