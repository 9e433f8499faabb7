"""One file by HTTP, into a partial file that stays when the connection does not, and that the next try continues.

A request for the rest of a file (``Range``) is tied to the very file that the first bytes came from by ``If-Range`` and
the validator that the server gave then (ETag or Last-Modified). A server that gave none, or that has another file by
now, is asked for the whole. Whether the bytes are the right ones is not decided here.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn
from urllib.parse import urlsplit

from resnext_convert.converter.errors import FetchError
from resnext_convert.converter.staging import writing
from resnext_convert.converter.text import printable

if TYPE_CHECKING:
    from requests import Response

Report = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there and all that there will be (None: not announced)."""

MOST: Final = 2 << 30
"""Bytes of the largest file that is fetched or unpacked; the largest release has 460 million."""

_CHUNK: Final = 1 << 18
_REDIRECTS: Final = 5
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""States of a server that may be over at the next try."""

# A strong ETag or a date. If-Range knows no weak ETags, and nothing else may get into a header from a file.
_VALIDATOR: Final = re.compile(r'"[!#-~]*"|[A-Za-z]{3}, [A-Za-z0-9 :]+')
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a server, and how often.

    Attributes:
        connect: seconds until it must have accepted the connection.
        read: seconds until the next bytes must have come.
        slowest: bytes per second below which it counts as stalled, on average over ``read`` seconds.
        tries: in all, as long as it is the connection or the server that fails.
        pause: seconds before the second try; twice as many before each further one.
    """

    connect: float = 10.0
    read: float = 30.0
    slowest: float = 1000.0
    tries: int = 3
    pause: float = 1.0


class UnreachableError(FetchError):
    """There is no connection to the server, whatever it is asked for."""


class NotThereError(FetchError):
    """The server answers, and has no such file."""


class _Interrupted(Exception):  # noqa: N818  # not an error: the next try may succeed
    """What went wrong in this try."""

    def __init__(self, error: FetchError) -> None:
        super().__init__(error.problem)
        self.error = error


class PartialFile:
    """What has arrived of a file, and beside it which file that is: two lines, the address and the validator.

    Args:
        path: of the bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._origin = path.with_name(path.name + ".from")

    def resumable(self, url: str) -> tuple[int, str]:
        """How many bytes there are of what ``url`` gave, and the validator that it must still have; or ``(0, "")``."""
        try:
            origin, validator = self._origin.read_text(encoding="utf-8").splitlines()
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return 0, ""
        return (size, validator) if size and origin == url and _VALIDATOR.fullmatch(validator) else (0, "")

    def begin(self, url: str, validator: str) -> None:
        """Starts over. The bytes go first, so that they are never taken for those of another file.

        Raises:
            WriteError: the folder cannot be written to.
        """
        self.discard()
        if _VALIDATOR.fullmatch(validator):
            with writing(self._origin):
                self._origin.write_text(f"{url}\n{validator}\n", encoding="utf-8")

    def append(self) -> BinaryIO:
        """The file, to write at its end.

        Raises:
            WriteError: it cannot be opened.
        """
        with writing(self.path):
            return self.path.open("ab")

    def move(self, path: Path) -> None:
        """Gives the complete file its name.

        Raises:
            WriteError: it could not be brought to the disk or to its place.
        """
        with writing(path):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.path.replace(path)
            self._origin.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes both.

        Raises:
            WriteError: the folder cannot be written to.
        """
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            self._origin.unlink(missing_ok=True)


def download(url: str, part: PartialFile, *, name: str, most: int, patience: Patience, report: Report) -> None:
    """Fetches what ``url`` gives into ``part``, from where an earlier try has stopped.

    Args:
        url: ``http`` or ``https``.
        part: complete afterwards, if nothing is raised.
        name: what ``report`` calls the file.
        most: bytes that it may have.
        patience: with the server.
        report: told about every piece.

    Raises:
        UnreachableError: there is no connection.
        NotThereError: the server has no such file.
        FetchError: anything else that the server did; ``part`` is kept if only its rest is missing.
        WriteError: what came could not be written.
    """
    transfer = _Transfer(url, part, name, most, patience, report)
    for attempt in range(patience.tries):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            transfer.attempt()
        except _Interrupted as interruption:
            error = interruption.error
        else:
            return
    raise error


@dataclass(frozen=True, slots=True)
class _Transfer:
    """The arguments of `download`, and one try."""

    url: str
    part: PartialFile
    name: str
    most: int
    patience: Patience
    report: Report

    def attempt(self) -> None:
        import requests
        import urllib3

        from resnext_convert import __version__

        url, patience = self.url, self.patience
        have, validator = self.part.resumable(url)
        # What is fetched has checksums of its own bytes, so nothing may be compressed on the way.
        headers = {"User-Agent": f"resnext-convert/{__version__}", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        timeout = (patience.connect, patience.read)
        try:
            with requests.Session() as session:
                session.max_redirects = _REDIRECTS
                with session.get(url, headers=headers, timeout=timeout, stream=True) as response:
                    if (
                        have
                        and response.status_code == 416
                        and response.headers.get("Content-Range") == f"bytes */{have}"
                    ):
                        return  # nothing is missing
                    done, total = self._accept(response, have)
                    self._receive(response, done, total)
        except requests.TooManyRedirects:
            raise FetchError(f"redirects more than {_REDIRECTS} times", file=url) from None
        except requests.exceptions.SSLError as error:
            raise FetchError(f"there is no secure connection: {_reason(error)}", file=url) from error
        except requests.ConnectTimeout as error:
            raise _Interrupted(UnreachableError(f"no connection within {patience.connect:g} s", file=url)) from error
        except requests.Timeout as error:
            raise _Interrupted(FetchError(f"no answer within {patience.read:g} s", file=url)) from error
        except requests.ConnectionError as error:
            # urllib3 wraps it so when there is no connection at all; else it broke while in use.
            refused = bool(error.args) and isinstance(error.args[0], urllib3.exceptions.MaxRetryError)
            kind = UnreachableError if refused else FetchError
            raise _Interrupted(kind(f"the connection failed: {_reason(error)}", file=url)) from error
        except requests.exceptions.InvalidSchema as error:
            raise FetchError(
                "leads to what is no web address", file=url, expected="http or https", found=_reason(error)
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise FetchError(f"gives no answer that can be read: {_reason(error)}", file=url) from error

    def _accept(self, response: Response, have: int) -> tuple[int, int | None]:
        """Where the bytes that follow belong, and how many there will be in all (None: not announced)."""
        headers = response.headers
        total = _number(headers.get("Content-Length", ""))
        if response.status_code == 206 and have:
            total = self._rest(response, have)
        elif response.status_code == 200:
            have = 0
        else:
            self._refuse(response, have)
        if "html" in headers.get("Content-Type", "").lower():
            raise page(self.url)
        encoding = headers.get("Content-Encoding", "identity").lower()
        # Some servers announce a .gz so that is meant as it is.
        if encoding != "identity" and not ("gzip" in encoding and urlsplit(response.url).path.endswith(".gz")):
            raise FetchError(
                "sends it compressed although that was not asked for",
                file=self.url,
                expected="the file as it is",
                found=f"Content-Encoding: {encoding}",
            )
        if total is not None and total > self.most:
            self.part.discard()
            raise self._too_many(self.most, f"{total} announced")
        if not have:
            self.part.begin(self.url, headers.get("ETag") or headers.get("Last-Modified") or "")
        return have, total

    def _rest(self, response: Response, have: int) -> int:
        """How many bytes there are in all, if an answer is the whole rest of the file."""
        given, length = response.headers.get("Content-Range", ""), response.headers.get("Content-Length", "")
        match = _RANGE.fullmatch(given)
        first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
        if first == have and last + 1 == total and _number(length) in (None, total - have):
            return total
        self.part.discard()  # who knows which of the two answers was wrong
        raise _Interrupted(
            FetchError(
                "sends another part of the file than it was asked for",
                file=self.url,
                expected=f"the bytes from {have} to the end",
                found=f"Content-Range: {given or None}, Content-Length: {length or None}",
            )
        )

    def _refuse(self, response: Response, have: int) -> NoReturn:
        status = f"HTTP status {response.status_code} {response.reason or ''}".rstrip()
        kind = NotThereError if response.status_code in {404, 410} else FetchError
        refusal = kind("does not give the file", file=self.url, expected="200 OK", found=status)
        if response.status_code == 416 and have:
            self.part.discard()  # it has become shorter; from its beginning, then
            raise _Interrupted(refusal)
        raise _Interrupted(refusal) if response.status_code in _PASSING else refusal

    def _receive(self, response: Response, done: int, total: int | None) -> None:
        most = self.most if total is None else total
        file = self.part.append()
        try:
            self.report(self.name, done, total)
            since, before = time.monotonic(), done
            while data := self._next(response, done, total):
                done += len(data)
                if done > most:
                    raise self._too_many(most, "more")
                with writing(self.part.path):
                    file.write(data)
                self.report(self.name, done, total)
                passed = time.monotonic() - since
                if passed >= self.patience.read:
                    if done - before < self.patience.slowest * passed:
                        speed = f"only {(done - before) / passed:.0f} bytes a second came"
                        raise self._broken(done, total, speed)
                    since, before = time.monotonic(), done
            if total is not None and done < total:
                raise self._broken(done, total, "the connection was closed")
            with writing(self.part.path):
                file.flush()
        except FetchError:
            self.part.discard()
            raise
        finally:
            # What finds no room on a full disk was an error already; what is there is the beginning of the file.
            with contextlib.suppress(OSError):
                file.close()

    def _next(self, response: Response, done: int, total: int | None) -> bytes:
        import urllib3

        try:
            # read1: what is there now. read would wait for a whole piece, and lose it when the connection breaks.
            data: bytes = response.raw.read1(_CHUNK, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise self._broken(done, total, f"nothing came for {self.patience.read:g} s") from error
        except urllib3.exceptions.HTTPError as error:
            raise self._broken(done, total, "the connection broke off") from error
        return data

    def _broken(self, done: int, total: int | None, what: str) -> _Interrupted:
        expected = "the whole file" if total is None else f"{total} bytes"
        error = FetchError(f"{what} before the end", file=self.url, expected=expected, found=f"{done} bytes")
        return _Interrupted(error)

    def _too_many(self, most: int, found: str) -> FetchError:
        return FetchError(
            "sends more than the file can have", file=self.url, expected=f"at most {most} bytes", found=found
        )


def _number(text: str) -> int | None:
    """The value of a header that is a number of bytes; None if it is not there or is no such thing."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def page(where: object) -> FetchError:
    """The refusal of a page that came instead of a file."""
    return FetchError(
        "gives a web page, as servers do that want a login, a confirmation or payment, or have moved",
        file=where,
        expected="the file itself",
        found="HTML",
    )


def _reason(error: BaseException) -> str:
    """The innermost thing that is said about a failed request, without addresses of objects."""
    inner: object = error.args[0] if error.args else error
    inner = getattr(inner, "reason", inner)
    text = str(inner)
    # urllib3 puts the connection's repr before what it says.
    return printable(re.sub(r"^<[^>]*>: |^\w+Pool\(.*?\): |^\w+Connection\(.*?\): ", "", text))
