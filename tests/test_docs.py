"""The documentation is true: its commands run, its links lead somewhere, its module list is the real one.

A fenced block of README.md is read by its language:

- ``sh``: commands, one a line (a backslash continues it). ``resnext-convert ...`` is run; ``make TARGET`` and the
  ``pip`` lines must be what the Makefile does; ``git``, ``cd`` are left alone; anything else is an error.
- ``console``: the same after a ``$``, and what follows is the output, in which ``...`` stands for anything.
- ``python``: run, all blocks in one namespace.
- ``text`` and others: not looked at.

All of a page runs in one empty folder in which ``fixtures`` is the repository's.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from repository import ROOT, files, modules

from resnext_convert.converter.releases import catalogue

PAGES = [name for name in files() if name.endswith(".md")]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A fenced block and the number of its first line."""

    language: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command of a ``sh`` or ``console`` block, with the output that is shown below it."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        parts = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, flags=re.MULTILINE)
        assert parts, f"line {block.line}: a console block without a `$ command`"
        return [(command, output) for command, output in parts]
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in text.splitlines()]
    return [(line, "") for line in lines if line]


@pytest.fixture(scope="module")
def recipes() -> list[str]:
    """What `make demo`, `make test` and their like would do on a new machine, one command a line."""
    environment = {name: value for name, value in os.environ.items() if name not in {"VENV", "DEMO", "MAKEFLAGS"}}
    answer = subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", "PYTHON=python3.11", "demo", "test", "oracle", "peers"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [re.sub(r" -qq\b", "", line) for line in answer.stdout.splitlines()]


def run_command(command: str, shown: str, folder: Path, recipes: list[str]) -> None:
    words = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", command))
    program = words[0].removeprefix(".venv/bin/")
    if program == "resnext-convert":
        environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
        ran = subprocess.run(
            [BIN / program, *words[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if shown.strip() and not doctest.OutputChecker().check_output(shown, ran.stdout, options):
            pytest.fail(f"the page shows\n{shown}\nand the command prints\n{ran.stdout}")
    elif program == "make":
        target = re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert target, f"there is no `make {words[1]}`"
    elif program in {"pip", "python3.11", "pytest"}:
        assert command in recipes
    else:
        assert program in {"git", "cd"}, f"what is this program? Run it here, or put it into a `text` block: {command}"


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipes: list[str]) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    programs = set()
    for block in blocks("README.md"):
        if block.language in {"sh", "console"}:
            for command, shown in commands(block):
                programs.add(command.split()[0])
                run_command(command, shown, tmp_path, recipes)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, "README.md", "exec"), namespace)
        else:
            assert block.language == "text", f"README.md:{block.line}: sh, console, python or text?"
    assert "make" in programs


def test_readme_has_every_release_in_its_table() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \((\w+), (\w+)\) \|(.*)\|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert [row[:3] for row in rows] == [(one.name, one.id, one.framework) for one in catalogue()]
    graphs = [row for row in rows if not row[1].startswith("T") and row[1] != "C8"]
    # Each was really run: to the reference exactly, to the others exactly or not for a reason.
    for *_, cells in graphs:
        reference, *stock = (cell.strip() for cell in cells.split(" | "))
        assert re.match(r"exact, \de-1\d$", reference)
        assert all(re.match(r"exact, \de-1\d: `|refused: ", cell) for cell in stock)


def test_readme_has_the_two_commands() -> None:
    shown = [command for block in blocks("README.md") if block.language == "sh" for command, _ in commands(block)]
    assert {"make demo", "make test"} <= set(shown)


def slug(heading: str) -> str:
    """The anchor that a heading gets where pages are shown."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(target)
    assert broken == []


def test_architecture_names_every_module_and_no_other() -> None:
    # Modules are named by their path from the root, in backquotes: `converter/mxnet/params.py`.
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tops = {name.split("/")[0] for name in modules()}
    named = {name for name in re.findall(r"`([\w./]+\.py)`", text) if "/" in name or name in tops}
    assert {name for name in named if name.split("/")[0] in tops} == set(modules())


def test_changelog_and_contributing_are_there() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md"} <= set(PAGES)
