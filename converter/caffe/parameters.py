"""What the parameters of Caffe's layers mean: one function per kind of layer, from its message to the typed graph.

The default of a field is in ``schemas/caffe.proto``, as in Caffe's own; `IN_CODE` has those that Caffe sets elsewhere.
What Caffe dies of (``Check failed``) is a typed error in its words; the table in `layers` names the file that checks. A
use of a layer that the typed graph cannot express is `Unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from resnext_convert.converter.errors import FormatError, UnsupportedError
from resnext_convert.converter.graph import (
    LRN,
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Bias,
    Concat,
    Conv,
    Flatten,
    Linear,
    Maximum,
    Multiply,
    Pair,
    Pool,
    PoolKind,
    Power,
    Reshape,
    Role,
    Scale,
    Softmax,
    Split,
    Unknown,
)
from resnext_convert.schemas.caffe_pb2 import (
    BiasParameter,
    ConcatParameter,
    ConvolutionParameter,
    EltwiseParameter,
    LayerParameter,
    LRNParameter,
    PoolingParameter,
    ScaleParameter,
    SliceParameter,
)

INT_MAX: Final = 2**31 - 1
"""What Caffe counts with: no dimension and no blob is larger (blob.cpp, Reshape)."""

MAX_AXES: Final = 32
"""kMaxBlobAxes, blob.hpp."""

_MOST = 1024  # cells of a window, a stride or a padding along an axis; a hostile file may say any number

IN_CODE: Final[Mapping[str, int | bool]] = {
    "stride": 1,  # kDefaultStride, base_conv_layer.cpp, LayerSetUp
    "pad": 0,  # kDefaultPad, the same
    "dilation": 1,  # kDefaultDilation, the same
    "use_global_stats": True,  # phase_ == TEST, batch_norm_layer.cpp, LayerSetUp
}
"""Defaults of fields that have none in caffe.proto."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a layer computes, and what each of its blobs is, in Caffe's order."""

    attrs: Attrs
    roles: tuple[Role, ...] = ()


# Fields


def _integer(name: str, value: int, minimum: int, maximum: int = INT_MAX) -> int:
    if not minimum <= value <= maximum:
        expected = f"at least {minimum}" if value < minimum else f"at most {maximum}"
        raise FormatError(f"{name} cannot be this", expected=expected, found=value)
    return value


def _number(name: str, value: float) -> float:
    """The float32 that Caffe computes with, exactly."""
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    if not math.isfinite(rounded):
        raise FormatError(f"{name} is not a finite number", found=value)
    return rounded


def _axis(param: ConcatParameter | SliceParameter, alias: str) -> int:
    """``axis``, or its older name, which does not count from the end (concat_layer.cpp, slice_layer.cpp)."""
    if not param.HasField(alias):
        return param.axis
    if param.HasField("axis"):
        raise FormatError(f"Either axis or {alias} should be specified; not both")
    return _integer(alias, getattr(param, alias), 0, MAX_AXES - 1)


def _spatial(param: ConvolutionParameter, name: str, stem: str, minimum: int) -> Pair:
    """``name``, once or once per spatial dimension, or ``stem``_h and ``stem``_w, the missing one of which is 0."""
    given = tuple(getattr(param, name))
    if stem and (param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w")):
        if given:
            raise FormatError(f"Either {name} or {stem}_h/w should be specified; not both")
        given = (getattr(param, f"{stem}_h"), getattr(param, f"{stem}_w"))
    elif not given and name in IN_CODE:
        given = (IN_CODE[name],)
    if len(given) not in {1, 2}:
        raise FormatError(
            f"{name} must be specified once, or once per spatial dimension", expected="1 or 2 (2-D)", found=len(given)
        )
    height, width = (_integer(name, size, minimum, _MOST) for size in (given * 2)[:2])
    return height, width


def _pooled(param: PoolingParameter, name: str, minimum: int) -> Pair:
    """``name``, or ``name``_h and ``name``_w."""
    parts = [f"{name}_h", f"{name}_w"]
    given = [part for part in (name, *parts) if param.HasField(part)]
    if given not in ([], [name], parts):
        raise FormatError(f"{name} is {name} OR {parts[0]} and {parts[1]} are required", found=" and ".join(given))
    sizes = (getattr(param, part) for part in (parts if given == parts else (name, name)))
    height, width = (_integer(name, size, minimum, _MOST) for size in sizes)
    return height, width


# Layers


def convolution(layer: LayerParameter) -> Meaning:
    param = layer.convolution_param
    if param.axis not in {1, -3} or (len(layer.bottom), len(layer.top)) != (1, 1):
        raise UnsupportedError(
            "a convolution along other axes, or of several inputs with the same weights",
            expected="axis 1, one bottom, one top",
            found=f"axis {param.axis}, {len(layer.bottom)} and {len(layer.top)}",
            hint="only networks on images, (N, C, H, W), are read",
        )
    channels, groups = _integer("num_output", param.num_output, 1), _integer("group", param.group, 1)
    if channels % groups:
        raise FormatError(
            "Number of output should be multiples of group", expected=f"a multiple of {groups}", found=channels
        )
    conv = Conv(
        out_channels=channels,
        kernel=_spatial(param, "kernel_size", "kernel", 1),
        stride=_spatial(param, "stride", "stride", 1),
        padding=_spatial(param, "pad", "pad", 0),
        dilation=_spatial(param, "dilation", "", 1),
        groups=groups,
        bias=param.bias_term,
    )
    return Meaning(conv, _weighted(param.bias_term))


def inner_product(layer: LayerParameter) -> Meaning:
    param = layer.inner_product_param
    linear = Linear(
        out_features=_integer("num_output", param.num_output, 1),
        bias=param.bias_term,
        axis=param.axis,
        transpose=param.transpose,
    )
    return Meaning(linear, _weighted(param.bias_term))


def _weighted(bias: bool) -> tuple[Role, ...]:
    return (Role.WEIGHT, Role.BIAS) if bias else (Role.WEIGHT,)


def batch_norm(layer: LayerParameter) -> Meaning:
    param = layer.batch_norm_param
    stored = param.use_global_stats if param.HasField("use_global_stats") else bool(IN_CODE["use_global_stats"])
    attrs = BatchNorm(
        eps=_number("eps", param.eps),
        momentum=_number("moving_average_fraction", param.moving_average_fraction),
        gamma=False,
        beta=False,
        factor=True,
        batch_statistics=not stored,
    )
    return Meaning(attrs, (Role.MEAN, Role.VAR, Role.FACTOR))


def scale(layer: LayerParameter) -> Meaning:
    param, learned = layer.scale_param, len(layer.bottom) == 1
    attrs = Scale(axis=param.axis, num_axes=_num_axes(param, learned=learned), bias=param.bias_term)
    return Meaning(attrs, (Role.GAMMA,) * learned + (Role.BETA,) * param.bias_term)


def bias(layer: LayerParameter) -> Meaning:
    param, learned = layer.bias_param, len(layer.bottom) == 1
    return Meaning(Bias(axis=param.axis, num_axes=_num_axes(param, learned=learned)), (Role.BETA,) * learned)


def _num_axes(param: ScaleParameter | BiasParameter, *, learned: bool) -> int:
    """Not looked at where a second bottom brings its own axes."""
    return _integer("num_axes", param.num_axes, -1) if learned else 1


def relu(layer: LayerParameter) -> Meaning:
    slope = _number("negative_slope", layer.relu_param.negative_slope)
    kind = ActivationKind.LEAKY if slope else ActivationKind.RELU
    return Meaning(Activation(kind=kind, slope=slope))


def prelu(layer: LayerParameter) -> Meaning:
    return Meaning(Activation(kind=ActivationKind.PRELU, shared=layer.prelu_param.channel_shared), (Role.WEIGHT,))


def pooling(layer: LayerParameter) -> Meaning:
    param = layer.pooling_param
    kind = {PoolingParameter.MAX: PoolKind.MAX, PoolingParameter.AVE: PoolKind.AVERAGE}.get(param.pool)
    if kind is None or len(layer.top) > 1:  # a stochastic pooling; a second top says where each maximum was
        return Meaning(Unknown())
    once = param.HasField("kernel_size")
    twice = [param.HasField("kernel_h"), param.HasField("kernel_w")]
    stride, padding = _pooled(param, "stride", 1), _pooled(param, "pad", 0)
    if param.global_pooling:
        if once or any(twice):
            raise FormatError("With Global_pooling: true Filter size cannot specified")
        if (stride, padding) != ((1, 1), (0, 0)):
            found = f"pad {padding}, stride {stride}"
            raise FormatError("With Global_pooling: true; only pad = 0 and stride = 1", found=found)
        return Meaning(Pool(kind=kind, global_pool=True))
    if once == all(twice):
        raise FormatError("Filter size is kernel_size OR kernel_h and kernel_w; not both", expected="one of the two")
    height, width = (param.kernel_size,) * 2 if once else (param.kernel_h, param.kernel_w)
    kernel = _integer("kernel_h", height, 1, _MOST), _integer("kernel_w", width, 1, _MOST)
    if padding[0] >= kernel[0] or padding[1] >= kernel[1]:
        raise FormatError("pad must be less than the kernel", expected=f"less than {kernel}", found=padding)
    pool = Pool(kind=kind, kernel=kernel, stride=stride, padding=padding, ceil=_rounds_up(param), clip=True)
    return Meaning(pool)


def _rounds_up(param: PoolingParameter) -> bool:
    """By BVLC's round_mode, or by ceil_mode of the forks that have pull request #3057. No Caffe knows both."""
    up = param.round_mode == PoolingParameter.CEIL
    if not param.HasField("ceil_mode"):
        return up
    if param.HasField("round_mode") and param.ceil_mode != up:
        raise FormatError("round_mode and ceil_mode contradict each other", found=f"ceil_mode {param.ceil_mode}")
    return param.ceil_mode


def eltwise(layer: LayerParameter) -> Meaning:
    param = layer.eltwise_param
    coefficients = tuple(_number("coeff", value) for value in param.coeff)
    if coefficients and len(coefficients) != len(layer.bottom):
        raise FormatError(
            "Eltwise Layer takes one coefficient per bottom blob", expected=len(layer.bottom), found=len(coefficients)
        )
    if param.operation == EltwiseParameter.PROD:
        if coefficients:
            raise FormatError("Eltwise layer only takes coefficients for summation", found=coefficients)
        return Meaning(Multiply())
    if param.operation == EltwiseParameter.MAX:
        return Meaning(Maximum())  # coefficients are not read
    return Meaning(Add(coefficients=() if set(coefficients) <= {1.0} else coefficients))


def power(layer: LayerParameter) -> Meaning:
    param = layer.power_param
    power, scale, shift = (_number(name, getattr(param, name)) for name in ("power", "scale", "shift"))
    return Meaning(Power(power=power, scale=scale, shift=shift))


def lrn(layer: LayerParameter) -> Meaning:
    param = layer.lrn_param
    size = _integer("local_size", param.local_size, 1, _MOST)
    if size % 2 == 0:
        raise FormatError("LRN only supports odd values for local_size", found=size)
    alpha, beta, k = (_number(name, getattr(param, name)) for name in ("alpha", "beta", "k"))
    within = param.norm_region == LRNParameter.WITHIN_CHANNEL
    return Meaning(LRN(size=size, alpha=alpha, beta=beta, k=1.0 if within else k, within_channel=within))


def flatten(layer: LayerParameter) -> Meaning:
    return Meaning(Flatten(axis=layer.flatten_param.axis, end_axis=layer.flatten_param.end_axis))


def reshape(layer: LayerParameter) -> Meaning:
    param = layer.reshape_param
    shape = tuple(_integer("shape", size, -1) for size in param.shape.dim)
    if shape.count(-1) > 1 or len(shape) > MAX_AXES:
        raise FormatError(
            "new shape contains multiple -1 dims; at most a single (1) value of -1 may be specified",
            expected=f"at most one -1, and {MAX_AXES} dims",
            found=shape,
        )
    return Meaning(Reshape(shape=shape, axis=param.axis, num_axes=_integer("num_axes", param.num_axes, -1)))


def concat(layer: LayerParameter) -> Meaning:
    return Meaning(Concat(axis=_axis(layer.concat_param, "concat_dim")))


def slice_(layer: LayerParameter) -> Meaning:
    points, parts = tuple(layer.slice_param.slice_point), len(layer.top)
    if points and (len(points) != parts - 1 or any(last >= point for last, point in pairwise((0, *points)))):
        raise FormatError(
            "slice_point does not cut into the tops", expected=f"{parts - 1} increasing points above 0", found=points
        )
    return Meaning(Split(axis=_axis(layer.slice_param, "slice_dim"), parts=parts, points=points))


def softmax(layer: LayerParameter) -> Meaning:
    return Meaning(Softmax(axis=layer.softmax_param.axis))


def always(attrs: Attrs) -> Callable[[LayerParameter], Meaning]:
    return lambda _: Meaning(attrs)
