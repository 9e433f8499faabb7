"""Running a checkpoint: the module without initialisation, the weights as they are, the activations asked for."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from graph_builder import TINY, source_model
from single_node import ramp
from torch import nn

from resnext_convert.converter.resnext.match import match
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
