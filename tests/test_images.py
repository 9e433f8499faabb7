"""Image files to a network's input: kinds of pixels, sizes, units, and what is refused."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from repository import FIXTURES

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import FormatError, InputError, MissingFileError, UnsupportedError, UsageError
from resnext_convert.converter.images import Geometry, geometry, read_image

RAW = InputDomain(colour="rgb", source="a test")
SHAPES = FIXTURES / "images/shapes.ppm"
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def pixels(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def taken(path: Path, domain: InputDomain = RAW, size: tuple[int, int] = (8, 10)) -> tuple[Any, tuple[str, ...]]:
    """The values of an image of the network's size, which is neither resized nor cropped: (3, H, W)."""
    found = read_image(path, domain, geometry(domain, size))
    assert found.values.dtype == np.float32
    assert found.values.shape == (1, 3, *size)
    assert found.values.flags.c_contiguous
    return found.values[0], found.notes


# --- units ------------------------------------------------------------------------------------------------------


def test_raw_pixels(tmp_path: Path) -> None:
    image = pixels(8, 10)
    path = saved(Image.fromarray(image), tmp_path / "a.png")
    values, notes = taken(path)
    assert np.array_equal(values, image.transpose(2, 0, 1))
    assert notes == ()
    assert np.array_equal(taken(path, replace(RAW, colour="bgr"))[0], values[::-1])


def test_range_mean_and_deviation_are_in_the_networks_order(tmp_path: Path) -> None:
    image = pixels(8, 10)
    path = saved(Image.fromarray(image), tmp_path / "a.png")
    domain = InputDomain(colour="bgr", range=1, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), source="a test")
    values, _ = taken(path, domain)
    for place, (mean, std) in enumerate(zip(domain.mean, domain.std, strict=True)):
        expected = (image[:, :, 2 - place] / 255 - mean) / std
        assert np.abs(values[place] - expected).max() < 1e-6  # float32 of values up to 4
    values, _ = taken(path, replace(RAW, mean=(100.0, 110.0, 120.0)))
    assert np.array_equal(values[1], image[:, :, 1] - 110.0)


# --- kinds of pixels --------------------------------------------------------------------------------------------


def test_grey_palette_and_bilevel(tmp_path: Path) -> None:
    grey = Image.fromarray(pixels(8, 10)[:, :, 0])
    values, notes = taken(saved(grey, tmp_path / "l.png"))
    assert np.array_equal(values, np.broadcast_to(np.asarray(grey), (3, 8, 10)))
    assert notes == ()
    palette = Image.fromarray(pixels(8, 10)).quantize(16)
    values, _ = taken(saved(palette, tmp_path / "p.png"))
    assert np.array_equal(values, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    values, _ = taken(saved(grey.convert("1"), tmp_path / "1.png"))
    assert set(np.unique(values)) == {0, 255}


def test_transparency_is_left_out(tmp_path: Path) -> None:
    image = pixels(8, 10, 4)
    values, (note,) = taken(saved(Image.fromarray(image), tmp_path / "a.png"))
    assert np.array_equal(values, image[:, :, :3].transpose(2, 0, 1))
    assert "transparency" in note
    palette = Image.fromarray(image[:, :, :3]).quantize(16)
    path = saved(palette, tmp_path / "p.png", transparency=bytes(range(16)))
    values, (note,) = taken(path)
    assert np.array_equal(values, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert "transparency" in note


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_not_clipped(suffix: str, tmp_path: Path) -> None:
    wide = np.arange(80, dtype=np.uint16).reshape(8, 10) * 800
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # which older releases of Pillow read but do not write
        path.write_bytes(b"P5 10 8 65535\n" + wide.astype(">u2").tobytes())
    else:
        saved(Image.fromarray(wide), path)
    values, (note,) = taken(path)
    assert np.array_equal(values, np.broadcast_to(wide >> 8, (3, 8, 10)))
    assert note == "of its 16 bits a pixel, the high 8 are taken"


def test_cmyk(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(8, 10)).convert("CMYK")
    values, (note,) = taken(saved(image, tmp_path / "a.tif"))
    assert np.array_equal(values, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    assert note.startswith("it is CMYK")


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (10, 8), colour) for colour in ("red", "blue"))
    path = saved(first, tmp_path / "a.gif", save_all=True, append_images=[second])
    values, (note,) = taken(path)
    assert np.array_equal(values[:, 0, 0], [255, 0, 0])
    assert note == "of its 2 frames, the first is taken"


def test_the_orientation_of_exif_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = pixels(8, 10)
    values, (note,) = taken(saved(Image.fromarray(image), tmp_path / "a.png", exif=exif))
    assert np.array_equal(values, image.transpose(2, 0, 1))
    assert "as it is stored" in note


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(np.zeros((8, 10), np.float32)), "does not say which value is white"),
        (Image.fromarray(np.zeros((8, 10), np.int32)), "does not say which value is white"),
        (Image.new("LAB", (10, 8)), "pixels of the kind LAB"),
    ],
    ids=["F", "I", "LAB"],
)
def test_pixels_of_no_one_meaning(image: Image.Image, says: str, tmp_path: Path) -> None:
    path = saved(image, tmp_path / "a.tif")
    with pytest.raises(UnsupportedError, match=says) as error:
        taken(path)
    assert error.value.file == str(path)


# --- files that are refused -------------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(64, 64)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_damaged_image(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = encoded(kind)
    for end in (0, 3, len(whole) // 3, len(whole) * 2 // 3):
        path.write_bytes(whole[:end])
        with pytest.raises(FormatError) as error:
            taken(path)
        assert error.value.file == str(path)
    random = np.random.default_rng(0)
    for _ in range(40):
        spoiled = bytearray(whole)
        for place in random.integers(0, len(whole), 8):
            spoiled[place] = random.integers(0, 256)
        path.write_bytes(bytes(spoiled))
        with contextlib.suppress(InputError):  # whatever comes of it, it is an image or a typed error
            taken(path)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no such image"):
        taken(tmp_path / "absent.png")
    with pytest.raises(InputError, match="Is a directory"):
        taken(tmp_path)
    text = tmp_path / "a.png"
    text.write_text("text")
    with pytest.raises(FormatError, match="this is no image"):
        taken(text)
    text.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")  # would start another program
    with pytest.raises(FormatError, match="this is no image"):
        taken(text)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(pixels(40, 40)), tmp_path / "a.png")
    for limit in (1599, 700):  # Pillow warns from its limit on, and refuses from twice as many on
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UnsupportedError, match=rf"too large \(expected at most {limit:,} pixels"):
            taken(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert taken(path)[1] == ()


def test_a_line_does_not_become_a_huge_image(tmp_path: Path) -> None:
    path = saved(Image.new("L", (40_000, 1)), tmp_path / "a.png")
    with pytest.raises(UnsupportedError, match="found 40000x1, which would be resized to 2,621,440,000"):
        read_image(path, RAW, Geometry(resize=256, crop=(224, 224)))


# --- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "size", "resize", "crop"),
    [
        (replace(RAW, resize=256, crop=224), (32, 32), 256, (224, 224)),
        (replace(RAW, resize=256), (224, 224), 256, (224, 224)),
        (replace(RAW, crop=299), (224, 224), 342, (299, 299)),
        (RAW, (224, 224), 256, (224, 224)),
        (RAW, (32, 32), 37, (32, 32)),
        (RAW, (64, 96), 110, (64, 96)),
    ],
)
def test_geometry(domain: InputDomain, size: tuple[int, int], resize: int, crop: tuple[int, int]) -> None:
    found = geometry(domain, size)
    assert (found.resize, found.crop) == (resize, crop)
    assert ("not known" in found.note) == (domain.resize is None)
    assert found.text == f"shorter side to {resize}, the middle {crop[0]}x{crop[1]}"


def test_a_geometry_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="found a shorter side of 200, 224x224 to cut out"):
        geometry(replace(RAW, resize=200, crop=224), (224, 224))


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (61, 61), (50, 171), (8, 9), (10, 8)])
def test_resize_and_crop(height: int, width: int, tmp_path: Path) -> None:
    """The shorter side to 20, the other rounded down; offsets are rounded, halves to even."""
    image = Image.fromarray(pixels(height, width))
    path = saved(image, tmp_path / "a.png")
    domain = replace(RAW, resize=20, crop=17)
    long = 20 * max(height, width) // min(height, width)
    sides = (20, long) if width <= height else (long, 20)
    left, top = round((sides[0] - 17) / 2), round((sides[1] - 17) / 2)
    expected = np.asarray(image.resize(sides, Image.Resampling.BILINEAR))[top : top + 17, left : left + 17]
    assert np.array_equal(taken(path, domain, (17, 17))[0], expected.transpose(2, 0, 1))


def test_an_image_of_the_right_size_is_taken_as_it_is_unless_resizing_is_declared(tmp_path: Path) -> None:
    image = pixels(32, 32)
    path = saved(Image.fromarray(image), tmp_path / "a.png")
    assert np.array_equal(taken(path, RAW, (32, 32))[0], image.transpose(2, 0, 1))
    assert not np.array_equal(taken(path, replace(RAW, resize=37), (32, 32))[0], image.transpose(2, 0, 1))


def test_the_fixture() -> None:
    values, notes = taken(SHAPES, RAW, (60, 80))
    assert notes == ()
    assert values[:, 25, 30].tolist() == [230, 140, 40]
    assert values[:, 0, 79].tolist() == [237, 0, 97]
