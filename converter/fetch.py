"""The files of a published release: from the user's own copy, from the cache, or from where they were published.

A file gets its name in the cache when it is complete and all that was published about it agrees, and is used from there
only while that is so. Where no checksum was published, the SHA-256 that the file had when it came is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from resnext_convert.converter.download import (
    MOST,
    NotThereError,
    PartialFile,
    Patience,
    Report,
    UnreachableError,
    download,
    page,
)
from resnext_convert.converter.errors import FetchError, WriteError
from resnext_convert.converter.mirror import Place, is_address, places
from resnext_convert.converter.releases import Release, ReleaseFile
from resnext_convert.converter.staging import StagedFile, commit, writing
from resnext_convert.converter.unpack import unpack

CACHE_VARIABLE = "RESNEXT_CONVERT_CACHE"
MIRROR_VARIABLE = "RESNEXT_CONVERT_FROM"


def fetch(
    release: Release,
    *,
    report: Report,
    say: Callable[[str], None],
    mirror: str | Path | None = None,
    cache: Path | None = None,
    offline: bool = False,
    patience: Patience | None = None,
) -> dict[str, Path]:
    """Finds or fetches all files of a release.

    Each file is looked for in a local mirror, in the cache, in a mirror on the web, and where it was published, in this
    order. In a local mirror it stays where it is, unless it must be unpacked.

    Args:
        release: whose files.
        report: told how far a file is (`download.Report`).
        say: told, in whole sentences, what a user should know: what is unverified, what failed and is tried elsewhere.
        mirror: a folder or a web address; None: what ``RESNEXT_CONVERT_FROM`` says, if anything.
        cache: None: what ``RESNEXT_CONVERT_CACHE`` says, else the platform's folder for caches.
        offline: nothing is asked of any server.
        patience: with servers; None: the usual.

    Returns:
        The path of each file, by its role.

    Raises:
        FetchError: a file cannot be had; its notes say what happened in each place.
        WriteError: the cache cannot be written to.
    """
    mirror = mirror or os.environ.get(MIRROR_VARIABLE) or None
    if mirror is not None and not is_address(mirror) and not Path(mirror).expanduser().is_dir():
        raise FetchError("there is no such folder", file=mirror, hint="--from names a folder or a web address")
    folder = cache_folder(cache) / folder_name(release)
    fetcher = _Fetcher(release, folder, mirror, offline, patience or Patience(), report, say)
    try:
        return {file.role: fetcher.find(file) for file in release.files}
    except WriteError as error:
        error.hint = f"{error.hint}; --cache-dir or {CACHE_VARIABLE} names another folder"
        raise


def copied(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Copies files into a folder, which is made if it is not there; each appears whole or not at all.

    Raises:
        WriteError: a copy cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for role, path in files.items():
        with StagedFile(folder / path.name) as staged, path.open("rb") as original:
            with writing(staged.path):
                shutil.copyfileobj(original, staged.file)
            commit([staged])
        made[role] = folder / path.name
    return made


def cache_folder(cache: Path | None = None) -> Path:
    """Where files are kept: the folder named, that of ``RESNEXT_CONVERT_CACHE``, or the platform's for caches."""
    import pooch

    named = cache or os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("resnext-convert"))


def folder_name(release: Release) -> str:
    """The name of a release's folder in the cache: one folder, though the release's name may be a path."""
    return f"{release.framework}--{quote(release.name.replace('/', '--'), safe=' ')}"


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """The arguments of `fetch`.

    Attributes:
        folder: the release's, in the cache.
        unreachable: servers, and what happened when one was tried.
    """

    release: Release
    folder: Path
    mirror: str | Path | None
    offline: bool
    patience: Patience
    report: Report
    say: Callable[[str], None]
    unreachable: dict[str, str] = field(default_factory=dict)

    def find(self, file: ReleaseFile) -> Path:
        if file.name in {"", ".", ".."} or "/" in file.name:
            raise FetchError("the catalogue is wrong: this is no name of a file", file=file.name)
        failures: list[FetchError] = []
        local, remote = self._places(file, failures)
        for place in local:
            if not place.packed and (path := self._tried(place, file, failures, self._in_place)):
                return path
        try:
            if path := self._cached(file):
                return path
        except FetchError as error:
            self.say(f"the cache is not to be trusted: {error}" + ("" if self.offline else "; it is fetched anew"))
            failures.append(error)
        others = [*(place for place in local if place.packed), *remote]
        if others:
            with self._alone():
                # Another process may have had the lock, and have fetched it.
                with contextlib.suppress(FetchError):
                    if path := self._cached(file):
                        return path
                self._forget(self.folder / file.name)
                for place in others:
                    if path := self._tried(place, file, failures, self._into_cache):
                        return path
        raise self._refusal(file, failures)

    def _places(self, file: ReleaseFile, failures: list[FetchError]) -> tuple[list[Place], list[Place]]:
        """The places where the file may be: on this machine, and elsewhere."""
        local: list[Place] = []
        remote: list[Place] = []
        if self.mirror is not None:
            found = places(file, self.mirror)
            if is_address(self.mirror):
                remote = found
            else:
                local = [place for place in found if isinstance(place.where, Path) and place.where.is_file()]
                if not local:
                    failures.append(
                        FetchError(f"has no {file.name}, in any folder where it might be", file=self.mirror)
                    )
                    self.say(str(failures[-1]))
        published = [Place(x.url, bool(file.archive), x.dead) for x in file.locations if not x.page]
        return local, [] if self.offline else remote + published

    def _tried(
        self,
        place: Place,
        file: ReleaseFile,
        failures: list[FetchError],
        way: Callable[[Place, ReleaseFile], Path],
    ) -> Path | None:
        try:
            return way(place, file)
        except FetchError as error:
            failures.append(error)
            if not (place.guess and isinstance(error, NotThereError)):
                self.say(str(error))
            return None

    # --- the places -----------------------------------------------------------------------------------------------

    def _in_place(self, place: Place, file: ReleaseFile) -> Path:
        path = Path(place.where)
        _check(path, file, packed=False, where=path)
        self._say_unverified(file, path, packed=False)
        return path

    def _cached(self, file: ReleaseFile) -> Path | None:
        """The file in the cache, if there is one; a `FetchError` if it is not what it was."""
        path = self.folder / file.name
        if not path.is_file():
            return None
        _check(path, file, packed=False, where=path)
        if not _checksums(file, packed=False):
            _check_recorded(path)
        return path

    @staticmethod
    def _forget(path: Path) -> None:
        with writing(path):
            path.unlink(missing_ok=True)
            _recorded(path).unlink(missing_ok=True)

    def _into_cache(self, place: Place, file: ReleaseFile) -> Path:
        path = self.folder / file.name
        if isinstance(place.where, Path):
            return self._unpacked(place.where, file, path, where=place.where)
        name = f"{file.name}.{file.archive}" if place.packed else file.name
        part = PartialFile(self.folder / f"{name}.part")
        self._download(place, place.where, part, name, None if place.packed else file.bytes)
        try:
            if place.packed:
                self._unpacked(part.path, file, path, where=place.where)
                part.discard()
            else:
                _check(part.path, file, packed=False, where=place.where)
                _record(part.path, path, file)
                part.move(path)
        except FetchError:
            part.discard()
            raise
        self._say_unverified(file, place.where, packed=place.packed)
        return path

    def _download(self, place: Place, url: str, part: PartialFile, name: str, exact: int | None) -> None:
        server = urlsplit(url).netloc
        if server in self.unreachable:
            raise NotThereError(f"is not tried again: {self.unreachable[server]}", file=url)
        patience = self.patience
        if place.dead:
            patience = replace(patience, tries=1)  # nobody waits thrice for a server that is gone
            self.say(f"{url} is known not to answer ({place.dead}); trying it all the same")
        try:
            download(url, part, name=name, most=exact or MOST, patience=patience, report=self.report)
        except UnreachableError as error:
            self.unreachable[server] = error.problem
            raise

    def _unpacked(self, archive: Path, file: ReleaseFile, path: Path, *, where: Path | str) -> Path:
        """The file of an archive, in the cache; ``where`` is what a user knows the archive by."""
        assert file.archive
        try:
            _check(archive, file, packed=True, where=where)
            with StagedFile(path) as staged:
                unpack(archive, file.archive, file.name, staged.file, place=path, most=file.bytes or MOST)
                _check(staged.readable, file, packed=False, where=f"{file.name} in {where}")
                _record(staged.readable, path, file)
                commit([staged])
        except FetchError as error:
            if error.file == str(archive):
                error.file = str(where)  # not the partial file, which is gone when the user reads this
            raise
        if isinstance(where, Path):
            self._say_unverified(file, where, packed=True)
        return path

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process works in this release's folder meanwhile."""
        import filelock

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock")
        with contextlib.ExitStack() as stack:
            with writing(self.folder / ".lock"):
                try:
                    lock.acquire(timeout=0)
                except filelock.Timeout:
                    self.say(f"another process is fetching into {self.folder}; waiting for it")
                    lock.acquire()
            stack.callback(lock.release)
            yield

    # --- what is said ---------------------------------------------------------------------------------------------

    def _say_unverified(self, file: ReleaseFile, where: Path | str, *, packed: bool) -> None:
        if not _checksums(file, packed=False) and not (packed and _checksums(file, packed=True)):
            but = " but its size" if file.bytes is not None else ""
            self.say(f"{where}: nothing{but} was published to check {file.name} by: it is unverified")

    def _refusal(self, file: ReleaseFile, failures: list[FetchError]) -> FetchError:
        """What happened everywhere, and what to do."""
        what = f"{file.name} of {self.release.name}"
        pages = [location.url for location in file.locations if location.page]
        by_hand = f"fetch it by hand from {' or '.join(pages)}, " if pages else ""
        advice = [f"{by_hand}put {file.name} into a folder DIR and say --from DIR"]
        if any(self.folder.glob(f"{file.name}*.part")):
            advice.insert(0, "try again: what has come is kept, and only the rest is fetched")
        if self.offline:
            advice.append("try again without --offline")
        advice.append(f"if another cache has it, say --cache-dir (now {self.folder.parent})")
        if self.offline:
            error = FetchError(f"{what} is not on this machine, and --offline asks no server")
        elif len(failures) == 1:
            error = failures.pop()
        elif failures:
            error = FetchError(f"{what} cannot be had: {len(failures)} places were tried")
        else:
            error = FetchError(f"{what} was published in no place that a program can fetch from")
        for failure in failures:
            error.add_note(str(failure))
        error.hint = "; or ".join(advice)
        return error


# --- whether it is the file -----------------------------------------------------------------------------------------


def _checksums(file: ReleaseFile, *, packed: bool) -> list[tuple[str, str, str]]:
    """Algorithm, value and source of what was published of the file, or of its archive."""
    return [(x.algorithm, x.value.lower(), x.source) for x in file.checksums if x.archive == packed]


def _check(path: Path, file: ReleaseFile, *, packed: bool, where: Path | str) -> None:
    """Compares a file, or its archive, with all that was published about it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            head = opened.read(512)
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise page(where)
        if not size:
            raise FetchError("is empty", file=where)
        if not packed and file.bytes is not None and size != file.bytes:
            raise _another(where, f"{file.bytes} bytes", f"{size} bytes")
        for algorithm, value, source in _checksums(file, packed=packed):
            digest = _digest(path, algorithm)
            if digest != value:
                raise _another(where, f"{algorithm} {value} ({source})", digest)
    except OSError as error:
        raise FetchError(f"cannot be read: {error.strerror or error}", file=where) from error


def _another(where: Path | str, expected: str, found: str) -> FetchError:
    return FetchError("is not the file that was published", file=where, expected=expected, found=found)


def _digest(path: Path, algorithm: str) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg=algorithm))


def _recorded(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, final: Path, file: ReleaseFile) -> None:
    """Keeps a new file's SHA-256 (as ``sha256sum -c`` reads it) where nothing better was published."""
    if not _checksums(file, packed=False):
        with StagedFile(_recorded(final)) as staged, writing(staged.path):
            staged.file.write(f"{_digest(path, 'sha256')}  {final.name}\n".encode())
            commit([staged])


def _check_recorded(path: Path) -> None:
    try:
        recorded = _recorded(path).read_text(encoding="utf-8").split(maxsplit=1)[:1]
        digest = _digest(path, "sha256")
    except (OSError, ValueError) as error:
        raise FetchError("there is no record of its checksum", file=path) from error
    if recorded != [digest]:
        expected = f"sha256 {' '.join(recorded)}, as it was when it was fetched"
        raise FetchError("has changed since it was fetched", file=path, expected=expected, found=digest)
