"""What the command line says of the forms and the precisions of an output."""

from __future__ import annotations

from pathlib import Path

from repository import FIXTURES
from running import run


def test_dtype(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    found = run("mxnet", str(FIXTURES / "resnext-tiny"), str(out), "--dtype", "bfloat16", "--oracle", "none")
    assert found.exit_code == 0
    assert "  rounding   all 127 tensors are the nearest bfloat16; 0 values subnormal, 0 now 0" in found.stdout
    assert "would pass (17 layers)" in found.stdout
    assert f"{out} (" in found.stdout
    assert ", bfloat16) and out.json" in found.stdout
    assert run("verify", str(out), str(FIXTURES / "resnext-tiny"), "--oracle", "none").exit_code == 0


def test_a_folder(tmp_path: Path) -> None:
    found = run("mxnet", str(FIXTURES / "resnext-tiny"), f"{tmp_path}/out/", "--no-verify")
    assert found.exit_code == 0
    assert f"{tmp_path}/out/model.safetensors (" in found.stdout
    assert ") and report.json" in found.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "report.json",
    ]
