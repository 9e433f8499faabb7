"""The module: its keys, the ways in which PyTorch runs it, and that fine-tuning keeps its statistics."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from graph_builder import TINY, source_model
from hypothesis import given, settings
from random_configs import Network, networks
from single_node import ramp
from torch import Tensor, nn

from resnext_convert.converter.resnext.config import (
    BlockConfig,
    ConvConfig,
    DownsampleConfig,
    HeadConfig,
    NormConfig,
    PoolConfig,
    ResNeXtConfig,
    SqueezeExcitationConfig,
    UnitConfig,
)
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.runner import build


def unit(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True) -> UnitConfig:
    conv = ConvConfig(
        in_channels=channels,
        out_channels=out,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        groups=groups,
        bias=stride == 2,
    )
    return UnitConfig(conv=conv, norm=NormConfig(channels=out, eps=2e-5, momentum=0.25), relu=relu)


# All that a plain ResNeXt does not have.
EVERYTHING = ResNeXtConfig(
    data_norm=NormConfig(channels=3, eps=1e-3),
    stem=(unit(3, 8, 3, stride=2), unit(8, 8, 3), unit(8, 16, 3)),
    stem_pool=PoolConfig(kind="avg", kernel=(3, 3), stride=(2, 2), ceil_mode=True, count_include_pad=False),
    stages=(
        (
            BlockConfig(
                units=(unit(16, 16, 3, groups=4), unit(16, 16, 3, relu=False)),
                squeeze_excitation=SqueezeExcitationConfig(channels=16, reduced=4, bias=(True, False)),
                shortcuts=2,
            ),
        ),
        (
            BlockConfig(
                units=(unit(16, 8, 1), unit(8, 8, 3, stride=2, groups=8), unit(8, 24, 1, relu=False)),
                squeeze_excitation=SqueezeExcitationConfig(channels=24, reduced=3),
                downsample=DownsampleConfig(
                    pool=PoolConfig(kind="avg", kernel=(2, 2), stride=(2, 2), ceil_mode=True),
                    unit=unit(16, 24, 1, relu=False),
                ),
            ),
            BlockConfig(units=(unit(24, 24, 3, relu=False),)),
        ),
    ),
    head=HeadConfig(pool=PoolConfig(kind="max", global_pool=True), in_features=24, classes=7, bias=False),
)

CONFIGS = pytest.mark.parametrize("config", [TINY, EVERYTHING], ids=["plain", "everything"])


def converted(config: ResNeXtConfig) -> ResNeXt:
    """The module with the weights of a source model that was made for it."""
    model = source_model(config)
    return build(
        config, {key: torch.from_numpy(np.array(a)) for key, a in assemble(match(model), model.tensors).items()}
    )


def image(batch: int = 2, size: int = 45) -> Tensor:
    return torch.from_numpy(ramp(batch, 3, size, size + 2)).float()


def of_peak(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


# Keys


@settings(max_examples=100)
@given(networks())
def test_the_state_dict_is_what_the_configuration_says(network: Network) -> None:
    with torch.device("meta"):
        state = ResNeXt(network.config).state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(network.config.state_shapes().items())
    assert {value.dtype for key, value in state.items() if not key.endswith("num_batches_tracked")} == {torch.float32}


@settings(max_examples=30)
@given(networks())
def test_eps_and_momentum_are_those_of_each_normalisation(network: Network) -> None:
    with torch.device("meta"):
        module = ResNeXt(network.config)
    config = network.config
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    wanted = [config.data_norm, *(unit.norm for unit in config.stem)]
    for block in config.blocks():
        wanted += [unit.norm for unit in block.units]
        wanted += [block.downsample.unit.norm] if block.downsample else []
    assert [(norm.eps, norm.momentum) for norm in norms] == [(norm.eps, norm.momentum) for norm in wanted if norm]


def test_absent_layers_are_identities_without_keys() -> None:
    module = ResNeXt(TINY)
    block = module.get_submodule("layer2.1")
    assert isinstance(block.downsample, nn.Identity)
    assert isinstance(block.se, nn.Identity)
    assert not any(key.startswith(("bn_data", "layer2.1.downsample", "layer1.0.se")) for key in module.state_dict())
    assert [name for name, _ in module.named_children()] == [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "avgpool", "flatten", "fc"
    ]  # fmt: skip
    assert module.config is TINY


def test_no_layer_writes_into_its_input() -> None:
    """The proof keeps what each layer wrote."""
    module = converted(EVERYTHING)
    kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda layer, inputs, output: kept.append((name, output, output.clone()))

    for name, layer in module.named_modules():
        layer.register_forward_hook(keep(name))
    fed = image()
    before = fed.clone()
    with torch.inference_mode():
        module(fed)
    assert len(kept) > 60
    assert torch.equal(fed, before)
    assert [name for name, now, then in kept if not torch.equal(now, then)] == []


def test_parts_of_the_sequence() -> None:
    """A backbone is all but the classifier; a part is no ResNeXt any more."""
    module = converted(TINY)
    backbone = module[:-1]
    assert type(backbone) is nn.Sequential
    assert list(dict(backbone.named_children())) == list(dict(module.named_children()))[:-1]
    with torch.inference_mode():
        assert torch.equal(module[-1](backbone(image())), module(image()))


def test_the_classifier_may_be_replaced() -> None:
    module = converted(TINY)
    module.fc = nn.Linear(TINY.head.in_features, 3)
    assert module(image()).shape == (2, 3)


def test_a_copy_is_equal_and_independent() -> None:
    module = converted(EVERYTHING)
    other = copy.deepcopy(module)
    assert isinstance(other, ResNeXt)
    assert other.config == module.config
    with torch.no_grad():
        expected = module(image())
        assert torch.equal(other(image()), expected)
        other.get_parameter("bn1.bias").add_(1)
        assert torch.equal(module(image()), expected)


# Ways to run it


@CONFIGS
def test_it_scripts(config: ResNeXtConfig) -> None:
    module = converted(config)
    with warnings.catch_warnings():
        # torch 2.13 announces the end of TorchScript; the module still has to script.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*TorchScript.*|.*torch.jit.*")
        scripted = torch.jit.script(module)
        saved = io.BytesIO()
        torch.jit.save(scripted, saved)
        saved.seek(0)
        loaded = torch.jit.load(saved)  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        expected = module(image())
        assert torch.equal(scripted(image()), expected)
        assert torch.equal(loaded(image()), expected)
        assert of_peak(loaded(image(1, 33)), module(image(1, 33))) < 1e-6


@CONFIGS
def test_it_exports(config: ResNeXtConfig) -> None:
    module = converted(config)
    exported = torch.export.export(module, (image(),))
    assert set(exported.state_dict) == set(module.state_dict())
    with torch.inference_mode():
        assert torch.equal(exported.module()(image()), module(image()))


@CONFIGS
def test_it_exports_with_any_batch_size(config: ResNeXtConfig) -> None:
    module = converted(config)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (image(3),), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        for count in (1, 2, 5):
            assert of_peak(exported.module()(image(count)), module(image(count))) < 1e-6


@CONFIGS
def test_it_runs_channels_last(config: ResNeXtConfig) -> None:
    module = converted(config)
    with torch.inference_mode():
        expected = module(image())
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert module.get_parameter("layer1.0.conv2.weight").is_contiguous(memory_format=torch.channels_last)
        seen: list[bool] = []
        module.get_submodule("layer2").register_forward_hook(
            lambda layer, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
        )
        found = module(image().to(memory_format=torch.channels_last))
    assert seen == [True]
    # Other kernels, other orders of summation: a few units of float32.
    assert of_peak(found, expected) < 2e-6


# Each of some twenty roundings moves a value by half a unit; the bound is five units (2**-8 and 2**-11) of the peak.
@CONFIGS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 5 * 2**-8), (torch.float16, 5 * 2**-11)])
def test_it_runs_in_half_precision(config: ResNeXtConfig, dtype: torch.dtype, bound: float) -> None:
    module = converted(config)
    with torch.inference_mode():
        expected = copy.deepcopy(module).double()(image().double())
        found = module.to(dtype)(image().to(dtype))
    assert found.dtype == dtype
    assert 0 < of_peak(found, expected) < bound


@CONFIGS
def test_it_runs_in_mixed_precision(config: ResNeXtConfig) -> None:
    module = converted(config)
    with torch.inference_mode():
        expected = copy.deepcopy(module).double()(image().double())
        with torch.autocast("cpu", torch.bfloat16):
            found = module(image())
    assert 0 < of_peak(found, expected) < 5 * 2**-8


# Training


def norms(module: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d))


@CONFIGS
def test_a_step_of_fine_tuning(config: ResNeXtConfig) -> None:
    """Statistics move by the configured momentum, every parameter gets a gradient, and the loss goes down."""
    module = converted(config).train()
    before = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms(module)}  # type: ignore[union-attr]
    batches: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda layer, inputs: batches.update({name: inputs[0].detach().clone()})

    handles = [norm.register_forward_pre_hook(keep(name)) for name, norm in norms(module)]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    labels = torch.arange(4) % config.head.classes
    loss = nn.functional.cross_entropy(module(image(4)), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    for handle in handles:
        handle.remove()
    assert len(batches) == len(before) > 3
    for name, norm in norms(module):
        assert norm.momentum is not None
        mean, var = before[name]
        data = batches[name].double()
        for running, old, new in (
            (norm.running_mean, mean, data.mean((0, 2, 3))),
            (norm.running_var, var, data.var((0, 2, 3), correction=1)),
        ):
            assert running is not None
            expected = old.double() * (1 - norm.momentum) + new * norm.momentum
            assert of_peak(running, expected) < 1e-5
        assert norm.num_batches_tracked == 1
    optimizer.step()
    assert nn.functional.cross_entropy(module(image(4)), labels) < loss


def test_evaluation_leaves_the_statistics_alone() -> None:
    module = converted(TINY)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.inference_mode():
        first = module(image())
        assert torch.equal(module(image()), first)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
