"""The table of operators: its names and defaults against MXNet's own registry."""

from __future__ import annotations

import json
import re

import pytest
from repository import FIXTURES

from resnext_convert.converter.graph import BatchNorm
from resnext_convert.converter.mxnet.operators import TABLE, read_operator

# {operator: {attribute: "boolean, optional, default=1"}}, from MXNet 1.9.1 itself.
REGISTRY: dict[str, dict[str, str]] = json.loads((FIXTURES / "mxnet" / "registry-1.9.1.json").read_bytes())
ROWS = {name: row for row in TABLE for name in row.names}
IN_GPU_BUILDS_ONLY = {"CuDNNBatchNorm"}


def as_documented(text: str) -> str | None:
    """A documented default in the spelling of a symbol file; None if the attribute is required."""
    if "required" in text:
        return None
    default = re.search(r"default=(.*)$", text)
    assert default, text
    value = default[1].strip("'")
    if text.startswith("boolean") and value in {"0", "1"}:
        return str(value == "1")
    return value.replace("[", "(").replace("]", ")")


def test_the_table_knows_no_name_twice() -> None:
    assert len(ROWS) == sum(len(row.names) for row in TABLE)


def test_the_registry_knows_the_names_of_the_table() -> None:
    assert REGISTRY.keys() == ROWS.keys() - IN_GPU_BUILDS_ONLY


# What the table says otherwise than the registry, each for a reason given there.
NICER = {("BatchNorm", "momentum"): "0.9", ("BatchNorm_v1", "momentum"): "0.9"}
# The registry leaves out the number of inputs; MXNet: "Required parameter num_args of int is not presented".
UNDOCUMENTED = {"add_n": {"num_args": None}, "ElementWiseSum": {"num_args": None}}
# The registry prints a float32 with nine digits.
NINE_DIGITS = {("BatchNorm_v1", "eps"): "0.0010000000474974513"}


@pytest.mark.parametrize("name", REGISTRY)
def test_defaults(name: str) -> None:
    documented = {attribute: as_documented(text) for attribute, text in REGISTRY[name].items()}
    if name == "BatchNorm":
        assert documented["eps"] == "0.0010000000474974513"
        assert documented["momentum"] == "0.899999976"
    if name == "slice_axis":  # an optional integer that must be given
        assert documented["end"] is None
    documented |= UNDOCUMENTED.get(name, {})
    expected = documented | {key[1]: text for key, text in (NICER | NINE_DIGITS).items() if key[0] == name}
    assert dict(ROWS[name].defaults) == expected


def test_the_default_eps_is_a_float32() -> None:
    attrs, _ = read_operator("BatchNorm", {})
    assert attrs == BatchNorm(eps=0.0010000000474974513, momentum=0.9, fix_gamma=True)
