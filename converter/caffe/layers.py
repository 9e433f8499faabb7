"""The layer types of Caffe that the project reads: one table of names, numbers of blobs and meanings.

Checks are those of BVLC Caffe (February 2020); the file that holds a type's own, below ``src/caffe/layers``, stands in
its row. A type that is not in the table becomes `Unknown`: the node stays in the graph, and whoever needs its value
refuses it by name. The phase is TEST throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from resnext_convert.converter.caffe import parameters
from resnext_convert.converter.caffe.parameters import INT_MAX, MAX_AXES, always
from resnext_convert.converter.caffe.parameters import Meaning as Meaning
from resnext_convert.converter.errors import FormatError
from resnext_convert.converter.graph import Activation, ActivationKind, Identity, Multiply, Scale, Unknown
from resnext_convert.schemas.caffe_pb2 import LayerParameter

Count = tuple[int, int | None]
"""The least and the most; None: any number."""

_ONE: Count = (1, 1)
_ANY: Count = (1, None)


@dataclass(frozen=True, slots=True)
class LayerType:
    """One row of the table.

    Attributes:
        name: the type.
        source: where Caffe says so, below ``src/caffe/layers``.
        read: the meaning of a layer of this type.
        bottoms: how many it takes.
        tops: how many it makes.
        loss: inference has no use for it but for what it does to its first bottom before it compares it with the
            others; that is what it means here.
    """

    name: str
    source: str
    read: Callable[[LayerParameter], Meaning]
    bottoms: Count = _ONE
    tops: Count = _ONE
    loss: bool = False


_IDENTITY = always(Identity())
_SIGMOID = always(Activation(kind=ActivationKind.SIGMOID))
_TANH = always(Activation(kind=ActivationKind.TANH))
_PAIR: Count = (2, 2)  # prediction and label

TABLE: tuple[LayerType, ...] = (
    LayerType("Convolution", "base_conv_layer.cpp", parameters.convolution, _ANY, _ANY),
    LayerType("InnerProduct", "inner_product_layer.cpp", parameters.inner_product),
    LayerType("BatchNorm", "batch_norm_layer.cpp", parameters.batch_norm),
    LayerType("Scale", "scale_layer.cpp", parameters.scale, (1, 2)),
    LayerType("Bias", "bias_layer.cpp", parameters.bias, (1, 2)),
    LayerType("ReLU", "relu_layer.cpp", parameters.relu),
    LayerType("PReLU", "prelu_layer.cpp", parameters.prelu),
    LayerType("Sigmoid", "sigmoid_layer.cpp", _SIGMOID),
    LayerType("TanH", "tanh_layer.cpp", _TANH),
    LayerType("Pooling", "pooling_layer.cpp", parameters.pooling, tops=(1, 2)),
    LayerType("Eltwise", "eltwise_layer.cpp", parameters.eltwise, (2, None)),
    LayerType("Power", "power_layer.cpp", parameters.power),
    LayerType("LRN", "lrn_layer.cpp", parameters.lrn),
    LayerType("Softmax", "softmax_layer.cpp", parameters.softmax),
    LayerType("Dropout", "dropout_layer.cpp", _IDENTITY),  # it is training that scales
    LayerType("Flatten", "flatten_layer.cpp", parameters.flatten),
    LayerType("Reshape", "reshape_layer.cpp", parameters.reshape),
    LayerType("Concat", "concat_layer.cpp", parameters.concat, _ANY),
    LayerType("Slice", "slice_layer.cpp", parameters.slice_, tops=_ANY),
    LayerType("Split", "split_layer.cpp", _IDENTITY, tops=_ANY),  # each top is the bottom
    # Losses; Caffe makes the top of one that names none
    LayerType("SoftmaxWithLoss", "softmax_loss_layer.cpp", parameters.softmax, _PAIR, (0, 2), loss=True),
    LayerType("SigmoidCrossEntropyLoss", "sigmoid_cross_entropy_loss_layer.cpp", _SIGMOID, _PAIR, (0, 2), loss=True),
    LayerType("EuclideanLoss", "euclidean_loss_layer.cpp", _IDENTITY, _PAIR, (0, 1), loss=True),
    LayerType("HingeLoss", "hinge_loss_layer.cpp", _IDENTITY, _PAIR, (0, 1), loss=True),
    LayerType("MultinomialLogisticLoss", "multinomial_logistic_loss_layer.cpp", _IDENTITY, _PAIR, (0, 1), loss=True),
)

_BY_TYPE: Mapping[str, LayerType] = {row.name: row for row in TABLE}

LOSSES: Final = frozenset(row.name for row in TABLE if row.loss)
"""Types that compare their first bottom with the others: `LayerType.loss`."""

SOURCES: Final = frozenset(
    ("Input", "Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData", "AnnotatedData")
)
"""Types without a bottom, whose tops are what the network is fed. The last is SSD's."""

SINKS: Final = frozenset(("Accuracy", "Silence", "HDF5Output"))
"""Types from which inference wants nothing."""

AXPY: Final = "Axpy"
"""``a * x + y`` of bottoms a, x and y (axpy_layer.cpp of hujie-frank/SENet): two operators, see `axpy_product`."""


def axpy_product(axes: int | None) -> Multiply | Scale:
    """The first operator of `AXPY`, to be given (x, a); the second is the `Add` of that and y.

    Args:
        axes: of a, which is (N, C, 1, 1) or (N, C); None where that is not known.
    """
    return Scale(axis=0, bias=False) if axes == 2 else Multiply()


def meaning(layer: LayerParameter) -> Meaning:
    """The meaning of one layer of an upgraded net.

    `SOURCES`, `SINKS` and `AXPY` are not in the table. A ``Split`` is `Identity`, for each of its tops.

    Raises:
        FormatError: Caffe refuses a parameter, or the number of bottoms or tops.
        UnsupportedError: it is legal, but means a network of other dimensions.
    """
    row = _BY_TYPE.get(layer.type)
    if row is None:
        return Meaning(Unknown())
    for blobs, count, (least, most) in (("bottom", len(layer.bottom), row.bottoms), ("top", len(layer.top), row.tops)):
        if count < least or (most is not None and count > most):
            expected = least if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            raise FormatError(f"{row.name} Layer takes another number of {blobs} blobs", expected=expected, found=count)
    return row.read(layer)


def input_shapes(layer: LayerParameter) -> tuple[tuple[int, ...], ...]:
    """The shape of each top of an ``Input`` layer (input_layer.cpp); none at all where the file says none.

    Raises:
        FormatError: there are neither 0 nor 1 nor as many shapes as tops, or one is no shape of a blob (blob.cpp).
    """
    shapes, tops = [tuple(shape.dim) for shape in layer.input_param.shape], len(layer.top)
    if len(shapes) not in {0, 1, tops}:
        raise FormatError(
            "Must specify 'shape' once, once per top blob, or not at all", expected=f"0, 1 or {tops}", found=len(shapes)
        )
    for shape in shapes:
        if len(shape) > MAX_AXES or min(shape, default=0) < 0 or math.prod(shape) > INT_MAX:
            expected = f"at most {MAX_AXES} dims, none negative, and {INT_MAX} numbers"
            raise FormatError("the input's shape is none that a blob can have", expected=expected, found=shape)
    return tuple(shapes * tops if len(shapes) == 1 else shapes)
