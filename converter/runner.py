"""Runs a written checkpoint: the module from its configuration and its state dict, with the activations asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.module import ResNeXt
from resnext_convert.converter.tensors import Array

State = Mapping[str, torch.Tensor]


def build(config: ResNeXtConfig, state: State) -> ResNeXt:
    """The module with these weights (not copied), in evaluation mode.

    Each keeps its dtype: it runs where that is one, or made one by ``to``.

    Raises:
        RuntimeError: the state dict is not the module's.
    """
    with torch.device("meta"):
        module = ResNeXt(config)
    # strict=True forgives an absent num_batches_tracked in a plain dict, so the keys are compared here.
    if set(state) != set(module.state_dict()):
        raise RuntimeError(f"keys differ: {sorted(set(state) ^ set(module.state_dict()))}")
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


class ModuleRunner:
    """The converted network in one precision.

    Args:
        config: the network.
        state: its state dict, of any floating dtypes; copied only where they differ from ``dtype``.
        dtype: of weights and activations.
    """

    def __init__(self, config: ResNeXtConfig, state: State, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.module = build(config, state).to(dtype)

    def run(self, image: Array, wanted: Iterable[str]) -> dict[str, Array]:
        """The outputs of the submodules ``wanted`` (paths such as ``layer1.0.bn2``) for one image (N, C, H, W)."""
        seen: dict[str, torch.Tensor] = {}
        handles = [self.module.get_submodule(name).register_forward_hook(_keep(seen, name)) for name in wanted]
        try:
            with torch.inference_mode():
                self.module(torch.from_numpy(image).to(self.dtype))
        finally:
            for handle in handles:
                handle.remove()
        return {name: tensor.numpy() for name, tensor in seen.items()}


def _keep(seen: dict[str, torch.Tensor], name: str):  # type: ignore[no-untyped-def]  # torch's hook types are private
    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        seen[name] = output

    return hook
