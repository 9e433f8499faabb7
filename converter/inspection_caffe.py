"""What is in Caffe's files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf import text_format

from resnext_convert.converter.caffe.layers import SOURCES
from resnext_convert.converter.caffe.mean import read_mean
from resnext_convert.converter.caffe.phase import select
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.caffe.weights import read_weights
from resnext_convert.converter.errors import in_file
from resnext_convert.converter.findings import (
    AppliedDefault,
    CaffeWeightsInspection,
    MeanInspection,
    NodeEntry,
    PrototxtInspection,
    inspected_file,
    tensor_entries,
)
from resnext_convert.schemas.caffe_pb2 import LayerParameter

_TEXT: Final = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#[^\n]*\n\s*)*(name|layers?|input|input_dim|input_shape|state|net|train_net)\s*[:{<\[]"
)
_NET_FIELDS: Final = (b"\x0a", b"\x12", b"\xa2\x06")  # name, layers, layer: one of them comes first in a caffemodel
_BLOB_FIELDS: Final = (b"\x08", b"\x2a", b"\x3a", b"\x42")  # num, data, shape, double_data: the same of a mean
_MXNET: Final = b"\x12\x01\0\0"

_TREACHEROUS: Final = (
    ("BatchNorm", "batch_norm_param", "eps", "1e-05"),
    ("Scale", "scale_param", "bias_term", "false"),
    ("Convolution", "convolution_param", "bias_term", "true"),
)
"""Fields whose defaults other programs get wrong when a file leaves them out."""


def inspect(path: Path, start: bytes) -> PrototxtInspection | CaffeWeightsInspection | MeanInspection | None:
    """What a file holds, if its first bytes are those of a file of Caffe.

    Raises:
        InputError: it is one, and cannot be read.
    """
    if _TEXT.match(start):
        return prototxt(path)
    if start.startswith(b"\x89HDF") or (start.startswith(_NET_FIELDS) and not start.startswith(_MXNET)):
        return weights(path)
    return mean(path) if start.startswith(_BLOB_FIELDS) else None


def prototxt(path: Path) -> PrototxtInspection:
    """A net as text."""
    found = read_prototxt(path)
    with in_file(path):
        layers = select(found.net)
    return PrototxtInspection(
        file=inspected_file(path),
        name=found.net.name,
        inputs=dict(_inputs(layers)),
        layers=len(found.net.layer),
        operators=dict(Counter(layer.type for layer in layers).most_common()),
        defaults=tuple(_defaults(layers)),
        notes=found.notes,
        nodes=tuple(NodeEntry(name=layer.name, op=layer.type, attributes=_parameters(layer)) for layer in layers),
    )


def weights(path: Path) -> CaffeWeightsInspection:
    """A caffemodel, or the same as HDF5."""
    stored = read_weights(path)
    with_blobs = [layer for layer in stored.layers if layer.blobs]
    return CaffeWeightsInspection(
        file=inspected_file(path),
        container=stored.kind,
        layers=(len(stored.layers), len(with_blobs)),
        tensors=tensor_entries(blob for layer in with_blobs for blob in layer.blobs if blob is not None),
        notes=stored.notes,
    )


def mean(path: Path) -> MeanInspection:
    """A mean image."""
    found = read_mean(path)
    return MeanInspection(file=inspected_file(path), shape=found.image.shape, channels=found.channels)


def _inputs(layers: Iterable[LayerParameter]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    for layer in layers:
        if layer.type in SOURCES:
            shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
            for place, top in enumerate(layer.top):
                yield (
                    top,
                    shapes[place if len(shapes) > 1 else 0] if 0 <= place < max(len(shapes), 1) and shapes else None,
                )


def _parameters(layer: LayerParameter) -> dict[str, str]:
    """What a layer says besides its name, type and blobs: `bottom`, `top`, and each block of parameters on one line."""
    said = {"bottom": ", ".join(layer.bottom), "top": ", ".join(layer.top)}
    for field, value in layer.ListFields():
        if field.name.endswith("_param"):
            said[field.name] = text_format.MessageToString(value, as_one_line=True)
    return {name: text for name, text in said.items() if text}


def _defaults(layers: list[LayerParameter]) -> Iterator[AppliedDefault]:
    for kind, block, field, value in _TREACHEROUS:
        count = sum(layer.type == kind and not getattr(layer, block).HasField(field) for layer in layers)
        if count:
            yield AppliedDefault(op=kind, attribute=field, value=value, nodes=count)
    rounds = [
        layer.pooling_param
        for layer in layers
        if layer.type == "Pooling" and not layer.pooling_param.global_pooling and layer.pooling_param.stride != 1
    ]
    count = sum(not (pool.HasField("round_mode") or pool.HasField("ceil_mode")) for pool in rounds)
    if count:
        yield AppliedDefault(op="Pooling", attribute="round_mode", value="CEIL", nodes=count)
