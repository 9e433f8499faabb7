"""OpenCV's importer of Caffe's files as a witness, run in a process of its own (`child`).

It is not Caffe, but it reads both files by itself, with a parser and a schema of its own, and computes with code of its
own. Measured on the recordings of real Caffe with OpenCV 4.8, 4.10 and 4.14, it agrees with Caffe to float32 rounding
(2e-5 of peak and better), but

- some files it cannot read, and some it reads as another network without a word. About those it is not asked:
  `cannot_read` and `limits` say why. A wrong witness is worse than none;
- a few spellings must be rewritten first: `opencv_text.rewritten` has all of them, each with its reason. A file that
  needs none is given to OpenCV as it is.

Both need a look at the text, by its grammar alone: what OpenCV is asked does not depend on our schema of Caffe's
messages. Run as a module, this file is the child.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.errors import InputError, UsageError
from resnext_convert.converter.graph import (
    LRN,
    BatchNorm,
    Bias,
    Flatten,
    Linear,
    Node,
    Pool,
    Scale,
    SourceModel,
    Split,
)
from resnext_convert.converter.oracles import child, opencv_text
from resnext_convert.converter.tensors import Array, DType

RELEASES: Final = ((4, 8), (5, 0))
"""From the first to before the second: ``enableWinograd`` came with 4.7, and 5.0 has no Caffe importer."""

PACKAGES: Final = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
"""The packages that bring cv2."""

_HDF5 = b"\x89HDF\r\n\x1a\n"


def available() -> str | None:
    """None if the oracle can be asked, else the reason in one sentence. OpenCV is looked for, not imported."""
    found = version()
    if not found:
        return "OpenCV is not installed"
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    first, last = RELEASES
    if not first <= numbers < last:
        return f"OpenCV {found} is installed, and the oracle needs 4.8 or a later 4.x, which have a Caffe importer"
    return None


def version() -> str:
    """The version of the installed OpenCV, from its package metadata; empty where there is none."""
    for package in PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def limits(model: SourceModel, prototxt: Path | str | None = None) -> str | None:
    """None, or why OpenCV cannot be asked about a network, in one sentence.

    Args:
        model: the network.
        prototxt: the net that OpenCV is to be given, as for `run`; None: the model's own file.

    Raises:
        InputError: as `cannot_read`.
    """
    files = model.origin.files
    if reason := cannot_read(files["prototxt"] if prototxt is None else prototxt, files["weights"]):
        return reason
    read = {value for node in model.graph.nodes for value in node.inputs}
    for node in model.graph.nodes:
        if any(model.tensors[name].dtype is DType.FLOAT64 for name in node.params.values()):
            return f"OpenCV does not read weights in double precision ({node})"
        if reason := _node_limit(node, read):
            return f"{reason} ({node})"
    return None


def _node_limit(node: Node, read: Container[str]) -> str | None:
    """Why OpenCV would fail at a node, or compute something else there; ``read`` are the values that are read."""
    match attrs := node.attrs:
        case BatchNorm(batch_statistics=True):
            return "OpenCV has no statistics of a batch"
        case Bias():
            return "OpenCV has no Bias layer"
        case LRN():
            return "OpenCV's LRN has other defaults, and does not look at k"
        case Linear(transpose=True):
            return "OpenCV does not look at an InnerProduct's transpose"
        case Linear(axis=axis) | Flatten(axis=axis) if axis == 0 or axis < -1:
            return "OpenCV gives the output of an InnerProduct or a Flatten along that axis another shape"
        case Split(points=()) if any(value not in read for value in node.outputs):
            return "OpenCV cuts a Slice into as many parts as are read"
        case Scale() if attrs.axis < 0:
            return "OpenCV does not count a Scale's axis from the end"
        case Scale(num_axes=0):
            return "OpenCV does not read a Scale's single number"
        case Scale(bias=True) if len(node.inputs) > 1:
            return "OpenCV takes the bias of a Scale of two inputs for its factor"
        case Pool(global_pool=False, ceil=True) if any(attrs.padding) and not all(attrs.padding):
            return "OpenCV leaves out the last window of a pooling only along axes that are padded"
        case Pool(global_pool=False, ceil=True) if _steps_over(attrs):
            return "OpenCV has another value for a window outside the map"
    return None


def _steps_over(pool: Pool) -> bool:
    """Whether a window may begin behind a map without padding."""
    return not any(pool.padding) and any(step > size for step, size in zip(pool.stride, pool.kernel, strict=True))


def cannot_read(prototxt: Path | str, weights: Path) -> str | None:
    """None, or why OpenCV cannot read files that are in order, or would read them otherwise than Caffe.

    Args:
        prototxt: the net's file, or its text.
        weights: the ``.caffemodel``.

    Raises:
        MissingFileError: there is no such file.
        InputError: it cannot be opened.
        FormatError: the prototxt is not protobuf text.
    """
    stored = map_file(weights)
    if bytes(stored[: len(_HDF5)]) == _HDF5:
        return "OpenCV does not read weights in HDF5"
    repeated = [name for name, times in Counter(_layers_with_blobs(stored)).items() if times > 1]
    if repeated:
        name = opencv_text.shown(repeated[0])
        return f"OpenCV takes the first of a layer's copies in the file, Caffe the last ({name} has several)"
    return opencv_text.limit(opencv_text.parse(_content(prototxt)))


def _layers_with_blobs(stored: memoryview) -> Iterator[bytes]:
    """The names of the layers in a caffemodel that hold blobs, in the file's order.

    ``layer``, 100, with name 1 and blobs 7; ``layers`` of V1, 2, with name 4 and blobs 6.
    """
    for number, layer in _messages(stored):
        name_field, blobs = {100: (1, 7), 2: (4, 6)}.get(number, (0, 0))
        fields = dict(_messages(layer)) if blobs else {}
        if blobs in fields:
            yield bytes(fields.get(name_field, b""))


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a protobuf message, by their numbers, up to where it is damaged."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                yield tag >> 3, message[at : at + size]
                at += size
            case 5:
                at += 4
            case _:
                return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where it ends."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    return 0, len(message)


def _content(prototxt: Path | str) -> bytes:
    return prototxt.encode() if isinstance(prototxt, str) else bytes(map_file(prototxt))


# The question


def run(prototxt: Path | str, weights: Path, feed: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """Computes blobs of a network in float32, layer by layer (no fusion) and without Winograd's transformation.

    Fusion changes nothing measurable, but hides what was fused; Winograd's transformation costs a factor of three in
    accuracy.

    Args:
        prototxt: the net's file, or its text. No phases: a training net must be given as its deploy net.
        weights: the ``.caffemodel``.
        feed: each input, (N, C, H, W), by its blob's name; of any size that the layers take, whatever the net declares.
        outputs: blobs, as they are at the end. What a layer wrote that another overwrote is ``blob@layer``.

    Returns:
        The blobs by name, in the order asked for, float32.

    Raises:
        UsageError: OpenCV is not available or cannot be imported, cannot be asked about such files, or no output was
            asked for.
        InputError: OpenCV refuses the files, or there is no such blob; ``found`` is what it says.
    """
    reason = available() or cannot_read(prototxt, weights)
    if reason is not None:
        raise UsageError(reason, file=weights, hint=child.NOT_ASKED)
    graph = prototxt if isinstance(prototxt, Path) else "the prototxt's text"
    if not outputs:
        raise UsageError("the oracle was asked for no output", file=graph)
    text = opencv_text.rewritten(_content(prototxt))
    writers = opencv_text.writers(opencv_text.parse(text))
    if unknown := [output for output in outputs if output not in writers]:
        raise InputError(
            f"OpenCV {version()} cannot be asked for every output",
            file=graph,
            found=f"no layer makes {', '.join(unknown)}",
        )
    with tempfile.TemporaryDirectory(prefix="resnext-convert-net-") as name:
        net = Path(name) / "net.prototxt"
        net.write_bytes(text)
        return child.ask(
            __name__,
            f"OpenCV {version()}",
            {"net": str(net), "weights": str(weights.absolute()), "layers": [writers[output] for output in outputs]},
            {blob: np.asarray(array, np.float32) for blob, array in feed.items()},
            outputs,
            graph=graph,
            weights=weights,
        )


def _import() -> Any:
    import cv2

    return cv2


def _compute(cv2: Any, request: Mapping[str, Any], feed: Mapping[str, Array]) -> list[Array]:
    try:
        net = cv2.dnn.readNetFromCaffe(request["net"], request["weights"])
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        net.enableFusion(False)
        net.enableWinograd(False)
        for name, array in feed.items():
            net.setInput(array, name)
        return list(net.forward(request["layers"]))
    except cv2.error as error:
        # Its words are of several lines, the reason in none of them alone.
        raise child.RefusedError(" ".join(f"{error.err} ({error.func})".split())) from error


if __name__ == "__main__":
    child.serve(_import, _compute)
