"""Files and folders appear whole or not at all; and without a proof most are written without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk import WAYS, listing, room_for, write_in_this_way
from repository import FIXTURES

import resnext_convert as rc
from resnext_convert.converter import checkpoint, output, pipeline, staging
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import UsageError, WriteError
from resnext_convert.converter.findings import CheckpointInspection
from resnext_convert.converter.output import Output
from resnext_convert.converter.pipeline import ProofFailedError
from resnext_convert.converter.resnext.state_dict import assemble

SOURCE = FIXTURES / "resnext-tiny"
NAMES = ["config.json", "model.safetensors", "report.json"]
ARRAYS = {"a": np.ones(1000, np.float32)}
OLD = {"model.safetensors": b"old weights", "report.json": b"old report", "config.json": b"old", "README.md": b"mine"}

pytestmark = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def _way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_in_this_way(way, monkeypatch)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of an earlier conversion, with a file of the user's."""
    folder = tmp_path / "old"
    folder.mkdir()
    for name, data in OLD.items():
        (folder / name).write_bytes(data)
    return folder


def write(out: str, *, overwrite: bool = True) -> None:
    with Output(out, overwrite=overwrite) as made:
        made.write(ARRAYS, {"tool": "x"}, {"architecture": "resnext"})
        assert np.array_equal(checkpoint.read(made.readable)["a"].numpy(), ARRAYS["a"])
        made.commit(b"{}\n")


@pytest.mark.parametrize("suffix", checkpoint.FORMATS)
def test_a_file(tmp_path: Path, suffix: str) -> None:
    write(f"{tmp_path}/out{suffix}")
    assert sorted(listing(tmp_path)) == sorted([f"out{suffix}", "out.json"])


def test_a_new_folder(tmp_path: Path) -> None:
    write(f"{tmp_path}/out.v1/")
    assert sorted(listing(tmp_path / "out.v1")) == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out.v1"]
    assert json.loads((tmp_path / "out.v1/config.json").read_text()) == {"architecture": "resnext"}
    assert (tmp_path / "out.v1").stat().st_mode & 0o777 == 0o777 & ~(mask := os.umask(0o22)) or mask != 0o22


def test_a_folder_that_is_there_keeps_other_files(old: Path) -> None:
    write(str(old))
    found = listing(old)
    assert sorted(found) == sorted(OLD)
    assert found["README.md"] == b"mine"
    assert all(found[name] != OLD[name] for name in NAMES)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(f"{tmp_path}/out", overwrite=False)
    assert sorted(listing(tmp_path / "out")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files_that_may_not_be_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(WriteError, match="is there already") as error:
        write(f"{tmp_path}/", overwrite=False)
    assert error.value.file == str(tmp_path / name)
    assert listing(tmp_path) == {name: b"old"}


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(WriteError, match="there is a file of this name"):
        write(f"{tmp_path}/out/")
    assert listing(tmp_path) == {"out": b"old"}


def test_a_folder_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="there is no such folder") as error:
        write(f"{tmp_path}/none/out/")
    assert error.value.file == str(tmp_path / "none")
    assert listing(tmp_path) == {}


def test_no_name_is_taken_before_the_end(tmp_path: Path, way: str) -> None:
    with Output(f"{tmp_path}/out/") as made:
        made.write(ARRAYS, {}, {})
        assert not (tmp_path / "out").exists()
        assert len(list(tmp_path.iterdir())) == (0 if way == "nameless" else 3)
    assert listing(tmp_path) == {}


def failing(after: int) -> Any:
    """`StagedFile.move`, which fails after so many files."""
    done, move = [0], staging.StagedFile.move

    def spoiled(self: staging.StagedFile, *, undoable: bool) -> None:
        if done[0] == after:
            raise WriteError("cannot be written: no more", file=self.path)
        done[0] += 1
        move(self, undoable=undoable)

    return spoiled


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_move_that_fails(tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    for out in (f"{tmp_path}/new/", str(old)):
        with monkeypatch.context() as patched:
            patched.setattr(staging.StagedFile, "move", failing(after))
            with pytest.raises(WriteError, match="no more"):
                write(out)
        assert listing(old) == OLD
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_has_appeared_meanwhile(tmp_path: Path) -> None:
    with Output(f"{tmp_path}/out/") as made:
        made.write(ARRAYS, {}, {})
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").write_bytes(b"theirs")
        with pytest.raises(WriteError, match="cannot be written") as error:
            made.commit(b"{}")
        assert error.value.file == str(tmp_path / "out")
    assert listing(tmp_path / "out") == {"theirs": b"theirs"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("room", [0, 1000, 4100])
def test_a_full_disk(tmp_path: Path, old: Path, room: int) -> None:
    for out in (f"{tmp_path}/new/", str(old)):
        with room_for(room), pytest.raises(WriteError, match="cannot be written: File too large"):
            write(out)
        assert listing(old) == OLD
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_proof_that_fails_leaves_the_old_folder(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> dict[str, np.ndarray[Any, Any]]:
        arrays = assemble(*arguments)
        return {**arrays, "fc.weight": np.ascontiguousarray(arrays["fc.weight"][::-1])}

    monkeypatch.setattr(pipeline, "assemble", wrong)
    with pytest.raises(ProofFailedError):
        rc.convert("mxnet", SOURCE, old, oracle="none")
    assert listing(old) == OLD


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_conversion_that_is_killed(tmp_path: Path, old: Path, signal: str, way: str) -> None:
    """While it proves; without files that have no name, a kill leaves hidden ones."""
    for out in (f"{tmp_path}/new/", str(old)):
        program = f"""
import os, signal
import resnext_convert as rc
def say(message):
    if message.startswith("proof"):
        os.kill(os.getpid(), signal.{signal})
rc.convert("mxnet", {str(SOURCE)!r}, {out!r}, oracle="none", say=say)
"""
        if way == "nameless":
            assert subprocess.run([sys.executable, "-c", program], check=False).returncode < 0
        assert listing(old) == OLD
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_whole_conversion(tmp_path: Path) -> None:
    fed = InputDomain(colour="rgb", mean=(1.0, 2.0, 3.0), source="the test")
    report = rc.convert("mxnet", SOURCE, f"{tmp_path}/out/", oracle="none", domain=fed)
    out = tmp_path / "out"
    assert report.output.name == "model.safetensors"
    assert report.output.sha256 == checkpoint.sha256(out / "model.safetensors")
    assert rc.load(out).config == report.config
    assert rc.verify(out, "mxnet", SOURCE, oracle="none").files[0].name == "model.safetensors"
    for path in (out, out / "model.safetensors"):
        found = rc.inspect(path)
        assert isinstance(found, CheckpointInspection)
        assert (found.container, found.belongs, found.note) == ("safetensors", True, "report.json is its report")
        assert found.metadata["network"] == report.network
        assert json.loads(found.metadata["preprocessing"])["mean"] == [1.0, 2.0, 3.0]
    again = rc.convert("mxnet", SOURCE, f"{tmp_path}/out.safetensors", oracle="none", verify=False, domain=fed)
    assert again.output.sha256 == report.output.sha256


@pytest.mark.parametrize("out", ["out.safetensors", "out.h5", "out/"])
def test_without_a_proof_there_is_no_torch(tmp_path: Path, out: str) -> None:
    program = f"""
import sys
import resnext_convert as rc
report = rc.convert("mxnet", {str(SOURCE)!r}, {f"{tmp_path}/{out}"!r}, verify=False)
rc.inspect({f"{tmp_path}/{out}"!r})
assert not {{"torch", "mxnet", "cv2"}} & sys.modules.keys(), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_output_that_says_no_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the suffix of the output"):
        output.Output(tmp_path / "out")
