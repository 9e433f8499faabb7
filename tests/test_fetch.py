"""A release's files are found or fetched, checked, and kept; what is not what was published is never used."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest
from fetching import DATA, NAME, ONCE, OTHER, QUICK, Call, checksum, file, release, whole
from file_server import Handler, Server, Serves, status

from resnext_convert.converter import fetch as fetch_module
from resnext_convert.converter.errors import FetchError, WriteError
from resnext_convert.converter.releases import Location

PATH = "/models/net-0000.params"
UNVERIFIED = "nothing was published to check net-0000.params by: it is unverified"
PAGE = Location(url="https://drive.invalid/open?id=1", page=True)


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


# All files of a release


def test_all_files_are_given_by_their_roles(server: Server, call: Call) -> None:
    symbol = file(server.gives("/net-symbol.json", Serves(b"{}")), data=b"{}", role="symbol", name="net-symbol.json")
    params = file(server.gives(PATH, Serves(DATA)))
    assert call(symbol, params) == {"symbol": call.folder / "net-symbol.json", "params": call.folder / NAME}
    assert call.kept() == {"net-symbol.json": b"{}", NAME: DATA}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384"])
def test_every_published_checksum_counts(server: Server, call: Call, algorithm: str) -> None:
    url = server.gives(PATH, Serves(DATA))
    good = checksum(DATA, algorithm)
    shouted = type(good)(algorithm=good.algorithm, value=good.value.upper(), source="a shouting page")
    call(file(url, checksums=(good, shouted)))
    (call.folder / NAME).unlink()
    error = call.refused(file(url, checksums=(good, checksum(OTHER, algorithm))))
    assert error.expected == f"{algorithm} {checksum(OTHER, algorithm).value} (the publisher)"
    assert error.found == good.value
    assert call.kept() == {}


@pytest.mark.parametrize("name", ["", ".", "..", "../net.params", "/etc/passwd"])
def test_a_name_that_is_none_is_refused(call: Call, name: str) -> None:
    with pytest.raises(FetchError, match="no name of a file"):
        call(file(name=name))
    assert call.kept() == {}


# The cache


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RESNEXT_CONVERT_CACHE", raising=False)
    assert "resnext-convert" in fetch_module.cache_folder().parts
    monkeypatch.setenv("RESNEXT_CONVERT_CACHE", "~/elsewhere")
    assert fetch_module.cache_folder() == Path.home() / "elsewhere"
    assert fetch_module.cache_folder(tmp_path) == tmp_path


def test_the_environment_names_the_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("RESNEXT_CONVERT_CACHE", str(tmp_path / "named"))
    net = release(file(server.gives(PATH, Serves(DATA))))
    found = fetch_module.fetch(net, report=lambda *facts: None, say=lambda message: None)
    assert found == {"params": tmp_path / "named" / "mxnet--somebody--net" / NAME}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("resnext-50", "mxnet--resnext-50"),
        ("some.body/net_1", "mxnet--some.body--net_1"),
        ("../../net", "mxnet--..--..--net"),
        ("a\\b:c", "mxnet--a%5Cb%3Ac"),
    ],
)
def test_a_release_has_one_folder(name: str, folder: str) -> None:
    one = release()
    assert fetch_module.folder_name(type(one)(id="X", name=name, framework="mxnet", publisher="x")) == folder


@pytest.mark.parametrize("data", [DATA, None])
def test_a_file_that_has_changed_in_the_cache_is_fetched_anew(server: Server, call: Call, data: bytes | None) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)), data=data)
    call(wanted)
    spoil(call.folder / NAME)
    assert call(wanted)["params"].read_bytes() == DATA
    assert call.said[0].startswith(f"the cache is not to be trusted: {call.folder / NAME}: ")
    assert call.said[0].endswith("; it is fetched anew")
    assert len(server.requests) == 2
    call(wanted)
    assert call.said == []


def test_a_file_that_has_changed_is_not_used_when_it_cannot_be_fetched_anew(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA), status(404)))
    call(wanted)
    spoil(call.folder / NAME)
    error = call.refused(wanted)
    assert "2 places were tried" in error.problem
    assert "is not the file that was published" in whole(error)
    assert "404" in whole(error)
    assert call.kept() == {}


def test_without_a_published_checksum_a_sha256_is_kept(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)), data=None)
    call(wanted)
    assert call.said == [f"{server.url}{PATH}: {UNVERIFIED}"]
    assert call.kept() == {NAME: DATA, f"{NAME}.sha256": f"{checksum(DATA, 'sha256').value}  {NAME}\n".encode()}
    call(wanted)
    assert call.said == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("record", [None, b"", b"\xff", b"0123  net-0000.params\n"])
def test_a_file_without_its_sha256_is_fetched_anew(server: Server, call: Call, record: bytes | None) -> None:
    call.folder.mkdir(parents=True)
    (call.folder / NAME).write_bytes(OTHER)
    if record is not None:
        (call.folder / f"{NAME}.sha256").write_bytes(record)
    assert call(file(server.gives(PATH, Serves(DATA)), data=None))["params"].read_bytes() == DATA


def test_a_published_size_is_said_to_be_all_there_is(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, Serves(DATA)), data=None, bytes=len(DATA)))
    assert call.said == [f"{server.url}{PATH}: {UNVERIFIED.replace('nothing', 'nothing but its size')}"]


def test_a_cache_that_is_complete_need_not_be_writable(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    call(wanted)
    (call.folder / ".lock").unlink(missing_ok=True)
    call(wanted)
    assert not (call.folder / ".lock").exists()  # nothing was written, the lock neither


# The places where it was published


def test_the_locations_are_tried_in_order(server: Server, call: Call) -> None:
    urls = [server.gives("/a", status(404)), server.gives("/b", Serves(OTHER)), server.gives("/c", Serves(DATA))]
    assert call(file(*urls, server.gives("/d", Serves(DATA))))["params"].read_bytes() == DATA
    assert [request.path for request in server.requests] == ["/a", "/b", "/c"]
    assert [said.split(": ")[0] for said in call.said] == urls[:2]


def test_a_dead_location_is_announced_and_tried(server: Server, call: Call) -> None:
    dead = Location(url=server.gives(PATH, Serves(DATA)), dead="since 2019-03, apache/mxnet#14507")
    call(file(dead))
    assert call.said == [
        f"{dead.url} is known not to answer (since 2019-03, apache/mxnet#14507); trying it all the same"
    ]


def test_a_dead_location_is_tried_once(server: Server, call: Call) -> None:
    dead = Location(url=server.gives(PATH, status(503)), dead="2019-03")
    call.refused(file(dead), patience=QUICK)
    assert len(server.requests) == 1


def test_everything_that_failed_is_listed(server: Server, call: Call) -> None:
    urls = [server.gives("/a", status(404)), server.gives("/b", Serves(OTHER)), server.gives("/c", status(500))]
    error = call.refused(file(*urls, PAGE))
    assert error.problem == f"{NAME} of somebody/net cannot be had: 3 places were tried"
    notes = error.__notes__
    assert [note.split(": ")[0] for note in notes] == urls
    for note, what in zip(notes, ["404", "is not the file that was published", "500"], strict=True):
        assert what in note
    assert f"fetch it by hand from {PAGE.url}, put {NAME} into a folder DIR and say --from DIR" in (error.hint or "")


def test_a_page_is_not_asked(call: Call) -> None:
    error = call.refused(file(PAGE))
    assert "in no place that a program can fetch from" in error.problem
    assert PAGE.url in (error.hint or "")


def test_a_file_that_was_published_nowhere(call: Call) -> None:
    assert "in no place that a program can fetch from" in call.refused(file()).problem
    assert not call.cache.exists()


def test_a_server_without_connection_is_not_asked_twice(call: Call) -> None:
    urls = ["http://nobody.invalid/a", "http://nobody.invalid/b"]
    notes = call.refused(file(*urls)).__notes__
    assert "the connection failed" in notes[0]
    assert notes[1].startswith(f"{urls[1]}: is not tried again: the connection failed")


# Offline


def test_offline_takes_what_is_in_the_cache(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    call(wanted)
    assert call(wanted, offline=True)["params"].read_bytes() == DATA


@pytest.mark.parametrize("mirror", [False, True])
def test_offline_asks_no_server(server: Server, call: Call, mirror: bool) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    error = call.refused(wanted, offline=True, mirror=server.url if mirror else None)
    assert f"{NAME} of somebody/net is not on this machine" in error.problem
    assert "without --offline" in (error.hint or "")
    assert server.requests == []
    assert not call.cache.exists()


def test_offline_does_not_take_a_file_that_has_changed(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    call(wanted)
    spoil(call.folder / NAME)
    assert "is not the file that was published" in whole(call.refused(wanted, offline=True))
    assert not call.said[0].endswith("fetched anew")


# Several at once


def test_two_processes_fetch_one_file_once(server: Server, call: Call) -> None:
    server.gives(PATH, Serves(DATA))
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fetching import Call, file
call = Call(Path(sys.argv[1]))
print(call(file(sys.argv[2]))["params"].stat().st_size)
"""
    command = [sys.executable, "-c", program, str(call.cache), server.url + PATH]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == [f"{len(DATA)}\n"] * 2
    assert len(server.requests) == 1
    assert call.kept() == {NAME: DATA}


def test_who_comes_second_waits_and_says_so(server: Server, call: Call) -> None:
    fetched: list[Path] = []
    wanted = file(server.gives(PATH, Serves(DATA)))
    call.folder.mkdir(parents=True)
    second = threading.Thread(target=lambda: fetched.append(call(wanted)["params"]))
    with filelock.FileLock(call.folder / ".lock"):
        second.start()
        while not call.said:
            assert second.is_alive()
        assert call.said == [f"another process is fetching into {call.folder}; waiting for it"]
        (call.folder / NAME).write_bytes(DATA)  # as the first one does
    second.join()
    assert fetched == [call.folder / NAME]
    assert server.requests == []


def test_an_error_frees_the_lock(server: Server, call: Call) -> None:
    call.refused(file(server.gives(PATH, status(404))))
    with filelock.FileLock(call.folder / ".lock", timeout=0):
        pass


# The rest


def test_a_place_that_cannot_be_written_to(server: Server, call: Call) -> None:
    (call.folder / NAME).mkdir(parents=True)
    with pytest.raises(WriteError, match=NAME) as refusal:
        call(file(server.gives(PATH, Serves(DATA))))
    assert "RESNEXT_CONVERT_CACHE" in (refusal.value.hint or "")


def test_the_name_comes_last(server: Server, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is checked is checked before the file has its name."""
    checked = fetch_module._check

    def check(path: Path, *arguments: object, **options: object) -> None:
        assert NAME not in call.kept()
        checked(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch_module, "_check", check)
    call(file(server.gives(PATH, Serves(DATA))), patience=ONCE)
    assert call.kept() == {NAME: DATA}


def test_nothing_of_this_machine_is_told_to_a_server(server: Server, call: Call) -> None:
    seen: list[dict[str, str]] = []

    def answer(handler: Handler) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        Serves(DATA)(handler)

    call(file(server.gives(PATH, answer)))
    assert set(seen[0]) == {"host", "user-agent", "accept-encoding", "accept", "connection"}
    assert seen[0]["user-agent"].startswith("resnext-convert/")


def test_importing_it_imports_nothing_of_http() -> None:
    program = "import sys, resnext_convert.converter.fetch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert set(loaded) & {"pooch", "requests", "urllib3", "filelock", "rich", "torch"} == set()
