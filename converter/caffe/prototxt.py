"""Reads a prototxt: a net as protobuf text, which protobuf itself parses.

A prototxt may say more than ``schemas/caffe.proto`` has: fields that mean nothing at inference, and fields of forks.
The parser skips both, as no Caffe would; then the text's tokens are walked along the schema once more to learn which
they were, and what is not BVLC Caffe's own is noted.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.caffe.upgrade import upgrade
from resnext_convert.converter.errors import FormatError, in_file
from resnext_convert.schemas.caffe_pb2 import NetParameter

LARGEST: Final = 4 * 2**20
"""So many bytes are read at most; SENet-154 has 0.2 MB, and the parser may take seconds for each megabyte."""

WITHOUT_MEANING: Final = frozenset((
    # of a net, of any layer
    "force_backward", "debug_info", "propagate_down", "loss_param",
    # how weights begin, which code computes, how data are fetched
    "weight_filler", "bias_filler", "filler", "engine", "stable_prod_grad", "force_color", "force_gray", "backend",
    "rand_skip", "force_encoded_color", "prefetch", "data_filler", "shuffle", "shuffle_images", "root_folder",
    "fg_threshold", "bg_threshold", "fg_fraction", "context_pad", "crop_mode", "cache_images", "det_fg_threshold",
    "det_bg_threshold", "det_fg_fraction", "det_context_pad", "det_crop_mode", "new_num", "new_channels", "new_height",
    "new_width",
    # of types of layers that are not read, or have nothing else to say
    "accuracy_param", "argmax_param", "clip_param", "contrastive_loss_param", "crop_param", "elu_param", "embed_param",
    "exp_param", "hdf5_output_param", "hinge_loss_param", "infogain_loss_param", "log_param", "mvn_param",
    "parameter_param", "python_param", "recurrent_param", "reduction_param", "sigmoid_param", "spp_param",
    "swish_param", "tanh_param", "threshold_param", "tile_param",
))  # fmt: skip
"""The fields of BVLC Caffe that the schema leaves out: skipped without a note."""

_SOLVER: Final = frozenset(("net", "net_param", "train_net", "test_net", "base_lr", "lr_policy", "solver_mode"))
_MOST_NOTES = 20  # a hostile file has as many names as it likes
_LOOK = 4096  # bytes of the beginning that tell what a file is
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LONG = 4096  # characters of a line
_PIECE = re.compile(
    r"""
    "(?:[^"\\]|\\.)*+"?  |  '(?:[^'\\]|\\.)*+'?  # a string
    |  \#.*  # a comment
    |  [^"'\#\s{}\[\]<>:;,]+  # a word or a number
    |  \S
""",
    re.VERBOSE,
)
_OPENING = frozenset("{<[")
_CLOSING = frozenset("}>]")
_QUOTES = frozenset("\"'")

_COMPARE = "compare it with the publisher's file"

# What other files than prototxts begin with, after blanks.
_OTHERS: Final = (
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8, in an editor, without changing anything"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8, in an editor, without changing anything"),
    (b"<", "a web page (HTML or XML)", "the download failed; open the page to see why, then fetch the file"),
    (b"{", "JSON", "MXNet's symbol files are converted with `resnext-convert mxnet`"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file with `git lfs pull`"),
)

# What may be wrong, by what the parser says or what is in the line.
_HINTS: Final = (
    (re.compile("codec can't decode"), "save the file as UTF-8 or plain ASCII"),
    (
        re.compile(r"\b(data|diff|double_data|double_diff)\s*:"),
        "weights that are written out as text are not read; put them into a .caffemodel",
    ),
    (
        re.compile(r"\btype\b"),
        'the type is a text in `layer { type: "Convolution" }`, a name of old in `layers { type: CONVOLUTION }`',
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prototxt:
    """A net as text.

    Attributes:
        net: in its newest form: ``layer`` alone, its inputs among them, of all phases (`phase.select`).
        notes: what was skipped that BVLC Caffe would not know.
    """

    net: NetParameter
    notes: tuple[str, ...]


def read_prototxt(path: Path) -> Prototxt:
    """Reads and upgrades a net.

    Raises:
        InputError: as `parse_prototxt`, or the file cannot be opened.
    """
    return parse_prototxt(map_file(path), path)


def parse_prototxt(content: memoryview | bytes, file: object) -> Prototxt:
    """Reads and upgrades the text of a net. A byte order mark and either kind of line end are accepted.

    Args:
        content: the whole file. Bytes that are not UTF-8 may stand in comments.
        file: its name, for errors.

    Raises:
        FormatError: it is no prototxt of a net, or one of a form that Caffe refuses; with line and column where the
            parser knows them.
    """
    with in_file(file):
        text = _decode(content)
        net, skipped = _parse(text)
        if not net.layer and not net.layers:
            raise _no_net(skipped)
        try:
            upgrade(net)
        except FormatError as error:
            error.hint = error.hint or _COMPARE
            raise
        return Prototxt(net=net, notes=tuple(_notes(skipped)))


def _decode(content: memoryview | bytes) -> str:
    beginning = bytes(content[:_LOOK]).removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = [(what, hint) for magic, what, hint in _OTHERS if beginning.startswith(magic)]
    if _BINARY.search(beginning):
        kinds.append(("a binary file", "weights are named with --weights, the net's text with --prototxt"))
    if not beginning and len(content) <= _LOOK:
        kinds.append(("empty", "the download failed or the disk was full; fetch it again"))
    if kinds:
        what, hint = kinds[0]
        raise FormatError("this is not a prototxt", expected="the text of a net: layer { ... }", found=what, hint=hint)
    if len(content) > LARGEST:
        raise FormatError(
            "this is too large for a prototxt",
            expected=f"at most {LARGEST} bytes",
            found=len(content),
            hint="weights that are written out as text are not read; put them into a .caffemodel",
        )
    # Bytes that are not UTF-8 become the escapes that protobuf's text has for them: in comments (in GBK, say) they do
    # no harm, in names the parser refuses them. (Lone surrogates make protobuf's upb raise a SystemError.)
    return bytes(content).decode("utf-8-sig", errors="backslashreplace")


def _parse(text: str) -> tuple[NetParameter, Counter[str]]:
    net, lines = NetParameter(), _Lines(text)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "invalid .*escape sequence", DeprecationWarning)  # Caffe refuses those
            text_format.ParseLines(lines, net, allow_unknown_field=True)  # type: ignore[attr-defined]  # stubs
        return net, Counter(_skipped(text))
    except text_format.ParseError as error:
        raise _not_a_net(str(error), lines, error.GetLine(), error.GetColumn()) from None
    except DeprecationWarning:
        raise _not_a_net("a text has a backslash that stands for nothing", lines) from None
    except RecursionError:
        raise _not_a_net("the messages are nested too deeply", lines) from None


class _Lines:
    """The lines of a text as protobuf is given them; iterated once.

    A very long line is given in pieces, cut between tokens and without its blanks, because protobuf copies the line
    with each value that it skips (a file of one line would take time with its size squared) and keeps some state for
    each blank.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._given = 0

    def __iter__(self) -> Iterator[str]:
        for _, _, piece in self._pieces():
            self._given += 1
            yield piece

    def _pieces(self) -> Iterator[tuple[int, int, str]]:
        """What is given, and the line and the column where it begins, counted from 1 and from 0."""
        for number, line in enumerate(self._text.split("\n"), start=1):
            if len(line) <= _LONG:
                yield number, 0, line
            else:
                yield from ((number, piece.start(), piece[0]) for piece in _PIECE.finditer(line))

    def find(self, number: int | None) -> tuple[int, int, str]:
        """Of the piece of this number, or of the last that was given: its line, its column, the piece itself."""
        return next(islice(self._pieces(), (number or self._given) - 1, None))


def _not_a_net(words: str, lines: _Lines, given: int | None = None, column: int | None = None) -> FormatError:
    """The parser's words; it puts the place and the line in front of them, or, rarely, does not know the place."""
    number, start, line = lines.find(given)
    place = f"line {number}"
    if given is not None and column is not None:
        words = words.removeprefix(f"{given}:{column} : ").removeprefix(f"'{line}': ")
        place += f", column {start + column}"
    words = words.replace("resnext_convert.caffe.", "")
    hint = next((hint for wrong, hint in _HINTS if wrong.search(words) or wrong.search(line)), _COMPARE)
    return FormatError(f"this is not the text of a Caffe net: {words:.200}", place=place, hint=hint)


def _no_net(skipped: Counter[str]) -> FormatError:
    if solver := _SOLVER.intersection(skipped):
        return FormatError(
            "this is a solver's settings, not a net",
            expected="layer { ... }",
            found=", ".join(sorted(solver)),
            hint="its field `net` names the prototxt of the net",
        )
    names = [f"{name!r:.60}" for name in skipped][:5]
    return FormatError(
        "the net has no layer",
        expected="layer { ... }",
        found=", ".join(names) or "nothing that Caffe knows",
        hint="name the net's text with --prototxt",
    )


def _notes(skipped: Counter[str]) -> Iterator[str]:
    foreign = {path: count for path, count in skipped.items() if path.rpartition(".")[2] not in WITHOUT_MEANING}
    for path, count in list(foreign.items())[:_MOST_NOTES]:
        yield f"{path:.100}: unknown to BVLC Caffe, skipped ({count} {'times' if count > 1 else 'time'})"
    if len(foreign) > _MOST_NOTES:
        yield f"{len(foreign) - _MOST_NOTES} more fields: unknown to BVLC Caffe, skipped"


def _skipped(text: str) -> Iterator[str]:
    """The path of each field that the schema lacks, within its layer, of a text that has been parsed."""
    tokens = text_format.Tokenizer(_Lines(text))
    while not tokens.AtEnd():
        for path in _walk_field(tokens, NetParameter.DESCRIPTOR):
            yield re.sub(r"^layers?\.", "", path)


# The descriptors of messages are Any: each of protobuf's runtimes has classes of its own for them.


def _walk_field(tokens: text_format.Tokenizer, message: Any) -> Iterator[str]:
    """One field: its name, and its value or list of values."""
    name = tokens.ConsumeIdentifierOrNumber()
    field = message.fields_by_name.get(name)
    tokens.TryConsume(":")
    if field is None:
        yield name
    if field is None or field.message_type is None:
        _skip_value(tokens)
    elif tokens.TryConsume("["):
        while not tokens.TryConsume("]"):
            yield from _walk_message(tokens, field)
            tokens.TryConsume(",")
    else:
        yield from _walk_message(tokens, field)
    if not tokens.TryConsume(","):
        tokens.TryConsume(";")


def _walk_message(tokens: text_format.Tokenizer, field: Any) -> Iterator[str]:
    end = "}" if tokens.TryConsume("{") else ">"
    tokens.TryConsume("<")
    while not tokens.TryConsume(end):
        yield from (f"{field.name}.{path}" for path in _walk_field(tokens, field.message_type))


def _skip_value(tokens: text_format.Tokenizer) -> None:
    """A value of any kind: a block or a list up to its end, adjacent strings, or one word or number."""
    depth = 0
    while not tokens.AtEnd():
        token = tokens.token
        tokens.NextToken()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and not (token[0] in _QUOTES and tokens.token[:1] in _QUOTES):
            return
