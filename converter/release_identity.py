"""Which release local files are, told by their content: publishers give different files the same name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import MissingFileError
from resnext_convert.converter.releases import Algorithm, Checksum, Release, ReleaseFile

if TYPE_CHECKING:  # the catalogue is shown without NumPy
    from resnext_convert.converter.tensors import TensorRef

Digest = Callable[[Path, Algorithm], str]
Proof = Literal["weights", "graph", "structure", "name", "none"]

TITLES: Final[Mapping[Algorithm, str]] = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384"}

_WEIGHTS: Final = ("params", "weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What local files are, and how that is known.

    Attributes:
        release: the release that they are; None: there is none, or it cannot be told which of ``possible``.
        possible: the releases that they may be; ``release`` alone where there is one.
        proof: what tells. ``weights``: they are the published ones, byte for byte; ``graph``: it is; ``structure``: of
            all releases of that name, this one alone has such tensors; ``name``: the name alone; ``none``: nothing.
        reason: one sentence for the user, which release and why; empty where nothing is possible.
        warnings: files that are not the published ones, one sentence each.
    """

    release: Release | None = None
    possible: tuple[Release, ...] = ()
    proof: Proof = "none"
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def class_order(self) -> ClassOrder | None:
        """The order of the classes, where it is the same for all that is possible."""
        orders = {release.class_order for release in self.possible}
        return orders.pop() if len(orders) == 1 else None

    @property
    def domain(self) -> InputDomain | None:
        """How the input is prepared, where that is the same for all that is possible, whoever says so."""
        domains = [release.domain for release in self.possible]
        first = domains[0] if domains else None
        if first is None:
            return None
        return first if all(domain and replace(domain, source=first.source) == first for domain in domains) else None


def identify(
    candidates: Sequence[Release],
    files: Mapping[str, Path],
    tensors: Mapping[str, TensorRef],
    *,
    digest: Digest | None = None,
) -> Identity:
    """Tells which of the releases whose name the files have they are.

    A published checksum of the weights decides, be it of a reissue. That they have another one decides nothing, since
    weights that were fine-tuned or saved again have; it is a warning. Then a published checksum of the graph decides,
    then the tensors: publishers call the first convolution differently, and normalisations of simpledet's weights have
    no statistics.

    Args:
        candidates: of `releases.candidates`, those that `releases.check` lets through.
        files: by role, as `Origin.files` has them; a role that no release has is not looked at.
        tensors: what is stored, as `SourceModel.tensors` has it.
        digest: of a file, in hexadecimal digits; asked once for each file and algorithm. None: `file_digest`.

    Raises:
        MissingFileError: a file cannot be read any more.
    """
    digests = _Digests(files, digest or file_digest)
    matches = list(_matches(candidates, digests))
    left, facts = _by_structure(candidates, tensors)
    proof: Proof = "structure" if len(candidates) > 1 else "name"
    for kind in ("weights", "graph"):
        # Names of roles differ between the frameworks; what is no weights file is the graph.
        found = [match for match in matches if (match.file.role in _WEIGHTS) == (kind == "weights")]
        if len({match.release.name for match in found}) == 1:
            proof, left, facts = kind, (found[0].release,), [found[0].sentence(files[found[0].file.role])]
            break
    if not left:
        return Identity()
    if len(left) > 1:
        names = " or ".join(release.name for release in left)
        return Identity(possible=left, reason=f"the files may be {names}; nothing in them tells which")
    why = "; ".join(facts) if facts and proof != "name" else "by the name of its files; nothing else tells"
    return Identity(
        release=left[0],
        possible=left,
        proof=proof,
        reason=f"taken for {left[0].name}: {why}",
        warnings=tuple(_contradictions(left[0], digests, matches)),
    )


def file_digest(path: Path, algorithm: Algorithm) -> str:
    """The digest of a file's bytes, in hexadecimal digits.

    Raises:
        MissingFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise MissingFileError(f"cannot be read: {error.strerror or error}", file=path) from error


# --- by checksum ------------------------------------------------------------------------------------------------------


class _Digests:
    """The digests of the local files, each computed when it is first asked for."""

    def __init__(self, files: Mapping[str, Path], digest: Digest) -> None:
        self.files = files
        self._digest = digest
        self._known: dict[tuple[str, Algorithm], str] = {}

    def has(self, role: str, checksum: Checksum) -> bool:
        key = (role, checksum.algorithm)
        if key not in self._known:
            self._known[key] = self._digest(self.files[role], checksum.algorithm)
        return self._known[key] == checksum.value


@dataclass(frozen=True, slots=True)
class _Match:
    """A local file that is a published one."""

    release: Release
    file: ReleaseFile
    checksum: Checksum
    by: str

    def sentence(self, local: Path) -> str:
        title = TITLES[self.checksum.algorithm]
        by = f" as {self.by} reissued it" if self.by else ""
        return f"{local.name} has the published {title} of its {self.file.role} file{by} ({self.checksum.source})"


def _matches(candidates: Sequence[Release], digests: _Digests) -> Iterator[_Match]:
    for release in candidates:
        for by, file in _files(release, digests.files):
            for checksum in file.checksums:
                if not checksum.archive and digests.has(file.role, checksum):
                    yield _Match(release, file, checksum, by)


def _files(release: Release, local: Mapping[str, Path]) -> Iterator[tuple[str, ReleaseFile]]:
    """The published files in whose role there is a local one, and who reissued them."""
    own = [("", file) for file in release.files]
    others = [(reissue.by, file) for reissue in release.reissues for file in reissue.files]
    return ((by, file) for by, file in (*own, *others) if file.role in local)


def _contradictions(release: Release, digests: _Digests, matches: Sequence[_Match]) -> Iterator[str]:
    for file in release.files:
        given = [checksum for checksum in file.checksums if not checksum.archive]
        published = any(match.release is release and match.file.role == file.role for match in matches)
        if file.role in digests.files and given and not published:
            yield (
                f"{digests.files[file.role].name} is not the {file.role} file that was published for {release.name}:"
                f" its {TITLES[given[0].algorithm]} is another one ({given[0].source}). It was saved again, changed or"
                " damaged"
            )


# --- by structure -----------------------------------------------------------------------------------------------------


def _by_structure(
    candidates: Sequence[Release], tensors: Mapping[str, TensorRef]
) -> tuple[tuple[Release, ...], list[str]]:
    """The releases that may have such tensors, and what was found where that left some out."""
    left = tuple(candidates)
    facts = []
    names = [name.rpartition(":")[2] for name in tensors]
    affine = _is_affine(tensors)
    for keeps, fact in (
        (
            lambda release: any(re.fullmatch(release.first_tensor, name) for name in names),
            "its tensors have that publisher's names",
        ),
        (
            lambda release: (release.layout == "simpledet") == affine,
            "its normalisations have no statistics: every mean is 0 and every variance 1"
            if affine
            else "its normalisations have statistics",
        ),
    ):
        kept = tuple(filter(keeps, left))
        if kept and len(kept) < len(left):  # that none is left says nothing: the tensors may have been renamed
            left = kept
            facts.append(fact)
    return left, facts


def _is_affine(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether all moving means are 0 and all moving variances 1, of a network that does not normalise its input."""
    means = [tensor for name, tensor in tensors.items() if name.endswith("_mean")]
    variances = [tensor for name, tensor in tensors.items() if name.endswith("_var")]
    if not (means and variances) or any("bn_data" in name for name in tensors):
        return False
    return not any(mean.numpy().any() for mean in means) and all((var.numpy() == 1).all() for var in variances)
