"""Symbol files with one oddity each, and MXNet's own verdict beside ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mxnet_graphs import BASE, CHECKPOINTS, oddity
from shared_data import shared

from resnext_convert.converter.errors import FormatError, InputError, ShapeError, UnsupportedError
from resnext_convert.converter.graph import BatchNorm, Conv, Graph, Unknown
from resnext_convert.converter.mxnet.binding import bind
from resnext_convert.converter.mxnet.checks import check_shapes
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.mxnet.symbol import parse_symbol

OUTCOMES = json.loads((CHECKPOINTS / "outcomes.json").read_bytes())

# Where this reader does otherwise than MXNet 1.9.1, and why.
MORE_THAN_MXNET = {
    "json_bom": "MXNet fails over the mark with a message about something else",
    "json_hidden_keys": "MXNet takes hidden keys out of files older than itself only; they never bear on inference",
    "json_no_arg_nodes": "the table can be made from the nodes",
    "json_unknown_op": "it is kept as Unknown; the matcher names it",
}
REFUSED: dict[str, type[InputError]] = {
    "json_kernel_scalar_paren": UnsupportedError,
    "json_layout_nhwc": UnsupportedError,
    "json_both_attrs": ShapeError,  # read with the 3x3 kernel that comes later; the 7x7 weight does not fit
}


def graph(text: bytes) -> Graph:
    stored = read_params(BASE / "model-0000.params")
    found = bind(parse_symbol(text, "model-symbol.json"), stored).graph
    check_shapes(found, stored.tensors)
    return found


@pytest.mark.parametrize("name", [name for name in OUTCOMES if name.startswith("json_")])
def test_oddity(name: str) -> None:
    verdict = OUTCOMES[name]["mxnet_1.9.1"]
    if not verdict["ok"] and name not in MORE_THAN_MXNET:
        with pytest.raises(REFUSED.get(name, FormatError)) as refusal:
            graph(oddity(name))
        assert refusal.value.hint
        return
    usual = graph(oddity("json_crlf"))
    found = graph(oddity(name))
    if name in {"json_fix_gamma_0", "json_stride_empty"}:
        assert verdict["diff_from_original"] > 0.01
        changed = [new for old, new in zip(usual.nodes, found.nodes, strict=True) if old != new]
        assert len(changed) == 1
        if name == "json_fix_gamma_0":
            assert changed[0].attrs == BatchNorm(eps=2e-5, momentum=0.9, fix_gamma=False)
        else:
            assert changed[0].attrs == Conv(out_channels=8, kernel=(7, 7), stride=(1, 1), padding=(3, 3), bias=False)
    elif name == "json_data_renamed":
        assert found.inputs == ("input",)
    elif name == "json_unknown_op":
        assert found.producers["relu0_output"].attrs == Unknown(attributes={"act_type": "relu"})
    else:
        assert verdict.get("diff_from_original", 0.0) == 0.0
        assert found == usual


@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.glob("json_*")), ids=lambda folder: folder.name)
def test_the_oddities_made_here_are_those_that_were_recorded(folder: Any) -> None:
    assert json.loads((folder / "model-symbol.json").read_bytes()) == json.loads(oddity(folder.name))


@pytest.mark.acceptance
def test_all_oddities_made_here_are_those_that_were_recorded() -> None:
    folders = sorted(shared("golden/mxnet/checkpoints").glob("json_*"))
    assert len(folders) == 30
    for folder in folders:
        recorded, made = (folder / "model-symbol.json").read_bytes(), oddity(folder.name)
        if folder.name in {"json_bom", "json_crlf", "json_empty", "json_list"}:
            recorded, made = recorded.strip(), made.strip()
            assert recorded[:4] == made[:4]
            assert recorded.count(b"\r\n") == recorded.count(b"\n") * (folder.name == "json_crlf")
        if folder.name not in {"json_empty"}:
            assert json.loads(recorded.decode("utf-8-sig")) == json.loads(made.decode("utf-8-sig")), folder.name
