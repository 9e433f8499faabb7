"""Nets and weights of Caffe for tests: small ones from text and arrays, and the recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import caffe_writer
import numpy as np
import pytest
from repository import FIXTURES
from single_node import ramp

from resnext_convert.converter.caffe.network import Network, build_network
from resnext_convert.converter.caffe.prototxt import parse_prototxt
from resnext_convert.converter.caffe.source import read_source
from resnext_convert.converter.caffe.weights import StoredLayer, StoredWeights
from resnext_convert.converter.errors import ConvertError, FormatError
from resnext_convert.converter.graph import SourceModel
from resnext_convert.converter.tensors import Array, DType, TensorRef

RECORDINGS = FIXTURES / "caffe" / "recordings"
CYPW = RECORDINGS / "a_cypw"
PROTOTXT, WEIGHTS = "net.prototxt", "net.caffemodel"
CONVOLUTION = "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
DATA = 'layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 8 } }'


def layer(kind: str, name: str, bottoms: str = "", tops: str | None = None, text: str = "") -> str:
    """A layer as text; bottoms and tops are words, and without tops there is one of the layer's name."""
    blobs = [f'bottom: "{blob}"' for blob in bottoms.split()]
    blobs += [f'top: "{blob}"' for blob in (name if tops is None else tops).split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {text} }}'


def conv(name: str, bottom: str, text: str = "", kind: str = CONVOLUTION) -> str:
    return layer("Convolution", name, bottom, text=f"{kind} {text}")


def network(*layers: str, source: str = INPUT) -> Network:
    """The network of an input and some layers."""
    text = "\n".join((source, *layers))
    return build_network(parse_prototxt(text.encode(), "net.prototxt").net, "net.prototxt")


def nodes(found: Network) -> list[tuple[str, str, str]]:
    """Name, inputs and outputs of each node."""
    return [(node.name, ", ".join(node.inputs), ", ".join(node.outputs)) for node in found.graph.nodes]


def blob(name: str, array: Array) -> TensorRef:
    data = np.ascontiguousarray(array)
    return TensorRef(name, DType(data.dtype.name), array.shape, f"the blob {name}", memoryview(data.tobytes()))


def stored(
    layers: Mapping[str, Sequence[Array | None]] | Iterable[tuple[str, Sequence[Array | None]]],
    *,
    kind: Literal["caffemodel", "hdf5"] = "caffemodel",
    legacy: bool = False,
) -> StoredWeights:
    """What a weights file of these arrays is read as; pairs are layers whose names may repeat."""
    listed = layers.items() if isinstance(layers, Mapping) else layers
    found = [
        StoredLayer(
            name,
            "",
            tuple(None if array is None else blob(f"{name}[{index}]", array) for index, array in enumerate(arrays)),
            (legacy,) * len(arrays),
        )
        for name, arrays in listed
    ]
    return StoredWeights(file=Path("net.caffemodel"), kind=kind, name="net", layers=tuple(found), notes=())


def refused_net(*layers: str, source: str = INPUT, kind: type[ConvertError] = FormatError) -> ConvertError:
    """The error for a net that must be refused, of exactly this kind."""
    with pytest.raises(kind) as refusal:
        network(*layers, source=source)
    assert type(refusal.value) is kind
    assert refusal.value.file == "net.prototxt"
    assert refusal.value.hint
    return refusal.value


def write_pair(folder: Path, text: str, blobs: dict[str, list[Any]]) -> Path:
    """A pair of files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROTOTXT).write_text(text)
    layers = [
        caffe_writer.layer(name, [caffe_writer.blob(array.astype(np.float32)) for array in arrays])
        for name, arrays in blobs.items()
    ]
    (folder / WEIGHTS).write_bytes(caffe_writer.net(*layers))
    return folder


SMALL = {"c": [ramp(3, 3, 3, 3), ramp(3)]}


def small_pair(folder: Path, source: str = INPUT) -> SourceModel:
    """An input and a convolution."""
    return read_source(write_pair(folder, source + conv("c", "data"), SMALL))
