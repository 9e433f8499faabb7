"""The parts of a network to a configuration, and the stored tensors of each to the keys that they fill."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal

from resnext_convert.converter.branches import Stack
from resnext_convert.converter.errors import NotResNeXtError, ShapeError
from resnext_convert.converter.graph import BatchNorm, Conv, Linear, Node, Pool, PoolKind, Role, Scale
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
    downsample_names,
    stem_names,
)
from resnext_convert.converter.resnext.ledger import Binding, Ledger, Transform
from resnext_convert.converter.resnext.structure import Block, Branch, Excitation, Structure, Unit
from resnext_convert.converter.tensors import TensorStore

NORM_KEYS: Final[Mapping[Role, tuple[str, Transform]]] = {
    Role.GAMMA: ("weight", Transform.NO_GAMMA),
    Role.BETA: ("bias", Transform.NO_BETA),
    Role.MEAN: ("running_mean", Transform.NO_MEAN),
    Role.VAR: ("running_var", Transform.NO_VAR),
}
"""The keys of a normalisation, and what fills them where the source has nothing to."""


class Binder:
    """Turns the nodes of a structure into configurations and enters a binding for each of their tensors.

    Args:
        tensors: what is stored.
        stacks: what names of `Node.params` that are not stored stand for.

    Attributes:
        ledger: the bindings so far.
        activations: (module's path, value) so far, in the order of execution.
        blocks: those of ``activations`` that end a residual block.
    """

    def __init__(self, tensors: TensorStore, stacks: Mapping[str, Stack]) -> None:
        self.tensors = tensors
        self.stacks = stacks
        self.ledger = Ledger()
        self.activations: list[tuple[str, str]] = []
        self.blocks: list[str] = []

    def config(self, structure: Structure) -> ResNeXtConfig:
        """The configuration of the whole network; after it the ledger holds a binding for each of its keys.

        Raises:
            NotResNeXtError: a layer that the module does not have.
            ShapeError: tensors whose channels do not fit each other.
            LedgerError: a tensor that two layers share.
        """
        channels = self._input_channels(structure.stem[0].conv)
        data_norm = self.norm("bn_data", structure.data_norm, channels) if structure.data_norm else None
        stem = []
        for unit, (conv, norm) in zip(structure.stem, stem_names(len(structure.stem)), strict=True):
            stem.append(self.unit(conv, norm, unit, channels))
            channels = stem[-1].conv.out_channels
        stem_pool = self.pool("maxpool", structure.stem_pool)
        stages = []
        for stage_number, blocks in enumerate(structure.stages, 1):
            stage = []
            for block_number, block in enumerate(blocks):
                stage.append(self.block(f"layer{stage_number}.{block_number}", block, channels))
                channels = stage[-1].units[-1].conv.out_channels
            stages.append(tuple(stage))
        return ResNeXtConfig(
            data_norm=data_norm,
            stem=tuple(stem),
            stem_pool=stem_pool,
            stages=tuple(stages),
            head=self.head(structure, channels),
        )

    def block(self, name: str, block: Block, channels: int) -> BlockConfig:
        units = []
        inside = channels
        for number, unit in enumerate(block.residual.units, 1):
            units.append(self.unit(f"{name}.conv{number}", f"{name}.bn{number}", unit, inside))
            inside = units[-1].conv.out_channels
        excitation = block.residual.excitation
        squeeze = self.excitation(f"{name}.se", excitation, inside) if excitation else None
        downsample = self.downsample(name, block.projection, channels) if block.projection else None
        shortcut = downsample.unit.conv.out_channels if downsample else channels
        if shortcut != inside:
            raise ShapeError(
                "the two sides of the addition differ in their channels",
                place=str(block.residual.add),
                expected=f"{inside} channels, as the residual has",
                found=f"{shortcut} in the shortcut",
            )
        self.activations.append((name, block.relu.outputs[0]))
        self.blocks.append(name)
        return BlockConfig(
            units=tuple(units), squeeze_excitation=squeeze, downsample=downsample, shortcuts=block.shortcuts
        )

    def unit(self, conv: str, norm: str, unit: Unit, channels: int) -> UnitConfig:
        conv_config = self.conv(conv, unit.conv, channels)
        return UnitConfig(
            conv=conv_config,
            norm=self.norm(norm, unit.norm, conv_config.out_channels) if unit.norm else None,
            relu=unit.relu is not None,
        )

    def conv(self, name: str, node: Node, channels: int) -> ConvConfig:
        attrs = node.attrs
        assert isinstance(attrs, Conv)
        config = ConvConfig(
            in_channels=channels,
            out_channels=attrs.out_channels,
            kernel=attrs.kernel,
            stride=attrs.stride,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            bias=attrs.bias,
        )
        if channels % attrs.groups or attrs.out_channels % attrs.groups:
            raise ShapeError(
                "the groups do not divide the channels",
                place=str(node),
                expected=f"multiples of {attrs.groups}",
                found=f"{channels} to {attrs.out_channels} channels",
            )
        self.bind(f"{name}.weight", node, Role.WEIGHT, config.weight_shape)
        if attrs.bias:
            self.bind(f"{name}.bias", node, Role.BIAS, (attrs.out_channels,))
        self.activations.append((name, node.outputs[0]))
        return config

    def norm(self, name: str, node: Node, channels: int) -> NormConfig:
        attrs = node.attrs
        assert isinstance(attrs, BatchNorm | Scale)
        transforms = _norm_transforms(attrs)
        for role, (key, invented) in NORM_KEYS.items():
            if role in transforms:
                self.bind(f"{name}.{key}", node, role, (channels,), transforms[role])
            else:
                self.invent(f"{name}.{key}", invented)
        self.invent(f"{name}.num_batches_tracked", Transform.ZERO)
        self.activations.append((name, node.outputs[0]))
        if isinstance(attrs, Scale):
            return NormConfig(channels=channels, eps=0.0)
        # MXNet keeps the share m of the old statistics, PyTorch takes the share 1 - m of the new ones. In decimals,
        # so that 0.9 becomes 0.1 and not 0.09999999999999998.
        momentum = float(1 - Decimal(repr(attrs.momentum)))
        return NormConfig(channels=channels, eps=attrs.eps, momentum=momentum)

    def excitation(self, name: str, excitation: Excitation, channels: int) -> SqueezeExcitationConfig:
        reduced, bias1 = self.gate_layer(f"{name}.fc1", excitation.reduce, channels, None)
        _, bias2 = self.gate_layer(f"{name}.fc2", excitation.expand, reduced, channels)
        self.activations.append((name, excitation.multiply.outputs[0]))
        return SqueezeExcitationConfig(channels=channels, reduced=reduced, bias=(bias1, bias2))

    def gate_layer(self, name: str, node: Node, channels: int, out: int | None) -> tuple[int, bool]:
        """One layer of a gate; returns its output channels and whether it has a bias."""
        attrs = node.attrs
        assert isinstance(attrs, Conv | Linear)
        features = attrs.out_channels if isinstance(attrs, Conv) else attrs.out_features
        if out is not None and features != out:
            raise ShapeError("the gate does not fit the residual", place=str(node), expected=out, found=features)
        if isinstance(attrs, Conv):
            self.bind(f"{name}.weight", node, Role.WEIGHT, (features, channels, 1, 1))
        elif attrs.transpose:
            self.bind(f"{name}.weight", node, Role.WEIGHT, (channels, features), Transform.TRANSPOSE_TO_CONV)
        else:
            self.bind(f"{name}.weight", node, Role.WEIGHT, (features, channels), Transform.LINEAR_TO_CONV)
        if attrs.bias:
            self.bind(f"{name}.bias", node, Role.BIAS, (features,))
        return features, attrs.bias

    def downsample(self, name: str, branch: Branch, channels: int) -> DownsampleConfig:
        # The pooling's place in the sequence decides the names, so it comes first.
        pool = self.pool(f"{name}.downsample.0", branch.pool)
        conv, norm = downsample_names(has_pool=pool is not None)
        return DownsampleConfig(
            pool=pool, unit=self.unit(f"{name}.{conv}", f"{name}.{norm}", branch.units[0], channels)
        )

    def pool(self, name: str, node: Node | None) -> PoolConfig | None:
        if node is None:
            return None
        attrs = node.attrs
        assert isinstance(attrs, Pool)
        self.activations.append((name, node.outputs[0]))
        if attrs.kind is PoolKind.SUM:
            raise NotResNeXtError("no ResNeXt sums in its pooling", place=str(node), expected="max or avg", found="sum")
        kind: Literal["max", "avg"] = "max" if attrs.kind is PoolKind.MAX else "avg"
        if attrs.global_pool:
            return PoolConfig(kind=kind, global_pool=True)
        for kernel, stride, padding in zip(attrs.kernel, attrs.stride, attrs.padding, strict=True):
            # torch drops a last window that starts in the far padding, as Caffe does where there is padding at all,
            # and wants padding <= kernel / 2.
            kept = attrs.ceil and not (attrs.clip and any(attrs.padding))
            if 2 * padding > kernel or (kept and kernel < padding + stride):
                raise NotResNeXtError(
                    "PyTorch has no pooling with this geometry",
                    place=str(node),
                    expected="padding <= kernel / 2, and padding + stride <= kernel where the size is rounded up",
                    found=f"kernel {attrs.kernel}, stride {attrs.stride}, padding {attrs.padding}",
                )
        return PoolConfig(
            kind=kind,
            kernel=attrs.kernel,
            stride=attrs.stride,
            padding=attrs.padding,
            ceil_mode=attrs.ceil,
            count_include_pad=attrs.count_include_pad,
        )

    def head(self, structure: Structure, channels: int) -> HeadConfig:
        pool = self.pool("avgpool", structure.pool)
        node = structure.classifier
        attrs = node.attrs
        assert isinstance(attrs, Conv | Linear)
        shape = self.stored_shape(node)
        transposed = isinstance(attrs, Linear) and attrs.transpose
        rows, features = (shape[1], shape[0]) if transposed else shape[:2]
        classes = attrs.out_channels if isinstance(attrs, Conv) else attrs.out_features
        whole = isinstance(attrs, Conv) or (pool is not None and pool.global_pool)
        if rows != classes or features % channels or (whole and features != channels):
            raise ShapeError(
                "the classifier does not fit the features",
                place=str(node),
                expected=f"({classes}, {channels})",
                found=(rows, features),
            )
        if isinstance(attrs, Conv):
            self.bind("fc.weight", node, Role.WEIGHT, (rows, features, 1, 1), Transform.CONV_TO_LINEAR)
        else:
            self.bind("fc.weight", node, Role.WEIGHT, shape, Transform.TRANSPOSE if transposed else Transform.IDENTITY)
        if attrs.bias:
            self.bind("fc.bias", node, Role.BIAS, (rows,))
        self.activations.append(("fc", node.outputs[0]))
        return HeadConfig(pool=pool, in_features=features, classes=rows, bias=attrs.bias)

    def bind(
        self, target: str, node: Node, role: Role, shape: tuple[int, ...], transform: Transform = Transform.IDENTITY
    ) -> None:
        """Enters the stored tensors of a role, which together must have ``shape``."""
        stack = self.stack(node, role)
        each = list(shape)
        if stack.axis is not None:
            each[stack.axis] //= len(stack.sources)
        for source in stack.sources:
            self.check(node, role, source, tuple(each))
        factors: tuple[str, ...] = ()
        if transform is Transform.FACTOR:
            factors = self.stack(node, Role.FACTOR).sources
            for factor in factors:
                self.check(node, Role.FACTOR, factor, (1,))
        if stack.axis is None and len(stack.sources) > 1:
            transform = Transform.SUM
        self.ledger.bind(
            Binding(target=target, sources=stack.sources, transform=transform, axis=stack.axis, factors=factors)
        )

    def check(self, node: Node, role: Role, source: str, shape: tuple[int, ...]) -> None:
        found = self.tensors[source].shape
        if found != shape:
            raise ShapeError(
                f"the {role.value} {source!r} does not fit its place",
                place=str(node),
                expected=shape,
                found=found,
                hint="are the two files from the same checkpoint?",
            )

    def invent(self, target: str, transform: Transform) -> None:
        """Enters a key that no stored tensor fills."""
        self.ledger.bind(Binding(target=target, sources=(), transform=transform))

    def stack(self, node: Node, role: Role) -> Stack:
        """The stored tensors of a role: one, or those of branches."""
        name = node.params[role]
        return self.stacks.get(name) or Stack(sources=(name,), axis=None)

    def stored_shape(self, node: Node) -> tuple[int, ...]:
        """Of the weight; of one branch's, where there are several."""
        return self.tensors[self.stack(node, Role.WEIGHT).sources[0]].shape

    def _input_channels(self, node: Node) -> int:
        assert isinstance(node.attrs, Conv)
        return self.stored_shape(node)[1] * node.attrs.groups


def _norm_transforms(attrs: BatchNorm | Scale) -> dict[Role, Transform]:
    """What is done with each tensor that a normalisation, or a scale, has."""
    if isinstance(attrs, Scale):
        return dict.fromkeys((Role.GAMMA, Role.BETA) if attrs.bias else (Role.GAMMA,), Transform.IDENTITY)
    transforms = dict.fromkeys((Role.MEAN, Role.VAR), Transform.FACTOR if attrs.factor else Transform.IDENTITY)
    if attrs.gamma:
        transforms[Role.GAMMA] = Transform.ONES if attrs.fix_gamma else Transform.IDENTITY
    if attrs.beta:
        transforms[Role.BETA] = Transform.IDENTITY
    return transforms
