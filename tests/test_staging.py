"""Output files appear whole or not at all, whatever fails on the way.

`test_staging_signals.py` has the signals.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from disk import WAYS, listing, room_for, write_in_this_way

from resnext_convert.converter import staging
from resnext_convert.converter.errors import WriteError
from resnext_convert.converter.staging import StagedFile, commit, writing

OLD, NEW = b"the old file\n" * 1000, b"the new file\n" * 3000


@pytest.fixture(params=WAYS)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    write_in_this_way(request.param, monkeypatch)


def write(
    path: Path, data: bytes = NEW, *, overwrite: bool = True, during: Callable[[], object] = lambda: None
) -> None:
    """Writes a file; ``during`` is called when it is written and not moved."""
    with StagedFile(path, overwrite=overwrite) as staged:
        staged.file.write(data)
        during()
        commit([staged])


def write_pair(folder: Path, data: bytes = NEW, during: Callable[[], object] = lambda: None) -> None:
    """Two files that belong together; ``during`` is called when both are written and neither is moved."""
    with StagedFile(folder / "out.pth") as first, StagedFile(folder / "out.json") as second:
        with writing(first.path):
            first.file.write(data)
        with writing(second.path):
            second.file.write(data[:5])
        during()
        commit([second, first])


# What should happen


@pytest.mark.usefixtures("either_way")
def test_a_file_appears_at_commit(tmp_path: Path) -> None:
    path = tmp_path / "out.pth"
    with StagedFile(path) as staged:
        staged.file.write(NEW)
        assert staged.readable.read_bytes() == NEW
        assert not path.exists()
        commit([staged])
        assert path.read_bytes() == NEW
    assert listing(tmp_path) == {"out.pth": NEW}


@pytest.mark.usefixtures("either_way")
def test_a_file_is_replaced_at_commit(tmp_path: Path) -> None:
    path = tmp_path / "out.pth"
    path.write_bytes(OLD)
    with StagedFile(path) as staged:
        staged.file.write(NEW)
        staged.file.flush()
        assert path.read_bytes() == OLD
        commit([staged])
    assert listing(tmp_path) == {"out.pth": NEW}


def test_the_nameless_file_has_no_name(tmp_path: Path) -> None:
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    with StagedFile(tmp_path / "out.pth") as staged:
        staged.file.write(NEW)
        staged.file.flush()
        assert listing(tmp_path) == {}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("there", [(), ("out.pth",), ("out.json",), ("out.pth", "out.json")])
def test_a_pair_appears_together(tmp_path: Path, there: tuple[str, ...]) -> None:
    before = {"other.txt": b"not ours", **dict.fromkeys(there, OLD)}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)

    def nothing_yet() -> None:
        assert {name: data for name, data in listing(tmp_path).items() if not name.startswith(".")} == before

    write_pair(tmp_path, during=nothing_yet)
    assert listing(tmp_path) == {"other.txt": b"not ours", "out.pth": NEW, "out.json": NEW[:5]}


@pytest.mark.usefixtures("either_way")
def test_leaving_without_a_commit_leaves_nothing(tmp_path: Path) -> None:
    with StagedFile(tmp_path / "out.pth") as staged:
        staged.file.write(NEW)
    assert listing(tmp_path) == {}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "out.pth")
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.pth", "plain")}
    assert modes == {0o666 & ~umask}


@pytest.mark.usefixtures("either_way")
def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".pth")
    for data in (OLD, NEW):
        write(path, data)
        assert listing(tmp_path) == {path.name: data}


@pytest.mark.usefixtures("either_way")
def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (OLD, NEW):
        write(Path("out.pth"), data)
        assert listing(tmp_path) == {"out.pth": data}


@pytest.mark.usefixtures("either_way")
def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(OLD)
    (tmp_path / "out.pth").symlink_to("precious")
    write(tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").is_symlink()
    assert listing(tmp_path) == {"precious": OLD, "out.pth": NEW}


# What may not be replaced


@pytest.mark.usefixtures("either_way")
def test_a_file_that_may_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.pth"
    write(path, OLD, overwrite=False)
    with pytest.raises(WriteError, match="is there already") as error:
        write(path, NEW, overwrite=False)
    assert (error.value.hint, error.value.file, error.value.exit_code) == ("--overwrite replaces it", str(path), 6)
    assert listing(tmp_path) == {"out.pth": OLD}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dangling", [False, True])
def test_a_file_that_appears_meanwhile_may_not_be_replaced_either(tmp_path: Path, dangling: bool) -> None:
    path = tmp_path / "out.pth"
    appear = (lambda: path.symlink_to("nowhere")) if dangling else (lambda: path.write_bytes(OLD))
    with pytest.raises(WriteError, match="is there already"):
        write(path, overwrite=False, during=appear)
    assert [item.name for item in tmp_path.iterdir()] == ["out.pth"]
    assert path.is_symlink() if dangling else path.read_bytes() == OLD


# Where nothing can be written


def no_folder(folder: Path) -> Path:
    return folder / "absent" / "out.pth"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(OLD)
    return folder / "file" / "out.pth"


def a_folder(folder: Path) -> Path:
    (folder / "out.pth").mkdir()
    return folder / "out.pth"


def too_long(folder: Path) -> Path:
    return folder / ("n" * 5000 + ".pth")


def a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop" / "out.pth"


def not_ours(folder: Path) -> Path:
    # Nobody, root included, makes files here.
    return Path("/proc/self/fdinfo/out.pth") if Path("/proc/self/fdinfo").is_dir() else no_folder(folder)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("place", "says", "hint"),
    [
        (no_folder, "No such file or directory", "make the folder first"),
        (below_a_file, "Not a directory", "a part of the path is a file"),
        (a_folder, "there is a folder of this name", "choose another name"),
        (too_long, "File name too long", "choose a shorter name"),
        (a_loop, "", ""),
        (not_ours, "", ""),
    ],
)
def test_a_place_that_cannot_be_written_to(tmp_path: Path, place: Callable[[Path], Path], says: str, hint: str) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WriteError, match="cannot be written") as error, StagedFile(path):
        pass
    assert says in error.value.problem
    assert hint in str(error.value.hint)
    assert error.value.file == str(path)
    assert error.value.exit_code == 6
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EPERM, errno.EIO])
def test_what_the_system_says_becomes_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Root may do anything, so the system's refusals are made up here."""

    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WriteError, match=os.strerror(number)) as error, StagedFile(tmp_path / "out.pth"):
        pass
    assert error.value.hint == staging.HINTS.get(number, "nothing was changed")
    monkeypatch.undo()
    assert listing(tmp_path) == {}


def test_errors_of_ours_pass_through(tmp_path: Path) -> None:
    inner = WriteError("inner")
    with pytest.raises(WriteError) as error, writing(tmp_path):
        raise inner
    assert error.value is inner


# A disk that is full


# The buffer holds some thousand bytes: the write itself fails, or what flushes the buffer later.
@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("size", "room"), [(300_000, 100_000), (300_000, 299_999), (5000, 4999), (6, 5)])
def test_no_room(tmp_path: Path, size: int, room: int) -> None:
    before = {"out.pth": OLD, "out.json": OLD}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    with room_for(room), pytest.raises(WriteError, match="File too large") as error:
        write_pair(tmp_path, bytes(size))
    assert error.value.file == str(tmp_path / "out.pth")
    assert "ulimit -f" in str(error.value.hint)
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("either_way")
def test_no_room_and_another_error(tmp_path: Path) -> None:
    """What is still in the buffer when the file is thrown away does not hide the first error."""

    def fail() -> None:
        raise KeyError("first")

    with room_for(10), pytest.raises(KeyError, match="first"):
        write(tmp_path / "out.pth", bytes(100), during=fail)
    assert listing(tmp_path) == {}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("there", [False, True])
def test_the_disk_fails_when_it_is_told_to_keep_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Of two files the second is not brought to the disk; then the first is not moved either."""
    calls = 0

    def second_fails(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", second_fails)
    before = {"out.pth": OLD, "out.json": OLD} if there else {}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(WriteError, match="No space left on device") as error:
        write_pair(tmp_path)
    assert error.value.hint == "the disk is full: free some space, or write elsewhere"
    assert listing(tmp_path) == before


# A move that fails


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("report", [OLD, None])
def test_if_the_second_move_fails_the_first_is_taken_back(tmp_path: Path, report: bytes | None) -> None:
    """A folder stands in the way, since the files were opened; a mount point or a protected file would do the same."""
    before = {"out.json": report} if report is not None else {}
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(WriteError, match="cannot be written") as error:
        write_pair(tmp_path, during=(tmp_path / "out.pth").mkdir)
    assert error.value.file == str(tmp_path / "out.pth")
    (tmp_path / "out.pth").rmdir()
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("either_way")
def test_without_hard_links_files_are_replaced_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT has none: what was there cannot be kept until the end."""
    link = os.link

    def refuse(source: object, *arguments: object, **options: object) -> None:
        if str(source).startswith("/proc"):
            link(source, *arguments, **options)  # type: ignore[arg-type]
        else:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "out.json").write_bytes(OLD)
    write_pair(tmp_path)
    assert listing(tmp_path) == {"out.pth": NEW, "out.json": NEW[:5]}


def test_without_proc_a_hidden_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nameless file could not get its name."""
    monkeypatch.setattr(staging, "DESCRIPTORS", tmp_path / "no-proc")
    (tmp_path / "out.pth").write_bytes(OLD)
    with StagedFile(tmp_path / "out.pth") as staged:
        staged.file.write(NEW)
        assert staged.readable.read_bytes() == NEW
        assert len(listing(tmp_path)) == 2
        commit([staged])
    assert listing(tmp_path) == {"out.pth": NEW}


def test_a_file_system_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    real = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    write(tmp_path / "out.pth")
    assert listing(tmp_path) == {"out.pth": NEW}
