"""Reads an image file into a network's input, as an `InputDomain` says.

The steps are those of torchvision's ``Resize(resize)``, ``CenterCrop(crop)``, ``ToTensor()`` and
``Normalize(mean, std)`` on Pillow images, and give the same float32 values to the last bit
(``tests/test_images_peers.py``). A file becomes 8-bit RGB as torchvision's and timm's loaders do it
(``Image.open(file).convert("RGB")``): an alpha channel is left out, a colour profile is not applied, and neither is the
orientation of EXIF. Where that conversion would lose what the image shows (greyscale of 16 bits, which Pillow would
clip), the high byte of each pixel is taken, as OpenCV does, with which MXNet and Caffe read their images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, UnsupportedError, UsageError
from resnext_convert.converter.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS: Final[tuple[str, ...]] = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of pixels. Pillow knows others, which would start other programs (EPS) or are not of photographs."""

USUAL_RESIZE: Final = 256
USUAL_CROP: Final = 224
"""What ImageNet's networks are evaluated with, those of MXNet, Caffe, torchvision and timm alike."""

_ORIENTATION: Final = 0x0112  # the tag in EXIF
_PLAIN: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BITS: Final = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image gets the network's size.

    Attributes:
        resize: the length of the shorter side after resizing, in pixels.
        crop: height and width of what is cut out of the middle.
        note: what was not known and how it was decided; empty where all was known.
    """

    resize: int
    crop: tuple[int, int]
    note: str = ""

    @property
    def text(self) -> str:
        """In words: ``shorter side to 256, the middle 224x224``."""
        return f"shorter side to {self.resize}, the middle {self.crop[0]}x{self.crop[1]}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkInput:
    """An image as a network takes it.

    Attributes:
        values: (1, 3, H, W), float32, in the network's units and order of channels.
        notes: what was odd about the file, and how it was understood.
    """

    values: Array
    notes: tuple[str, ...] = ()


def geometry(domain: InputDomain, size: tuple[int, int]) -> Geometry:
    """How images get their size.

    Args:
        domain: says how far images are resized and how much is cut out, as far as that is known.
        size: height and width that the network takes; what is cut out where the domain does not say.

    Returns:
        Where it is not known how far images are resized, 256 / 224 times as far as what is cut out.

    Raises:
        UsageError: more is to be cut out than there is after resizing, or nothing.
    """
    crop = (domain.crop, domain.crop) if domain.crop else size
    note = ""
    if domain.resize is None:
        resize = round(max(crop) * USUAL_RESIZE / USUAL_CROP)
        note = (
            f"how images are resized is not known: the shorter side becomes {resize}, {USUAL_RESIZE} / {USUAL_CROP} of"
            f" what is cut out; an image of {crop[0]}x{crop[1]} is taken as it is"
        )
    else:
        resize = domain.resize
    if min(crop) < 1 or resize < max(crop):
        raise UsageError(
            f"what {domain.source} says about the size of images cannot be",
            expected="a shorter side after resizing that is at least what is cut out",
            found=f"a shorter side of {resize}, {crop[0]}x{crop[1]} to cut out",
        )
    return Geometry(resize=resize, crop=crop, note=note)


def read_image(path: Path, domain: InputDomain, how: Geometry) -> NetworkInput:
    """Reads an image file and prepares it: resized, cropped, in the network's colours and units.

    Args:
        path: of a format of `FORMATS`. Of an animation, the first frame is taken.
        domain: colour, range, mean and std.
        how: the size.

    Raises:
        MissingFileError: there is no such file.
        UnsupportedError: its pixels are of a kind that has no one meaning as 8-bit RGB, or it is too large.
        FormatError: it is no image, or damaged.
        InputError: it cannot be read.
    """
    image, notes = _rgb(path)
    image = _cut(image, domain, how, path)
    return NetworkInput(values=_as_input(np.asarray(image), domain), notes=notes)


# --- files ------------------------------------------------------------------------------------------------------------


def _rgb(path: Path) -> tuple[Picture, tuple[str, ...]]:
    """The image in 8-bit RGB, and what is to be said about it."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise MissingFileError("there is no such image", file=path) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    from PIL import Image

    with file, _typed_errors(path):
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        with Image.open(file, formats=known) as image:
            image.load()
            return _converted(image, path), tuple(_notes(image))


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; what is wrong with the pixels is an error
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, MemoryError) as error:
        raise _too_large(path, "more, by what the file announces") from error
    except UnidentifiedImageError as error:
        raise FormatError("this is no image", file=path, expected=f"one of {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged bytes lead decoders to OSError, SyntaxError, ValueError, struct.error ...
        raise FormatError(f"the image is damaged: {error or type(error).__name__}", file=path) from error


def _most_pixels() -> float:
    """Pillow's own limit, which a program may have changed."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or float("inf")


def _too_large(path: Path, found: str) -> UnsupportedError:
    return UnsupportedError(
        "the image is too large", file=path, expected=f"at most {_most_pixels():,} pixels", found=found
    )


def _converted(image: Picture, path: Path) -> Picture:
    from PIL import Image

    if image.mode == "RGB":
        return image.copy()
    # Older releases of Pillow open PNG and PGM of 16 bits as 32 bits.
    wide = image.mode == "I" and image.format in {"PNG", "PPM"}
    if image.mode in _SIXTEEN_BITS or wide:
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise UnsupportedError(
            "the image has pixels of 32 bits, and the file does not say which value is white",
            file=path,
            expected="8 or 16 bits a channel",
            hint="save it with 8 bits a channel",
        )
    if image.mode not in _PLAIN:
        raise UnsupportedError(f"the image has pixels of the kind {image.mode}", file=path, hint="save it as RGB")
    return image.convert("RGB")


def _notes(image: Picture) -> Iterator[str]:
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        yield "its transparency is left out: the colours below it are taken"
    if image.mode in _SIXTEEN_BITS or image.mode == "I":
        yield "of its 16 bits a pixel, the high 8 are taken"
    if image.mode == "CMYK":
        yield "it is CMYK, for print, and was converted to RGB without its colour profile"
    # A photograph of several pictures (MPO) has one that is meant, the first.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        yield f"of its {frames} frames, the first is taken"
    if image.getexif().get(_ORIENTATION, 1) not in {0, 1}:
        yield "EXIF says that it is to be turned; it is taken as it is stored, as torchvision and timm take it"


# --- pixels -----------------------------------------------------------------------------------------------------------


def _cut(image: Picture, domain: InputDomain, how: Geometry, path: Path) -> Picture:
    """Resized and cropped as by torchvision: the longer side is rounded down, half a pixel of an offset to even."""
    from PIL.Image import Resampling

    height, width = how.crop
    if domain.resize is None and image.size == (width, height):
        return image  # where nobody says how images are resized, one that fits has been
    short, long = sorted(image.size)
    longer = int(how.resize * long / short)
    if how.resize * longer > _most_pixels():  # a line of one pixel's width would become a huge image
        raise _too_large(path, f"{image.size[0]}x{image.size[1]}, which would be resized to {how.resize * longer:,}")
    sides = (how.resize, longer) if image.size[0] <= image.size[1] else (longer, how.resize)
    resized = image.resize(sides, Resampling.BILINEAR)
    left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def _as_input(pixels: Array, domain: InputDomain) -> Array:
    """(H, W, 3) RGB of 0..255 to (1, 3, H, W), step by step in float32."""
    ordered = pixels[:, :, ::-1] if domain.colour == "bgr" else pixels
    values = ordered.transpose(2, 0, 1).astype(np.float32)
    if domain.range == 1:
        values /= np.float32(255)
    mean, std = (np.array(triple, np.float32).reshape(3, 1, 1) for triple in (domain.mean, domain.std))
    return np.ascontiguousarray(((values - mean) / std)[np.newaxis])
