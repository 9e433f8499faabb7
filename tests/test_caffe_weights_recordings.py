"""Caffemodels of real Caffe and of other people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from repository import SHARED
from shared_data import shared
from test_caffe_weights import assert_same_bits, tensors

from resnext_convert.converter.caffe.weights import StoredWeights, read_weights
from resnext_convert.converter.errors import (
    FormatError,
    TruncatedError,
)
from resnext_convert.converter.mxnet.params import read_params
from resnext_convert.converter.tensors import DType
from resnext_convert.schemas.caffe_pb2 import NetParameter

# --- recordings ------------------------------------------------------------------------------------------------------


def assert_same_values(found: StoredWeights, expected: StoredWeights) -> None:
    """Equal blobs, layer by layer by name, whatever the containers and the ranks."""
    assert sorted(tensors(found)) == sorted(tensors(expected))
    for name, tensor in tensors(expected).items():
        assert tensor.size == tensors(found)[name].size, name
        assert tensor.float64().tobytes() == tensors(found)[name].float64().tobytes(), name


SAME = (
    ("d_v1/weights.caffemodel", "d_v1/upgraded_v2.caffemodel"),
    ("d_v1_mixed/weights.caffemodel", "d_v1/weights.caffemodel"),
    ("e_legacy4d/weights.caffemodel", "a_cypw/weights.caffemodel"),
    ("e_with_diff/weights.caffemodel", "a_cypw_sf1/weights.caffemodel"),
    ("j_hdf5/weights.caffemodel.h5", "a_cypw/weights.caffemodel"),
    ("a_cypw/weights.caffemodel.h5", "a_cypw/weights.caffemodel"),
    ("k_train/weights.caffemodel.h5", "k_train/weights.caffemodel"),
)


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "other"), SAME)
def test_two_recordings_hold_the_same(name: str, other: str) -> None:
    assert_same_values(read_weights(shared(f"golden/caffe/{name}")), read_weights(shared(f"golden/caffe/{other}")))


GOLDENS = sorted(path.parent.name for path in (SHARED / "golden" / "caffe").glob("*/weights.caffemodel")) or ["none"]


@pytest.mark.acceptance
@pytest.mark.parametrize("case", GOLDENS)
def test_a_recording_is_read_to_its_last_value(case: str) -> None:
    """Against protobuf's own reading of the same file, blob by blob."""
    path = shared(f"golden/caffe/{case}/weights.caffemodel")
    message = NetParameter.FromString(path.read_bytes())
    weights = read_weights(path)
    layers: list[Any] = [*message.layer, *message.layers]
    assert [stored.name for stored in weights.layers] == [item.name for item in layers]
    for stored, item in zip(weights.layers, layers, strict=True):
        for tensor, written in zip(stored.blobs, item.blobs, strict=True):
            assert tensor is not None
            data = b"".join(written.double_data) or b"".join(written.data)
            assert tensor.numpy().tobytes() == data
            assert tensor.dtype is (DType.FLOAT64 if written.double_data else DType.FLOAT32)
            assert np.isfinite(tensor.numpy()).all()
    assert len(tensors(weights)) > 0


@pytest.mark.acceptance
def test_the_doubles_of_a_recording_are_no_floats() -> None:
    found = tensors(read_weights(shared("golden/caffe/f_double/weights.caffemodel")))
    assert {tensor.dtype for tensor in found.values()} == {DType.FLOAT64}
    assert any(not np.array_equal(tensor.numpy(), tensor.numpy().astype(np.float32)) for tensor in found.values())


ERRORS = {
    "blob_data_too_short": (FormatError, r"layer #3 'conv0', blob 0: .*expected 1176 .* found 1175"),
    "empty_caffemodel": (FormatError, "the file is empty"),
    "html_as_caffemodel": (FormatError, "web page"),
    "truncated_caffemodel": (TruncatedError, r"in or after layer #6[78]: the file ends inside a layer"),
}


@pytest.mark.acceptance
@pytest.mark.parametrize("case", ERRORS)
def test_a_broken_recording_is_refused(case: str) -> None:
    kind, says = ERRORS[case]
    with pytest.raises(kind, match=says):
        read_weights(shared(f"golden/caffe/t_errors/{case}.caffemodel"))


@pytest.mark.acceptance
def test_a_repeated_layer_of_a_recording_is_noted() -> None:
    weights = read_weights(shared("golden/caffe/t_errors/duplicate_layer_name_in_caffemodel.caffemodel"))
    assert weights.notes == ("layer 'fc1' is there 2 times; Caffe takes the last copy",)


# --- other people's files --------------------------------------------------------------------------------------------

TRAINED = {
    "charrin_retinaface_mnet25/mnet": (322, DType.FLOAT32, False),
    "everpeace_caffe_v1/cifar10_full_iter_70000": (8, DType.FLOAT32, True),
    "everpeace_caffe_v1/cifar10_quick_iter_5000": (10, DType.FLOAT32, True),
    "everpeace_caffe_v1/lenet_iter_10000": (8, DType.FLOAT32, True),
    "junyuseu_resnet_cifar/ResNet_56": (401, DType.FLOAT32, False),
    "minivision_retinaface/Widerface-RetinaFace": (298, DType.FLOAT32, False),
    "omz_samplenet/SampLeNet": (10, DType.FLOAT32, False),
    "pypi_hyperlpr/HorizonalFinemapping": (8, DType.FLOAT16, False),
    "pypi_open_nsfw/resnet_50_1by2_nsfw": (373, DType.FLOAT32, False),
}


@pytest.mark.acceptance
@pytest.mark.parametrize("name", TRAINED)
def test_trained_weights(name: str) -> None:
    count, dtype, is_legacy = TRAINED[name]
    weights = read_weights(shared(f"weights/{name}.caffemodel"))
    found = tensors(weights).values()
    assert len(found) == count
    assert {tensor.dtype for tensor in found} == {dtype}
    assert {flag for stored in weights.layers for flag in stored.legacy} == {is_legacy}
    for tensor in found:
        values = tensor.float64()
        assert np.isfinite(values).all(), tensor
        if tensor.size > 1 and tensor.shape[-1] < tensor.size:  # a weight: statistics are as large as their input
            assert 1e-3 < np.abs(values).max() < 10, tensor


@pytest.mark.acceptance
def test_one_trained_network_in_two_frameworks() -> None:
    """SampLeNet, whose blobs are the arrays of its MXNet form; conv1's input channels are reversed."""
    params = read_params(shared("weights/omz_samplenet/samplenet-0000.params")).tensors
    weights = read_weights(shared("weights/omz_samplenet/SampLeNet.caffemodel"))
    layers = [stored for stored in weights.layers if stored.blobs]
    assert len(params) == 2 * len(layers) == 10
    for stored in layers:
        for tensor, role in zip(stored.blobs, ("weight", "bias"), strict=True):
            expected = params[f"arg:{stored.name}_{role}"].numpy()
            if tensor is not None and tensor.name == "conv1[0]":
                expected = np.ascontiguousarray(expected[:, ::-1])
            assert tensor is not None
            assert_same_bits({"": tensor.numpy()}, {"": expected})
