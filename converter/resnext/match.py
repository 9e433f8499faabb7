"""Structural match: from the graph and the shapes to a configuration, a binding for every key, and closed books."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np

from resnext_convert.converter.errors import NotResNeXtError, ShapeError, in_file
from resnext_convert.converter.graph import (
    BatchNorm,
    Conv,
    Graph,
    Linear,
    Node,
    Pool,
    PoolKind,
    Role,
    Softmax,
    SourceModel,
)
from resnext_convert.converter.normalize import normalize, restrict
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
from resnext_convert.converter.resnext.ledger import Binding, Ignored, Ledger, Transform
from resnext_convert.converter.resnext.structure import (
    Block,
    Branch,
    Excitation,
    Structure,
    Unit,
    find_classifier,
    find_structure,
)
from resnext_convert.converter.tensors import Array, TensorStore

UNUSED = "no node of the graph names it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An output of the source graph that follows from the logits."""

    value: str
    softmax: bool

    def of(self, logits: Array) -> Array:
        """The head's value for logits (N, classes)."""
        if not self.softmax:
            return logits
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a source network is as a ResNeXt.

    Attributes:
        config: all that the module needs.
        bindings: one for each key of the state dict, in its order.
        ignored: every source tensor that is in no binding.
        activations: (module's path, value of the source graph) in the order of execution: what must be equal.
        blocks: those of ``activations`` that end a residual block.
        logits: the value of the source graph that the module returns.
        heads: the heads of the source graph that show the logits or a softmax of them.
        other_heads: heads that are not converted.
    """

    config: ResNeXtConfig
    bindings: tuple[Binding, ...]
    ignored: tuple[Ignored, ...]
    activations: tuple[tuple[str, str], ...]
    blocks: tuple[str, ...]
    logits: str
    heads: tuple[Head, ...]
    other_heads: tuple[str, ...]

    def shown(self, logits: Array) -> dict[str, Array]:
        """What the source graph calls the logits and each head that follows from them, with their values."""
        return {self.logits: logits} | {head.value: head.of(logits) for head in self.heads}


def match(model: SourceModel) -> Match:
    """Finds the ResNeXt in a source model.

    Raises:
        NotResNeXtError: at the first node that does not fit.
        ShapeError: tensors whose channels do not fit each other.
        LedgerError: a tensor that two layers share.
    """
    with in_file(model.origin.graph_file):
        graph = normalize(model.graph)
        classifier = find_classifier(graph)
        path = restrict(graph, classifier.outputs[0])
        structure = find_structure(path)
        binder = _Binder(model.tensors)
        config = binder.config(structure)
        bindings, ignored = binder.ledger.close(
            model.tensors, config.state_shapes(), _reasons(model.graph, path), UNUSED
        )
    heads = [
        _head(graph, value, name, structure.logits)
        for value, name in zip(graph.outputs, model.graph.outputs, strict=True)
    ]
    return Match(
        config=config,
        bindings=bindings,
        ignored=ignored,
        activations=tuple(binder.activations),
        blocks=tuple(binder.blocks),
        logits=structure.logits,
        heads=tuple(head for head in heads if head),
        other_heads=tuple(name for name, head in zip(model.graph.outputs, heads, strict=True) if not head),
    )


def _head(graph: Graph, value: str, name: str, logits: str) -> Head | None:
    """What the head ``name`` (``value`` once normalised) shows of the logits; None if it is something else."""
    producer = graph.producers.get(value)
    if value == logits:
        return Head(value=name, softmax=False)
    if producer is not None and isinstance(producer.attrs, Softmax) and producer.inputs == (logits,):
        return Head(value=name, softmax=True)
    return None


def _reasons(graph: Graph, path: Graph) -> Mapping[str, str]:
    """Why the tensors of nodes beside the path to the classifier are no loss."""
    on_path = {node.name for node in path.nodes}
    return {
        tensor: f"of {node}, on which the classifier does not depend"
        for node in graph.nodes
        if node.name not in on_path
        for tensor in node.params.values()
    }


class _Binder:
    """Turns the nodes of a structure into configurations and enters a binding for each of their tensors."""

    def __init__(self, tensors: TensorStore) -> None:
        self.tensors = tensors
        self.ledger = Ledger()
        self.activations: list[tuple[str, str]] = []
        self.blocks: list[str] = []

    def config(self, structure: Structure) -> ResNeXtConfig:
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
        assert isinstance(attrs, BatchNorm)
        gamma = Transform.ONES if attrs.fix_gamma else Transform.IDENTITY
        self.bind(f"{name}.weight", node, Role.GAMMA, (channels,), gamma)
        self.bind(f"{name}.bias", node, Role.BETA, (channels,))
        self.bind(f"{name}.running_mean", node, Role.MEAN, (channels,))
        self.bind(f"{name}.running_var", node, Role.VAR, (channels,))
        self.ledger.bind(f"{name}.num_batches_tracked", None, Transform.ZERO)
        self.activations.append((name, node.outputs[0]))
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
            # torch drops a last window that starts in the far padding, and wants padding <= kernel / 2.
            if 2 * padding > kernel or (attrs.ceil and kernel < padding + stride):
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
        assert isinstance(attrs, Linear)
        rows, features = self.tensors[node.params[Role.WEIGHT]].shape
        if rows != attrs.out_features or features % channels or (pool and pool.global_pool and features != channels):
            raise ShapeError(
                "the classifier does not fit the features",
                place=str(node),
                expected=f"({attrs.out_features}, {channels})",
                found=(rows, features),
            )
        self.bind("fc.weight", node, Role.WEIGHT, (rows, features))
        if attrs.bias:
            self.bind("fc.bias", node, Role.BIAS, (rows,))
        self.activations.append(("fc", node.outputs[0]))
        return HeadConfig(pool=pool, in_features=features, classes=rows, bias=attrs.bias)

    def bind(
        self, target: str, node: Node, role: Role, shape: tuple[int, ...], transform: Transform = Transform.IDENTITY
    ) -> None:
        source = node.params[role]
        found = self.tensors[source].shape
        if found != shape:
            raise ShapeError(
                f"the {role.value} {source!r} does not fit its place",
                place=str(node),
                expected=shape,
                found=found,
                hint="are the two files from the same checkpoint?",
            )
        self.ledger.bind(target, source, transform)

    def _input_channels(self, node: Node) -> int:
        assert isinstance(node.attrs, Conv)
        shape = self.tensors[node.params[Role.WEIGHT]].shape
        return shape[1] * node.attrs.groups
