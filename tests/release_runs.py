"""Every published release by its name, from a mirror of its publisher's server, to every target: what comes of it.

    python tests/release_runs.py [--only M1,C9] [--json FILE] [--into README.md]      prints the table of README.md

Published weights cannot be had, so full-size ones are made for each graph (calibrated_weights.py, calibrated_caffe.py,
gluoncv_weights.py for gluoncv2's), and the catalogue is used without the checksums of weights, which they cannot have.
All else is as it is for a user: names, addresses, archives, the graph's checksums, what must turn out, the proof.
The graphs are those of the shared data; gluoncv2's networks need its environment (RESNEXT_CONVERT_GLUONCV).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, get_args
from urllib.parse import unquote, urlsplit

from repository import SHARED

from resnext_convert.converter import releases
from resnext_convert.converter.errors import ConvertError, TargetError
from resnext_convert.converter.pipeline import convert
from resnext_convert.converter.releases import Release, ReleaseFile
from resnext_convert.converter.targets import TargetName

HERE = Path(__file__).parent
TARGETS: Final[tuple[TargetName, ...]] = get_args(TargetName)
DJL = (
    "deepjavalibrary+djl/engines/mxnet/mxnet-model-zoo/src/test/resources/mlrepo/model/cv/"
    "image_classification/ai/djl/mxnet"
)
GLUON = "dmlc+gluon-cv/generated/{}-symbol-mxnet1.9.1.json"
CAFFE_MODEL = "soeaver+caffe-model/cls/resnext/deploy_{}.prototxt"
MXNET_MODEL = "soeaver+mxnet-model/cls/{}-symbol.json"

GRAPHS: Final[Mapping[str, str]] = {
    "M1": "wnagchenghku+mxnet-lambda/models/resnext-50-symbol.json",
    "M2": "data.mxnet.io/models/imagenet/resnext/101-layers/resnext-101-symbol.json",
    "M3": "Ldpe2G+DeepLearningForFun/MXNet-Python/CalculateFlopsTool/symbols/resnext-101-64x4d-symbol.json",
    "M4": "bruinxiong+SENet.mxnet/se-resnext-imagenet-50-0-symbol.json",
    "M5": MXNET_MODEL.format("resnext/resnext26_32x4d-priv"),
    "M6": MXNET_MODEL.format("resnext/resnext50_32x4d"),
    "M7": MXNET_MODEL.format("resnext/resnext101_32x4d"),
    "M8": MXNET_MODEL.format("resnext/resnext101_64x4d"),
    "M9": MXNET_MODEL.format("senet/se-resnext50-32x4d"),
    "M10": MXNET_MODEL.format("senet/se-resnext101-32x4d"),
    "M11": MXNET_MODEL.format("senet/se-resnext152-64x4d"),
    "G1": GLUON.format("resnext50_32x4d"),
    "G2": GLUON.format("resnext101_32x4d"),
    "G3": GLUON.format("resnext101_64x4d"),
    "G4": GLUON.format("se_resnext50_32x4d"),
    "G5": GLUON.format("se_resnext101_32x4d"),
    "G6": GLUON.format("se_resnext101_64x4d"),
    "G7": GLUON.format("senet_154"),
    "G8": GLUON.format("cifar_resnext29_16x64d"),
    "D1": f"{DJL}/resnext/0.0.1/resnext101_64x4d-symbol.json",
    "D2": f"{DJL}/se_resnext/0.0.1/se_resnext101_32x4d-symbol.json",
    "D3": f"{DJL}/se_resnext/0.0.1/se_resnext101_64x4d-symbol.json",
    "D4": f"{DJL}/senet/0.0.1/senet_154-symbol.json",
    "C1": "cypw+ResNeXt-1/ResNeXt-50-deploy.prototxt",
    "C2": "cypw+ResNeXt-1/ResNeXt-101-deploy.prototxt",
    "C3": "cypw+ResNeXt-1/ResNeXt-152-deploy.prototxt",
    "C4": CAFFE_MODEL.format("resnext26-32x4d-priv"),
    "C5": CAFFE_MODEL.format("resnext50-32x4d"),
    "C6": CAFFE_MODEL.format("resnext101-32x4d"),
    "C7": CAFFE_MODEL.format("resnext101-64x4d"),
    "C9": "hujie-frank+SENet/models/SE-ResNeXt-50.prototxt",
    "C10": "hujie-frank+SENet/models/SE-ResNeXt-101.prototxt",
    "C11": "hujie-frank+SENet/models/SENet-154.prototxt",
}
"""The graph of each release, in the shared data's folder ``releases``; GluonCV published none: its code made these."""

GRAPH_ROLES: Final = ("symbol", "prototxt")

BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one conversion.

    Attributes:
        target: as it was asked for.
        exact: it was converted and proven.
        model: the call that makes the stock model; empty for the reference.
        worst: the largest difference that the proof met, of peak.
        float32: the largest difference of the float32 run.
        refusal: why it was refused.
        problem: the refusal in short: what differs, and what the network has there.
        stated: what had to be stated that the catalogue does not know.
    """

    target: TargetName
    exact: bool
    model: str = ""
    worst: float = 0.0
    float32: float = 0.0
    refusal: str = ""
    problem: str = ""
    stated: str = ""


def unchecked(release: Release) -> Release:
    """The release without what only its published weights have."""
    files = (
        file if file.role in GRAPH_ROLES else replace(file, checksums=(), bytes=None, archive_bytes=None)
        for file in release.files
    )
    return replace(release, files=tuple(files))


def make_mirror(release: Release, folder: Path) -> None:
    """Lays the files of a release out as its publisher's server had them; full-size weights are made for its graph."""
    graph = SHARED / "releases" / GRAPHS[release.id] if release.id in GRAPHS else None
    weights = folder / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    if graph is None:
        made = folder / "made"
        _run(
            os.environ["RESNEXT_CONVERT_GLUONCV"],
            "gluoncv_weights.py",
            release.bare_name,
            str(made),
            "--package=gluoncv2",
        )
        (made / "structural.params").rename(weights)
        shutil.rmtree(made)
    elif release.framework == "caffe":
        factor = "1" if release.id in {"C2", "C5", "C7", "C10"} else "999.98"
        _run(sys.executable, "calibrated_caffe.py", str(graph), str(weights), f"--factor={factor}")
    else:
        size = 32 if "cifar" in release.name else 224
        # A gate that was calibrated for inputs of another scale is saturated, and magnifies rounding errors.
        centred = ["--centred"] if release.domain and release.domain.std == (1.0, 1.0, 1.0) else []
        _run(sys.executable, "calibrated_weights.py", str(graph), str(weights), f"--image-size={size}", *centred)
    for file in release.files:
        if file.role in GRAPH_ROLES:
            assert graph is not None
            shutil.copy(graph, _place(folder, file, packed=False))
        else:
            _pack(weights, file, folder)
    weights.unlink()


def _run(python: str, script: str, *arguments: str) -> None:
    subprocess.run([python, str(HERE / script), *arguments], check=True, capture_output=True)


def _place(folder: Path, file: ReleaseFile, *, packed: bool) -> Path:
    """Where the first address that a program can fetch has a file; its bare name where there is none."""
    address = next((location.url for location in file.locations if not location.page), None)
    if address is None or (file.archive and not packed):
        return folder / file.name
    parts = urlsplit(address)
    path = folder / parts.netloc / unquote(parts.path).lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _pack(weights: Path, file: ReleaseFile, folder: Path) -> None:
    place = _place(folder, file, packed=bool(file.archive))
    if file.archive == "zip":
        with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
            archive.write(weights, file.name)
    elif file.archive == "gz":
        with gzip.open(place, "wb", compresslevel=1) as packed, weights.open("rb") as plain:
            shutil.copyfileobj(plain, packed)
    else:
        shutil.copy(weights, place)


def run(release: Release, target: TargetName, mirror: Path, out: Path) -> Outcome:
    """Converts a release by its name; what the catalogue does not know is stated only where that is all that lacks."""
    try:
        return convert_by_name(release, target, mirror, out)
    except TargetError as error:
        if "order of the source's classes is not known" not in error.problem:
            return _refused(target, error)
        stated = convert_by_name(release, target, mirror, out, class_order="source")
        return replace(stated, stated="the order of its classes is not known, so `--class-order source`")
    except ConvertError as error:
        return _refused(target, error)


def _refused(target: TargetName, error: ConvertError) -> Outcome:
    what = error.problem.rpartition(": ")[2].removeprefix("the ").partition(" differs")[0]
    found = f" ({error.found})" if error.found else ""
    return Outcome(target=target, exact=False, refusal=str(error), problem=what + found)


def convert_by_name(release: Release, target: TargetName, mirror: Path, out: Path, **more: str) -> Outcome:
    report = convert(
        release.framework,
        release.name,
        out,
        target=target,
        mirror=mirror,
        cache=mirror / "cache",
        offline=True,
        **{"oracle": "none"} | more,  # type: ignore[arg-type]  # an engine, or one of the orders
    )
    proof = report.verification
    assert proof is not None
    assert proof.passed
    assert proof.oracle.passed is (True if "oracle" in more else None)
    return Outcome(
        target=target,
        exact=True,
        model=report.stock.call if report.stock else "",
        worst=proof.worst.max_of_peak,
        float32=proof.float32.max_of_peak,
    )


def available(release: Release) -> bool:
    """Whether weights can be made for it here."""
    return release.id in GRAPHS or (release.layout == "osmr" and "RESNEXT_CONVERT_GLUONCV" in os.environ)


def outcomes(release: Release, folder: Path) -> Iterator[Outcome]:
    """What comes of a release for each target; the files are removed behind it."""
    make_mirror(release, folder)
    try:
        for target in TARGETS:
            yield run(release, target, folder, folder / "out.pth")
    finally:
        shutil.rmtree(folder)


# --- the table --------------------------------------------------------------------------------------------------------


def table(found: Mapping[str, list[Outcome]], catalogue: tuple[Release, ...]) -> Iterator[str]:
    """The table of README.md, in Markdown."""
    yield "| release | reference | torchvision | timm |"
    yield "| --- | --- | --- | --- |"
    for release in catalogue:
        cells = [_cell(outcome) for outcome in found[release.id]] if release.id in found else ["not run here"] * 3
        yield f"| `{release.name}` ({release.id}, {release.framework}) | {' | '.join(cells)} |"


def _cell(outcome: Outcome) -> str:
    if not outcome.exact:
        return "refused: " + re.sub("squeeze-and-excitation of .*", "it has no squeeze-and-excitation", outcome.problem)
    model = re.sub(r"timm\.create_model\('(\w+)'", r"\1(", outcome.model).removeprefix("torchvision.models.")
    model = re.sub(r",? ?num_classes=\d+", "", model).replace("(, ", "(").replace("()", "")
    model = model.replace("torchvision.models.resnet.", "")
    stated = f"; {outcome.stated}" if outcome.stated else ""
    return f"exact, {outcome.worst:.0e}" + (f": `{model}`" if model else "") + stated


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Convert every release by its name to every target.")
    parser.add_argument("--only", default="", help="numbers of releases, separated by commas")
    parser.add_argument("--json", type=Path, help="keep the outcomes there; those that it holds are not run again")
    parser.add_argument("--into", type=Path, help="a page: the table between its two marks is replaced")
    options = parser.parse_args()
    every = releases.catalogue()
    wanted = set(options.only.split(",")) if options.only else {release.id for release in every}
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    found = {number: [Outcome(**outcome) for outcome in rows] for number, rows in known.items()}
    patched = tuple(map(unchecked, every))
    releases.catalogue = lambda: patched  # type: ignore[assignment]  # a cached function
    for release in patched:
        if release.id in wanted and release.id not in found and available(release):
            with tempfile.TemporaryDirectory() as folder:
                found[release.id] = list(outcomes(release, Path(folder) / "mirror"))
            print(f"{release.id}: {[_cell(outcome) for outcome in found[release.id]]}", file=sys.stderr, flush=True)
            if options.json:
                text = {number: [asdict(outcome) for outcome in rows] for number, rows in found.items()}
                options.json.write_text(json.dumps(text, indent=1))
    lines = "\n".join(table(found, every))
    print(lines)
    if options.into:
        before, _, rest = options.into.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        options.into.write_text(f"{before}{BEGIN}\n{lines}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
