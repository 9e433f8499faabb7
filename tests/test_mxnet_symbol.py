"""The reader of symbol files: dialects, upgrade rules, topology, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import fuzz_symbol
import numpy as np
import pytest
from mxnet_graphs import base, document, node, number, params, parsed, variables, written
from repository import FIXTURES
from shared_data import shared

from resnext_convert.converter.errors import FormatError, MissingFileError
from resnext_convert.converter.graph import Conv, Unknown
from resnext_convert.converter.mxnet.binding import bind
from resnext_convert.converter.mxnet.symbol import Entry, Operation, SymbolFile, Variable, parse_symbol, read_symbol

RECORDINGS = FIXTURES / "mxnet" / "recordings"

# Version, dialect and heads of each recording.
RECORDED = {
    "0.11.0-odd": (1100, "attr", ["softmax"]),
    "0.8.0-fc_noflatten": (None, "param", ["softmax"]),
    "0.8.0-imagenet": (None, "param", ["softmax"]),
    "0.8.0-two_heads": (None, "param", ["softmax", "pool1"]),
    "0.9.5.post2-conv_rect": (905, "attr", ["softmax"]),
    "0.9.5.post2-op_aliases": (905, "attr", ["softmax"]),
    "1.2.1.post1-cifar": (10201, "attrs", ["softmax"]),
    "1.9.1-attrs": (10901, "attrs", ["softmax"]),
    "1.9.1-basic": (10901, "attrs", ["softmax"]),
    "1.9.1-bn_all_fixed": (10901, "attrs", ["softmax"]),
    "1.9.1-bn_defaults": (10901, "attrs", ["softmax"]),
    "1.9.1-conv_bias": (10901, "attrs", ["softmax"]),
    "1.9.1-dilated": (10901, "attrs", ["softmax"]),
    "1.9.1-gluon_resnext_se": (10901, "attrs", ["resnext1_dense0_fwd"]),
    "1.9.1-imagenet": (10901, "attrs", ["softmax"]),
    "1.9.1-net_float16": (10901, "attrs", ["softmax"]),
    "1.9.1-params_float16": (10901, "attrs", ["softmax"]),
    "1.9.1-pool_avg_noinc": (10901, "attrs", ["softmax"]),
    "1.9.1-pool_fixed_kernel": (10901, "attrs", ["softmax"]),
    "1.9.1-pool_full_pad": (10901, "attrs", ["softmax"]),
    "1.9.1-resnet_v2": (10901, "attrs", ["softmax"]),
}


def operations(found: SymbolFile) -> dict[str, Operation]:
    return {item.name: item for item in found.nodes.values() if isinstance(item, Operation)}


# The files of real MXNet


def test_every_recording_is_in_the_table() -> None:
    assert {folder.name for folder in RECORDINGS.iterdir()} == RECORDED.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_recording(name: str) -> None:
    found = read_symbol(RECORDINGS / name / "model-symbol.json")
    assert (found.version, found.dialect, [found.nodes[head.node].name for head in found.heads]) == RECORDED[name]
    assert [found.nodes[item].name for item in found.fed] == ["data"]
    assert not [item.op for item in operations(found).values() if isinstance(item.attrs, Unknown)]
    with np.load(RECORDINGS / name / "io.npz") as stored:
        internals = stored.get("stat_names", np.array([]))
    # MXNet's own list of what its executor computes: nothing is left out and nothing invented.
    if internals.size:
        assert {f"{item}_output" for item in operations(found)} == set(map(str, internals))


@pytest.mark.acceptance
def test_every_published_graph() -> None:
    """All the graphs of other people, and all recordings: no operator of a ResNeXt is unknown."""
    files = sorted(shared("releases").rglob("*symbol*.json")) + sorted(shared("golden/mxnet").glob("*/*symbol.json"))
    assert len(files) == 35 + 138
    unknown = Counter(
        item.op for file in files for item in operations(read_symbol(file)).values() if isinstance(item.attrs, Unknown)
    )
    assert not unknown


@pytest.mark.acceptance
def test_other_peoples_networks_are_read_too() -> None:
    files = sorted(shared("weights").rglob("*symbol.json"))
    assert len(files) >= 5
    unknown = {
        item.op for file in files for item in operations(read_symbol(file)).values() if isinstance(item.attrs, Unknown)
    }
    assert unknown == {"L2Normalization", "UpSampling", "Crop"}


# Attributes: where they stand, and whose they are


def test_of_attr_and_attrs_the_later_counts_alone() -> None:
    found = base()
    conv = node(found, "conv0")
    conv["attr"] = {"kernel": "(7, 7)", "num_filter": "8", "no_bias": "True"}
    assert operations(parsed(found))["conv0"].attrs == Conv(out_channels=8, kernel=(7, 7), bias=False)
    attrs = conv.pop("attrs")
    conv["attrs"] = attrs
    assert operations(parsed(found))["conv0"].attrs == operations(parsed(base()))["conv0"].attrs


def test_param_fills_in_what_the_users_own_attributes_lack() -> None:
    found = document(*variables("data"), ("Pooling", "pool", [0]))
    node(found, "pool").update(attrs={}, param={"kernel": "(3, 3)", "stride": "(2, 2)"}, attr={"stride": "(1, 1)"})
    assert operations(parsed(found))["pool"].texts == {"kernel": "(3, 3)", "stride": "(1, 1)"}
    assert parsed(found).dialect == "param"


@pytest.mark.parametrize("key", ["param", "attr", "attrs"])
def test_the_dialect_is_that_of_the_operators(key: str) -> None:
    found = document(*variables("data"), ("relu", "relu0", [0]), ("Activation", "a", [1], {"act_type": "relu"}))
    node(found, "a")[key] = node(found, "a").pop("attrs")
    del node(found, "relu0")["attrs"]
    assert parsed(found).dialect == key


def test_a_variable_does_not_hand_its_operators_attributes_on() -> None:
    """Files of 0.9 and later repeat a node's attributes on its variables, unreadable ones too."""
    found = base()
    node(found, "conv0_weight")["attrs"] = {"kernel": "(nonsense", "num_filter": "-1", "layout": "NHWC"}
    assert parsed(found).nodes.keys() == parsed(base()).nodes.keys()


@pytest.mark.parametrize(
    ("text", "shape"), [("(1, 3, 224, 224)", (1, 3, 224, 224)), ("(0, -1, None, 3L)", (0, 0, 0, 3)), ("()", ())]
)
def test_a_variable_may_declare_its_shape(text: str, shape: tuple[int, ...]) -> None:
    found = parsed(document(("null", "data", [], {"__shape__": text}), ("relu", "relu0", [0])))
    assert found.nodes[0] == Variable(name="data", shape=shape)


def test_a_declared_shape_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(FormatError, match="__shape__"):
        parsed(document(("null", "data", [], {"__shape__": "3x3"}), ("relu", "relu0", [0])))


# Versions and upgrades


@pytest.mark.parametrize(
    ("version", "release"),
    [(None, "0.8 or before"), (800, "0.8.0"), (905, "0.9.5"), (1201, "0.12.1"), (10901, "1.9.1")],
)
def test_release(version: int | None, release: str) -> None:
    assert parsed(document(*variables("data"), ("relu", "relu0", [0]), version=version)).release == release


def test_a_graph_without_its_attributes_object_has_no_version() -> None:
    found = document(*variables("data"), ("relu", "relu0", [0])) | {"attrs": {"is_np_shape": ["int", 1]}}
    assert parsed(found).version is None


@pytest.mark.parametrize("stored", [10901, ["int"], ["int", "10901"], ["int", True], ["int", -1], ["float", 1], {}])
def test_a_version_that_cannot_be_read_is_refused(stored: object) -> None:
    found = document(*variables("data"), ("relu", "relu0", [0])) | {"attrs": {"mxnet_version": stored}}
    with pytest.raises(FormatError, match="mxnet_version"):
        parsed(found)


@pytest.mark.parametrize("version", [None, 800, 899])
def test_before_0_9_missing_inputs_at_the_end_are_made(version: int | None) -> None:
    found = parsed(document(*variables("data", "g", "b"), ("BatchNorm", "bn", [0, 1, 2]), version=version))
    assert [found.nodes[entry.node].name for entry in operations(found)["bn"].inputs] == [
        *("data", "g", "b", "bn_moving_mean", "bn_moving_var")
    ]
    convolution = ("Convolution", "c", [0], {"kernel": "(1, 1)", "num_filter": "4"})
    found = parsed(document(*variables("data"), convolution, version=version))
    assert [found.nodes[entry.node].name for entry in operations(found)["c"].inputs] == ["data", "c_weight", "c_bias"]


@pytest.mark.parametrize("version", [900, 10901])
def test_from_0_9_on_missing_inputs_are_missing(version: int) -> None:
    with pytest.raises(FormatError, match="wrong number of inputs") as refusal:
        parsed(document(*variables("data", "g", "b"), ("BatchNorm", "bn", [0, 1, 2]), version=version))
    assert refusal.value.place == "node 3 'bn' (BatchNorm)"
    assert refusal.value.expected == "5 (data, gamma, beta, moving_mean, moving_var)"


def test_more_inputs_than_the_operator_has() -> None:
    with pytest.raises(FormatError, match="wrong number of inputs"):
        parsed(document(*variables("data"), ("relu", "relu0", [0, 0]), version=None))


# Topology


def test_nodes_may_stand_in_any_order() -> None:
    found = document(("relu", "b", [1]), ("relu", "a", [2]), *variables("data"), heads=[[0, 0, 0]])
    assert [item.name for item in parsed(found).nodes.values()] == ["data", "a", "b"]


def test_what_no_head_needs_is_left_out_and_so_are_labels() -> None:
    found = document(
        *variables("data", "label", "other"),
        ("relu", "dead", [2]),
        ("MyLoss", "computed_label", [1]),
        ("SoftmaxOutput", "softmax", [0, 4]),
    )
    read = parsed(found)
    assert [item.name for item in read.nodes.values()] == ["data", "softmax"]
    assert read.fed == (0,)


def test_a_head_can_be_a_variable() -> None:
    found = parsed(document(*variables("data", "other"), ("relu", "a", [0]), heads=[[2, 0, 0], [1, 0, 0]]))
    assert found.fed == (0, 1)
    assert found.heads == (Entry(2, 0), Entry(1, 0))


def test_a_long_chain_needs_no_deep_stack() -> None:
    length = 20_000
    chain = [("relu", f"r{item}", [item]) for item in range(length)]
    assert len(parsed(document(*variables("data"), *chain)).nodes) == length + 1


def test_a_node_that_is_read_often_is_visited_once() -> None:
    doubling = [("elemwise_add", f"s{item}", [item, item]) for item in range(200)]
    assert len(parsed(document(*variables("data"), *doubling)).nodes) == 201


@pytest.mark.parametrize("inputs", [([1], [0]), ([0], [0])])
def test_a_cycle_is_refused(inputs: tuple[list[int], list[int]]) -> None:
    with pytest.raises(FormatError, match="cycle"):
        parsed(document(("relu", "a", inputs[0]), ("relu", "b", inputs[1]), *variables("data"), heads=[[1, 0, 0]]))


def test_a_graph_without_input_is_refused() -> None:
    with pytest.raises(FormatError, match="reads no input"):
        parsed(document(("_zeros", "zeros", [], {"shape": "(1, 3)"})))


def test_two_variables_of_one_name_are_refused() -> None:
    with pytest.raises(FormatError, match="two variables have one name"):
        parsed(document(*variables("data", "data"), ("elemwise_add", "sum", [0, 1])))


def test_a_parts_output_can_be_read() -> None:
    split = ("SliceChannel", "split", [0], {"num_outputs": "3"})
    found = parsed(document(*variables("data"), split, ("relu", "r", [(1, 2)])))
    assert operations(found)["r"].inputs == (Entry(1, 2),)
    with pytest.raises(FormatError, match="no output of that number"):
        parsed(document(*variables("data"), split, ("relu", "r", [(1, 3)])))


def test_a_split_cannot_announce_more_outputs_than_the_file_can_use() -> None:
    splits = [("SliceChannel", f"s{item}", [0], {"num_outputs": "4096"}) for item in range(3)]
    with pytest.raises(FormatError, match="more outputs than the file can use"):
        parsed(document(*variables("data"), *splits, ("elemwise_add", "sum", [1, 2]), ("_plus", "all", [3, 4])))


@pytest.mark.parametrize(
    ("op", "attributes", "inputs"),
    [("BatchNorm", {}, [0, 1, 2, 3, 4]), ("Dropout", {}, [0]), ("LeakyReLU", {}, [0]), ("null", {}, [])],
)
def test_outputs_that_only_training_has_are_no_values(op: str, attributes: dict[str, str], inputs: list[int]) -> None:
    found = document(*variables("data", "g", "b", "m", "v"), (op, "n", inputs, attributes), ("relu", "r", [(5, 1)]))
    with pytest.raises(FormatError, match="no output of that number at inference"):
        parsed(found)


# Damage


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "list": b"[]",
    "number": b"12",
    "html": b"<!DOCTYPE html><html>",
    "params": b"\x12\x01\x00\x00\x00\x00\x00\x00",
    "utf-16": '{"nodes": []}'.encode("utf-16"),
    "not UTF-8": b'{"nodes": "\xff"}',
    "cut": written(base())[:-100],
    "two graphs": written(base()) * 2,
    "single quotes": b"{'nodes': []}",
    "key twice": b'{"nodes": [], "nodes": []}',
    "deep lists": b'{"nodes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "long number": b'{"nodes": [], "heads": ' + b"1" * 5000 + b"}",
    "NaN": b'{"nodes": [NaN], "heads": []}',
    "infinity": b'{"nodes": [-Infinity], "heads": []}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_json_object_is_refused(name: str) -> None:
    with pytest.raises(FormatError) as refusal:
        parse_symbol(BROKEN[name], "model-symbol.json")
    assert str(refusal.value).startswith("model-symbol.json: ")
    assert refusal.value.hint


def _changed(**changes: Any) -> dict[str, Any]:
    return document(*variables("data"), ("relu", "relu0", [0])) | changes


def _with_node(**changes: Any) -> dict[str, Any]:
    found = _changed()
    found["nodes"][1] |= changes
    return found


def _without(key: str) -> dict[str, Any]:
    found = _changed()
    del found["nodes"][1][key]
    return found


WRONG_TYPES: dict[str, Any] = {
    "nodes an object": _changed(nodes={}),
    "nodes empty": _changed(nodes=[]),
    "a node a list": _changed(nodes=[[]]),
    "a node null": _changed(nodes=[None]),
    "attrs a list": _changed(attrs=[]),
    "heads a number": _changed(heads=1),
    "heads empty": _changed(heads=[]),
    "head a number": _changed(heads=[1]),
    "head too short": _changed(heads=[[1]]),
    "head too long": _changed(heads=[[1, 0, 0, 0]]),
    "head negative": _changed(heads=[[-1, 0, 0]]),
    "head a float": _changed(heads=[[1.0, 0, 0]]),
    "head a boolean": _changed(heads=[[True, 0, 0]]),
    "head huge": _changed(heads=[[2**70, 0, 0]]),
    "head output huge": _changed(heads=[[1, 2**70, 0]]),
    "version in an entry a text": _changed(heads=[[1, 0, "0"]]),
    "op a number": _with_node(op=1),
    "op absent": _without("op"),
    "name absent": _without("name"),
    "name null": _with_node(name=None),
    "name with a line end": _with_node(name="a\nb"),
    "name with half a surrogate": _with_node(name="\ud800"),
    "inputs absent": _without("inputs"),
    "inputs null": _with_node(inputs=None),
    "input past the end": _with_node(inputs=[[2, 0, 0]]),
    "attributes a list": _with_node(attrs=[]),
    "attributes null": _with_node(attr=None),
    "attribute a number": _with_node(attr={"kernel": 1}),
    "param not shown an object": _with_node(param="x"),
    "shadowed attribute a number": _with_node(attrs={"a": 1}, attr={}),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_json_of_the_wrong_types_is_refused(name: str) -> None:
    with pytest.raises(FormatError) as refusal:
        parsed(WRONG_TYPES[name])
    assert str(refusal.value).startswith("model-symbol.json: ")
    assert refusal.value.hint


def test_the_place_of_an_error_is_said() -> None:
    found = base()
    place = number(found, "conv0")
    node(found, "conv0")["attrs"]["kernel"] = "(7, x)"
    with pytest.raises(FormatError) as refusal:
        parsed(found)
    assert str(refusal.value) == (
        f"model-symbol.json: node {place} 'conv0' (Convolution): attribute 'kernel' cannot be read "
        "(expected integers in parentheses, found '(7, x)')"
    )


def test_names_in_messages_are_cut_short() -> None:
    found = document(*variables("data"), ("Convolution" + "x" * 10**6, "n" * 10**6, [7]))
    with pytest.raises(FormatError) as refusal:
        parsed(found)
    assert len(str(refusal.value)) < 400


def test_a_file_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(MissingFileError):
        read_symbol(tmp_path / "model-symbol.json")


# Chance


def test_mutations_are_read_or_refused() -> None:
    outcomes = fuzz_symbol.run(2000, seed=1)
    assert outcomes.total() == 2000
    assert outcomes["read"] > 400  # the mutations reach what comes after the JSON
    assert len(outcomes) > 20


@pytest.mark.parametrize("seed", fuzz_symbol.seeds(), ids=("attrs", "attr", "param"))
def test_the_seeds_of_the_mutations_are_valid(seed: str) -> None:
    assert fuzz_symbol.read_everything(seed.encode()) == "read"
    bound = bind(parse_symbol(seed.encode(), "seed"), params(fuzz_symbol.TENSORS))
    assert [item.op for item in bound.graph.nodes if isinstance(item.attrs, Unknown)] == ["MyOperator"]
