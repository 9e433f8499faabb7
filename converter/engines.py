"""The original engines as witnesses of a proof: which one a source can be shown to, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resnext_convert.converter.caffe.deploy import deploy_text, obstacles
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.oracles import mxnet, opencv
from resnext_convert.converter.proof import Precision
from resnext_convert.converter.tensors import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that reads the source's own files.

    Attributes:
        option: its name on the command line.
        name: its name in reports.
        precisions: those that it can compute in.
        version: of the installed one; empty where there is none.
        cannot_be_asked: None, or why it cannot be asked about this source, in one sentence.
        note: what it is given instead of the source's own files; empty where it is given those.
        run: the values that are asked for, for one image (N, C, H, W), in a precision.
    """

    option: str
    name: str
    precisions: tuple[Precision, ...]
    version: Callable[[], str]
    cannot_be_asked: Callable[[SourceModel], str | None]
    note: Callable[[SourceModel], str]
    run: Callable[[SourceModel, Array, Sequence[str], Precision], dict[str, Array]]


def _mxnet_reason(model: SourceModel) -> str | None:
    files = model.origin.files
    if "symbol" not in files:
        return "there is no symbol file to give to MXNet"
    return mxnet.available() or mxnet.cannot_read(files["params"])


def _run_mxnet(model: SourceModel, image: Array, outputs: Sequence[str], precision: Precision) -> dict[str, Array]:
    files = model.origin.files
    return mxnet.run(
        files["symbol"],
        files["params"],
        {model.graph.inputs[0]: image},
        outputs,
        rename=model.origin.renamed,
        dtype=precision,
    )


def _opencv_reason(model: SourceModel) -> str | None:
    return opencv.available() or opencv.limits(model, _for_opencv(model, (1, 1, 1, 1)))


def _run_opencv(model: SourceModel, image: Array, outputs: Sequence[str], precision: Precision) -> dict[str, Array]:
    net, weights = _for_opencv(model, image.shape), model.origin.files["weights"]
    return opencv.run(net, weights, {model.graph.inputs[0]: image}, outputs)


def _opencv_note(model: SourceModel) -> str:
    path = model.origin.files["prototxt"]
    reasons = obstacles(read_prototxt(path).net)
    return f"it was given the deploy net in {path.name}, which has {', '.join(reasons)}" if reasons else ""


def _for_opencv(model: SourceModel, shape: tuple[int, ...]) -> Path | str:
    """The prototxt as it is; of a training net, which OpenCV does not understand, the text of the deploy net in it."""
    path = model.origin.files["prototxt"]
    net = read_prototxt(path).net
    return deploy_text(net, {model.graph.inputs[0]: shape}) if obstacles(net) else path


ENGINES: Final[Mapping[str, Engine]] = {
    "mxnet": Engine(
        option="mxnet",
        name="MXNet",
        precisions=("float32", "float64"),
        version=mxnet.version,
        cannot_be_asked=_mxnet_reason,
        note=lambda model: "",
        run=_run_mxnet,
    ),
    # OpenCV is not Caffe, but reads its files on its own, and agrees with it (docs/verification.md).
    "caffe": Engine(
        option="opencv",
        name="OpenCV",
        precisions=("float32",),
        version=opencv.version,
        cannot_be_asked=_opencv_reason,
        note=_opencv_note,
        run=_run_opencv,
    ),
}
"""The engine of each framework."""
