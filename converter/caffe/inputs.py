"""What a net says about its input: the shape, and how pixels become it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resnext_convert.converter.caffe.layers import input_shapes
from resnext_convert.converter.caffe.mean import read_mean
from resnext_convert.converter.caffe.shapes import Shape
from resnext_convert.converter.errors import FormatError, InputError
from resnext_convert.converter.origin import PixelTransform
from resnext_convert.schemas.caffe_pb2 import LayerParameter

_COLOURS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How pixels become the network's input.

    Attributes:
        transform: None where it is not known.
        mean_file: the mean image that was read for it.
        notes: how it was understood.
    """

    transform: PixelTransform | None = None
    mean_file: Path | None = None
    notes: tuple[str, ...] = ()


def fed_shapes(layer: LayerParameter) -> tuple[Shape | None, ...]:
    """The shape of each top of a layer that is fed, 0 where it is not known; None: nothing is known.

    Of a layer that reads data, the first top is an image; its batch is a matter of the training.

    Raises:
        FormatError: as `input_shapes`.
    """
    unknown = (None,) * len(layer.top)
    if layer.type == "Input":
        return input_shapes(layer) or unknown
    channels, height, width = _image(layer)
    crop = layer.transform_param.crop_size
    means = len(layer.transform_param.mean_value)  # a single one is for any number of channels (data_transformer.cpp)
    shape = (0, channels or (means if means > 1 else 0), crop or height, crop or width)
    return (shape, *unknown[1:]) if layer.top and any(shape) else unknown


def _image(layer: LayerParameter) -> tuple[int, int, int]:
    """Channels, height and width of what a layer reads, before anything is cut out; 0 where the net does not say."""
    match layer.type:
        case "MemoryData":
            memory = layer.memory_data_param
            return memory.channels, memory.height, memory.width
        case "ImageData":
            images = layer.image_data_param
            return _COLOURS if images.is_color else 1, images.new_height, images.new_width
        case "WindowData":
            return _COLOURS, 0, 0
    return 0, 0, 0


def read_preparation(layer: LayerParameter, folder: Path, channels: int) -> Preparation:
    """How a net prepares pixels: the transform parameters of the layer that reads them (data_transformer.cpp).

    A mean image that they name is looked for under its base name beside the prototxt. A net whose input is fed says
    nothing; there, a mean image that lies beside it, if it is the only one, is taken to belong to it.

    Args:
        layer: the one that the input comes from.
        folder: of the prototxt.
        channels: of the network's input; 0: not known.

    Raises:
        FormatError: Caffe refuses the parameters, or the mean image that they name cannot be read.
    """
    param = layer.transform_param
    if layer.type == "Input":
        return _undeclared(folder, channels)
    if not layer.HasField("transform_param"):
        return Preparation()
    if param.mean_value and param.HasField("mean_file"):
        raise FormatError("Cannot specify mean_file and mean_value at the same time")
    mean = tuple(param.mean_value)
    source = f"transform_param of layer {layer.name!r} ({layer.type})"
    path = None
    notes: list[str] = []
    if param.HasField("mean_file"):
        path = _beside(folder, param.mean_file)
        if path is None:
            note = (
                f"the mean image {param.mean_file!r:.200} that layer {layer.name!r} subtracts is not beside the"
                " prototxt: how pixels become the input is not recorded"
            )
            return Preparation(notes=(note,))
        mean = read_mean(path).channels
        source += f" with {path.name}"
        notes.append(f"of the mean image {path.name}, the mean of each channel is recorded")
    if not all(map(math.isfinite, (param.scale, *mean))):
        raise FormatError("transform_param holds what is no number", found=f"scale {param.scale}, mean_value {mean}")
    if len(mean) == 1:
        mean *= channels or 1
    if mean and channels and len(mean) != channels:
        raise FormatError(
            "Specify either 1 mean_value or as many as channels", expected=f"{channels} channels", found=len(mean)
        )
    transform = PixelTransform(mean=mean, scale=param.scale, crop=param.crop_size or None, source=source)
    return Preparation(transform=transform, mean_file=path, notes=tuple(notes))


def _beside(folder: Path, name: str) -> Path | None:
    """The file in ``folder`` that has the last part of a path's name, which may be of another system."""
    base = re.split(r"[\\/]", name)[-1]
    if not base.isprintable() or base in {"", ".", ".."}:
        return None
    try:
        return path if (path := folder / base).is_file() else None
    except OSError:  # a name that is too long
        return None


def _undeclared(folder: Path, channels: int) -> Preparation:
    try:
        (path,) = (file for file in folder.glob("*.binaryproto") if file.is_file())
        mean = read_mean(path).channels
    except (OSError, ValueError, InputError):  # none or several; or it is no mean image, and nobody said that it is
        return Preparation()
    if channels not in {0, len(mean)}:
        return Preparation()
    note = (
        f"{path.name} lies beside the prototxt and is recorded as the mean that is subtracted from pixels; no file says"
        " that it is"
    )
    return Preparation(
        transform=PixelTransform(mean=mean, source=f"{path.name} beside the prototxt"), mean_file=path, notes=(note,)
    )
