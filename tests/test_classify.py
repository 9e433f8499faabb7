"""What a checkpoint says about images: what its report knows, what is stated, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repository import FIXTURES
from running import run

import resnext_convert
from resnext_convert.converter.classes import CIFAR_10
from resnext_convert.converter.classify import Classification, classify, to_json
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import ConvertError, FormatError, MissingFileError, UsageError
from resnext_convert.converter.pipeline import convert

SHAPES = FIXTURES / "images/shapes.ppm"
RAW = InputDomain(colour="rgb", source="a test")
STATED = ("--input-colour", "rgb", "--input-range", "255", "--class-order", "cifar-10")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "out.pth"
    convert("mxnet", FIXTURES / "resnext-tiny", out, oracle="none", verify=False)
    return out


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A checkpoint whose report may be changed."""
    for suffix in (".pth", ".json"):
        (tmp_path / f"out{suffix}").write_bytes(original.with_suffix(suffix).read_bytes())
    return tmp_path / "out.pth"


def tell(checkpoint: Path, **changes: Any) -> None:
    """Changes the report; what begins with ``input_`` in its ``preprocessing``."""
    path = checkpoint.with_suffix(".json")
    report = json.loads(path.read_bytes())
    for name, value in changes.items():
        place = report["preprocessing"] if name.startswith("input_") else report
        place[name.removeprefix("input_")] = value
    path.write_text(json.dumps(report))


def known(checkpoint: Path, **domain: Any) -> None:
    """The report declares a domain and an order of classes."""
    tell(checkpoint, class_order="cifar-10", domain={"colour": "rgb", "source": "the release x"} | domain)


def done(*arguments: Any, **options: Any) -> Classification:
    found, failures = classify(*arguments, **options)
    assert failures == []
    return found


# --- what is found ----------------------------------------------------------------------------------------------


def test_the_probabilities_are_those_of_the_module(checkpoint: Path) -> None:
    found = done(checkpoint, [SHAPES], top=10, domain=RAW, class_order="cifar-10")
    with Image.open(SHAPES) as image:  # 80x60: the shorter side to 256, the other to 341
        small = np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR))[16:240, 58:282]
    tensor = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)[np.newaxis], dtype=np.float32))
    with torch.inference_mode():
        expected = resnext_convert.load(checkpoint)(tensor)[0].double().softmax(0)
    (image_found,) = found.images
    assert image_found.file == str(SHAPES)
    assert [score.probability for score in image_found.top] == expected.sort(descending=True).values.tolist()
    for score in image_found.top:
        assert score.name == CIFAR_10[score.place]
        assert score.probability == float(expected[score.place])
    assert found.size.text == "shorter side to 256, the middle 224x224"
    assert (found.network, found.class_order, found.input) == ("ResNeXt-17 (4x2d)", "cifar-10", RAW)


def test_the_report_is_enough_where_it_knows(checkpoint: Path) -> None:
    known(checkpoint, resize=80, crop=64)
    found = done(checkpoint, [SHAPES], top=3)
    assert found.input == InputDomain(colour="rgb", resize=80, crop=64, source="the release x")
    assert found.size.text == "shorter side to 80, the middle 64x64"
    assert len(found.images[0].top) == 3
    assert found.warnings == ()
    # What is stated counts more, but says nothing about sizes.
    other = done(checkpoint, [SHAPES], domain=InputDomain(colour="bgr", source="the command line"))
    assert other.input == InputDomain(colour="bgr", resize=80, crop=64, source="the command line")
    assert other.images[0].top[0].probability != found.images[0].top[0].probability
    (warning,) = other.warnings
    assert warning.startswith(
        "the command line says BGR of 0..255, but the report says RGB of 0..255, as the release x"
    )


def test_a_domain_of_torchvision_in_the_report(checkpoint: Path) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    known(checkpoint, range=1, mean=mean, std=std)
    found = done(checkpoint, [SHAPES])
    assert found.input == InputDomain(colour="rgb", range=1, mean=mean, std=std, source="the release x")
    assert "the variances in bn_data are those of images in 0..255" in found.warnings[0]


@pytest.mark.parametrize(
    ("changes", "side"),
    [
        ({"input_size": [96, 96]}, 96),
        ({"input_transform": {"crop": 48, "source": "net.prototxt"}}, 48),
        ({"input_transform": {"crop": 48, "source": "net.prototxt"}, "input_size": [96, 96]}, 48),
        ({"input_size": None}, 224),
    ],
)
def test_the_size_of_the_input(changes: dict[str, Any], side: int, checkpoint: Path) -> None:
    tell(checkpoint, **changes)
    assert done(checkpoint, [SHAPES], domain=RAW, class_order="cifar-10").size.crop == (side, side)


def test_labels_of_a_file(checkpoint: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeff" + "\r\n".join(f"n{number} größe" for number in range(10)) + "\n\n", encoding="utf-8")
    known(checkpoint)
    found = done(checkpoint, [SHAPES], labels=labels)
    assert found.class_order is None
    assert {score.name for score in found.images[0].top} <= {f"n{number} größe" for number in range(10)}


def test_a_stated_order_is_taken_and_contradicted(checkpoint: Path) -> None:
    known(checkpoint)
    tell(checkpoint, class_order="imagenet-2012")
    (warning,) = done(checkpoint, [SHAPES], class_order="cifar-10").warnings
    assert warning == "--class-order cifar-10 is taken, but the report says imagenet-2012"


def test_json(checkpoint: Path) -> None:
    found = done(checkpoint, [SHAPES], domain=RAW, class_order="cifar-10")
    read = json.loads(to_json(found))
    assert read["images"][0]["top"][0].keys() == {"place", "name", "probability"}
    assert read["size"] == {"resize": 256, "crop": [224, 224], "note": found.size.note}


# --- what is refused --------------------------------------------------------------------------------------------


def refused(kind: type[ConvertError], *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        classify(*arguments, **options)
    return f"{error.value} {error.value.hint}"


def test_what_is_not_known_is_to_be_stated(checkpoint: Path) -> None:
    said = refused(UsageError, checkpoint, [SHAPES])
    assert "its report does not say how images are prepared and which classes the network has" in said
    assert "--input-colour and --input-range" in said
    assert "--class-order (imagenet-2012, imagenet-2015, cifar-10) or --labels FILE" in said
    assert "what is known of the input: images in 0..255" in said
    said = refused(UsageError, checkpoint, [SHAPES], domain=RAW)
    assert "does not say which classes the network has" in said
    assert "--input-colour" not in said
    tell(checkpoint, input_reading={"colour": "bgr", "range": 255, "mean_subtracted": False, "std_applied": False})
    said = refused(UsageError, checkpoint, [SHAPES], class_order="cifar-10")
    assert "does not say how images are prepared" in said
    assert said.endswith("as bn_data says; that would be --input-colour bgr --input-range 255")


def test_names_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    said = refused(UsageError, checkpoint, [SHAPES], domain=RAW, class_order="imagenet-2012")
    assert "not imagenet-2012 (expected a classifier of 1,000 classes, found 10)" in said
    labels = tmp_path / "labels.txt"
    for content, kind, says in (
        (b"one\ntwo\n", FormatError, "expected 10 lines, found 2"),
        (b"", FormatError, "expected 10 lines, found 1"),
        (b"\xff\xfe\n", FormatError, "no text in UTF-8"),
    ):
        labels.write_bytes(content)
        assert says in refused(kind, checkpoint, [SHAPES], domain=RAW, labels=labels)
    assert "two ways" in refused(UsageError, checkpoint, [], domain=RAW, labels=labels, class_order="cifar-10")
    refused(MissingFileError, checkpoint, [SHAPES], domain=RAW, labels=tmp_path / "absent")
    refused(ConvertError, checkpoint, [SHAPES], domain=RAW, labels=tmp_path)


def test_a_network_that_takes_no_colours(checkpoint: Path) -> None:
    path = checkpoint.with_suffix(".json")
    path.write_text(path.read_text().replace('"in_channels": 3,', '"in_channels": 1,'))
    assert "expected a network of 3 channels, found 1" in refused(
        UsageError, checkpoint, [SHAPES], domain=RAW, class_order="cifar-10"
    )


def test_a_size_that_does_not_fit(checkpoint: Path) -> None:
    known(checkpoint, crop=1_000_000_000)
    tell(checkpoint, domain={"colour": "rgb", "crop": 0, "resize": -1, "source": "x"})
    assert "cannot be" in refused(UsageError, checkpoint, [SHAPES])
    known(checkpoint, crop=-5)
    assert "do not fit the network" in refused(UsageError, checkpoint, [SHAPES])


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"class_order": "imagenet-2014"}, "class_order"),
        ({"preprocessing": None}, "preprocessing"),
        ({"domain": {"colour": "cmyk", "source": "x"}}, "domain.colour"),
        ({"domain": {"colour": "rgb", "std": [1, 0, 1], "source": "x"}}, "domain"),
        ({"input_mean": "?"}, "preprocessing.mean"),
    ],
)
def test_a_damaged_report(changes: dict[str, Any], place: str, checkpoint: Path) -> None:
    tell(checkpoint, **changes)
    with pytest.raises(FormatError, match="the report is damaged") as error:
        classify(checkpoint, [SHAPES], domain=RAW, class_order="cifar-10")
    assert error.value.place == place
    assert error.value.file == str(checkpoint.with_suffix(".json"))


def test_a_report_of_before_there_was_an_order(checkpoint: Path) -> None:
    path = checkpoint.with_suffix(".json")
    report = json.loads(path.read_bytes())
    del report["class_order"]
    path.write_text(json.dumps(report))
    assert "which classes" in refused(UsageError, checkpoint, [SHAPES], domain=RAW)


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command(checkpoint: Path, tmp_path: Path) -> None:
    clear = tmp_path / "clear [red].png"
    Image.new("RGBA", (300, 260), (10, 20, 30, 40)).save(clear)
    found = run("classify", checkpoint, SHAPES, clear, "--top", 2, *STATED)
    assert (found.exit_code, found.stderr) == (0, "")
    heading, first, second = (block.splitlines() for block in found.stdout.split("\n\n"))
    assert heading[:3] == [
        f"{checkpoint}: ResNeXt-17 (4x2d)",
        "  input      RGB of 0..255, as the command line says",
        "  size       shorter side to 256, the middle 224x224",
    ]
    assert heading[3].startswith("  note       how images are resized is not known")
    assert heading[4] == "  classes    in the order cifar-10"
    assert first[0] == str(SHAPES)
    assert first[1] == "    probability  class  name"
    assert len(first) == 4
    place, name = first[2].split(" %")[1].split()
    assert CIFAR_10[int(place)] == name
    assert second[0] == str(clear)
    assert second[1].startswith("  note       its transparency is left out")


def test_json_is_alone_on_stdout(checkpoint: Path) -> None:
    found = run("classify", checkpoint, SHAPES, *STATED, "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    assert json.loads(found.stdout)["class_order"] == "cifar-10"


def test_one_bad_image_does_not_hide_the_others(checkpoint: Path, tmp_path: Path) -> None:
    found = run("classify", checkpoint, tmp_path / "absent.png", SHAPES, *STATED)
    assert found.exit_code == 3
    assert str(SHAPES) in found.stdout.splitlines()
    assert found.stderr == f"error: {tmp_path / 'absent.png'}: there is no such image\n"


def test_contradictions_go_to_stderr(checkpoint: Path) -> None:
    found = run("classify", checkpoint, SHAPES, "--input-colour", "rgb", "--input-range", "1", *STATED[4:])
    assert found.exit_code == 0
    assert found.stderr.startswith("warning: the variances in bn_data are those of images in 0..255")


def test_exit_codes(checkpoint: Path, tmp_path: Path) -> None:
    assert run("classify", checkpoint, SHAPES).exit_code == 2
    assert run("classify", tmp_path / "absent.pth", SHAPES, *STATED).exit_code == 3
