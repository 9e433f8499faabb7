"""The layers of a prototxt to a graph: Caffe's rules about blobs, and what inference has no use for.

A layer of Caffe may overwrite the blob that it reads; a value of the graph is written once. A value has its blob's name
if it is what the blob holds after a forward pass; what the blob held before that is ``blob@layer``, after the layer
that wrote it. With a blob that is fed it is the other way round: its name is the value that is fed, and what overwrites
it later is ``blob@layer``.

Nets of a training are taken as they are in the phase TEST. What their data layer yields is fed; labels, and what hangs
on labels, are left out; a loss is what it does to its prediction before it compares it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from resnext_convert.converter.caffe.blobs import Key, NetLayer, owners
from resnext_convert.converter.caffe.inputs import fed_shapes
from resnext_convert.converter.caffe.layers import AXPY, LOSSES, SINKS, SOURCES, TABLE, axpy_product, meaning
from resnext_convert.converter.caffe.phase import select
from resnext_convert.converter.caffe.shapes import Shape, axpy_shape, blob_shapes, output_shapes
from resnext_convert.converter.errors import FormatError, ShapeError, UnsupportedError, in_file
from resnext_convert.converter.graph import Add, Attrs, Graph, Identity, Node, Unknown
from resnext_convert.schemas.caffe_pb2 import TRAIN, LayerParameter, NetParameter

_KNOWN: Final = frozenset(row.name for row in TABLE) | SOURCES | SINKS | {AXPY}
_SHOWN = 8  # layers that a note or a message names
_STATE_THE_INPUT = (
    'put it first: layer { name: "data" type: "Input" top: "data" '
    "input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }"
)

Write = tuple[int, int]
"""A top of a layer, by their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a net computes at inference, before it has weights.

    Attributes:
        graph: its nodes are without `Node.params`.
        layers: those of the graph, in the net's order.
        owners: whose each of their blobs is.
        input_shape: (N, C, H, W) of the first input as the net states it, 0 where it does not; None: not at all.
        data: the layer that the first input comes from.
        notes: what is left out, and how the rest is understood.
    """

    graph: Graph
    layers: tuple[NetLayer, ...]
    owners: Mapping[Key, Key]
    input_shape: Shape | None
    data: LayerParameter
    notes: tuple[str, ...]


def build_network(net: NetParameter, file: object) -> Network:
    """Makes the graph of a net in the phase TEST.

    Args:
        net: of the newest form, as `upgrade` leaves it.
        file: the prototxt's name, for errors.

    Raises:
        FormatError: Caffe refuses the net; or no input can be derived, or nothing is left without labels.
        UnsupportedError: it is no network on images, or computes with labels.
        ShapeError: layers that do not fit each other, or share what does not.
    """
    with in_file(file), _hinting():
        layers, notes = select(net), []
        if not any(map(_is_source, layers)):
            found = _data_of_training(net)
            layers = [*found, *layers]
            notes = [f"the net has no data layer in the phase TEST; {_place(layer)} is taken" for layer in found]
        return _Builder(layers, file, notes).build()


@contextmanager
def _hinting() -> Iterator[None]:
    """Says what to do where the place of the error does not say it better."""
    try:
        yield
    except (FormatError, ShapeError) as error:
        error.hint = error.hint or "compare the net with the publisher's; Caffe itself refuses what is wrong here"
        raise


def _is_source(layer: LayerParameter) -> bool:
    """Whether what a layer yields comes from outside; of unknown types (Python), what has no bottom is taken so."""
    return layer.type in SOURCES or bool(layer.top and not layer.bottom and layer.type not in _KNOWN)


def _data_of_training(net: NetParameter) -> list[LayerParameter]:
    """A data layer of another phase or stage; preferably not of the phase TRAIN."""

    def trains(layer: LayerParameter) -> bool:
        return any(rule.HasField("phase") and rule.phase == TRAIN for rule in layer.include)

    return sorted(filter(_is_source, net.layer), key=trains)[:1]


def _place(layer: LayerParameter) -> str:
    return f"layer {layer.name!r:.80} ({layer.type:.80})"


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(f"{item:.80}" for item in items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown} and {len(items) - _SHOWN} more"


class _Builder:
    """The work of `build_network`, with what it collects on the way."""

    def __init__(self, layers: Sequence[LayerParameter], file: object, notes: Sequence[str]) -> None:
        self._layers = layers
        self._file = file
        self._notes = notes
        self._last: dict[str, Write] = {}  # of each blob
        self._reads: list[tuple[Write, ...]] = []  # what the bottoms of each layer are
        self._readers: dict[Write, list[int]] = {}  # the layers that read it, as often as they do
        self._inputs: dict[str, LayerParameter] = {}  # what is fed, and where it comes from
        self._values: dict[Write, str] = {}  # what hangs on labels is not among them
        self._shapes: dict[str, Shape | None] = {}  # of each value
        self._silenced: set[str] = set()
        self._nodes: dict[str, Node] = {}
        self._found: list[NetLayer] = []
        self._losses: list[str] = []
        self._left_out: list[str] = []

    def build(self) -> Network:
        for number, layer in enumerate(self._layers):
            with in_file(self._file, _place(layer)):
                self._wire(number, layer)
        for number, layer in enumerate(self._layers):
            with in_file(self._file, _place(layer)):
                self._lower(number, layer)
        read = {value for node in self._nodes.values() for value in node.inputs}
        written = {value for node in self._nodes.values() for value in node.outputs}
        inputs = tuple(value for value in self._inputs if value in read)
        outputs = tuple(sorted(written - read - self._silenced))  # net.cpp, Init: what is left in available_blobs
        if not outputs:  # without an input there would be no node either
            raise FormatError(
                "nothing leads from an input to an output at inference",
                expected="layers from an image to a classifier",
                found=f"left out: {_some(self._left_out)}" if self._left_out else "none",
                hint="name the prototxt that is for deployment",
            )
        return Network(
            graph=Graph(nodes=tuple(self._nodes.values()), inputs=inputs, outputs=outputs),
            layers=tuple(self._found),
            owners=owners(self._found),
            input_shape=self._shapes[inputs[0]],
            data=self._inputs[inputs[0]],
            notes=(*self._notes, *self._what_was_done(read)),
        )

    def _what_was_done(self, read: set[str]) -> Iterator[str]:
        for value, layer in self._inputs.items():
            if value not in read:
                yield f"the input {value!r} is left out, since inference does not read it"
            elif layer.type != "Input":
                yield f"the input is {value!r}, what {_place(layer)} yields"
        if self._losses:
            yield f"a loss is read as what it does to its prediction: {_some(self._losses)}"
        if self._left_out:
            yield f"left out, since inference has no use for them: {_some(self._left_out)}"

    # Blobs

    def _wire(self, number: int, layer: LayerParameter) -> None:
        """Finds what each bottom is, by Caffe's rules (net.cpp, AppendBottom, AppendTop; insert_splits.cpp)."""
        for text in (layer.name, layer.type, *layer.bottom, *layer.top):
            if not text.isprintable():  # the names end up in messages and reports
                raise FormatError("a name holds control characters", expected="printable text", found=f"{text!r:.60}")
        for index, blob in enumerate(layer.bottom):
            if blob not in self._last:
                raise FormatError(
                    f"Unknown bottom blob {blob!r:.80} (bottom index {index})",
                    expected="a top of a layer before it, in the phase TEST",
                    hint=None if any(map(_is_source, self._layers)) else f"no layer is the input; {_STATE_THE_INPUT}",
                )
        reads = tuple(self._last[blob] for blob in layer.bottom)
        self._reads.append(reads)
        for write in reads:
            self._readers.setdefault(write, []).append(number)
        for index, blob in enumerate(layer.top):
            if index < len(reads) and layer.bottom[index] == blob:
                self._check_in_place(blob, self._readers[reads[index]])
            elif blob in self._last:
                raise FormatError(
                    f"Top blob {blob!r:.80} produced by multiple sources",
                    expected="a name of its own, or that of the layer's bottom at the same place",
                    found=f"{_place(self._layers[self._last[blob][0]])} writes it as well",
                )
            self._last[blob] = (number, index)

    def _check_in_place(self, blob: str, readers: Sequence[int]) -> None:
        """The Split that Caffe inserts for several readers gives each a blob of its own: in place is over then."""
        if len(readers) > 1:
            raise FormatError(
                f"Top blob {blob!r:.80} produced by multiple sources: the layer overwrites what another one reads too",
                expected="no other reader of a blob that is overwritten in place",
                found=_place(self._layers[readers[0]]),
                hint="give the layer a top of its own name",
            )

    def _name(self, write: Write, blob: str) -> str:
        """The value that a layer makes of a blob."""
        if blob not in self._inputs and self._last[blob] == write:
            return blob
        return self._version(write[0], blob, self._layers[write[0]].name)

    def _version(self, number: int, blob: str, writer: str) -> str:
        """``blob@writer``, or a name like it that no blob and no other value has."""
        name = f"{blob}@{writer}"
        while name in self._last or name in self._shapes:
            name += f"#{number}"
        return name

    # Layers

    def _lower(self, number: int, layer: LayerParameter) -> None:
        if _is_source(layer):
            self._feed(number, layer)
            return
        reads = [self._values.get(write) for write in self._reads[number]]
        inputs = [value for value in reads if value is not None]
        if layer.type == "Silence":
            self._silenced.update(inputs)
        if layer.type in SINKS or (layer.type not in _KNOWN and not (inputs and layer.top)):
            self._left_out.append(_place(layer))
        elif layer.type in LOSSES:
            self._lose(number, layer, reads)
        elif None in reads:
            self._leave_label(layer, inputs)
        elif layer.type == AXPY:
            self._axpy(number, layer, inputs)
        else:
            self._plain(number, layer, inputs)

    def _feed(self, number: int, layer: LayerParameter) -> None:
        """All tops of an Input are fed, and the first of a data layer; the others are its labels."""
        if layer.bottom:
            raise FormatError("a layer that yields the input takes no bottom", found=_some(list(layer.bottom)))
        for index, (blob, shape) in enumerate(zip(layer.top, fed_shapes(layer), strict=True)):
            if index == 0 or layer.type == "Input":
                self._inputs[blob] = layer
                self._values[number, index] = blob
                self._shapes[blob] = shape

    def _leave_label(self, layer: LayerParameter, inputs: Sequence[str]) -> None:
        """A layer that reads a label goes with it, but where it makes something of the image as well."""
        if inputs and layer.type in _KNOWN:
            raise UnsupportedError(
                "the layer computes with a label, which inference does not have",
                expected="blobs that depend on the image alone",
                found=_some(list(layer.bottom)),
                hint="name the prototxt that is for deployment, or take the layer out",
            )
        self._left_out.append(_place(layer))

    def _lose(self, number: int, layer: LayerParameter, reads: Sequence[str | None]) -> None:
        """The second top of a loss is the prediction; the first, the loss itself, hangs on labels."""
        found = meaning(layer)
        index = next((index for index, value in enumerate(reads) if value is not None), None)
        if index is None:
            self._left_out.append(_place(layer))
            return
        prediction = reads[index]
        assert prediction is not None
        shown = len(layer.top) > 1
        blob = layer.bottom[index]
        output = self._name((number, 1), layer.top[1]) if shown else self._version(number, blob, layer.name)
        (shape,) = output_shapes(found.attrs, [self._shapes[prediction]])
        self._add(number, layer.name, found.attrs, [prediction], {output: shape})
        if shown:
            self._values[number, 1] = output
        self._losses.append(_place(layer))

    def _axpy(self, number: int, layer: LayerParameter, inputs: Sequence[str]) -> None:
        if (len(inputs), len(layer.top)) != (3, 1):
            raise FormatError(
                "Axpy Layer takes another number of blobs",
                expected="3 bottoms (a, x and y of a * x + y), 1 top",
                found=f"{len(inputs)} and {len(layer.top)}",
            )
        shapes = [self._shapes[value] for value in inputs]
        shape = axpy_shape(shapes)
        a, x, y = inputs
        attrs = axpy_product(None if shapes[0] is None else len(shapes[0]))
        name = f"{layer.name} (a * x)"
        product = self._version(number, layer.top[0], name)
        self._add(number, name, attrs, [x, a], {product: shape})
        output = self._name((number, 0), layer.top[0])
        self._values[number, 0] = output
        node = self._add(number, f"{layer.name} (+ y)", Add(), [product, y], {output: shape})
        self._found.append(
            NetLayer(name=layer.name, type=layer.type, node=node, roles=(), shapes={}, params=tuple(layer.param))
        )

    def _plain(self, number: int, layer: LayerParameter, inputs: Sequence[str]) -> None:
        found = meaning(layer)
        shapes = [self._shapes[value] for value in inputs]
        outputs = [self._name((number, index), blob) for index, blob in enumerate(layer.top)]
        self._values.update(((number, index), value) for index, value in enumerate(outputs))
        node = layer.name
        if layer.type == "Split":
            for output in outputs:
                self._add(number, f"{layer.name} ({output})", Identity(), inputs, {output: shapes[0]})
        else:
            unknown = isinstance(found.attrs, Unknown)
            results = [None] * len(outputs) if unknown else output_shapes(found.attrs, shapes)
            node = self._add(number, layer.name, found.attrs, inputs, dict(zip(outputs, results, strict=True)))
        self._found.append(
            NetLayer(
                name=layer.name,
                type=layer.type,
                node=node,
                roles=None if isinstance(found.attrs, Unknown) else found.roles,
                shapes=blob_shapes(found.attrs, shapes, found.roles),
                params=tuple(layer.param),
            )
        )

    def _add(
        self, number: int, name: str, attrs: Attrs, inputs: Sequence[str], outputs: Mapping[str, Shape | None]
    ) -> str:
        """Adds a node, under the name or one like it; returns that."""
        name = name or f"#{number}"
        while name in self._nodes:
            name += f"#{number}"
        self._shapes.update(outputs)
        op = self._layers[number].type
        self._nodes[name] = Node(name=name, op=op, attrs=attrs, inputs=tuple(inputs), outputs=tuple(outputs))
        return name
