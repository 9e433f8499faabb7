"""The weights of a network for the stock model that has its layers: what that lacks, folded into what it has.

The function stays the same. Every value is computed in float64 and stays float64 where float32 cannot hold it; loading
it into a float32 model rounds it. What is known of the input, and ``bn_data``, become the ``Normalize(mean, std)`` of
RGB images in [0, 1] that stock models are used with, never a bias: the first convolution pads with zeros after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from resnext_convert.converter.classes import ClassOrder, places
from resnext_convert.converter.domain import InputDomain, Triple
from resnext_convert.converter.errors import TargetError
from resnext_convert.converter.resnext.config import NormConfig, ResNeXtConfig, UnitConfig, downsample_names, stem_names
from resnext_convert.converter.resnext.ledger import Binding, Fold, Ignored, Ledger, Transform
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.resnext.state_dict import narrowed
from resnext_convert.converter.resnext.stock import EPS, StockModel
from resnext_convert.converter.tensors import Array, Float64Array

IMAGENET_STD: Final[Triple] = (0.229, 0.224, 0.225)
"""The std that stock pipelines divide by (torchvision's and timm's default), RGB in [0, 1]. It is taken where the
source divides by nothing, and the first convolution makes up for it: the usual ``Normalize`` is then nearly right."""

OF_INPUT: Final = "in the mean and std of the input"

Named = tuple[str, str, UnitConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A network as a stock model computes it.

    Attributes:
        config: that of the stock model.
        arrays: the state dict, with our keys in our order.
        bindings: one for each key.
        ignored: every source tensor that is in no binding.
        source: what the source network is fed; None where ``domain`` is.
        domain: what the stock model wants to be fed: RGB in [0, 1], with this mean and std; None: what the source is.
        order: that of the source's classes if the rows of ``fc`` were put in that of ILSVRC-2012; None: they stay.
        activations: those of `Match.activations` that are equal on both sides.
    """

    config: ResNeXtConfig
    arrays: Mapping[str, Array]
    bindings: tuple[Binding, ...]
    ignored: tuple[Ignored, ...]
    source: InputDomain | None
    domain: InputDomain | None
    order: ClassOrder | None
    activations: tuple[tuple[str, str], ...]

    def logits(self, values: Array) -> Array:
        """The stock model's logits (N, classes) in the source's order of classes."""
        return values if self.order is None else values[:, list(places(self.order, "imagenet-2012"))]

    def feeds(self, image: Array) -> tuple[Array, Array]:
        """What the source network and what the target is fed: an RGB image (N, 3, H, W) in [0, 1], each in its domain.

        Where there are no domains, both are fed the image itself.
        """
        if self.source is None or self.domain is None:
            return image, image
        pixels = image.astype(np.float64)
        return self.source.prepare(pixels), self.domain.prepare(pixels)

    def converted(self, fed: Array) -> Array:
        """What the target is fed where the source network is fed ``fed`` (N, 3, H, W)."""
        if self.source is None or self.domain is None:
            return fed
        return self.domain.prepare(self.source.pixels(fed.astype(np.float64)))


def faithful(match: Match, arrays: Mapping[str, Array], order: ClassOrder | None = None) -> Folded:
    """The network as it is; given the source's ``order``, the rows of ``fc`` are put in that of ILSVRC-2012."""
    folder = _Folder(match, arrays, match.config)
    if order is not None:
        folder.reorder(order)
    return Folded(
        config=match.config,
        arrays=folder.arrays,
        bindings=tuple(folder.bindings.values()),
        ignored=match.ignored,
        source=None,
        domain=None,
        order=order,
        activations=match.activations,
    )


def fold(
    match: Match,
    arrays: Mapping[str, Array],
    stock: StockModel,
    domain: InputDomain,
    order: ClassOrder | None,
) -> Folded:
    """Folds the weights of a network.

    Args:
        match: the network as it was recognised.
        arrays: its state dict, as `assemble` gives it.
        stock: the model that has its layers.
        domain: what the source network is fed.
        order: that of its classes if the rows of ``fc`` are to be put in that of ILSVRC-2012; None: they stay.

    Raises:
        TargetError: the input's scale is negative or zero, so that no std can stand for it.
    """
    folder = _Folder(match, arrays, stock.config)
    folder.changed |= {"bn_data"}
    folder.norms()
    folder.biases()
    if order is not None:
        folder.reorder(order)
    mean, std = folder.input(domain)
    bindings, ignored = folder.close()
    return Folded(
        config=stock.config,
        arrays={binding.target: folder.arrays[binding.target] for binding in bindings},
        bindings=bindings,
        ignored=ignored,
        source=domain,
        order=order,
        domain=replace(domain, colour="rgb", range=1, mean=mean, std=std, source="the conversion"),
        activations=tuple(pair for pair in match.activations if pair[0] not in folder.changed),
    )


class _Folder:
    """The state dict and its bindings while they change; ``changed`` are the modules whose outputs do."""

    def __init__(self, match: Match, arrays: Mapping[str, Array], stock: ResNeXtConfig) -> None:
        self.match = match
        self.source = match.config
        self.stock = stock
        self.arrays = dict(arrays)
        self.bindings = {binding.target: binding for binding in match.bindings}
        self.changed: set[str] = set()

    # --- normalisations -------------------------------------------------------------------------------------------

    def norms(self) -> None:
        for conv, norm, unit in _units(self.source):
            if unit.norm is None:
                self.changed.add(conv)
                self.add_norm(conv, norm, unit)
            else:
                if unit.conv.bias:
                    self.changed.add(conv)
                    self.bias_to_mean(conv, norm)
                self.eps(norm, unit.norm)

    def add_norm(self, conv: str, norm: str, unit: UnitConfig) -> None:
        """A normalisation that does nothing, but for the bias of the convolution."""
        channels = unit.conv.out_channels
        self.invent(f"{norm}.weight", np.ones(channels, np.float32), Transform.NO_GAMMA)
        if unit.conv.bias:
            self.arrays[f"{norm}.bias"] = self.arrays.pop(f"{conv}.bias")
            self.bindings[f"{norm}.bias"] = replace(self.bindings.pop(f"{conv}.bias"), target=f"{norm}.bias")
        else:
            self.invent(f"{norm}.bias", np.zeros(channels, np.float32), Transform.NO_BETA)
        self.invent(f"{norm}.running_mean", np.zeros(channels, np.float32), Transform.NO_MEAN)
        self.invent(f"{norm}.running_var", np.ones(channels, np.float32), Transform.NO_VAR)
        self.invent(f"{norm}.num_batches_tracked", np.zeros((), np.int64), Transform.ZERO)
        self.eps(norm, NormConfig(channels=channels, eps=0.0))

    def bias_to_mean(self, conv: str, norm: str) -> None:
        """``conv + bias - mean``: the bias goes into the mean."""
        bias = self.bindings.pop(f"{conv}.bias")
        values = self.arrays.pop(f"{conv}.bias").astype(np.float64)
        self.set(f"{norm}.running_mean", lambda mean: mean - values, Fold.BIAS_TO_MEAN, folded=bias.sources)

    def eps(self, norm: str, config: NormConfig) -> None:
        """``var + eps`` stays what it is: the variance takes the difference, or gamma where that would be negative."""
        if config.eps == EPS:
            return
        var = self.arrays[f"{norm}.running_var"].astype(np.float64)
        wanted = var + config.eps - EPS
        negative = wanted < 0
        self.set(f"{norm}.running_var", lambda _: np.where(negative, 0.0, wanted), Fold.EPS_TO_VAR)
        if negative.any():
            ratio = np.where(negative, np.sqrt(EPS / (var + config.eps)), 1.0)
            self.set(f"{norm}.weight", lambda gamma: gamma * ratio, Fold.EPS_TO_GAMMA)

    # --- classifier and gates ---------------------------------------------------------------------------------------

    def biases(self) -> None:
        """Zeros for the biases that only the stock model has."""
        for key, shape in self.stock.state_shapes().items():
            if key not in self.bindings:
                self.invent(key, np.zeros(shape, np.float32), Transform.NO_BIAS)

    def reorder(self, order: ClassOrder) -> None:
        """Puts the rows of the classifier in the order of ILSVRC-2012."""
        rows = list(places("imagenet-2012", order))
        for key in ("fc.weight", "fc.bias"):
            if key in self.bindings:
                self.set(key, lambda values: values[rows], Fold.CLASS_ORDER)

    # --- input ------------------------------------------------------------------------------------------------------

    def input(self, domain: InputDomain) -> tuple[Triple, Triple]:
        """Folds what `Normalize` cannot say into the first convolution; returns the mean and std of RGB in [0, 1]."""
        scale, shift = self.input_affine(domain)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise TargetError(
                "the input's scale is not positive, so no std can stand for it",
                place="bn_data",
                expected="a positive gamma",
                found=", ".join(f"{value:.6g}" for value in scale),
                hint="--target reference converts it exactly",
            )
        reverse = domain.colour == "bgr"
        mean, std = -shift / scale, 1 / scale
        first = stem_names(len(self.source.stem))[0][0] + ".weight"
        if self.source.data_norm is None and domain.std == (1.0, 1.0, 1.0):
            std = np.array(IMAGENET_STD[::-1] if reverse else IMAGENET_STD)
            factor = (scale * std)[:, np.newaxis, np.newaxis]
            self.set(first, lambda weight: weight * factor, Fold.STD_TO_WEIGHT)
        if reverse:
            mean, std = mean[::-1], std[::-1]
            self.set(first, lambda weight: weight[:, ::-1], Fold.REVERSED)
        return _triple(mean), _triple(std)

    def input_affine(self, domain: InputDomain) -> tuple[Float64Array, Float64Array]:
        """(scale, shift) of what the first convolution reads, for pixels in [0, 1], in the source's channel order."""
        std = np.array(domain.std)
        scale, shift = domain.range / std, -np.array(domain.mean) / std
        if self.source.data_norm:
            gamma, beta, mean, var = (
                self.arrays[f"bn_data.{key}"].astype(np.float64)
                for key in ("weight", "bias", "running_mean", "running_var")
            )
            factor = gamma / np.sqrt(var + self.source.data_norm.eps)
            scale, shift = scale * factor, (shift - mean) * factor + beta
        return scale, shift

    # --- books ------------------------------------------------------------------------------------------------------

    def close(self) -> tuple[tuple[Binding, ...], tuple[Ignored, ...]]:
        """Balances the books anew: every source tensor is used once, or ignored for a reason that is known."""
        reasons = {ignored.source: ignored.reason for ignored in self.match.ignored}
        ledger = Ledger()
        for key, binding in self.bindings.items():
            if key.startswith("bn_data."):
                ignored = binding.transform is Transform.ONES
                reason = binding.transform.value if ignored else OF_INPUT
                reasons |= dict.fromkeys((*binding.sources, *binding.factors), reason)
            else:
                ledger.bind(binding)
        stored = [name for binding in self.match.bindings for name in (*binding.sources, *binding.factors)]
        stored += [ignored.source for ignored in self.match.ignored]
        return ledger.close(stored, self.stock.state_shapes(), reasons)

    def set(self, key: str, change: Callable[[Array], Array], how: Fold, folded: tuple[str, ...] = ()) -> None:
        """Changes a value; in float64, kept in its own type where that holds the result."""
        before = self.arrays[key]
        exact = how in {Fold.REVERSED, Fold.CLASS_ORDER}
        self.arrays[key] = change(before) if exact else _in_type(change(before.astype(np.float64)), before)
        binding = self.bindings[key]
        self.bindings[key] = replace(binding, folds=(*binding.folds, how), folded=(*binding.folded, *folded))

    def invent(self, key: str, values: Array, how: Transform) -> None:
        """Enters a key that no stored tensor fills."""
        self.arrays[key] = values
        self.bindings[key] = Binding(target=key, sources=(), transform=how)


def _units(config: ResNeXtConfig) -> Iterator[Named]:
    """(convolution, normalisation, unit) of every unit, with the names of its two modules."""
    for unit, (conv, norm) in zip(config.stem, stem_names(len(config.stem)), strict=True):
        yield conv, norm, unit
    for stage_number, stage in enumerate(config.stages, 1):
        for block_number, block in enumerate(stage):
            path = f"layer{stage_number}.{block_number}"
            for number, unit in enumerate(block.units, 1):
                yield f"{path}.conv{number}", f"{path}.bn{number}", unit
            if block.downsample:
                conv, norm = downsample_names(has_pool=block.downsample.pool is not None)
                yield f"{path}.{conv}", f"{path}.{norm}", block.downsample.unit


def _in_type(values: Array, before: Array) -> Array:
    return narrowed(values, before.dtype.type)


def _triple(values: Float64Array) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
