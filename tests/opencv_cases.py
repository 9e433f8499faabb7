"""Small nets of Caffe for the tests of the OpenCV oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import caffe_writer as writer
import numpy as np
from caffe_base import layer
from repository import FIXTURES
from single_node import ramp

from resnext_convert.converter.tensors import Array

CAFFE = FIXTURES / "caffe"
RECORDINGS = CAFFE / "recordings"
TINY = CAFFE / "resnext-tiny" / "resnext-tiny.prototxt"
SENET = CAFFE / "made" / "senet154" / "model.prototxt"


SHAPE = (1, 4, 5, 6)
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 5 dim: 6 } } }\n'
EYE = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
CONV = "convolution_param { num_output: 4 kernel_size: 1 bias_term: false }"
GATES = layer("Pooling", "gate", "data", text="pooling_param { pool: AVE global_pooling: true }") + layer(
    "Flatten", "gates", "gate"
)

Stored = Mapping[str, Sequence[Array]]


def vector(*shape: int, phase: float = 0.0) -> Array:
    return ramp(*shape, phase=phase).astype(np.float32)


def pair(folder: Path, text: str, stored: Stored | None = None) -> tuple[Path, Path]:
    """A net of these layers behind an input, and its weights."""
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_text(INPUT + text)
    layers = [
        writer.layer(name, [writer.packed(array) + writer.shape(array.shape) for array in blobs])
        for name, blobs in (stored or {}).items()
    ]
    weights.write_bytes(writer.net(*layers))
    return prototxt, weights


X = vector(*SHAPE)


def y(kind: str, text: str = "", bottoms: str = "data") -> str:
    return layer(kind, "y", bottoms, text=text)
