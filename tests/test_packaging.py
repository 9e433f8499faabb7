"""What is shipped: the wheel, the sdist, and the package as it is installed.

`.ci/run` runs this file a second time in an environment that holds the wheel and nothing of the checkout, with
RESNEXT_CONVERT_DIST naming the folder of the built files.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT, dotted, files, modules

import resnext_convert

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILT = os.environ.get("RESNEXT_CONVERT_DIST")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sdist and the wheel that was built from it."""
    if BUILT is not None:
        return Path(BUILT)
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def in_wheel(dist: Path) -> set[str]:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def package_data() -> set[str]:
    """What lies in the folders of modules and is no module, as far as it is for the package."""
    return {name for name in files() if name.startswith("schemas/") and not name.endswith((".py", ".md"))} | {
        "py.typed"
    }


def test_the_wheel_has_one_top_level_package(in_wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in in_wheel}
    assert tops == {"resnext_convert", f"resnext_convert-{resnext_convert.__version__}.dist-info"}


def test_the_wheel_holds_every_module_and_nothing_else(in_wheel: set[str]) -> None:
    shipped = {name.removeprefix("resnext_convert/") for name in in_wheel if name.startswith("resnext_convert/")}
    assert shipped == set(modules()) | package_data()


def test_the_wheel_holds_the_licence(in_wheel: set[str]) -> None:
    assert any(re.fullmatch(r"[^/]+\.dist-info/licenses/LICENSE", name) for name in in_wheel)


def test_the_sdist_holds_every_file(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    generated = {name for name in held if name.startswith("resnext_convert.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert held - generated == set(files()) - {".gitignore", ".gitattributes"}


def test_the_package_list_is_complete() -> None:
    packages = {dotted(name) for name in modules() if name.endswith("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages


def test_the_constraints_pin_what_pyproject_names() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")  # every line is a pin
            pins[name] = version
    extras: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
    named = [*PYPROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in named} - {"resnext-convert"}
    assert names | {"mxnet", "timm", "torchvision"} <= set(pins)


def test_the_environment_is_the_pinned_one() -> None:
    # Whatever of the constraints is installed has the pinned version (torch without its build's suffix).
    wrong = []
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        try:
            found = importlib.metadata.version(name) if version else ""
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.split("+")[0] != version:
            wrong.append(f"{name} {found}, pinned {version}")
    assert wrong == []


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported_from_the_installation(name: str) -> None:
    module = importlib.import_module(dotted(name))
    assert module.__file__ is not None
    assert Path(module.__file__).read_bytes() == (ROOT / name).read_bytes()


def test_the_installation_is_the_one_that_is_meant() -> None:
    installed = importlib.metadata.files("resnext-convert")
    assert installed is not None
    of_package = {str(file) for file in installed if file.parts[0] == "resnext_convert" and file.suffix != ".pyc"}
    if BUILT is None:  # an editable installation: a .pth file that leads to the checkout
        assert of_package == set()
        assert Path(resnext_convert.__file__).resolve() == ROOT / "__init__.py"
    else:
        assert of_package == {f"resnext_convert/{name}" for name in {*modules(), *package_data()}}
        assert not Path(resnext_convert.__file__).resolve().is_relative_to(ROOT / "build/__editable__")


def test_the_version_is_said_in_one_way() -> None:
    assert importlib.metadata.version("resnext-convert") == resnext_convert.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (latest, *_) = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)
    assert latest == resnext_convert.__version__


def test_the_console_script_answers() -> None:
    script = Path(sys.executable).parent / "resnext-convert"
    version = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert resnext_convert.__version__ in version.stdout
    answer = subprocess.run([script, "--help"], check=True, capture_output=True, text=True)
    for command in ("mxnet", "verify", "inspect"):
        assert command in answer.stdout
