"""From what a user names to a network that is understood: files of one's own, or a published release by its name."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict, Unpack

from resnext_convert.converter import fetch, readers, releases
from resnext_convert.converter.classes import ClassOrder, labels
from resnext_convert.converter.domain import InputDomain, stated_or_declared
from resnext_convert.converter.download import Report
from resnext_convert.converter.errors import (
    FetchError,
    InputError,
    MissingFileError,
    NotResNeXtError,
    ReleaseMismatchError,
    UsageError,
)
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.origin import GraphFacts
from resnext_convert.converter.readers import Framework, SourceOptions
from resnext_convert.converter.release_identity import Identity, identify
from resnext_convert.converter.releases import Release
from resnext_convert.converter.resnext.match import Match, match

Watch = Callable[[], AbstractContextManager[tuple[Report, Callable[[str], None]]]]


class SourceArguments(TypedDict, total=False):
    """What can be said of a source besides its name: arguments of `convert` and `verify`, all of them optional.

    symbol: MXNet's symbol file, where the name does not say.
    params: MXNet's params file, likewise.
    epoch: which of several params files.
    facts: what MXNet's weights without a symbol file do not say.
    like: a release of the catalogue that has the same; instead of ``facts``.
    prototxt: Caffe's prototxt.
    weights: Caffe's ``.caffemodel`` or ``.h5``.
    mirror: a folder or a web address that holds a release's files.
    cache: the folder where fetched files are kept.
    offline: no server is asked.
    domain: what the network is fed, where no release says so, or in spite of what it says.
    source_class_order: the order of its classes, likewise.
    """

    symbol: Path | None
    params: Path | None
    epoch: int | None
    facts: GraphFacts | None
    like: str | None
    prototxt: Path | None
    weights: Path | None
    mirror: str | Path | None
    cache: Path | None
    offline: bool
    domain: InputDomain | None
    source_class_order: ClassOrder | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The files that a user means, and what was said of them.

    Attributes:
        framework: what wrote them.
        name: as the user wrote it.
        source: a folder, a prefix, or one of the files.
        options: files that are named, or fetched.
        release: the release that was asked for by name; None: files of the user's own.
        domain: as it was stated.
        class_order: as it was stated.
    """

    framework: Framework
    name: str
    source: Path
    options: SourceOptions
    release: Release | None
    domain: InputDomain | None
    class_order: ClassOrder | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A network that is understood.

    Attributes:
        model: as it was read.
        match: what it was recognised as.
        release: the published release that it is; None: none, as far as can be told.
        domain: what it is fed; None: not known.
        class_order: the order of its classes; None: not known.
        identified: why it is taken for that release, or for none of several; empty where there is nothing to say.
        warnings: files that are not the published ones.
    """

    model: SourceModel
    match: Match
    release: Release | None
    domain: InputDomain | None
    class_order: ClassOrder | None
    identified: str
    warnings: tuple[str, ...]


@contextlib.contextmanager
def unwatched() -> Iterator[tuple[Report, Callable[[str], None]]]:
    """Fetches in silence."""
    yield (lambda name, done, total: None), (lambda message: None)


def locate(
    framework: Framework | None,
    source: Path | str,
    *,
    watch: Watch = unwatched,
    **said: Unpack[SourceArguments],
) -> Located:
    """Finds the files that a source names; fetches them if it is the name of a release, and no file here has it.

    Args:
        framework: what wrote them; None: as the files, or the catalogue, say.
        source: a folder, a prefix, a file, or the name of a release.
        watch: shows how far the files of a release are.
        said: see `SourceArguments`.

    Raises:
        UsageError: the arguments contradict each other, or several releases have that name.
        FetchError: a file of the release cannot be had.
        MissingFileError: it is neither.
    """
    if framework is not None and framework not in readers.FRAMEWORKS:
        raise UsageError(f"there is no reader for {framework!r}", expected=" or ".join(readers.FRAMEWORKS))
    options = SourceOptions(
        symbol=said.get("symbol"),
        params=said.get("params"),
        epoch=said.get("epoch"),
        facts=_facts(said),
        prototxt=said.get("prototxt"),
        weights=said.get("weights"),
    )
    mirror = said.get("mirror")
    path = Path(source)
    release = None
    if not options.names_files and (mirror is not None or not _is_here(path)):
        release = _release(str(source), framework, mirror)
    if release is not None:
        if options != SourceOptions():
            raise UsageError(
                "what is said of the files is said of files of one's own, and a release's name was given",
                found=str(source),
                hint="leave those options out, or name files instead of a release",
            )
        with watch() as (report, say):
            files = fetch.fetch(
                release,
                mirror=mirror,
                cache=said.get("cache"),
                offline=said.get("offline", False),
                report=report,
                say=say,
            )
        if not files:
            raise FetchError(
                f"{release.name} was published in no form that can be converted",
                hint=f"`resnext-convert releases show {release.name}` says what there is",
            )
        path = next(iter(files.values()))
        options = (
            SourceOptions(facts=facts_of(release))
            if release.layout
            else SourceOptions(
                symbol=files.get("symbol"),
                params=files.get("params"),
                prototxt=files.get("prototxt"),
                weights=files.get("weights"),
            )
        )
    with _as_a_name(str(source), framework, release):
        return Located(
            framework=framework or (release.framework if release else readers.framework_of(path, options)),
            name=str(source),
            source=path,
            options=options,
            release=release,
            domain=said.get("domain"),
            class_order=said.get("source_class_order"),
        )


def understand(located: Located) -> Source:
    """Reads the files and recognises the network, and says which release it is.

    Raises:
        ReleaseMismatchError: it is not what its name says.
        ConvertError: as `readers.read` and `match`.
    """
    with _as_a_name(located.name, located.framework, located.release), _told_apart(located):
        model = readers.read(located.framework, located.source, located.options)
        found = match(model)
    if located.release:
        releases.check((located.release,), found.config, located.name, exactly=True)
        identity = _confirmed(located.release, model)
    elif located.options.names_files:
        identity = Identity()
    else:
        identity = identity_of(located.source, model, found)
    order = located.class_order or _fitting_order(identity.class_order, found)
    return Source(
        model=model,
        match=found,
        release=identity.release,
        domain=stated_or_declared(located.domain, identity.domain),
        class_order=order,
        identified=identity.reason,
        warnings=identity.warnings,
    )


def identity_of(source: Path, model: SourceModel, found: Match) -> Identity:
    """Which release files of one's own are, by their name and their content.

    Raises:
        ReleaseMismatchError: they have the name of a release and hold another network.
    """
    candidates = releases.candidates(source, model.origin.framework)
    fitting = releases.check(candidates, found.config, source)
    return identify(fitting, model.origin.files, model.tensors)


def facts_of(release: Release) -> GraphFacts:
    """What the catalogue knows of a release that the names and shapes of its tensors do not tell.

    Raises:
        UsageError: it does not know it.
    """
    expected = release.expected
    if expected is None or len(expected.eps) != 1 or expected.stem_pool is None:
        raise UsageError(
            f"the catalogue does not know the eps of {release.name}, and its files do not say it",
            hint="fetch its files (`resnext-convert releases fetch`) and state --bn-eps X and --stem-pool",
        )
    return GraphFacts(eps=expected.eps[0], stem_pool=expected.stem_pool)


def _facts(said: SourceArguments) -> GraphFacts | None:
    like = said.get("like")
    if like is None:
        return said.get("facts")
    if said.get("facts") is not None:
        raise UsageError("eps and pooling are stated twice", expected="a release that has the same, or both numbers")
    return facts_of(releases.find(like, "mxnet"))


def _confirmed(release: Release, model: SourceModel) -> Identity:
    """The identity of files that were taken for a release; publishers give different files the same name."""
    sharing = releases.sharing(release.bare_name, release.framework)
    identity = identify(sharing, model.origin.files, model.tensors)
    other = identity.release
    if other is not None and other is not release and identity.proof in {"weights", "structure"}:
        raise ReleaseMismatchError(
            f"the files are those of another release of the same name: {identity.reason}",
            file=model.origin.graph_file,
            expected=release.name,
            found=other.name,
            hint=f"convert them as {other.name}",
        )
    return Identity(release=release, possible=(release,))


@contextlib.contextmanager
def _told_apart(located: Located) -> Iterator[None]:
    """Adds to an error which of several releases with files of one name the weights are, where they tell."""
    try:
        yield
    except (InputError, NotResNeXtError) as error:
        if located.framework == "mxnet" and (reason := _weights_reason(located)):
            error.add_note(reason)
        raise


def _weights_reason(located: Located) -> str:
    """What the params file alone says; empty where its name is one release's only, or it cannot be read."""
    source = located.source
    files = [located.options.params or source, *source.parent.glob(f"{glob.escape(source.name)}-[0-9]*.params")]
    path = next((file for file in files if file.suffix == ".params" and file.is_file()), None)
    sharing = releases.sharing(releases.prefix_of(path.name), "mxnet") if path else ()
    if path is None or len(sharing) < 2:
        return ""
    try:
        return identify(sharing, {"params": path}, read_params(path).tensors).reason
    except InputError:
        return ""


def _fitting_order(order: ClassOrder | None, found: Match) -> ClassOrder | None:
    """The order of a release's classes; it says nothing of a network that was fine-tuned for another number of them."""
    return order if order and len(labels(order)) == found.config.head.classes else None


_AROUND: Final = ("deploy_", "deploy-", "-deploy", "_deploy")


def _is_here(source: Path) -> bool:
    """Whether a source is a folder, a file, or the prefix of a file that is here."""
    try:
        if source.exists():
            return True
        names = [releases.prefix_of(file.name) for file in source.parent.iterdir()] if source.parent.is_dir() else []
    except OSError:
        return True  # the reader says what is wrong
    for around in _AROUND:
        names += [name.removeprefix(around).removesuffix(around) for name in names]
    return source.name in names


def _release(name: str, framework: Framework | None, mirror: str | Path | None) -> Release | None:
    """The release that a name means; None: it is none, and files of one's own are meant."""
    if releases.called(name, framework) or mirror is not None:
        return releases.find(name, framework)
    return None


@contextlib.contextmanager
def _as_a_name(name: str, framework: Framework | None, release: Release | None) -> Iterator[None]:
    """Adds to an error about absent files that the name is no release's either."""
    try:
        yield
    except MissingFileError as error:
        if release is None and "/" not in name:
            try:
                releases.find(name, framework)
            except UsageError as unknown:
                error.add_note(f"nor is it a release: {unknown}")
        raise
