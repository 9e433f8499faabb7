"""Gives the layers of a net their blobs from a weights file: two files in, one graph out.

Caffe's rules (net.cpp, CopyTrainedLayersFromBinaryProto and CopyTrainedLayersFromHDF5) without its silence. A stored
layer goes to the layer of the net that has exactly its name, the number of blobs and their shapes must be equal, and of
several copies the last one counts; what is copied into a shared blob last is everybody's. What Caffe would leave at
random values is refused. Layers that the file alone has are left over, as Caffe leaves them: a file of a training has
more heads than a net for deployment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from resnext_convert.converter.caffe.blobs import Key, NetLayer, key_name
from resnext_convert.converter.caffe.network import Network
from resnext_convert.converter.caffe.shapes import Shape, fits
from resnext_convert.converter.caffe.weights import StoredLayer, StoredWeights
from resnext_convert.converter.errors import MissingTensorError, ShapeError
from resnext_convert.converter.graph import Graph
from resnext_convert.converter.tensors import TensorRef, TensorStore
from resnext_convert.converter.text import counted

_SHOWN: Final = 8  # names that a message shows of a long list


@dataclass(frozen=True, slots=True)
class Bound:
    """A graph whose parameters are stored tensors.

    Attributes:
        graph: the net's, with `Node.params`.
        tensors: the blobs of its layers, ``conv1[0]``, in the shapes that the net gives them, shared ones once for each
            layer; then the blobs of layers that the file alone has.
        warnings: what is shared and what is left over.
    """

    graph: Graph
    tensors: TensorStore
    warnings: tuple[str, ...]


def bind(network: Network, stored: StoredWeights) -> Bound:
    """Gives each layer its blobs.

    Raises:
        ShapeError: the blobs of a layer are not as many as the net demands, or not of those shapes.
        MissingTensorError: layers of the net are not in the file.
    """
    return _Binder(network, stored).bind()


class _Binder:
    """The work of `bind`, with what it collects on the way."""

    def __init__(self, network: Network, stored: StoredWeights) -> None:
        self._network = network
        self._stored = stored
        self._layers = {layer.name: layer for layer in network.layers}
        self._copies: dict[Key, tuple[Key, TensorRef]] = {}  # what each owner has, and the layer that it is stored with
        self._differ: dict[Key, Key] = {}  # owners whose layers are stored with different values
        self._left_over: dict[str, TensorRef] = {}
        self._strangers: dict[str, None] = {}  # layers that the file alone has
        self._problems: list[ShapeError] = []

    def bind(self) -> Bound:
        for layer in self._stored.layers:
            if layer.blobs:
                self._copy(layer)
        if self._problems:
            first, *others = self._problems
            first.problem += f" ({len(others)} more do not fit either)" if others else ""
            raise first
        missing = [layer for layer in self._network.layers if any(map(self._lacks, layer.keys))]
        if missing:
            raise self._missing_error(missing)
        tensors = {key_name(key): self._tensor(layer, key) for layer in self._network.layers for key in layer.keys}
        params = {
            layer.node: dict(zip(layer.roles or (), map(key_name, layer.keys), strict=True))
            for layer in self._network.layers
        }
        graph = self._network.graph
        return Bound(
            graph=replace(graph, nodes=tuple(replace(node, params=params.get(node.name, {})) for node in graph.nodes)),
            tensors=TensorStore(tensors | self._left_over, self._stored.file),
            warnings=tuple(self._warnings()),
        )

    # Copying

    def _copy(self, stored: StoredLayer) -> None:
        layer = self._layers.get(stored.name)
        if layer is None or layer.roles is None:
            self._left_over.update({blob.name: blob for blob in stored.blobs if blob is not None})
            if layer is None:
                self._strangers[stored.name] = None
            return
        if not self._as_many(layer, stored):
            self._problems.append(_count_error(layer, stored))
            return
        for index, (blob, legacy) in enumerate(zip(stored.blobs, stored.legacy, strict=True)):
            target = layer.shape(index)
            if blob is None:
                continue
            if not blob.size or (target is not None and not fits(blob.shape, target, legacy)):
                self._problems.append(_shape_error(layer, index, blob, target))
            else:
                shape = blob.shape if target is None else blob.shape[len(blob.shape) - len(target) :]
                self._enter((layer.name, index), _renamed(blob, blob.name, shape, blob.where))

    def _as_many(self, layer: NetLayer, stored: StoredLayer) -> bool:
        """Whether the blobs are as many as the net's; HDF5 lacks those that another layer owns."""
        if self._stored.kind == "caffemodel":
            return len(stored.blobs) == len(layer.keys)
        spare = len(layer.keys) - len(stored.blobs)
        blobs = [*stored.blobs, *[None] * spare]
        absent = [key for key, blob in zip(layer.keys, blobs, strict=False) if blob is None]
        return spare >= 0 and all(self._network.owners[key] != key for key in absent)

    def _enter(self, key: Key, blob: TensorRef) -> None:
        owner = self._network.owners[key]
        if owner in self._copies:
            before, earlier = self._copies[owner]
            if before != key and not np.array_equal(earlier.numpy().reshape(-1), blob.numpy().reshape(-1)):
                self._differ[owner] = key
        self._copies[owner] = (key, blob)

    def _lacks(self, key: Key) -> bool:
        return self._network.owners[key] not in self._copies

    def _tensor(self, layer: NetLayer, key: Key) -> TensorRef:
        owner = self._network.owners[key]
        _, blob = self._copies[owner]
        shape = _completed(layer.shape(key[1]), blob.shape)
        if math.prod(shape) != blob.size:
            raise _shape_error(layer, key[1], blob, shape)
        where = blob.where if owner == key else f"shared with {key_name(owner)}"
        return _renamed(blob, key_name(key), shape, where)

    # What is said

    def _warnings(self) -> Iterator[str]:
        shared = [
            f"{key_name(key)} is {key_name(owner)}" for key, owner in self._network.owners.items() if key != owner
        ]
        if shared:
            yield f"layers share blobs by name: {_some(shared)}"
        for owner, key in self._differ.items():
            yield (
                f"{key_name(owner)} and {key_name(key)} are one blob, and are stored with different values: the last"
                " copy in the file counts for both, as in Caffe"
            )

    def _missing_error(self, missing: Sequence[NetLayer]) -> MissingTensorError:
        others = f"; layers that the net does not have: {_some(list(self._strangers))}" if self._strangers else ""
        stored = sum(bool(layer.blobs) for layer in self._stored.layers)
        return MissingTensorError(
            f"layers of the net have no weights in the file ({len(missing)}):"
            f" {_some([layer.name for layer in missing])}",
            expected="weights for every layer that has any; Caffe leaves the others at random values without a word",
            found=f"{counted(stored, 'layer')} with weights{others}",
            hint=self._guess(missing),
        )

    def _guess(self, missing: Sequence[NetLayer]) -> str:
        demanding = [layer for layer in self._network.layers if layer.roles]
        known = len(demanding) - len(missing)
        if not known:
            return "no layer name agrees: the two files belong to different networks"
        if self._strangers:
            return "was a layer renamed in one of the files? give it the name that the other one has"
        if {layer.type for layer in missing} <= {"BatchNorm", "Scale"} and len(missing) > 1:
            return "BatchNorm was merged into other layers when the file was written; take the prototxt made for it"
        if [layer.name for layer in missing] == [layer.name for layer in demanding[known:]]:
            return (
                f"all of them are at the end of the net, behind {demanding[known - 1].name!r}: the file looks cut off;"
                " fetch it again and compare its size and checksum"
            )
        return "the two files do not belong together; take the prototxt that was published with the weights"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name:.80}" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _renamed(blob: TensorRef, name: str, shape: Shape, where: str) -> TensorRef:
    return TensorRef(name=name, dtype=blob.dtype, shape=shape, where=where, data=blob.data)


def _completed(target: Shape | None, given: Shape) -> Shape:
    """The net's shape of a blob, with what the net does not say taken from the blob."""
    if target is None or fits(given, target, legacy=False):
        return given
    if target.count(0) == 1:
        known = math.prod(size for size in target if size)
        return tuple(size or math.prod(given) // known for size in target)
    return target


def _dims(shape: Shape | None) -> str:
    return "any" if shape is None else " ".join(str(size or "?") for size in shape) or "no axes"


def _count_error(layer: NetLayer, stored: StoredLayer) -> ShapeError:
    roles = ", ".join(layer.roles or ())
    found = ", ".join("none" if blob is None else f"({_dims(blob.shape)})" for blob in stored.blobs)
    hint = "the two files do not belong together; take the prototxt that was published with the weights"
    if layer.type == "BatchNorm":
        hint = (
            "files of forks that store BatchNorm otherwise are not read; load the file there and save it for BVLC Caffe"
        )
    elif layer.type in {"Convolution", "InnerProduct", "Scale"} and {len(layer.keys), len(stored.blobs)} == {1, 2}:
        hint = (
            "one of the two files has a bias and the other has none; the default of bias_term is false for Scale and"
            " true for the others. Was BatchNorm merged into the weights? Take the prototxt made for them"
        )
    return ShapeError(
        f"Incompatible number of blobs for layer {layer.name!r:.80} ({len(layer.keys)} vs. {len(stored.blobs)})",
        place=str(layer),
        expected=f"{len(layer.keys)}: {roles}" if roles else "none",
        found=f"{len(stored.blobs)}: {found}",
        hint=hint,
    )


def _shape_error(layer: NetLayer, index: int, blob: TensorRef, target: Shape | None) -> ShapeError:
    hint = "the two files do not belong together; take the prototxt that was published with the weights"
    if target is not None:
        stored, wanted = ([size for size in shape if size != 1] for shape in (blob.shape, target))
        if stored == wanted:
            hint = "axes of size 1 were added or dropped; Caffe does neither"
        elif blob.shape == target[::-1]:
            hint = "the matrix is stored transposed; Caffe does not transpose it, but for `transpose: true`"
        elif blob.shape[1:] == target[1:]:
            hint = "the number of outputs differs: was the prototxt changed for other classes, and not trained?"
    return ShapeError(
        f"Cannot copy param {index} weights from layer {layer.name!r:.80}; shape mismatch",
        place=blob.where,
        expected=_dims(target),
        found=_dims(blob.shape),
        hint=hint,
    )
