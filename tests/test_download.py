"""Fetching from real servers that do it right, and that do it wrong in every way that servers have."""

from __future__ import annotations

import errno
import socket

import pytest
from disk import room_for
from fetching import DATA, IMPATIENT, NAME, OTHER, Call, file, whole
from file_server import Answer, Handler, Server, Serves, chunked, redirect, status, trickle

from resnext_convert.converter.errors import WriteError

PATH = "/models/net-0000.params"
HALF = len(DATA) // 2


# What should happen


def test_a_file_is_fetched_once(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    for _ in range(2):
        assert call(wanted) == {"params": call.folder / NAME}
        assert call.kept() == {NAME: DATA}
        assert call.said == []
    assert [(request.path, request.range, request.sent) for request in server.requests] == [(PATH, None, len(DATA))]


def test_progress_is_told_from_the_first_byte_to_the_last(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, Serves(DATA))))
    assert call.reports[0] == (NAME, 0, len(DATA))
    assert call.reports[-1] == (NAME, len(DATA), len(DATA))
    assert call.reports == sorted(call.reports)


def test_a_file_whose_length_is_not_announced(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, chunked(DATA))))
    assert call.kept() == {NAME: DATA}
    assert call.reports[-1] == (NAME, len(DATA), None)


def test_a_redirection_is_followed(server: Server, call: Call) -> None:
    server.gives("/there", Serves(DATA))
    call(file(server.gives(PATH, redirect("/there"))))
    assert call.kept() == {NAME: DATA}


def test_a_server_that_is_busy_is_asked_again(server: Server, call: Call) -> None:
    call(file(server.gives(PATH, status(503), Serves(DATA))))
    assert call.kept() == {NAME: DATA}
    assert len(server.requests) == 2


# Servers that fail


@pytest.mark.parametrize("number", [204, 206, 403, 404, 410, 500])
def test_a_status_that_is_no_file(server: Server, call: Call, number: int) -> None:
    error = call.refused(file(server.gives(PATH, status(number))))
    assert str(error).startswith(
        f"{server.url}{PATH}: does not give the file (expected 200 OK, found HTTP status {number}"
    )
    assert call.kept() == {}


@pytest.mark.parametrize(("number", "requests"), [(403, 1), (404, 1), (500, 2), (503, 2), (429, 2)])
def test_only_what_may_pass_is_tried_again(server: Server, call: Call, number: int, requests: int) -> None:
    with pytest.raises(Exception, match=str(number)):
        call(file(server.gives(PATH, status(number))))
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "answer",
    [
        Serves(b"<!DOCTYPE html><title>Sign in</title>", headers={"Content_Type": "text/html; charset=utf-8"}),
        Serves(DATA, headers={"Content_Type": "text/html"}),
        Serves(b"\xef\xbb\xbf \r\n<!doctype HTML><title>Quota exceeded</title>"),
        Serves(b"<HTML><body>moved</body>"),
    ],
)
@pytest.mark.parametrize("data", [DATA, None])
def test_a_page_is_no_file(server: Server, call: Call, answer: Answer, data: bytes | None) -> None:
    error = call.refused(file(server.gives(PATH, answer), data=data))
    assert "a web page" in error.problem
    assert error.file == server.url + PATH
    assert call.kept() == {}


@pytest.mark.parametrize("data", [DATA, None])
def test_more_is_announced_than_the_file_has(server: Server, call: Call, data: bytes | None) -> None:
    error = call.refused(file(server.gives(PATH, Serves(DATA)), data=data, bytes=len(DATA) - 1))
    assert "more than the file can have" in error.problem
    assert error.expected == f"at most {len(DATA) - 1} bytes"
    assert error.found == f"{len(DATA)} announced"
    assert call.kept() == {}
    assert server.requests[0].sent <= len(DATA)


def test_more_comes_than_the_file_has(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, chunked(DATA)), bytes=len(DATA) - 1))
    assert "more than the file can have" in error.problem
    assert call.kept() == {}


def test_less_comes_than_the_file_has(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, Serves(DATA[:-1])), data=None, bytes=len(DATA)))
    assert "is not the file that was published" in error.problem
    assert (error.expected, error.found) == (f"{len(DATA)} bytes", f"{len(DATA) - 1} bytes")
    assert call.kept() == {}


def test_more_comes_than_was_announced(server: Server, call: Call) -> None:
    # What was announced is all that HTTP has; its checksum tells that it is not the file.
    error = call.refused(file(server.gives(PATH, Serves(DATA, headers={"Content_Length": HALF}))))
    assert "is not the file that was published" in error.problem
    assert call.kept() == {}


def test_a_body_of_unknown_length_that_breaks_off_is_kept(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, chunked(DATA, ended=False), Serves(DATA)))
    error = call.refused(wanted)
    assert "the connection broke off before the end" in error.problem
    assert call.part.read_bytes() == DATA
    call(wanted)
    assert call.kept() == {NAME: DATA}


def test_an_empty_file(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, lambda handler: handler.head(200, Content_Length=0)), data=None))
    assert "is empty" in error.problem
    assert call.kept() == {}


def test_a_server_as_slow_as_none(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, trickle(DATA))), patience=IMPATIENT)
    assert "bytes a second came before the end" in error.problem
    assert call.part.read_bytes() == DATA[: call.part.stat().st_size]


def silence(handler: Handler) -> None:
    handler.server.stopping.wait(60)


def test_a_server_that_says_nothing(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, silence)), patience=IMPATIENT)
    assert "no answer within 0.4 s" in error.problem
    assert call.kept() == {}


def test_a_server_that_speaks_no_http(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, lambda handler: handler.body(b"220 ready\r\n"))))
    assert "the connection failed" in error.problem
    assert " at 0x" not in whole(error)
    assert call.kept() == {}


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_server_at_all(call: Call) -> None:
    url = f"http://127.0.0.1:{unused_port()}{PATH}"
    error = call.refused(file(url))
    assert "the connection failed" in error.problem
    assert "refused" in error.problem
    assert " at 0x" not in whole(error)
    assert error.file == url
    assert call.kept() == {}


def test_a_name_that_nobody_has(call: Call) -> None:
    error = call.refused(file("http://nobody.invalid/net-0000.params"))
    assert "the connection failed" in error.problem
    assert "nobody.invalid" in whole(error)


def test_a_server_that_has_no_tls(server: Server, call: Call) -> None:
    url = server.url.replace("http:", "https:") + PATH
    error = call.refused(file(url))
    assert "there is no secure connection" in error.problem
    assert error.file == url
    assert call.kept() == {}


def test_redirections_without_an_end(server: Server, call: Call) -> None:
    error = call.refused(file(server.gives(PATH, redirect(PATH))))
    assert "redirects more than 5 times" in error.problem
    assert len(server.requests) == 6
    assert call.kept() == {}


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/net"])
def test_a_redirection_off_the_web(server: Server, call: Call, target: str) -> None:
    error = call.refused(file(server.gives(PATH, redirect(target))))
    assert error.expected == "http or https"
    assert target in (error.found or "")
    assert call.kept() == {}


@pytest.mark.parametrize("bytes_", [None, len(DATA)])
def test_another_file(server: Server, call: Call, bytes_: int | None) -> None:
    error = call.refused(file(server.gives(PATH, Serves(OTHER)), bytes=bytes_))
    assert "is not the file that was published" in error.problem
    assert (error.expected or "").startswith("md5 ")
    assert "(the publisher)" in (error.expected or "")
    assert len(error.found or "") == 32
    assert call.kept() == {}


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_what_is_compressed_on_the_way_is_refused(server: Server, call: Call, encoding: str) -> None:
    error = call.refused(file(server.gives(PATH, Serves(DATA, headers={"Content_Encoding": encoding}))))
    assert error.found == f"Content-Encoding: {encoding}"
    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert call.kept() == {}


# This machine


def test_a_disk_without_room(server: Server, call: Call) -> None:
    wanted = file(server.gives(PATH, Serves(DATA)))
    with room_for(100_000), pytest.raises(WriteError) as refusal:
        call(wanted)
    assert refusal.value.exit_code == 6
    assert isinstance(refusal.value.__cause__, OSError)
    assert refusal.value.__cause__.errno == errno.EFBIG
    assert "--cache-dir" in (refusal.value.hint or "")
    assert call.part.read_bytes() == DATA[: call.part.stat().st_size]
    call(wanted)
    assert call.kept() == {NAME: DATA}


def test_a_cache_that_cannot_be(server: Server, call: Call) -> None:
    call.cache.write_bytes(b"a file")
    with pytest.raises(WriteError) as refusal:
        call(file(server.gives(PATH, Serves(DATA))))
    assert "--cache-dir" in (refusal.value.hint or "")
