"""Ctrl-C at every line, signals in the middle of a commit, and kills at random moments: old or new, never litter."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from disk import WAYS, listing, write_in_this_way

from resnext_convert.converter import staging
from resnext_convert.converter.errors import WriteError
from resnext_convert.converter.staging import StagedFile, commit

OLD, NEW = b"the old file\n" * 1000, b"the new file\n" * 3000
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(params=WAYS)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    write_in_this_way(request.param, monkeypatch)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, all handlers are back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def write_pair(folder: Path) -> None:
    with StagedFile(folder / "out.pth") as first, StagedFile(folder / "out.json") as second:
        first.file.write(NEW)
        second.file.write(NEW)
        commit([second, first])


class Interruption:
    """Sends a real Ctrl-C when the lines of staging.py have been counted down."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != staging.__file__:
            return None
        if frame.f_back and frame.f_back.f_code.co_filename == weakref.__file__:
            return None  # called for an object that is gone; Python loses what is raised there
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self


def interrupted(folder: Path, after: int) -> bool:
    """Whether a Ctrl-C at that line became a KeyboardInterrupt; False once there are no so many lines."""
    interruption = Interruption(after)
    tracer = sys.gettrace()
    sys.settrace(interruption)
    try:
        write_pair(folder)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracer)
    assert interruption.left > 0, "a Ctrl-C was lost"
    return False


@pytest.mark.usefixtures("either_way")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Ctrl-C before the line that would close it
@pytest.mark.parametrize("there", [False, True])
def test_ctrl_c_at_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Each time both files are old, or both are new, and the folder holds nothing else."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # quicker
    before = {"out.pth": OLD, "out.json": OLD} if there else {}
    after = {"out.pth": NEW, "out.json": NEW}
    outcomes: list[bool] = []
    while True:
        folder = tmp_path / str(len(outcomes))
        folder.mkdir()
        for name, data in before.items():
            (folder / name).write_bytes(data)
        stopped = interrupted(folder, len(outcomes) + 1)
        found = listing(folder)
        if found not in (before, after):
            gc.collect()  # the interrupted objects may be in a cycle, and what they leave goes with them
            found = listing(folder)
        if not stopped:
            break
        assert found in (before, after), f"line {len(outcomes) + 1}"
        outcomes.append(found == after)
    assert found == after
    # From some line on the new files are there, and before it they are not.
    assert len(outcomes) > 80
    assert outcomes == sorted(outcomes)
    assert 0 < sum(outcomes) < len(outcomes)


def during_the_moves(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Calls ``act`` between the two moves of a commit."""
    real = StagedFile.move

    def move(self: StagedFile, *, undoable: bool) -> None:
        real(self, undoable=undoable)
        if undoable:
            act()

    monkeypatch.setattr(StagedFile, "move", move)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_the_moves_is_delivered_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    during_the_moves(monkeypatch, lambda: os.kill(os.getpid(), number))
    seen: list[list[str]] = []
    before = signal.signal(number, lambda number, frame: seen.append(sorted(listing(tmp_path))))
    try:
        write_pair(tmp_path)
    finally:
        signal.signal(number, before)
    assert seen == [["out.json", "out.pth"]]
    assert listing(tmp_path) == {"out.pth": NEW, "out.json": NEW}


@pytest.mark.usefixtures("either_way")
def test_a_signal_that_another_thread_receives_is_held_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside torch's threads: a signal mask of the main thread would send the signal to another one."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()

    def send() -> None:
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGINT)
        time.sleep(0.05)  # Python runs the handler here, in the main thread

    during_the_moves(monkeypatch, send)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_pair(tmp_path)
    finally:
        stop.set()
        other.join()
    assert listing(tmp_path) == {"out.pth": NEW, "out.json": NEW}


@pytest.mark.usefixtures("either_way")
def test_a_signal_while_a_move_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first move is taken back before the signal is delivered."""
    (tmp_path / "out.json").write_bytes(OLD)

    def stand_in_the_way() -> None:
        (tmp_path / "out.pth").mkdir()
        os.kill(os.getpid(), signal.SIGINT)

    during_the_moves(monkeypatch, stand_in_the_way)
    with pytest.raises(KeyboardInterrupt) as error:
        write_pair(tmp_path)
    assert isinstance(error.value.__context__, WriteError)
    (tmp_path / "out.pth").rmdir()
    assert listing(tmp_path) == {"out.json": OLD}


@pytest.mark.usefixtures("either_way")
def test_an_ignored_signal_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    during_the_moves(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        write_pair(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert listing(tmp_path) == {"out.pth": NEW, "out.json": NEW}


@pytest.mark.usefixtures("either_way")
def test_another_thread_may_write(tmp_path: Path) -> None:
    """Only the main thread can set handlers, and no other is interrupted by one."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            write_pair(tmp_path)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert listing(tmp_path) == {"out.pth": NEW, "out.json": NEW}


# From outside

# Writes version after version of two files, as conversions do: the report and the checkpoint, moved together.
WRITER = """
import os, sys, time
from pathlib import Path
from resnext_convert.converter.staging import StagedFile, commit

folder, pause, hidden = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "hidden"
if hidden and hasattr(os, "O_TMPFILE"):
    del os.O_TMPFILE
number = 0
try:
    while True:
        number += 1
        line = b"version %06d\\n" % number
        with StagedFile(folder / "out.pth") as first, StagedFile(folder / "out.json") as second:
            for _ in range(20):
                first.file.write(line * 2000)
                time.sleep(pause)
            second.file.write(line * 300)
            commit([second, first])
            print(number, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""
LINES = {"out.pth": 40_000, "out.json": 300}


def versions(folder: Path) -> dict[str, int]:
    """The version of each file; every line of a file must be of the same, and all lines must be there."""
    found = {}
    for name, data in listing(folder).items():
        lines = data.splitlines()
        assert len(lines) == LINES[name], name
        assert len(set(lines)) == 1, name
        found[name] = int(lines[0].split()[1])
    return found


def killed(folder: Path, number: signal.Signals, delay: float, *, pause: float, way: str = "nameless") -> int:
    """Runs the writer, sends it a signal ``delay`` seconds after the first version is written; the exit status."""
    command = [sys.executable, "-c", WRITER, str(folder), str(pause), way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 60)
        assert ready, "the writer did not start"
        assert process.stdout.readline() == b"1\n"
        time.sleep(delay)
        process.send_signal(number)
        return process.wait(60)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("trial", range(6))
def test_stopped_at_a_random_moment(tmp_path: Path, number: signal.Signals, trial: int) -> None:
    """Without a pause between the writes half of the time is spent in commits."""
    status = killed(tmp_path, number, 0.013 * trial + 0.0007 * number, pause=0.0)
    assert status == (130 if number == signal.SIGINT else -number)
    found = versions(tmp_path)
    assert set(found) == {"out.pth", "out.json"}
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("trial", range(6))
def test_ctrl_c_at_a_random_moment_without_nameless_files(tmp_path: Path, trial: int) -> None:
    assert killed(tmp_path, signal.SIGINT, 0.017 * trial, pause=0.0, way="hidden") == 130
    found = versions(tmp_path)
    assert set(found) == {"out.pth", "out.json"}
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("trial", range(8))
def test_killed_at_a_random_moment(tmp_path: Path, trial: int) -> None:
    """SIGKILL cannot be held back.

    It can fall between the two moves, and then the report is one version ahead of the checkpoint, which loading
    notices; or into the instant in which a file is replaced by way of a hidden name. A version takes 40 ms here and
    these instants some 0.1 ms, and the files stay whole all the same.
    """
    assert killed(tmp_path, signal.SIGKILL, 0.05 + 0.023 * trial, pause=0.002) == -signal.SIGKILL
    for name in list(listing(tmp_path)):
        if name.startswith(".resnext-convert-"):
            (tmp_path / name).unlink()
    found = versions(tmp_path)
    assert set(found) == {"out.pth", "out.json"}
    assert found["out.json"] - found["out.pth"] in (0, 1)
