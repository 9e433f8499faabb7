"""Binding the variables of a graph to stored tensors: names and graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mxnet_base import bound, reread, stored, usual
from mxnet_graphs import base, document, node, parsed, variables
from mxnet_params_writer import dense, params_list

from resnext_convert.converter.errors import MissingTensorError
from resnext_convert.converter.graph import Role, Unknown
from resnext_convert.converter.mxnet.binding import bind
from resnext_convert.converter.mxnet.params import parse_params
from resnext_convert.converter.tensors import Array

SYMBOL, PARAMS = "model-symbol.json", "model-0000.params"

# Names


def without_prefix(tensors: dict[str, Array]) -> dict[str, Array]:
    return {name.partition(":")[2]: array for name, array in tensors.items()}


def test_the_writer_of_these_tests_changes_nothing() -> None:
    assert reread(stored()).graph == usual()


def test_names_without_prefix() -> None:
    model = reread(without_prefix(stored()))
    assert model.graph.producers["bn0_output"].params[Role.VAR] == "bn0_moving_var"
    assert model.warnings == ()


def test_the_order_of_the_tensors_means_nothing() -> None:
    assert reread(dict(reversed(stored().items()))).graph == usual()


def test_more_tensors_than_the_graph_names() -> None:
    more = {"arg:other_weight": np.ones((2, 2)), "aux:other_moving_mean": np.ones(2), "arg:softmax_label": np.ones(2)}
    model = reread(stored() | more)
    assert model.graph == usual()
    assert model.warnings == ()


def test_other_prefixes_are_ignored_with_a_warning() -> None:
    (warning,) = reread(stored() | {"opt:fc1_weight": np.ones(1), "arg:a:b": np.ones(1)}).warnings
    assert "opt:fc1_weight" in warning
    assert "arg:a:b" not in warning


def test_a_name_is_split_at_its_first_colon() -> None:
    found = base()
    node(found, "fc1_weight")["name"] = "scope:fc1_weight"
    tensors = stored()
    tensors["arg:scope:fc1_weight"] = tensors.pop("arg:fc1_weight")
    assert reread(tensors, found).graph.producers["fc1_output"].params[Role.WEIGHT] == "arg:scope:fc1_weight"


def test_a_weight_under_either_prefix() -> None:
    """`aux:conv0_weight` is another tensor than `arg:conv0_weight`, and no stand-in for it."""
    both = stored() | {"aux:conv0_weight": np.zeros((1,))}
    assert reread(both).graph.producers["conv0_output"].params[Role.WEIGHT] == "arg:conv0_weight"


def missing(tensors: dict[str, Array], found: dict[str, Any] | None = None) -> MissingTensorError:
    with pytest.raises(MissingTensorError) as refusal:
        reread(tensors, found)
    assert refusal.value.hint
    return refusal.value


def test_a_missing_tensor() -> None:
    tensors = stored()
    del tensors["arg:fc1_bias"]
    error = missing(tensors)
    assert error.problem == "tensors that the graph names are not in the params file (1): fc1_bias"
    assert error.found == (
        "105 tensors: arg:bn_data_gamma, arg:bn_data_beta, arg:conv0_weight, arg:bn0_gamma, arg:bn0_beta and 100 more"
    )
    assert error.hint is not None
    assert "not of the same checkpoint" in error.hint


def test_all_missing_tensors_are_named() -> None:
    error = missing({name: array for name, array in stored().items() if "stage2" not in name})
    assert "(20)" in error.problem
    assert "stage2_unit1_conv1_weight" in error.problem
    assert "stage2_unit1_sc_bn_moving_var" in error.problem


@pytest.mark.parametrize(("old", "new"), [("aux:", "arg:"), ("arg:", "aux:")])
def test_tensors_under_the_wrong_prefix(old: str, new: str) -> None:
    error = missing({name.replace(old, new): array for name, array in stored().items()})
    assert error.found is not None
    assert error.found.startswith(f"stored under the wrong prefix: {new}bn_data_")
    assert error.hint is not None
    assert "'aux:' alone" in error.hint


def hint_of(rename: Callable[[str], str | None]) -> str:
    renamed = {new: array for name, array in stored().items() if (new := rename(name)) is not None}
    hint = missing(renamed).hint
    assert hint is not None
    return hint


def test_guesses_at_the_cause() -> None:
    assert "aux_params" in hint_of(lambda name: None if name.startswith("aux:") else name)
    assert "structural names" in hint_of(lambda name: name.replace("_", ".").replace("aux:", "").replace("arg:", ""))
    assert "different networks" in hint_of(lambda name: name + "x")


def test_networks_that_gluon_numbered_differently() -> None:
    nodes = [
        *variables("data", "resnext0_conv0_weight", "resnext0_conv0_bias"),
        ("Convolution", "resnext0_conv0_fwd", [0, 1, 2], {"kernel": "(1, 1)", "num_filter": "2"}),
    ]
    tensors = {"arg:resnext1_conv0_weight": np.ones((2, 3, 1, 1)), "arg:resnext1_conv0_bias": np.ones(2)}
    hint = missing(tensors, document(*nodes)).hint
    assert hint is not None
    assert "first part alone" in hint


def test_a_list_without_names() -> None:
    weights = params_list([dense(array) for array in stored().values()])
    with pytest.raises(MissingTensorError) as refusal:
        bind(parsed(base()), parse_params(memoryview(weights), "list.params"))
    assert refusal.value.hint is not None
    assert "without names" in refusal.value.hint


# moving_* and running_*


def test_statistics_under_the_other_spelling() -> None:
    model = reread({name.replace("moving_", "running_"): array for name, array in stored().items()})
    assert model.graph.producers["bn0_output"].params[Role.MEAN] == "aux:bn0_running_mean"
    assert model.graph.producers["stage1_unit1_sc_bn_output"].params[Role.VAR] == "aux:stage1_unit1_sc_bn_running_var"
    (warning,) = model.warnings
    assert warning.startswith("42 moving statistics have other names in the params file than in the graph")
    assert "'aux:bn_data_running_mean' for 'bn_data_moving_mean'" in warning


def test_the_other_way_round() -> None:
    found = base()
    for item in found["nodes"]:
        item["name"] = item["name"].replace("moving_", "running_")
    assert len(reread(stored(), found).warnings) == 1


def test_a_statistic_of_another_shape_is_not_taken() -> None:
    tensors = stored()
    tensors["aux:bn0_running_mean"] = np.ones(9)
    del tensors["aux:bn0_moving_mean"]
    assert "bn0_moving_mean" in missing(tensors).problem


def test_a_statistic_that_another_node_asks_for_is_not_taken() -> None:
    """Two BatchNorms: one reads ``a_moving_mean``, the other the ``a_running_mean`` that is stored."""
    tensors = {"arg:a_gamma": np.ones(3), "arg:a_beta": np.ones(3)}
    tensors |= {"aux:a_running_mean": np.ones(3), "aux:a_moving_var": np.ones(3)}
    names = ("data", "a_gamma", "a_beta", "a_moving_mean", "a_running_mean", "a_moving_var")
    nodes = [("BatchNorm", "one", [0, 1, 2, 4, 5]), ("BatchNorm", "two", [6, 1, 2, 3, 5])]
    assert missing(tensors, document(*variables(*names), *nodes)).problem.endswith("(1): a_moving_mean")


def test_a_statistic_is_not_taken_twice() -> None:
    tensors = {"arg:a_gamma": np.ones(3), "arg:a_beta": np.ones(3)}
    tensors |= {"aux:a_running_mean": np.ones(3), "aux:a_moving_var": np.ones(3)}
    names = ("data", "a_gamma", "a_beta", "x_moving_mean", "y_moving_mean", "a_moving_var")
    nodes = [("BatchNorm", "one", [0, 1, 2, 3, 5]), ("BatchNorm", "two", [6, 1, 2, 4, 5])]
    assert missing(tensors, document(*variables(*names), *nodes)).problem.endswith("(1): y_moving_mean")


def test_a_batch_norm_that_is_used_twice_has_one_statistic() -> None:
    tensors = {"arg:a_gamma": np.ones(3), "arg:a_beta": np.ones(3)}
    tensors |= {"aux:a_running_mean": np.ones(3), "aux:a_running_var": np.ones(3)}
    names = ("data", "a_gamma", "a_beta", "a_moving_mean", "a_moving_var")
    nodes = [("BatchNorm", "one", [0, 1, 2, 3, 4]), ("BatchNorm", "two", [5, 1, 2, 3, 4])]
    first, second = bound(tensors, *variables(*names), *nodes).graph.nodes
    assert first.params == second.params
    assert first.params[Role.MEAN] == "aux:a_running_mean"


# Graphs


CONV = {"kernel": "(1, 1)", "num_filter": "2", "no_bias": "True"}


def test_a_stored_image_is_no_parameter() -> None:
    model = reread(stored() | {"arg:data": np.ones((2, 3, 64, 64))})
    assert model.graph == usual()
    assert model.warnings == ("the tensor 'arg:data' is not used: 'data' is an input of the graph",)


def test_a_learned_constant_makes_its_reader_unknown() -> None:
    scaled = bound({"arg:scale": (1, 3, 1, 1)}, *variables("data", "scale"), ("broadcast_mul", "mul", [0, 1]))
    assert scaled.graph.inputs == ("data",)
    assert scaled.graph.nodes[0].attrs == Unknown()
    assert scaled.graph.nodes[0].inputs == ("data",)


def test_what_is_neither_stored_nor_a_parameter_is_an_input() -> None:
    two = bound({}, *variables("data", "info"), ("elemwise_add", "sum", [0, 1]))
    assert two.graph.inputs == ("data", "info")


def test_a_computed_weight_makes_its_reader_unknown() -> None:
    nodes = [
        *variables("data", "w"),
        ("_mul_scalar", "half", [1], {"scalar": "0.5"}),
        ("Convolution", "c", [0, 2], CONV),
    ]
    found = bound({"arg:w": (2, 3, 1, 1)}, *nodes).graph
    assert [type(item.attrs) for item in found.nodes] == [Unknown, Unknown]
    assert found.nodes[1].attrs == Unknown(attributes=CONV)
    assert found.nodes[1].inputs == ("data", "half_output")
    assert not found.nodes[1].params


def test_an_unknown_operator_keeps_what_is_not_stored() -> None:
    nodes = [*variables("data", "w", "info"), ("MyOp", "mine", [0, 1, 2], {"a": "b"}), ("relu", "r", [(3, 2)])]
    found = bound({"arg:w": (2,)}, *nodes, heads=[[4, 0, 0], [3, 0, 0]]).graph
    assert found.inputs == ("data", "info")
    assert found.nodes[0].attrs == Unknown(attributes={"a": "b"})
    assert found.nodes[0].inputs == ("data", "info")
    assert found.nodes[0].outputs == ("mine_output0", "mine_output2")
    assert found.nodes[1].inputs == ("mine_output2",)
    assert found.outputs == ("r_output", "mine_output0")


def test_the_only_output_of_an_unknown_operator() -> None:
    assert bound({}, *variables("data"), ("MyOp", "mine", [0])).graph.outputs == ("mine_output",)


def test_the_parts_of_a_split_are_numbered() -> None:
    nodes = [*variables("data"), ("SliceChannel", "split0", [0], {"num_outputs": "2"})]
    found = bound({}, *nodes, heads=[[1, 1, 0]]).graph
    assert found.nodes[0].outputs == ("split0_output0", "split0_output1")
    assert found.outputs == ("split0_output1",)


def test_a_split_in_one_part_is_numbered_too() -> None:
    assert bound({}, *variables("data"), ("split", "s", [0], {"num_outputs": "1"})).graph.outputs == ("s_output0",)


def test_a_weight_may_be_shared() -> None:
    nodes = [*variables("data", "w"), ("Convolution", "a", [0, 1], CONV), ("Convolution", "b", [2, 1], CONV)]
    found = bound({"arg:w": (2, 2, 1, 1)}, *nodes).graph
    assert [item.params for item in found.nodes] == [{Role.WEIGHT: "arg:w"}] * 2


def test_names_are_made_unique() -> None:
    nodes = [
        *variables("data"),
        *(("relu", name, [item]) for item, name in enumerate(["a", "a", "", "", "a#2", "data"])),
        ("relu", "a_output", [6]),
    ]
    found = bound({}, *nodes).graph
    assert [item.name for item in found.nodes] == ["a", "a#2", "#3", "#4", "a#2#5", "data", "a_output"]
    values = [value for item in found.nodes for value in item.outputs]
    assert len(set(values)) == len(values)


def test_a_variable_may_have_the_name_of_a_value() -> None:
    nodes = [*variables("a_output"), ("relu", "a", [0])]
    found = bound({}, *nodes).graph
    assert found.inputs == ("a_output",)
    assert found.outputs == ("a#1_output",)


def test_a_head_that_is_the_image() -> None:
    found = bound({}, *variables("data"), ("relu", "r", [0]), heads=[[1, 0, 0], [0, 0, 0]]).graph
    assert found.outputs == ("r_output", "data")


def test_prelu_reads_its_slopes_as_a_weight() -> None:
    nodes = [*variables("data", "p_gamma"), ("LeakyReLU", "p", [0, 1], {"act_type": "prelu"})]
    assert bound({"arg:p_gamma": (3,)}, *nodes).graph.nodes[0].params == {Role.WEIGHT: "arg:p_gamma"}


def test_the_shape_that_the_image_declares() -> None:
    assert bound({}, ("null", "data", [], {"__shape__": "(1, 3, 0, 0)"}), ("relu", "r", [0])).input_shape == (
        1,
        3,
        0,
        0,
    )
    assert bound({}, *variables("data"), ("relu", "r", [0])).input_shape is None
