"""``resnext-convert releases``: what its commands print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from repository import ROOT
from running import Result, run

from resnext_convert.converter.releases import catalogue

SCHEMA = json.loads((ROOT / "schemas/releases.schema.json").read_bytes())


def releases(*arguments: str) -> Result:
    return run("releases", *arguments)


def test_list_names_every_release() -> None:
    said = releases("list")
    assert (said.exit_code, said.stderr) == (0, "")
    names = {line.split(" ")[0] for line in said.stdout.splitlines()}
    assert {release.name for release in catalogue()} <= names


@pytest.mark.parametrize("framework", ["mxnet", "caffe"])
def test_list_of_one_framework(framework: str) -> None:
    said = json.loads(releases("list", "--framework", framework, "--json").stdout)
    assert [release["id"] for release in said] == [r.id for r in catalogue() if r.framework == framework]


def test_the_json_of_the_list_is_all_that_is_known_and_nothing_else() -> None:
    said = releases("list", "--json")
    assert said.stderr == ""
    found = json.loads(said.stdout)
    assert len(found) == 48
    Draft202012Validator(SCHEMA).validate({"release": found})
    assert found[0]["files"][1]["checksums"][0]["value"] == "e8b3a38c987e9623bd3a2ff088d1a0cd"


def test_show_takes_a_name_or_an_alias() -> None:
    said = releases("show", "gluoncv/senet_154")
    assert said.exit_code == 0
    assert said.stdout.startswith("gluoncv/senet_154: SE-ResNeXt-152 (64x4d)\n")
    assert "b5538ef10557243511b9b46063aa4c40790d74ba" in said.stdout
    assert releases("show", "gluoncv/senet-154").stdout == said.stdout
    found = json.loads(releases("show", "gluoncv/senet_154", "--json").stdout)
    Draft202012Validator(SCHEMA).validate({"release": [found]})
    assert found["id"] == "G7"


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        (["senet_154"], "several releases are called 'senet_154' (expected gluoncv/senet_154 or djl/senet_154)", "say"),
        (["resnext-5o"], "no release is called 'resnext-5o' (expected a name such as resnext-50", "`resnext-convert"),
        (["SENet-154", "--framework", "mxnet"], "'SENet-154' is no release of mxnet, but of caffe", "`resnext-convert"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_that_means_no_release_is_a_usage_error(
    arguments: list[str], problem: str, hint: str, as_json: bool
) -> None:
    said = releases("show", *arguments, *["--json"] * as_json)
    assert (said.exit_code, said.stdout) == (2, "")
    assert said.stderr.startswith(f"error: {problem}")
    assert f"\nhint: {hint}" in said.stderr


@pytest.mark.parametrize("command", [["list"], ["show"], []])
def test_help_is_eighty_columns_wide(command: list[str]) -> None:
    said = releases(*command, "--help")
    assert said.exit_code == 0
    assert all(len(line) <= 80 for line in said.stdout.splitlines())
    if not command:
        assert "  list   List the published releases." in said.stdout
        assert "  show   Show all that is known of a release." in said.stdout


def test_what_is_heavy_is_not_imported() -> None:
    program = """
import sys
sys.argv = ["resnext-convert", "releases", "list"]
from resnext_convert.cli import main
try:
    main()
finally:
    heavy = {"torch", "numpy", "h5py", "google", "jinja2", "requests", "pooch", "PIL"} & set(sys.modules)
    assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
