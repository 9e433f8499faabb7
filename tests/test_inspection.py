"""What is in MXNet's files: everything that they say, and the network that a pair of them holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from inspecting import CONTAINER, RECORDINGS, inspected, lines

from resnext_convert.converter import releases
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import InputError, MissingFileError
from resnext_convert.converter.findings import AppliedDefault, PairInspection, ParamsInspection, SymbolInspection
from resnext_convert.converter.inspection import inspect

# --- params files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("0.8.0/float32.params", ("legacy",)),
        ("0.11.0/float32.params", ("V1",)),
        ("1.9.1/float32.params", ("V2",)),
        ("2.0.0b1/nd_save.params", ("V3",)),
        ("2.0.0b1/save_parameters.params", ("npz",)),
        ("mutations/mixed_versions.params", ("legacy", "V2")),
    ],
)
def test_layouts(name: str, layouts: tuple[str, ...]) -> None:
    assert inspected(ParamsInspection, CONTAINER / name).layouts == layouts


def test_a_params_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDINGS / "0.8.0-imagenet/model-0000.params"
    found = inspected(ParamsInspection, path)
    content = path.read_bytes()
    assert (found.file.path, found.file.bytes) == (str(path), len(content))
    assert found.file.sha256 == hashlib.sha256(content).hexdigest()
    weight = next(tensor for tensor in found.tensors if tensor.name == "arg:conv0_weight")
    assert (weight.dtype, weight.shape, weight.bytes) == ("float32", (8, 3, 7, 7), 8 * 3 * 7 * 7 * 4)
    said = lines(found, capsys)
    assert said[0] == f"{path}: MXNet params file"
    assert said[3:] == [
        "  layout     legacy",
        "  names      arg: 64, aux: 42",
        "  tensors    106, together 124,536 bytes",
        "  dtypes     float32: 106",
        "  shapes     4-D: 20, 2-D: 1, 1-D: 85",
    ]


def test_every_tensor_of_a_params_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(ParamsInspection, CONTAINER / "1.9.1/float16.params")
    said = lines(found, capsys, verbose=True)
    for tensor in found.tensors:
        (line,) = [line for line in said if line.split()[:1] == [tensor.name]]
        shape = "x".join(map(str, tensor.shape)) or "()"
        assert line.split(maxsplit=3)[1:] == ["float16", shape, tensor.where]


def test_a_params_file_without_names(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(ParamsInspection, CONTAINER / "1.9.1/list_no_names.params")
    assert not found.named
    assert "  names      none: the arrays are numbered" in lines(found, capsys)


def test_what_is_odd_about_a_params_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(ParamsInspection, CONTAINER / "1.9.1/row_sparse.params")
    assert [note for note in found.notes if note.endswith("stored as row_sparse, made dense")]
    assert [line for line in lines(found, capsys) if line.startswith("  note ")]


def test_an_empty_params_file(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(inspected(ParamsInspection, CONTAINER / "1.9.1/empty_list.params"), capsys)
    assert "  layout     an empty list" in said
    assert "  tensors    0, together 0 bytes" in said


# --- symbol files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "version", "dialect"),
    [
        ("0.8.0-imagenet", "0.8 or before", "param"),
        ("0.11.0-odd", "0.11.0", "attr"),
        ("1.2.1.post1-cifar", "1.2.1", "attrs"),
        ("1.9.1-imagenet", "1.9.1", "attrs"),
    ],
)
def test_versions_and_dialects(case: str, version: str, dialect: str) -> None:
    found = inspected(SymbolInspection, RECORDINGS / case / "model-symbol.json")
    assert (found.version, found.dialect) == (version, dialect)


def test_a_symbol_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDINGS / "0.8.0-two_heads/model-symbol.json"
    found = inspected(SymbolInspection, path)
    graph = json.loads(path.read_bytes())
    ops = [node["op"] for node in graph["nodes"] if node["op"] != "null"]
    assert dict(found.operators) == {op: ops.count(op) for op in ops}
    assert [node.name for node in found.nodes] == [node["name"] for node in graph["nodes"] if node["op"] != "null"]
    said = lines(found, capsys)
    assert said[0] == f"{path}: MXNet symbol file"
    assert said[3] == "  written by MXNet 0.8 or before (attributes under 'param')"
    assert "  input      data" in said
    assert [line.split()[1:] for line in said if line.startswith("  head ")] == [
        ["softmax", "(SoftmaxOutput)"],
        ["pool1", "(Pooling)"],
    ]


def test_defaults_that_are_easily_got_wrong_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(SymbolInspection, RECORDINGS / "1.9.1-bn_defaults/model-symbol.json")
    assert set(found.defaults) == {
        AppliedDefault(op="BatchNorm", attribute="eps", value="0.0010000000474974513", nodes=1),
        AppliedDefault(op="BatchNorm", attribute="fix_gamma", value="True", nodes=1),
    }
    said = lines(found, capsys)
    assert "  default    BatchNorm: no eps in 1 node, so MXNet takes 0.0010000000474974513" in said
    assert inspected(SymbolInspection, RECORDINGS / "0.8.0-imagenet/model-symbol.json").defaults == ()


def test_the_declared_shape_of_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = json.loads((RECORDINGS / "1.9.1-basic/model-symbol.json").read_bytes())
    data = next(node for node in graph["nodes"] if node["name"] == "data")
    data["attrs"] = {"__shape__": "(0, 3, 32, 40)"}
    path = tmp_path / "net-symbol.json"
    path.write_text(json.dumps(graph))
    found = inspected(SymbolInspection, path)
    assert found.inputs == {"data": (0, 3, 32, 40)}
    assert "  input      data, declared as 0x3x32x40" in lines(found, capsys)


def test_every_operator_of_a_symbol_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(SymbolInspection, RECORDINGS / "1.9.1-basic/model-symbol.json")
    said = lines(found, capsys, verbose=True)
    for node in found.nodes:
        (line,) = [line for line in said if line.split()[:2] == [node.name, node.op]]
        assert all(f"{key}={text}" in line for key, text in node.attributes.items())


# --- pairs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["0.8.0-imagenet", "0.8.0-imagenet/model"])
def test_a_pair(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = RECORDINGS / source
    found = inspected(PairInspection, path)
    assert found.network is not None
    assert found.network.summary == "ResNeXt-17 (4x2d)"
    assert found.network.config.depths == (1, 1, 2, 1)
    assert len(found.network.bindings) == len(found.network.config.state_shapes())
    assert found.graph == inspected(SymbolInspection, RECORDINGS / "0.8.0-imagenet/model-symbol.json")
    assert found.weights == inspected(ParamsInspection, RECORDINGS / "0.8.0-imagenet/model-0000.params")
    mean = np.round(found.network.preprocessing.mean, 3)
    said = lines(found, capsys)
    assert said[0] == f"{path}: ResNeXt-17 (4x2d)"
    for line in (
        "  image      3 channels, normalised by bn_data (eps 2e-05)",
        "  stem       7x7 convolution, 3 to 8 channels, stride 2, padding 3",
        "  stem pool  3x3 max, stride 2, padding 1",
        "  classifier 64 features to 10 classes",
        "  batch norm eps 2e-05 in 21 layers",
        "    layer3       2  bottleneck     32       4   64       2  1x1 conv, identity",
        f"  input mean {', '.join(f'{value:.6g}' for value in mean)}",
    ):
        assert line in said


def test_a_pair_that_does_not_say_what_its_input_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(inspected(PairInspection, RECORDINGS / "1.9.1-gluon_resnext_se"), capsys)
    (row,) = [line for line in said if line.startswith("  input ")]
    assert "assumed: the network does not normalise its input" in row
    assert not [line for line in said if line.startswith(("  input mean", "  input std"))]


def test_what_a_conversion_would_leave_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(PairInspection, RECORDINGS / "0.8.0-two_heads")
    assert found.network is not None
    (head,) = found.network.other_heads
    assert f"  head       {head} is not the classifier and would not be converted" in lines(found, capsys)


def test_a_pair_that_is_no_resnext(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(PairInspection, RECORDINGS / "1.9.1-resnet_v2")
    assert found.network is None
    assert found.refusal.startswith("node 'stage1_unit1_bn1' (BatchNorm): ")
    said = lines(found, capsys)
    assert said[0].endswith(": no ResNeXt")
    assert f"  refused    {found.refusal}" in said


def test_a_pair_that_is_not_the_release_it_is_named_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for end in ("symbol.json", "0000.params"):
        shutil.copy(RECORDINGS / f"1.9.1-imagenet/model-{end}", tmp_path / f"resnext-101-{end}")
    found = inspected(PairInspection, tmp_path / "resnext-101")
    (warning,) = found.warnings
    assert "expected ResNeXt-101 (32x4d), found ResNeXt-17 (4x2d)" in warning
    assert f"  warning    {warning}" in lines(found, capsys)
    assert inspected(PairInspection, tmp_path).warnings == ()  # a folder names no release


def test_a_pair_that_contradicts_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for end in ("symbol.json", "0000.params"):
        shutil.copy(RECORDINGS / f"1.9.1-imagenet/model-{end}", tmp_path / f"mine-{end}")
    domain = InputDomain(colour="rgb", range=1, source="the release mine")
    mine = releases.Release(id="X1", name="mine", framework="mxnet", publisher="a test", domain=domain)
    monkeypatch.setattr(releases, "catalogue", lambda: (mine,))
    found = inspected(PairInspection, tmp_path / "mine")
    assert found.network is not None
    assert found.network.preprocessing.declared == domain
    (warning,) = found.warnings
    assert "the variances in bn_data are those of images in 0..255" in warning
    said = lines(found, capsys)
    assert f"  warning    {warning}" in said
    assert "  input      RGB of 0..1, as the release mine says" in said


def test_a_pair_whose_files_do_not_belong_together(tmp_path: Path) -> None:
    shutil.copy(RECORDINGS / "1.9.1-imagenet/model-symbol.json", tmp_path)
    shutil.copy(RECORDINGS / "1.9.1-basic/model-0000.params", tmp_path)
    with pytest.raises(InputError, match=r"model-0000\.params"):
        inspect(tmp_path)


def test_a_folder_with_several_epochs(tmp_path: Path) -> None:
    for end in ("symbol.json", "0000.params", "0000.params"):
        shutil.copy(RECORDINGS / f"1.9.1-basic/model-{end}", tmp_path / f"model-{end}")
    shutil.copy(tmp_path / "model-0000.params", tmp_path / "model-0007.params")
    with pytest.raises(MissingFileError, match="epochs 0, 7") as error:
        inspect(tmp_path / "model")
    assert "name the files themselves" in str(error.value.hint)
