"""The arguments and options that the commands share, with their help."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnext_convert.converter.errors import UsageError

if TYPE_CHECKING:
    from resnext_convert.converter.origin import GraphFacts, StemPool


class OracleOption(enum.StrEnum):
    """Whether to ask the original framework."""

    AUTO = "auto"
    NONE = "none"
    MXNET = "mxnet"
    OPENCV = "opencv"


class PrecisionOption(enum.StrEnum):
    """What weights can be rounded to."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class TargetChoice(enum.StrEnum):
    """The targets of `targets.TargetName`."""

    REFERENCE = "reference"
    TORCHVISION = "torchvision"
    TIMM = "timm"


class WantedOrderChoice(enum.StrEnum):
    """The orders of `targets.WantedOrder`."""

    SOURCE = "source"
    IMAGENET_2012 = "imagenet-2012"


class StemPoolChoice(enum.StrEnum):
    """The poolings behind a stem that networks published without a graph have."""

    FLOOR = "floor"
    CEIL = "ceil"
    NONE = "none"


Source = Annotated[
    str,  # a path, or the name of a release
    typer.Argument(
        metavar="SOURCE",
        help="The network: a folder with one pair of files, a prefix (models/resnext-101), one of the files; or, where "
        "no such file is here, the name of a published release (see `releases list`).",
        show_default=False,
    ),
]
Out = Annotated[
    str,  # not a path, which would lose the slash at the end
    typer.Argument(
        metavar="OUT",
        help="The checkpoint to write; its suffix says the format. .pth or .pt: a plain state dict; .safetensors; .h5: "
        "a tree of datasets. Its report goes beside it, as .json. A name that ends in /: a folder with config.json, "
        "model.safetensors and report.json.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="The checkpoint to check: .pth, .pt, .safetensors, .h5, or a folder with model.safetensors.",
        show_default=False,
    ),
]
ConvertedCheckpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT", help="A checkpoint that was written here, with its report beside it.", show_default=False
    ),
]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="JPEG, PNG and others.", show_default=False)]
ResultJsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]
TopOption = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many classes to name.")]
SymbolOption = Annotated[
    Path | None,
    typer.Option("--symbol", metavar="FILE", help="MXNet's symbol file. Default: the one that SOURCE names."),
]
LikeOption = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="RELEASE",
        help="For a params file without a symbol file: take eps and the stem's pooling from this release.",
    ),
]
EpsOption = Annotated[
    float | None,
    typer.Option("--bn-eps", metavar="X", min=0.0, help="Likewise, instead of --like: the eps of all normalisations."),
]
StemPoolOption = Annotated[
    StemPoolChoice | None,
    typer.Option(
        "--stem-pool",
        help="Likewise: 3x3 max of stride 2 with padding 1 (floor), without padding and rounded up (ceil), or none.",
    ),
]
TargetOption = Annotated[
    TargetChoice,
    typer.Option(
        "--target",
        help="reference: the network as it is, same input, same classes. torchvision, timm: weights that load into "
        "their stock model with strict=True and compute the same, for RGB in [0, 1], normalised as the report says.",
    ),
]
TargetOrToldOption = Annotated[
    TargetChoice | None,
    typer.Option(
        "--target",
        help="What the checkpoint is for. Default: as the report beside it says, else reference.",
        show_default=False,
    ),
]
ClassOrderOption = Annotated[
    WantedOrderChoice | None,
    typer.Option(
        "--class-order",
        help="The order of classes that goes out. Default: source; for torchvision and timm imagenet-2012, if there "
        "are 1000 classes.",
        show_default=False,
    ),
]
ParamsOption = Annotated[
    Path | None,
    typer.Option("--params", metavar="FILE", help="MXNet's params file. Default: the one that SOURCE names."),
]
PrototxtOption = Annotated[
    Path | None,
    typer.Option("--prototxt", metavar="FILE", help="Caffe's prototxt. Default: the one that SOURCE names."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Caffe's .caffemodel or .caffemodel.h5. Default: the one that SOURCE names."
    ),
]
EpochOption = Annotated[
    int | None,
    typer.Option(
        "--epoch",
        metavar="N",
        min=0,
        help="Take PREFIX-000N.params. Needed only where there are several.",
    ),
]
DtypeOption = Annotated[
    PrecisionOption | None,
    typer.Option(
        "--dtype",
        help="Round all weights to this precision, to nearest. Default: exact, in float32 where that loses nothing. "
        "The exact weights are proven, then that those written are their rounding.",
        show_default=False,
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        metavar="N",
        min=1,
        help="Side of the proof's largest image, in pixels. Default: what the graph declares, else 224 (32 for "
        "networks of small images), else what fits.",
    ),
]
OracleChoice = Annotated[
    OracleOption,
    typer.Option(
        "--oracle",
        help="Run the original engine as well: MXNet itself for its files, OpenCV's importer for Caffe's. auto: if it "
        "is installed and can be asked; mxnet, opencv: or fail; none: never.",
    ),
]
GoldenOption = Annotated[
    Path | None,
    typer.Option(
        "--golden",
        metavar="IO.npz",
        help="Compare with recorded outputs as well: arrays in:NAME (the image), out:NAME (float32), ref64:NAME "
        "(float64).",
    ),
]
ReportOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report, of a failed proof too: .html, .json or .xml (JUnit). May be given more than once.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout, and nothing else.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print more: every binding, every figure.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]


VerifyOption = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Prove the result before it is written, or write it unproven.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite/--no-overwrite", help="Replace OUT if it is there, once proven; or refuse to.")
]


def stated_facts(eps: float | None, stem_pool: StemPoolChoice | None) -> GraphFacts | None:
    """What ``--bn-eps`` and ``--stem-pool`` say; None where they say nothing.

    Raises:
        UsageError: one was given without the other.
    """
    if eps is None and stem_pool is None:
        return None
    if eps is None or stem_pool is None:
        raise UsageError(
            "half of what a params file without a symbol file does not say was stated",
            expected="--bn-eps and --stem-pool, or --like",
        )
    from resnext_convert.converter.origin import GraphFacts

    pools: dict[StemPoolChoice, StemPool] = {
        StemPoolChoice.FLOOR: "3x3 max, stride 2, padding 1",
        StemPoolChoice.CEIL: "3x3 max, stride 2, size rounded up",
        StemPoolChoice.NONE: "none",
    }
    return GraphFacts(eps=eps, stem_pool=pools[stem_pool])
