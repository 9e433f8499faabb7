"""The second try continues where the first one stopped, and never puts two files together."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from fetching import DATA, IMPATIENT, NAME, ONCE, OTHER, Call, file
from file_server import Server, Serves, status

PATH = "/models/net-0000.params"
HALF = len(DATA) // 2


@pytest.mark.parametrize("stalls", [False, True])
def test_the_second_try_fetches_the_rest_alone(server: Server, call: Call, stalls: bool) -> None:
    wanted = file(server.gives(PATH, Serves(DATA, until=HALF, stalls=stalls), Serves(DATA)))
    error = call.refused(wanted, patience=IMPATIENT if stalls else ONCE)
    assert error.expected == f"{len(DATA)} bytes"
    assert error.found == f"{HALF} bytes"
    assert "only the rest is fetched" in (error.hint or "")
    assert ("nothing came for 0.4 s" in error.problem) is stalls
    assert call.kept() == {f"{NAME}.part": DATA[:HALF], f"{NAME}.part.from": f'{server.url}{PATH}\n"1"\n'.encode()}
    call(wanted)
    assert call.kept() == {NAME: DATA}
    first, second = server.requests
    assert first.range is None
    assert (second.range, second.headers["If-Range"]) == (f"bytes={HALF}-", '"1"')
    assert second.sent == len(DATA) - HALF
    assert call.reports[0] == (NAME, HALF, len(DATA))


def test_the_second_try_may_be_within_the_same_call(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, Serves(DATA, until=HALF), Serves(DATA))))
    assert call.kept() == {NAME: DATA}
    assert [request.sent for request in server.requests] == [HALF, len(DATA) - HALF]


def test_a_date_ties_the_rest_to_the_beginning_as_well(server: Server, call: Call) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    dated = [Serves(DATA, etag=None, until=until, headers={"Last_Modified": date}) for until in (HALF, None)]
    call(file(server.gives(PATH, *dated)))
    assert server.requests[1].headers["If-Range"] == date
    assert server.requests[1].sent == len(DATA) - HALF


@pytest.mark.parametrize("etag", [None, 'W/"1"', '"not\x7fascii"'])
def test_without_a_validator_it_starts_over(server: Server, call: Call, etag: str | None) -> None:
    call(file(server.gives(PATH, Serves(DATA, etag, until=HALF), Serves(DATA))))
    assert call.kept() == {NAME: DATA}
    assert [request.range for request in server.requests] == [None, None]


def test_a_server_that_has_no_ranges_starts_over(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, Serves(DATA, until=HALF), Serves(DATA, ranges=False))))
    assert call.kept() == {NAME: DATA}
    assert [request.sent for request in server.requests] == [HALF, len(DATA)]


def test_a_file_that_has_changed_meanwhile_starts_over(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, Serves(OTHER, '"old"', until=HALF), Serves(DATA, '"new"'))))
    assert call.kept() == {NAME: DATA}
    assert server.requests[1].headers["If-Range"] == '"old"'
    assert server.requests[1].sent == len(DATA)


def test_what_has_come_from_elsewhere_is_not_continued(server: Server, call: Call) -> None:
    call.refused(file(server.gives("/old/net-0000.params", Serves(OTHER, until=HALF))))
    call(file(server.gives(PATH, Serves(DATA))))
    assert call.kept() == {NAME: DATA}
    assert server.requests[1].range is None


@pytest.mark.parametrize("record", [b"", b"\xff\n\xff\n", b"one line", b'http://elsewhere/\n"1"\n', None])
def test_a_partial_file_of_unknown_origin_is_not_continued(server: Server, call: Call, record: bytes | None) -> None:
    call.folder.mkdir(parents=True)
    call.part.write_bytes(OTHER[:HALF])
    if record is not None:
        call.part.with_name(f"{NAME}.part.from").write_bytes(record)
    call(file(server.gives(PATH, Serves(DATA))))
    assert call.kept() == {NAME: DATA}


def test_a_header_cannot_come_out_of_the_record(server: Server, call: Call) -> None:
    url = server.gives(PATH, Serves(DATA))
    call.folder.mkdir(parents=True)
    call.part.write_bytes(OTHER[:HALF])
    call.part.with_name(f"{NAME}.part.from").write_text(f'{url}\n"1"\r\nCookie: x\n')
    call(file(url))
    assert call.kept() == {NAME: DATA}
    assert "Cookie" not in server.requests[0].headers


def test_a_partial_file_that_is_complete_is_taken(server: Server, call: Call) -> None:
    # The program was stopped between the last byte and the file's name.
    url = server.gives(PATH, Serves(DATA))
    call.folder.mkdir(parents=True)
    call.part.write_bytes(DATA)
    call.part.with_name(f"{NAME}.part.from").write_text(f'{url}\n"1"\n')
    call(file(url))
    assert call.kept() == {NAME: DATA}
    assert [request.sent for request in server.requests] == [0]


def test_a_partial_file_that_is_too_long_starts_over(server: Server, call: Call) -> None:
    url = server.gives(PATH, Serves(DATA))
    call.folder.mkdir(parents=True)
    call.part.write_bytes(DATA + b"more")
    call.part.with_name(f"{NAME}.part.from").write_text(f'{url}\n"1"\n')
    call(file(url))
    assert call.kept() == {NAME: DATA}


def test_a_rest_that_does_not_fit_is_found_by_the_checksum(server: Server, call: Call) -> None:
    # The server says that it is the same file, and it is not.
    wanted = file(server.gives(PATH, Serves(DATA, until=HALF), Serves(OTHER), Serves(DATA)))
    call.refused(wanted)
    assert "is not the file that was published" in call.refused(wanted).problem
    assert call.kept() == {}
    call(wanted)
    assert call.kept() == {NAME: DATA}


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"},
        {"Content_Range": f"bytes {HALF + 1}-{len(DATA) - 1}/{len(DATA)}"},
        {"Content_Range": f"bytes {HALF}-{len(DATA) - 2}/{len(DATA)}"},
        {"Content_Range": f"bytes {HALF}-{len(DATA) - 1}/*"},
        {"Content_Range": "nonsense"},
        {"Content_Range": None},
        {"Content_Length": HALF - 1},
    ],
)
def test_another_part_than_was_asked_for(server: Server, call: Call, headers: dict[str, object]) -> None:
    wanted = file(server.gives(PATH, Serves(DATA, until=HALF), Serves(DATA, headers=headers), Serves(DATA)))
    call.refused(wanted)
    error = call.refused(wanted)
    assert "another part of the file than it was asked for" in error.problem
    assert "Content-Range" in (error.found or "")
    assert call.kept() == {}
    call(wanted)
    assert call.kept() == {NAME: DATA}


def test_ctrl_c_leaves_what_has_come(server: Server, call: Call) -> None:
    def interrupt(name: str, done: int, total: int | None) -> None:
        if done > HALF:
            raise KeyboardInterrupt

    wanted = file(server.gives(PATH, Serves(DATA)))
    watch, call.report = call.report, interrupt
    with pytest.raises(KeyboardInterrupt):
        call(wanted)
    size = call.part.stat().st_size
    assert size > HALF
    assert set(call.kept()) == {f"{NAME}.part", f"{NAME}.part.from"}
    call.report = watch
    call(wanted)
    assert call.kept() == {NAME: DATA}
    assert server.requests[-1].sent == len(DATA) - size


def test_a_page_does_not_cost_what_has_come_before(server: Server, call: Call) -> None:
    page = Serves(b"<html>", '"page"', headers={"Content_Type": "text/html"})
    wanted = file(server.gives(PATH, Serves(DATA, until=HALF), page, status(404), Serves(DATA)))
    for _ in range(3):
        call.refused(wanted)
        assert call.part.read_bytes() == DATA[:HALF]
    call(wanted)
    assert server.requests[-1].sent == len(DATA) - HALF


def test_a_kill_leaves_what_has_come(server: Server, call: Call) -> None:
    url = server.gives(PATH, Serves(DATA, until=HALF, stalls=True), Serves(DATA))
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fetching import Call, file
Call(Path(sys.argv[1]))(file(sys.argv[2]))
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(call.cache), url])
    while not (call.part.exists() and call.part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    size = call.part.stat().st_size
    assert call(file(url)) == {"params": call.folder / NAME}
    assert call.kept() == {NAME: DATA}
    assert server.requests[1].sent == len(DATA) - size
