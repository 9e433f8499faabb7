"""What a converted network says about photographs: the checkpoint, the preparation and the names in its report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from resnext_convert.converter import checkpoint, classes, images, probe
from resnext_convert.converter.classes import ORDERS, ClassOrder
from resnext_convert.converter.domain import InputDomain, stated_or_declared
from resnext_convert.converter.errors import ConvertError, FormatError, InputError, MissingFileError, UsageError
from resnext_convert.converter.images import Geometry
from resnext_convert.converter.preprocess import InputSpec, Reading, contradictions
from resnext_convert.converter.records import report_path
from resnext_convert.converter.report import encode
from resnext_convert.converter.resnext.config import ResNeXtConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One class: its place in the classifier, its name and its probability."""

    place: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedImage:
    """An image, its most probable classes, the most probable first, and what was odd about the file."""

    file: str
    top: tuple[Score, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a network says about some images.

    Attributes:
        checkpoint: the file.
        network: how the family calls it.
        input: how the images were prepared.
        size: how they got the network's size.
        class_order: the order whose names were used; None: the names are those of a file.
        images: those that could be read.
        warnings: contradictions between the statistics, the files and what is declared.
    """

    checkpoint: str
    network: str
    input: InputDomain
    size: Geometry
    class_order: ClassOrder | None
    images: tuple[ClassifiedImage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """As much of a report as is needed here."""

    config: ResNeXtConfig
    spec: InputSpec
    class_order: ClassOrder | None


def classify(
    checkpoint_path: Path | str,
    files: Sequence[Path],
    *,
    top: int = 5,
    domain: InputDomain | None = None,
    class_order: ClassOrder | None = None,
    labels: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[Classification, list[ConvertError]]:
    """Classifies images with a converted network.

    Args:
        checkpoint_path: written by a conversion, its report beside it.
        files: the images.
        top: how many classes are wanted.
        domain: how images are prepared; None: as the report declares.
        class_order: of the classifier; None: as the report says.
        labels: a file with the names of the classes, one a line, instead of an order.
        say: told what is being done.

    Returns:
        What the network says about each image that could be read, and the errors of the others.

    Raises:
        UsageError: the input or the classes are neither known nor stated, or do not fit the network.
        InputError: the checkpoint, its report or the labels cannot be used.
    """
    path = Path(checkpoint_path)
    sidecar = _sidecar(report_path(path))
    spec = sidecar.spec
    order = None if labels else class_order or sidecar.class_order
    used = stated_or_declared(domain, spec.declared)
    if used is None or (order is None and labels is None):
        raise _unknown(path, spec, domain=used, names_known=bool(order or labels))
    if labels and class_order:
        raise UsageError("--labels and --class-order are two ways to name the classes", hint="state one of them")
    if sidecar.config.in_channels != 3:
        raise UsageError(
            "images are of three colours",
            file=path,
            expected="a network of 3 channels",
            found=sidecar.config.in_channels,
        )
    names = _names(order, labels, sidecar.config.head.classes, path)
    how = images.geometry(used, _size(used, spec, sidecar.config))
    warnings = [*contradictions(replace(spec, declared=used))]
    if domain and spec.declared and domain.text != spec.declared.text:
        warnings.append(
            f"{domain.source} says {domain.text}, but the report says {spec.declared.text}, as {spec.declared.source}"
            " says; the former is taken"
        )
    if class_order and sidecar.class_order and class_order != sidecar.class_order:
        warnings.append(f"--class-order {class_order} is taken, but the report says {sidecar.class_order}")
    say("loading")
    module = checkpoint.load(path)
    dtype = next(module.parameters()).dtype
    found: list[ClassifiedImage] = []
    failures: list[ConvertError] = []
    for file in files:
        say(f"looking at {file.name}")
        try:
            image = images.read_image(file, used, how)
        except ConvertError as error:
            failures.append(error)
            continue
        with torch.inference_mode():
            logits = module(torch.from_numpy(image.values).to(dtype))
        probabilities = logits[0].double().softmax(0).numpy()
        best = np.argsort(-probabilities, kind="stable")[:top]
        scores = (Score(place=int(row), name=names[row], probability=float(probabilities[row])) for row in best)
        found.append(ClassifiedImage(file=str(file), top=tuple(scores), notes=image.notes))
    done = Classification(
        checkpoint=str(path),
        network=sidecar.config.summary,
        input=used,
        size=how,
        class_order=order,
        images=tuple(found),
        warnings=tuple(warnings),
    )
    return done, failures


def to_json(done: Classification) -> bytes:
    """The record as JSON, ending in a newline."""
    return encode(done, Classification)


# --- the report -------------------------------------------------------------------------------------------------------


def _sidecar(path: Path) -> _Sidecar:
    report = checkpoint.read_report(path)
    config = checkpoint.read_config(report, path)
    spec: InputSpec = _stored(report, "preprocessing", InputSpec, path)
    # Statistics and files speak of the source network; a stock model may be fed otherwise.
    spec = replace(spec, reading=None, transform=None) if report.get("stock") else spec
    spec = replace(spec, declared=_stored(report, "domain", InputDomain | None, path))
    if (known := spec.declared) and not (all(map(math.isfinite, (*known.mean, *known.std))) and all(known.std)):
        raise FormatError(
            "the report is damaged: its preparation of images is none",
            file=path,
            place="domain",
            found=known.text,
        )
    return _Sidecar(config, spec, _stored(report, "class_order", ClassOrder | None, path))


def _stored(report: Mapping[str, Any], key: str, kind: Any, path: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_json(json.dumps(report.get(key)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (key, *first["loc"]))
        raise FormatError(f"the report is damaged: {first['msg']}", file=path, place=place) from error


def _size(domain: InputDomain, spec: InputSpec, config: ResNeXtConfig) -> tuple[int, int]:
    """Height and width of what the network is given.

    Raises:
        UsageError: the domain says what does not fit the network.
    """
    if domain.crop:
        if not probe.usable(config, (domain.crop, domain.crop)):
            raise UsageError(
                f"{domain.source} says that images of {domain.crop}x{domain.crop} are cut out, which do not fit the"
                " network"
            )
        return domain.crop, domain.crop
    cropped = spec.transform.crop if spec.transform else None
    if cropped and probe.usable(config, (cropped, cropped)):
        return cropped, cropped
    return probe.image_size(config, None, (1, config.in_channels, *spec.size) if spec.size else None)


def _unknown(path: Path, spec: InputSpec, *, domain: InputDomain | None, names_known: bool) -> UsageError:
    absent, options = [], []
    if domain is None:
        absent.append("how images are prepared")
        options.append("--input-colour and --input-range, with --input-mean and --input-std if they were used")
    if not names_known:
        absent.append("which classes the network has")
        options.append(f"--class-order ({', '.join(ORDERS)}) or --labels FILE")
    hint = "; ".join(f"what is known of the input: {text}" for text in spec.texts) if domain is None else ""
    if domain is None and spec.reading and (options_text := _as_options(spec.reading)):
        hint += f"; that would be {options_text}"
    return UsageError(
        f"its report does not say {' and '.join(absent)}", file=path, expected="; ".join(options), hint=hint or None
    )


def _as_options(reading: Reading) -> str:
    """Options that say the same; empty where a reading tells too little."""
    if reading.mean_subtracted is not False or reading.colour is None:
        return ""
    return f"--input-colour {reading.colour} --input-range {reading.range}"


# --- names ------------------------------------------------------------------------------------------------------------


def _names(order: ClassOrder | None, file: Path | None, count: int, path: Path) -> tuple[str, ...]:
    if file is not None:
        return _names_of(file, count)
    assert order is not None
    names = classes.labels(order)
    if len(names) != count:
        raise UsageError(
            f"the classes of the network are not {order}",
            file=path,
            expected=f"a classifier of {len(names):,} classes",
            found=f"{count:,}",
            hint="--labels FILE names any classes, one a line",
        )
    return names


def _names_of(file: Path, count: int) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file of labels", file=file) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=file) from error
    except UnicodeDecodeError as error:
        raise FormatError("the labels are no text in UTF-8", file=file) from error
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if len(names) != count:
        raise FormatError(
            "the labels are not those of the network", file=file, expected=f"{count:,} lines", found=f"{len(names):,}"
        )
    return names
