"""The catalogue of published releases: what ``schemas/releases.toml`` says of each, and which release a name means."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Literal, get_args

from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import ReleaseMismatchError, UsageError
from resnext_convert.converter.origin import StemPool
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.overview import norms, pool_text

Algorithm = Literal["md5", "sha1", "sha256", "sha384"]
Layout = Literal["gluoncv", "osmr", "simpledet"]
Availability = Literal["url", "by hand", "dead", "nowhere"]
"""``url``: a program can fetch it; ``by hand``: a person can, from a page; ``dead``: no address answers any more."""

_AVAILABILITIES: Final = get_args(Availability)

LIST: Final = "resnext-convert releases list"
"""The command that shows all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """A checksum of a file as it was published, or of the archive that holds it.

    Attributes:
        algorithm: which one.
        value: in hexadecimal digits.
        source: who published it, or of what it was computed.
        archive: it is that of the archive as it is fetched.
    """

    algorithm: Algorithm
    value: str
    source: str
    archive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a file was published.

    Attributes:
        url: as published.
        dead: since when it is known not to answer, and who says so; empty where that is not known.
        page: it is a page for people (Google Drive, Baidu, OneDrive), not a file that a program can fetch.
    """

    url: str
    dead: str = ""
    page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One file of a release.

    Attributes:
        role: ``symbol``, ``params``, ``prototxt`` or ``weights``.
        name: the file's name, unpacked.
        locations: in order of preference.
        archive: the locations give this kind of archive, which holds the file; empty: the file itself.
        bytes: its exact size, unpacked, where that is known.
        archive_bytes: the archive's, likewise.
        size: its size in words, where only that was published (``95.8 MB``).
        checksums: all that were published.
    """

    role: Literal["symbol", "params", "prototxt", "weights"]
    name: str
    locations: tuple[Location, ...] = ()
    archive: Literal["", "zip", "gz"] = ""
    bytes: int | None = None
    archive_bytes: int | None = None
    size: str = ""
    checksums: tuple[Checksum, ...] = ()

    @property
    def availability(self) -> Availability:
        """How it can be had, as far as is known: by the best of its locations."""
        living = [location for location in self.locations if not location.dead]
        if not living:
            return "dead" if self.locations else "nowhere"
        return "by hand" if all(location.page for location in living) else "url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reissue:
    """The network of a release in other files, which someone else made of it and published.

    Attributes:
        by: who.
        what: how they differ, to be read after "by ...: ".
        files: all of them.
    """

    by: str
    what: str
    files: tuple[ReleaseFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The configuration that a release must turn out to have.

    Attributes:
        network: its summary (`ResNeXtConfig.summary`).
        stem_pool: in the words of `overview.pool_text`; None: not known.
        eps: every eps of its normalisations; empty: not known.
        data_norm: whether it normalises its input itself (``bn_data``).
        classes: of its classifier; None: not known.
    """

    network: str
    stem_pool: StemPool | None = None
    eps: tuple[float, ...] = ()
    data_norm: bool | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published release.

    Attributes:
        id: its number in the catalogue (``M1``).
        name: unique in the catalogue.
        aliases: other names that mean it; one that several releases share means none of them alone.
        framework: whose files it has.
        publisher: who published it.
        files: all of it.
        reissues: the same network in other files, by others.
        layout: for weights that were published without a graph: whose code named the tensors; empty: there is a graph.
        first_tensor: a regular expression of the name, without ``arg:``, of its first convolution's weights: publishers
            whose releases have the same name differ there.
        elements: of all its tensors together, as its graph says.
        expected: what it must turn out to be; None where it is no classifier of the family.
        licence: of the weights, as far as the publisher says.
        top1: published accuracy on the validation set, in percent; None: not published.
        top5: likewise.
        accuracy_source: who measured that.
        class_order: of its classifier; None: not known.
        domain: how its input is prepared; None: not known.
        uncertain: what is inferred rather than known, one sentence each.
        notes: what a user should know, one sentence each.
    """

    id: str
    name: str
    framework: Literal["mxnet", "caffe"]
    publisher: str
    aliases: tuple[str, ...] = ()
    files: tuple[ReleaseFile, ...] = ()
    reissues: tuple[Reissue, ...] = ()
    layout: Literal["", "gluoncv", "osmr", "simpledet"] = ""
    first_tensor: str = ""
    elements: int | None = None
    expected: Expected | None = None
    licence: str = ""
    top1: float | None = None
    top5: float | None = None
    accuracy_source: str = ""
    class_order: ClassOrder | None = None
    domain: InputDomain | None = None
    uncertain: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bare_name(self) -> str:
        """The name without the publisher before it."""
        return self.name.rpartition("/")[2]

    @property
    def availability(self) -> Availability:
        """How it can be had, as far as is known: the worst of its files."""
        return max((file.availability for file in self.files), key=_AVAILABILITIES.index, default="nowhere")


@cache
def catalogue() -> tuple[Release, ...]:
    """All releases of ``schemas/releases.toml``."""
    from pydantic import TypeAdapter  # here, because the types alone do not need it

    text = resources.files("resnext_convert.schemas").joinpath("releases.toml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Release, ...]).validate_python(tomllib.loads(text)["release"])


def of_framework(framework: str | None) -> tuple[Release, ...]:
    """Those of one framework, or all.

    Raises:
        UsageError: there is none of that framework.
    """
    found = tuple(release for release in catalogue() if framework in (None, release.framework))
    if not found:
        raise UsageError(f"there are no releases of {framework!r}", expected="mxnet or caffe")
    return found


# --- by name ---------------------------------------------------------------------------------------------------------


def find(name: str, framework: str | None = None) -> Release:
    """The release that a name means: its own name first, then an alias, then either in other letters' case.

    Raises:
        UsageError: no release has the name, or an alias is that of several.
    """
    found = called(name, framework)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"several releases are called {name!r}",
            expected=" or ".join(release.name for release in found),
            hint=f"say which one; `{LIST}` shows all",
        )
    raise _unknown(name, framework, of_framework(framework))


def called(name: str, framework: str | None = None) -> tuple[Release, ...]:
    """The releases that a name may mean, as `find` looks for them: of the first kind of name that any release has."""
    releases = of_framework(framework)
    wanted = name.casefold()
    for found in (
        [release for release in releases if name == release.name],
        [release for release in releases if name in release.aliases],
        [release for release in releases if wanted == release.name.casefold()],
        [release for release in releases if wanted in map(str.casefold, release.aliases)],
    ):
        if found:
            return tuple(found)
    return ()


def _unknown(name: str, framework: str | None, releases: Iterable[Release]) -> UsageError:
    elsewhere = [release for release in catalogue() if name in (release.name, *release.aliases)]
    if elsewhere:
        problem = f"{name!r} is no release of {framework}, but of {elsewhere[0].framework}"
        return UsageError(problem, hint=f"`{LIST}` shows all")
    names = [(text.casefold(), release.name) for release in releases for text in (release.name, *release.aliases)]
    near = difflib.get_close_matches(name.casefold(), [text for text, _ in names], n=5, cutoff=0.75)
    close = list(dict.fromkeys(found for text in near for known, found in names if known == text))[:5]
    return UsageError(
        f"no release is called {name!r}",
        expected=f"a name such as {', '.join(close)}" if close else None,
        hint=f"`{LIST}` shows all",
    )


_PREFIX: Final = re.compile(
    r"(?P<prefix>.+?)(?:-symbol\.json|(?:-[0-9]{4,})?\.params|\.prototxt|\.caffemodel(?:\.h5)?)", re.DOTALL
)


def candidates(source: Path, framework: str) -> tuple[Release, ...]:
    """The releases that a prefix of local files, such as ``models/resnext-101-64x4d``, may be by its name.

    Publishers share names, so there may be several: `check` says which of them the network fits, and
    `release_identity.identify` which of them the files are. A file or a folder names none.
    """
    return () if source.is_file() or source.is_dir() else sharing(source.name, framework)


def sharing(prefix: str, framework: str) -> tuple[Release, ...]:
    """The releases whose files have a prefix, or whose name without the publisher it is."""
    return tuple(release for release in of_framework(framework) if prefix in _local_names(release))


def prefix_of(file_name: str) -> str:
    """What the name of a source file begins with: ``resnext-101`` of ``resnext-101-symbol.json``; empty for others."""
    match = _PREFIX.fullmatch(file_name)
    return match["prefix"] if match else ""


def _local_names(release: Release) -> set[str]:
    found = {release.bare_name, *(alias for alias in release.aliases if "/" not in alias)}
    return found | {prefix for file in release.files if (prefix := prefix_of(file.name))}


# --- what it must turn out to be -------------------------------------------------------------------------------------


def check(
    releases: Sequence[Release], config: ResNeXtConfig, source: object, *, exactly: bool = False
) -> tuple[Release, ...]:
    """Compares the network that was found with those that its name may mean.

    Args:
        releases: what the name may mean; none of them: nothing is compared.
        config: what was found.
        source: what the user named, for the message.
        exactly: the number of classes must agree too; without it the files may be a release that was fine-tuned.

    Returns:
        Those that it fits.

    Raises:
        ReleaseMismatchError: it fits none.
    """
    found = _facts(config)
    wanted = [_wanted(release.expected, exactly=exactly) for release in releases]
    wrong = [[fact for fact, text in facts.items() if text != found[fact]] for facts in wanted]
    fitting = tuple(release for release, facts in zip(releases, wrong, strict=True) if not facts)
    if fitting or not releases:
        return fitting
    # Where the network is another one altogether, how its pooling differs is of no interest.
    wrong = [["network"] if "network" in facts else ["network", *facts] for facts in wrong]
    expected = ["; ".join(facts[fact] for fact in named) for facts, named in zip(wanted, wrong, strict=True)]
    publishers = dict.fromkeys(release.publisher for release in releases)
    raise ReleaseMismatchError(
        f"the source is called {releases[0].bare_name}, as a release of {' and one of '.join(publishers)} is, but is"
        " another network",
        file=source,
        expected=" or ".join(dict.fromkeys(expected)),
        found="; ".join(found[fact] for fact in dict.fromkeys(fact for facts in wrong for fact in facts)),
        hint="if the prefix is a name of your own, name its two files instead: --symbol and --params, or --prototxt and"
        " --weights",
    )


def _facts(config: ResNeXtConfig) -> dict[str, str]:
    """What was found, in the words of `_wanted`."""
    return {
        "network": config.summary,
        "stem_pool": _stem_pool(pool_text(config.stem_pool)),
        "eps": _eps(norm.eps for norm in norms(config)),
        "data_norm": _data_norm(config.data_norm is not None),
        "classes": _classes(config.head.classes),
    }


def _wanted(expected: Expected | None, *, exactly: bool) -> dict[str, str]:
    """What must be found, as far as it is known."""
    if expected is None:
        return {}
    known = {"network": expected.network}
    if expected.stem_pool:
        known["stem_pool"] = _stem_pool(expected.stem_pool)
    if expected.eps:
        known["eps"] = _eps(expected.eps)
    if expected.data_norm is not None:
        known["data_norm"] = _data_norm(expected.data_norm)
    if expected.classes and exactly:
        known["classes"] = _classes(expected.classes)
    return known


def _stem_pool(text: str) -> str:
    return f"stem pool: {text}"


def _eps(values: Iterable[float]) -> str:
    """To six digits: Caffe stores them as float32."""
    return f"eps {' and '.join(f'{value:g}' for value in sorted({float(f'{value:g}') for value in values}))}"


def _data_norm(normalised: bool) -> str:
    return "bn_data" if normalised else "no bn_data"


def _classes(number: int) -> str:
    return f"{number:,} classes"
