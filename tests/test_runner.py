"""Running a checkpoint: the module without initialisation, the weights as they are, the activations asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import save, tiny_arrays
from graph_builder import TINY, Spelling, source_model
from pydantic import TypeAdapter
from single_node import ramp
from torch import nn

from resnext_convert.converter import checkpoint
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.runner import ModuleRunner, build


def state() -> dict[str, torch.Tensor]:
    model = source_model(TINY)
    return {key: torch.from_numpy(np.array(values)) for key, values in assemble(match(model), model.tensors).items()}


def test_the_weights_are_not_copied() -> None:
    weights = state()
    module = build(TINY, weights)
    assert not any(layer.training for layer in module.modules())
    assert all(value.data_ptr() == weights[key].data_ptr() for key, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_weights_keep_their_dtype(dtype: torch.dtype) -> None:
    weights = {key: value if value.ndim == 0 else value.to(dtype) for key, value in state().items()}
    module = build(TINY, weights)
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}


@pytest.mark.parametrize("key", ["fc.weight", "bn1.num_batches_tracked", "layer2.1.bn3.running_var"])
def test_each_key_must_be_there(key: str) -> None:
    """load_state_dict(strict=True) would do without the counter."""
    weights = state()
    del weights[key]
    with pytest.raises(RuntimeError, match=rf"keys differ: \['{key}'\]"):
        build(TINY, weights)


def test_no_other_key_may_be_there() -> None:
    with pytest.raises(RuntimeError, match=r"keys differ: \['fc2\.weight'\]"):
        build(TINY, state() | {"fc2.weight": torch.zeros(1)})


def test_shapes_must_be_those_of_the_configuration() -> None:
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        build(TINY, state() | {"fc.bias": torch.zeros(6)})


def test_the_activations_asked_for_in_float64() -> None:
    weights = state()
    runner = ModuleRunner(TINY, weights, torch.float64)
    image = ramp(2, 3, 40, 36).astype(np.float32)
    found = runner.run(image, ["layer1.0", "fc", "layer2.1.bn2"])
    assert list(found) == ["layer1.0", "layer2.1.bn2", "fc"]
    assert {values.dtype for values in found.values()} == {np.dtype(np.float64)}
    assert found["fc"].shape == (2, 5)
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())

    # The same by hand.
    module = build(TINY, weights).double()
    names = [name for name, _ in module.named_children()]
    x = torch.from_numpy(image).double()
    with torch.inference_mode():
        for name in names:
            x = module.get_submodule(name)(x)
            if name == "layer1":
                assert np.array_equal(found["layer1.0"], x.numpy())
    assert np.array_equal(found["fc"], x.numpy())


def test_a_run_leaves_nothing_behind() -> None:
    runner = ModuleRunner(TINY, state(), torch.float32)
    image = ramp(1, 3, 32, 32)
    first = runner.run(image, ["fc"])
    with pytest.raises(AttributeError):
        runner.run(image, ["layer9"])
    with pytest.raises(RuntimeError):
        runner.run(ramp(1, 4, 32, 32), ["fc", "layer1.0"])
    assert all(layer._forward_hooks == OrderedDict() for layer in runner.module.modules())
    assert np.array_equal(runner.run(image, ["fc"])["fc"], first["fc"])


def test_the_whole_module_is_its_last_layer() -> None:
    runner = ModuleRunner(TINY, state(), torch.float32)
    found = runner.run(ramp(1, 3, 32, 32), ["fc", ""])
    assert np.array_equal(found["fc"], found[""])
    assert isinstance(runner.module, nn.Module)


# Statistics in float64 beside weights in float32


def mixed() -> dict[str, torch.Tensor]:
    arrays = tiny_arrays(Spelling(norms="apart", factor=999.98))
    state = {key: torch.from_numpy(np.array(values)) for key, values in arrays.items()}
    assert {value.dtype for value in state.values()} == {torch.float32, torch.float64, torch.int64}
    return state


def test_the_proof_sees_the_statistics_as_they_are() -> None:
    state = mixed()
    wide, narrow = (ModuleRunner(TINY, state, dtype).module for dtype in (torch.float64, torch.float32))
    for key, stored in state.items():
        assert torch.equal(wide.state_dict()[key], stored.to(torch.float64) if stored.ndim else stored)
        assert torch.equal(narrow.state_dict()[key], stored.to(torch.float32) if stored.ndim else stored)
    image = ramp(1, 3, 32, 32).astype(np.float32)
    outputs = [ModuleRunner(TINY, state, dtype).run(image, ["fc"])["fc"] for dtype in (torch.float64, torch.float32)]
    assert [output.dtype for output in outputs] == [np.float64, np.float32]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5 * np.abs(outputs[0]).max()


def test_a_loaded_module_has_the_dtype_of_its_weights(tmp_path: Path) -> None:
    arrays = tiny_arrays(Spelling(norms="apart", factor=999.98))
    path = save(arrays, tmp_path / "out.pth")
    config = TypeAdapter(ResNeXtConfig).dump_python(TINY, mode="json")
    (tmp_path / "out.json").write_text(json.dumps({"output": {"sha256": checkpoint.sha256(path)}, "config": config}))
    module = checkpoint.load(path)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32, torch.int64}
    assert np.array_equal(module.get_buffer("bn1.running_var").numpy(), arrays["bn1.running_var"].astype(np.float32))
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_load_state_dict_rounds_the_statistics() -> None:
    """What PyTorch's own way to load does with them."""
    state = mixed()
    module = ResNeXt(TINY)
    module.load_state_dict(state)
    assert torch.equal(module.get_buffer("bn1.running_mean"), state["bn1.running_mean"].float())
