"""Rules about the code as a whole that no linter checks (import directions are import-linter's, see pyproject.toml)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest
from repository import ROOT, dotted, files, modules

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAX_LINES = 400

# Modules without a test file of their own, each with the reason.
UNTESTED_ALONE = {
    "converter/caffe/blobs.py": "a part of binding.py, and of its tests",
    "converter/caffe/parameters.py": "the functions that the table of layers.py names: test_caffe_layers.py",
    "converter/checks.py": "a part of both readers' checks: test_mxnet_checks.py, test_caffe_checks.py",
    "converter/ending.py": "the command line's: test_cli.py, test_release_commands.py",
    "converter/engines.py": "who asks which oracle: test_oracle_mxnet.py, test_oracle_opencv.py, test_pipeline.py",
    "converter/libhdf5.py": "how both layouts are read: test_caffe_hdf5.py, test_tensor_tree.py",
    "converter/inspection_mxnet.py": "a part of inspection.py, and of its tests",
    "converter/options.py": "the command line's: test_cli.py",
    "converter/oracles/opencv.py": "test_oracle_opencv.py and its neighbours",
    "converter/oracles/opencv_text.py": "test_oracle_opencv_text.py",
    "converter/oracles/child.py": "how both oracles are asked: test_oracle_mxnet.py, test_oracle_opencv.py",
    "converter/conversion_commands.py": "test_cli.py and its neighbours",
    "converter/release_options.py": "test_cli.py; where the files are: test_fetch.py",
    "converter/release_schema.py": "test_releases_contents.py",
    "converter/lines.py": "how everything is printed: test_terminal.py",
    "converter/terminal_classes.py": "what test_classify.py reads of a classification",
    "converter/mxnet/description.py": "records; what names become: test_mxnet_gluon.py",
    "converter/mxnet/sparse.py": "a record of a params file, so of test_mxnet_params.py and the recordings",
    "converter/origin.py": "records; what the readers put into them: test_mxnet_source.py, test_caffe_source.py",
    "converter/records.py": "records; their forms: test_report.py",
    "converter/proof.py": "records; their one verdict is the comparison's (test_compare.py)",
    "schemas/caffe_pb2.py": "generated: test_caffe_schema.py",
    "converter/verify.py": "the whole of the proof: test_breaks.py and test_edge_cases.py",
}


def python_files() -> list[str]:
    return [name for name in files() if name.endswith(".py")]


@pytest.mark.parametrize("name", python_files())
def test_a_module_has_at_most_400_lines(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    place = re.compile(r"(?<![\w.}])/(?:work|tmp|root|home|Users|opt|mnt|private)/")
    found = []
    for name in files():
        if name.endswith("outcomes.json"):
            continue  # recordings: error texts of MXNet name the machine that it was built on
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # weights
        found += [
            f"{name}:{number}: {line.strip()[:100]}" for number, line in enumerate(lines, 1) if place.search(line)
        ]
    assert found == []


def imported(tree: ast.AST) -> Iterator[str]:
    """Absolute names of what a file imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


@pytest.mark.parametrize("name", python_files())
def test_modules_are_imported_by_their_full_name_only(name: str) -> None:
    # `import converter` works from the root of the repository, and makes a second copy of every class.
    top_level = {module.split("/")[0].removesuffix(".py") for module in modules()} - {"__init__"}
    assert {found for found in imported(parsed(name)) if found.split(".")[0] in top_level} == set()


@pytest.mark.parametrize("name", python_files())
def test_products_are_taken_in_python_integers(name: str) -> None:
    # numpy.prod of a crafted shape wraps around 2**64.
    wrapping = [
        node.lineno
        for node in ast.walk(parsed(name))
        if isinstance(node, ast.Attribute)
        and node.attr == "prod"
        and isinstance(node.value, ast.Name)
        and node.value.id in {"np", "numpy"}
    ]
    assert wrapping == []


def test_every_module_has_a_test_file() -> None:
    # converter/mxnet/params.py is tested in test_params.py or test_mxnet_params.py, or in files that begin so.
    tests = [Path(name).stem for name in files() if re.fullmatch(r"tests/test_\w+\.py", name)]
    alone = set()
    for name in modules():
        if name.endswith("__init__.py"):
            continue
        parts = name.removesuffix(".py").removeprefix("converter/").split("/")
        stems = {f"test_{parts[-1]}", "test_" + "_".join(parts)}
        if not any(test == stem or test.startswith(f"{stem}_") for test in tests for stem in stems):
            alone.add(name)
    assert alone == set(UNTESTED_ALONE)


def test_every_module_has_its_place_in_the_layers() -> None:
    (layers,) = [c["layers"] for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    places = {f"resnext_convert.{place.strip()}" for layer in layers for place in layer.split("|")}
    homeless = {
        name
        for name in modules()
        if not name.endswith("__init__.py")
        and not any(dotted(name) == place or dotted(name).startswith(f"{place}.") for place in places)
    }
    assert homeless == set()


def test_the_dependencies_are_what_is_imported() -> None:
    # A package that comes along with another one today is declared all the same.
    used = {found.split(".")[0] for name in modules() for found in imported(parsed(name))}
    declared = {re.split(r"[<>=!~]", line)[0] for line in PYPROJECT["project"]["dependencies"]}
    of_package = {"google": "protobuf", "ml_dtypes": "ml-dtypes", "PIL": "pillow"}
    packages = {of_package.get(name, name) for name in used - sys.stdlib_module_names}
    assert packages - {"resnext_convert", "mxnet", "cv2"} == declared


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after ``program``."""
    report = "\nimport sys\nsys.stderr.write('\\n' + ' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program + report], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in run.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["mxnet", "--help"], ["caffe", "--help"], ["verify", "--help"], ["classify", "--help"]],
)
def test_help_is_quick(arguments: list[str]) -> None:
    program = f"""
import sys
sys.argv = ["resnext-convert", *{arguments!r}]
from resnext_convert.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = loaded_by(program)
    assert "typer" in loaded
    assert loaded & {"torch", "numpy", "mxnet", "google", "h5py", "cv2", "jinja2", "PIL"} == set()


def test_the_public_face_imports_neither_torch_nor_numpy() -> None:
    loaded = loaded_by("import resnext_convert as rc\nrc.__version__\ndir(rc)")
    assert "resnext_convert" in loaded
    assert loaded & {"torch", "numpy", "mxnet", "typer", "rich", "jinja2"} == set()


def test_the_public_face_is_what_the_design_says() -> None:
    program = """
import resnext_convert as rc
assert set(rc.__all__) == {
        "ConvertError", "GraphFacts", "InputDomain", "__version__", "convert", "inspect", "load", "verify",
    }, rc.__all__  # fmt: skip
assert issubclass(rc.ConvertError, Exception)
"""
    assert "torch" not in loaded_by(program)


def needs_torch(test: str, graph: grimp.ImportGraph) -> bool:
    """Whether a file of tests/ imports torch, itself, through what it imports, or through the lazy public face."""
    tree = parsed(test)
    for name in imported(tree):
        if name.split(".")[0] == "torch":
            return True
        helper = f"tests/{name}.py"
        if (ROOT / helper).is_file() and needs_torch(helper, graph):
            return True
        if name in graph.modules and "torch" in graph.find_upstream_modules(name):
            return True
    faces = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "resnext_convert"
    }
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in {"convert", "load", "verify"}
        and isinstance(node.value, ast.Name)
        and node.value.id in faces
        for node in ast.walk(tree)
    )


def listed(variable: str) -> set[str]:
    """The words of a variable of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (words,) = re.findall(rf"^{variable}\s*:=(.*)$", makefile, flags=re.MULTILINE)
    return set(words.split())


def test_the_list_of_tests_that_need_torch_is_right() -> None:
    # Where there is no torch the rest is run, so a file that is missing here fails there, and one too many is not run.
    graph = grimp.build_graph(
        "resnext_convert", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    assert "torch" in graph.modules
    tests = {Path(name).stem for name in files() if re.fullmatch(r"tests/test_\w+\.py", name)}
    assert listed("NEED_TORCH") == {test for test in tests if needs_torch(f"tests/{test}.py", graph)}
    assert listed("NEED_DEV") <= tests
