"""Symbol files for tests: small ones from scratch, and the recorded one with one thing changed.

`ODDITIES` makes the JSON oddities of `golden/mxnet/checkpoints` out of `recordings/1.9.1-imagenet`, under the same
names; `fixtures/mxnet/checkpoints/outcomes.json` says what MXNet 1.9.1 does with each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mxnet_params_writer import dense, params_list
from repository import FIXTURES

from resnext_convert.converter.mxnet.params import ParamsFile, parse_params
from resnext_convert.converter.mxnet.symbol import SymbolFile, parse_symbol

Document = dict[str, Any]
Edit = Callable[[Document], object]

BASE = FIXTURES / "mxnet" / "recordings" / "1.9.1-imagenet"
CHECKPOINTS = FIXTURES / "mxnet" / "checkpoints"
VERSION = 10901


def document(
    *nodes: tuple[Any, ...], heads: Sequence[Sequence[int]] | None = None, version: int | None = VERSION
) -> Document:
    """A graph of ``(op, name, inputs, attributes)``; an input is a node's number or ``(number, output)``."""
    listed = [
        {
            "op": op,
            "name": name,
            "attrs": dict(*attributes),
            "inputs": [[*entry, 0] if isinstance(entry, tuple) else [entry, 0, 0] for entry in inputs],
        }
        for op, name, inputs, *attributes in nodes
    ]
    found: Document = {"nodes": listed, "arg_nodes": [], "heads": heads or [[len(listed) - 1, 0, 0]]}
    return found if version is None else found | {"attrs": {"mxnet_version": ["int", version]}}


def variables(*names: str) -> list[tuple[Any, ...]]:
    return [("null", name, []) for name in names]


def written(found: Any) -> bytes:
    return json.dumps(found).encode()


def parsed(found: Any) -> SymbolFile:
    return parse_symbol(written(found), "model-symbol.json")


def params(tensors: Mapping[str, Any]) -> ParamsFile:
    """A params file of these arrays; a tuple is the shape of an array of ones."""
    arrays = [np.ones(value) if isinstance(value, tuple) else np.asarray(value) for value in tensors.values()]
    stored = params_list([dense(array.astype(np.float32)) for array in arrays], list(tensors))
    return parse_params(memoryview(stored), "model-0000.params")


def base() -> Document:
    found: Document = json.loads((BASE / "model-symbol.json").read_bytes())
    return found


def node(found: Document, name: str) -> Document:
    return next(item for item in found["nodes"] if item["name"] == name)


def number(found: Document, name: str) -> int:
    return next(index for index, item in enumerate(found["nodes"]) if item["name"] == name)


def _attribute(name: str, key: str, text: object) -> Edit:
    return lambda found: node(found, name)["attrs"].update({key: text})


def _renamed_key(key: str) -> Edit:
    def edit(found: Document) -> None:
        for item in found["nodes"]:
            if "attrs" in item:
                item[key] = item.pop("attrs")

    return edit


def _every(key: str, value: object) -> Edit:
    return lambda found: [item.update({key: value}) for item in found["nodes"]]


def _without(*keys: str) -> Edit:
    return lambda found: [found.pop(key) for key in keys]


def _top(**values: object) -> Edit:
    return lambda found: found.update(values)


def _version(version: int) -> Edit:
    return _top(attrs={"mxnet_version": ["int", version]})


def _hidden_keys(found: Document) -> None:
    hidden = {"__lr_mult__": "0.5", "lr_mult": "0.1", "ctx_group": "dev1", "mirror_stage": "True"}
    hidden |= {"force_mirroring": "True", "weight_lr_mult": "2.0", "__custom__": "x"}
    node(found, "conv0")["attrs"].update(hidden)


def _three_inputs(found: Document) -> None:
    for item in found["nodes"]:
        if item["op"] == "BatchNorm":
            del item["inputs"][3:]


def _both_keys(found: Document) -> None:
    conv = node(found, "conv0")
    conv["attr"] = conv["attrs"] | {"kernel": "(3, 3)"}


def _cycle(found: Document) -> None:
    node(found, "stage1_unit1_relu1")["inputs"] = [[len(found["nodes"]) - 1, 0, 0]]


def _several(*edits: Edit) -> Edit:
    return lambda found: [edit(found) for edit in edits]


def _pairs(found: Document) -> None:
    for item in found["nodes"]:
        item["inputs"] = [entry[:2] for entry in item["inputs"]]
    found["heads"] = [entry[:2] for entry in found["heads"]]


ODDITIES: dict[str, Edit] = {
    "json_no_nodes": _several(_without("nodes", "arg_nodes", "node_row_ptr", "attrs"), _top(heads=[[0, 0, 0]])),
    "json_unknown_op": lambda found: node(found, "relu0").update(op="MyOp"),
    "json_kernel_scalar_paren": _attribute("conv0", "kernel", "(7)"),
    "json_kernel_list": _attribute("conv0", "kernel", "[7, 7]"),
    "json_kernel_nospace": _attribute("conv0", "kernel", "(7,7)"),
    "json_kernel_long": _attribute("conv0", "kernel", "(7L, 7L)"),
    "json_kernel_spaces": _attribute("conv0", "kernel", " ( 7 , 7 ) "),
    "json_bool_1": _attribute("conv0", "no_bias", "1"),
    "json_bool_lower": _attribute("conv0", "no_bias", "true"),
    "json_fix_gamma_0": _attribute("bn_data", "fix_gamma", "0"),
    "json_fix_gamma_absent": lambda found: node(found, "bn_data")["attrs"].pop("fix_gamma"),
    "json_stride_1tuple": _attribute("conv0", "stride", "(2,)"),
    "json_stride_scalar": _attribute("conv0", "stride", "2"),
    "json_stride_empty": _several(_attribute("conv0", "stride", "()"), _attribute("conv0", "dilate", "()")),
    "json_layout_nhwc": _attribute("conv0", "layout", "NHWC"),
    "json_layout_none": _several(_attribute("conv0", "layout", "None"), _attribute("conv0", "cudnn_tune", "None")),
    "json_unknown_attr": _attribute("conv0", "foo", "bar"),
    "json_hidden_keys": _hidden_keys,
    "json_hidden_keys_old": _several(_hidden_keys, _version(905)),
    "json_version_800": _version(800),
    "json_no_version": _without("attrs"),
    "json_version_2": _version(20000),
    "json_no_row_ptr": _without("node_row_ptr"),
    "json_no_arg_nodes": _without("arg_nodes"),
    "json_wrong_aux_tables": _top(arg_nodes=[], node_row_ptr=[0]),
    "json_no_heads": _without("heads"),
    "json_head_out_of_range": lambda found: _top(heads=[[len(found["nodes"]) + 5, 0, 0]])(found),
    "json_head_pair": lambda found: _top(heads=[[len(found["nodes"]) - 1, 0]])(found),
    "json_input_pairs": _pairs,
    "json_attr": _renamed_key("attr"),
    "json_param": _renamed_key("param"),
    "json_both_attrs": _both_keys,
    "json_cycle": _cycle,
    "json_missing_input": lambda found: node(found, "conv0")["inputs"].pop(),
    "json_bn_three_inputs": _three_inputs,
    "json_bn_three_inputs_old": _several(_three_inputs, _without("attrs")),
    "json_data_renamed": lambda found: node(found, "data").update(name="input"),
    "json_backward_source_id": _every("backward_source_id", -1),
    "json_attr_not_string": _attribute("conv0", "kernel", [7, 7]),
    "json_control_deps": lambda found: node(found, "conv0").update(control_deps=[0]),
}


def oddity(name: str) -> bytes:
    """The symbol file of one oddity."""
    text = (BASE / "model-symbol.json").read_bytes()
    if name == "json_truncated":
        return text[: len(text) // 2]
    if name in {"json_empty", "json_list"}:
        return b"" if name == "json_empty" else b"[]"
    if name in {"json_bom", "json_crlf"}:
        return b"\xef\xbb\xbf" + text if name == "json_bom" else text.replace(b"\n", b"\r\n")
    found = json.loads(text)
    ODDITIES[name](found)
    return written(found)
