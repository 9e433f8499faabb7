"""The arguments and options that the commands share, with their help."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


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


Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="The network: a folder with one pair of files, a prefix (models/resnext-101), or one of the files.",
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
