"""Older forms of a net made new, in text and in binaries alike: the rules of Caffe's upgrade_proto.cpp, in its order.

::

    V0    layers { layer { type: "conv" } }      before 2014
    V1    layers { type: CONVOLUTION }           2014
    V2    layer { type: "Convolution" }          since 2015; input fields until 2016

A net is changed in place. What Caffe logs as an error and then leaves out (a field that the layer's type does not have)
is left out; what it dies of is refused. Of a `.caffemodel` only names and blobs are wanted, and `weights` reads those
where they are, since an upgrade copies them.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas.caffe_pb2 import LayerParameter, NetParameter, V1LayerParameter

_V1 = V1LayerParameter

V0_TYPES: Final = {
    "accuracy": _V1.ACCURACY, "bnll": _V1.BNLL, "concat": _V1.CONCAT, "conv": _V1.CONVOLUTION, "data": _V1.DATA,
    "dropout": _V1.DROPOUT, "euclidean_loss": _V1.EUCLIDEAN_LOSS, "flatten": _V1.FLATTEN, "hdf5_data": _V1.HDF5_DATA,
    "hdf5_output": _V1.HDF5_OUTPUT, "im2col": _V1.IM2COL, "images": _V1.IMAGE_DATA, "infogain_loss": _V1.INFOGAIN_LOSS,
    "innerproduct": _V1.INNER_PRODUCT, "lrn": _V1.LRN, "multinomial_logistic_loss": _V1.MULTINOMIAL_LOGISTIC_LOSS,
    "pool": _V1.POOLING, "relu": _V1.RELU, "sigmoid": _V1.SIGMOID, "softmax": _V1.SOFTMAX,
    "softmax_loss": _V1.SOFTMAX_LOSS, "split": _V1.SPLIT, "tanh": _V1.TANH, "window_data": _V1.WINDOW_DATA,
}  # fmt: skip
"""upgrade_proto.cpp, UpgradeV0LayerType."""

V1_TYPES: Final = {
    _V1.NONE: "", _V1.ABSVAL: "AbsVal", _V1.ACCURACY: "Accuracy", _V1.ARGMAX: "ArgMax", _V1.BNLL: "BNLL",
    _V1.CONCAT: "Concat", _V1.CONTRASTIVE_LOSS: "ContrastiveLoss", _V1.CONVOLUTION: "Convolution",
    _V1.DECONVOLUTION: "Deconvolution", _V1.DATA: "Data", _V1.DROPOUT: "Dropout", _V1.DUMMY_DATA: "DummyData",
    _V1.EUCLIDEAN_LOSS: "EuclideanLoss", _V1.ELTWISE: "Eltwise", _V1.EXP: "Exp", _V1.FLATTEN: "Flatten",
    _V1.HDF5_DATA: "HDF5Data", _V1.HDF5_OUTPUT: "HDF5Output", _V1.HINGE_LOSS: "HingeLoss", _V1.IM2COL: "Im2col",
    _V1.IMAGE_DATA: "ImageData", _V1.INFOGAIN_LOSS: "InfogainLoss", _V1.INNER_PRODUCT: "InnerProduct", _V1.LRN: "LRN",
    _V1.MEMORY_DATA: "MemoryData", _V1.MULTINOMIAL_LOGISTIC_LOSS: "MultinomialLogisticLoss", _V1.MVN: "MVN",
    _V1.POOLING: "Pooling", _V1.POWER: "Power", _V1.RELU: "ReLU", _V1.SIGMOID: "Sigmoid",
    _V1.SIGMOID_CROSS_ENTROPY_LOSS: "SigmoidCrossEntropyLoss", _V1.SILENCE: "Silence", _V1.SOFTMAX: "Softmax",
    _V1.SOFTMAX_LOSS: "SoftmaxWithLoss", _V1.SPLIT: "Split", _V1.SLICE: "Slice", _V1.TANH: "TanH",
    _V1.WINDOW_DATA: "WindowData", _V1.THRESHOLD: "Threshold",
}  # fmt: skip
"""upgrade_proto.cpp, UpgradeV1LayerType."""

_V0_PARAMETERS: Final = {
    "conv": "convolution_param", "innerproduct": "inner_product_param", "pool": "pooling_param", "lrn": "lrn_param",
    "dropout": "dropout_param", "concat": "concat_param", "data": "data_param", "hdf5_data": "hdf5_data_param",
    "images": "image_data_param", "window_data": "window_data_param",
}  # fmt: skip
"""Where the fields of a V0 layer of this type go."""

_RENAMED: Final = {"biasterm": "bias_term", "kernelsize": "kernel_size", "batchsize": "batch_size"}
"""Fields of V0 that have another name there; the others keep theirs."""

_V0_TRANSFORMS: Final = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
"""Fields of V0 that any type of layer has, and their names among the transformations."""

_DATA_PARAMETERS: Final = {
    _V1.DATA: "data_param",
    _V1.IMAGE_DATA: "image_data_param",
    _V1.WINDOW_DATA: "window_data_param",
}
_TRANSFORMS: Final = ("scale", "mean_file", "crop_size", "mirror")

_SPECS: Final = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}
"""Lists of V1, one entry a blob, and the field of the blob's ParamSpec that each became."""

_DIMS: Final = 4  # of an input, where they are input_dim


def upgrade(net: NetParameter) -> None:
    """Brings a net to its newest form, in place: afterwards it has ``layer`` alone, its inputs among them.

    Raises:
        FormatError: the net mixes forms, or its older form is one that Caffe dies of.
    """
    if net.layer and net.layers:
        raise FormatError(
            "Refusing to upgrade inconsistent NetParameter input; the definition includes both 'layer' and 'layers'",
            expected="one of the two",
            found=f"{len(net.layer)} layer, {len(net.layers)} layers",
            hint='write all of them as `layer { type: "Convolution" ... }`; Caffe refuses the file as it is',
        )
    older = list(net.layers)
    if any(layer.HasField("layer") for layer in older):
        older = [_from_v0(layer) for layer in _fold_padding(net)]
    for layer in older:
        _move_transforms(layer)
        _from_v1(layer, net.layer.add())
    net.ClearField("layers")
    _make_input_layer(net)
    for upgraded in net.layer:
        _fix_batch_norm(upgraded)


def _place(name: str, kind: str) -> str:
    return f"layer {name!r:.60} ({kind!s:.60})"


def _fold_padding(net: NetParameter) -> list[V1LayerParameter]:
    """UpgradeV0PaddingLayers: what a layer that only pads says goes into the convolution or pooling that reads it."""
    writers: dict[str, V1LayerParameter | None] = dict.fromkeys(net.input)
    for layer in net.layers:
        name, kind = layer.layer.name, layer.layer.type
        for number, bottom in enumerate(layer.bottom):
            if bottom not in writers:
                raise FormatError(f"Unknown blob input {bottom!r:.60}", place=_place(name, kind))
            writer = writers[bottom]
            if writer is None or writer.layer.type != "padding":
                continue
            if kind not in {"conv", "pool"} or {len(layer.bottom), len(writer.bottom), len(writer.top)} != {1}:
                raise FormatError(
                    "a padding layer is read by a layer that cannot pad",
                    place=_place(name, kind),
                    expected="a conv or a pool, each with one blob in, and one blob out of the padding",
                )
            layer.layer.pad = writer.layer.pad
            layer.bottom[number] = writer.bottom[0]
        writers.update(dict.fromkeys(layer.top, layer))
    return [layer for layer in net.layers if layer.layer.type != "padding"]


def _from_v0(layer: V1LayerParameter) -> V1LayerParameter:
    """UpgradeV0LayerParameter: what one message held for all types of layers goes into the type's own."""
    old = layer.layer
    if old.type not in V0_TYPES:
        raise FormatError("Unknown layer name", place=_place(old.name, old.type), found=f"type {old.type!r:.60}")
    new = V1LayerParameter(type=V0_TYPES[old.type], bottom=layer.bottom, top=layer.top)
    for field, value in old.ListFields():
        if field.name == "name":
            new.name = value
        elif field.name in {"blobs", "blobs_lr", "weight_decay"}:
            getattr(new, field.name).MergeFrom(value)
        elif field.name in _V0_TRANSFORMS:
            setattr(new.transform_param, _V0_TRANSFORMS[field.name], value)
        elif field.name != "type" and old.type in _V0_PARAMETERS:
            _put(getattr(new, _V0_PARAMETERS[old.type]), _RENAMED.get(field.name, field.name), value)
    return new


def _put(parameters: Message, field: str, value: object) -> None:
    """Gives a field the value, if there is such a field; a list gets it as its only entry."""
    if field not in parameters.DESCRIPTOR.fields_by_name:
        return  # Caffe: "Unknown parameter FIELD for layer type TYPE"
    if hasattr(entries := getattr(parameters, field), "append"):
        entries.append(value)
    else:
        setattr(parameters, field, value)


def _move_transforms(layer: V1LayerParameter) -> None:
    """UpgradeNetDataTransformation: scale, mean, crop and mirror of a data layer become its transformation's."""
    name = _DATA_PARAMETERS.get(layer.type)
    if name is None or not layer.HasField(name):
        return
    data = getattr(layer, name)
    for field in _TRANSFORMS:
        if data.HasField(field):
            setattr(layer.transform_param, field, getattr(data, field))
            data.ClearField(field)


def _from_v1(old: V1LayerParameter, new: LayerParameter) -> None:
    """UpgradeV1LayerParameter: the type becomes a word, the lists of learning rates one ParamSpec a blob."""
    for field, value in old.ListFields():
        if field.name == "type":
            new.type = V1_TYPES[value]
        elif field.name == "name":
            new.name = value
        elif field.name in _SPECS:
            for place, entry in enumerate(value):
                while len(new.param) <= place:
                    new.param.add()
                setattr(new.param[place], _SPECS[field.name], entry)
        else:
            getattr(new, field.name).MergeFrom(value)


def _make_input_layer(net: NetParameter) -> None:
    """UpgradeNetInput: ``input`` with dimensions becomes a layer, put first; without, as in old binaries, it goes."""
    shapes = [list(shape.dim) for shape in net.input_shape]
    if not shapes:
        dims = list(net.input_dim)
        shapes = [dims[start : start + _DIMS] for start in range(0, len(dims) - _DIMS + 1, _DIMS)]
    if net.input and (net.input_shape or net.input_dim):
        if len(shapes) < len(net.input):
            raise FormatError(
                "the inputs have not all got a shape",
                place="input",
                expected=f"for {len(net.input)} input as many input_shape, or {_DIMS} times as many input_dim",
                found=f"{len(net.input_shape)} input_shape, {len(net.input_dim)} input_dim",
            )
        layer = LayerParameter(name="input", type="Input", top=net.input)
        for shape in shapes[: len(net.input)]:
            layer.input_param.shape.add(dim=shape)
        net.layer.insert(0, layer)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _fix_batch_norm(layer: LayerParameter) -> None:
    """UpgradeNetBatchNorm: statistics that a file of 2015 declared as three parameters are not to be learned."""
    if layer.type == "BatchNorm" and len(layer.param) == 3:
        for spec in layer.param:
            spec.lr_mult = spec.decay_mult = 0.0
