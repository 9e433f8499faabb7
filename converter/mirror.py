"""Where a mirror of the publishers' servers may have a file: their layout, or everything in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from resnext_convert.converter.releases import ReleaseFile


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file may be.

    Attributes:
        where: a path, or an address to fetch from.
        packed: it is the archive that holds the file.
        dead: since when it is known not to answer, and who says so.
        guess: it is one of several places in a mirror, and one of them is enough.
    """

    where: Path | str
    packed: bool
    dead: str = ""
    guess: bool = False


def is_address(mirror: str | Path) -> bool:
    """Whether a mirror is a web address, not a folder."""
    return isinstance(mirror, str) and mirror.lower().startswith(("http://", "https://"))


def places(file: ReleaseFile, mirror: str | Path) -> list[Place]:
    """The places of a mirror where a file may be, the likeliest first; none of them is outside of the mirror.

    For each location those are host and path as ``wget -r`` makes them, the path without the host, and the bare name.
    The last one is the file's own name, under which those are found that were fetched by hand. Links inside of a local
    mirror are followed: whoever has made it may have its files elsewhere.
    """
    relative: dict[tuple[tuple[str, ...], bool], None] = {}
    for location in file.locations:
        segments = () if location.page else _segments(location.url)
        if len(segments) > 1:
            packed = bool(file.archive)
            relative |= dict.fromkeys([(segments, packed), (segments[1:], packed), (segments[-1:], packed)])
    relative[(file.name,), False] = None
    if not isinstance(mirror, str) or not is_address(mirror):
        return [
            Place(Path(mirror).expanduser().joinpath(*segments), packed, guess=True) for segments, packed in relative
        ]
    base = mirror.rstrip("/")
    return [Place("/".join([base, *map(quote, segments)]), packed, guess=True) for segments, packed in relative]


def _segments(url: str) -> tuple[str, ...]:
    """Host and path, as names of folders and a file; nothing if one of them could lead elsewhere."""
    parts = urlsplit(url)
    segments = (parts.hostname or "", *(unquote(segment) for segment in parts.path.split("/") if segment))
    harmless = all(name not in {"", ".", ".."} and not set(name) & {"/", "\\", "\0"} for name in segments)
    return segments if harmless else ()
