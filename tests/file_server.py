"""A real HTTP server on this machine that does what it is told, right and wrong, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass
class Request:
    """One request, and how many bytes of a body were sent in answer."""

    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        self.request_made = Request(self.path, dict(self.headers.items()))
        self.server.requests.append(self.request_made)
        answers = self.server.answers.get(self.path, [status(404)])
        # The last answer is given to all further requests.
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.request_made.sent += len(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for all threads

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gives(self, path: str, *answers: Answer) -> str:
        """What a path gives, one after the other; the address of it."""
        self.answers[path] = list(answers)
        return self.url + path

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what many tests are about."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


# --- answers --------------------------------------------------------------------------------------------------------


@dataclass
class Serves:
    """A good server.

    Attributes:
        data: the file.
        etag: None: it has none.
        ranges: whether it can send a part.
        until: it stops after so many bytes of the body; None: it sends all.
        stalls: when it has stopped, it does nothing, instead of closing the connection.
        headers: others than usual; None: not that one.
    """

    data: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    until: int | None = None
    stalls: bool = False
    headers: dict[str, object] = field(default_factory=dict)

    def __call__(self, handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        tied = handler.headers.get("If-Range") in (None, self.etag, self.headers.get("Last_Modified"))
        begin = int(asked[1]) if asked and self.ranges and tied else 0
        size = len(self.data)
        usual: dict[str, object] = {"Content_Type": "application/octet-stream", "ETag": self.etag}
        if begin >= size:
            handler.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
            return
        if begin:
            usual["Content_Range"] = f"bytes {begin}-{size - 1}/{size}"
        usual["Content_Length"] = size - begin
        handler.head(206 if begin else 200, **usual | self.headers)
        handler.body(self.data[begin:][: self.until])
        if self.stalls:
            handler.server.stopping.wait(60)


def status(number: int, **headers: object) -> Answer:
    """A status, with a short page."""

    def answer(handler: Handler) -> None:
        text = f"<html>{number}</html>".encode()
        handler.head(number, Content_Length=len(text), Content_Type="text/html", **headers)
        handler.body(text)

    return answer


def redirect(to: str) -> Answer:
    return status(302, Location=to)


def chunked(data: bytes, *, ended: bool = True) -> Answer:
    """A body whose length is not announced."""

    def answer(handler: Handler) -> None:
        handler.head(200, Transfer_Encoding="chunked", ETag='"1"')
        for begin in range(0, len(data), 1000):
            piece = data[begin : begin + 1000]
            handler.wfile.write(f"{len(piece):x}\r\n".encode())
            handler.body(piece)
            handler.wfile.write(b"\r\n")
        if ended:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def trickle(data: bytes) -> Answer:
    """One byte every 20 ms: each comes in time, and all of them never."""

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=len(data), ETag='"1"')
        for byte in data:
            if handler.server.stopping.wait(0.02):
                return
            handler.body(bytes([byte]))

    return answer
