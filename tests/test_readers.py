"""Which framework a source is of, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from repository import FIXTURES

from resnext_convert.converter.errors import MissingFileError, UsageError
from resnext_convert.converter.readers import SourceOptions, framework_of, read

MXNET = FIXTURES / "resnext-tiny"
CAFFE = FIXTURES / "caffe" / "resnext-tiny"
NOTHING = SourceOptions()


@pytest.mark.parametrize(
    ("source", "framework"),
    [
        (MXNET, "mxnet"),
        (MXNET / "resnext-tiny", "mxnet"),
        (MXNET / "resnext-tiny-symbol.json", "mxnet"),
        (MXNET / "resnext-tiny-0000.params", "mxnet"),
        (CAFFE, "caffe"),
        (CAFFE / "resnext-tiny", "caffe"),
        (CAFFE / "resnext-tiny.prototxt", "caffe"),
        (CAFFE / "resnext-tiny.caffemodel", "caffe"),
    ],
)
def test_files_say_their_framework(source: Path, framework: str) -> None:
    assert framework_of(source, NOTHING) == framework


def test_options_say_it_first(tmp_path: Path) -> None:
    assert framework_of(CAFFE, SourceOptions(symbol=tmp_path)) == "mxnet"
    assert framework_of(MXNET, SourceOptions(epoch=0)) == "mxnet"
    assert framework_of(MXNET, SourceOptions(weights=tmp_path)) == "caffe"
    with pytest.raises(UsageError, match="two frameworks"):
        framework_of(MXNET, SourceOptions(epoch=0, prototxt=tmp_path))


def test_files_of_both_are_ambiguous(tmp_path: Path) -> None:
    for folder in (MXNET, CAFFE):
        for file in folder.iterdir():
            if file.suffix != ".npz":
                shutil.copy(file, tmp_path)
    with pytest.raises(UsageError, match="both frameworks"):
        framework_of(tmp_path, NOTHING)
    assert framework_of(tmp_path / "resnext-tiny.prototxt", NOTHING) == "caffe"


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no file of an MXNet or Caffe network"):
        framework_of(tmp_path, NOTHING)
    with pytest.raises(MissingFileError):
        framework_of(tmp_path / "absent" / "prefix", NOTHING)
    with pytest.raises(MissingFileError):
        framework_of(Path("x" * 5000), NOTHING)


def test_reads_either() -> None:
    assert read("mxnet", MXNET, NOTHING).origin.framework == "mxnet"
    found = read("caffe", CAFFE, NOTHING)
    assert found.origin.framework == "caffe"
    assert found.origin.graph_file == CAFFE / "resnext-tiny.prototxt"


def test_options_of_another_framework_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another framework"):
        read("caffe", CAFFE, SourceOptions(params=tmp_path))
    with pytest.raises(UsageError, match="another framework"):
        read("mxnet", MXNET, SourceOptions(prototxt=tmp_path))
    with pytest.raises(UsageError, match="no reader"):
        read("torch", MXNET, NOTHING)  # type: ignore[arg-type]
