"""What the attributes of MXNet's operators mean: one function per kind of operator, from texts to the typed graph.

A use of an operator that the typed graph cannot express has no meaning here (None). The table that names the
operators and their defaults is in `operators`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resnext_convert.converter.errors import FormatError, UnsupportedError
from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    Identity,
    Linear,
    Pool,
    PoolKind,
    Reshape,
    Role,
    Scalar,
    ScalarKind,
    Slice,
    Softmax,
    Split,
    Transpose,
)
from resnext_convert.converter.mxnet.attributes import Attributes

_MAX_ARGUMENTS = 4096  # of a variadic operator, and outputs of a split; a hostile file may say any number


class Feed(enum.Enum):
    """What goes into an argument that is no stored tensor."""

    VALUE = enum.auto()
    LABEL = enum.auto()
    """What training compares with; inference does not read it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One input of an operator: MXNet's name for it and what is fed there."""

    name: str
    use: Role | Feed


Arguments = tuple[Argument, ...]

_VALUE = Argument("data", Feed.VALUE)
ONE: Arguments = (_VALUE,)
TWO: Arguments = (Argument("lhs", Feed.VALUE), Argument("rhs", Feed.VALUE))
WITH_LABEL: Arguments = (_VALUE, Argument("label", Feed.LABEL))
_WITH_SLOPE: Arguments = (_VALUE, Argument("gamma", Role.WEIGHT))
_WEIGHTED: Arguments = (_VALUE, Argument("weight", Role.WEIGHT), Argument("bias", Role.BIAS))
_NORMALISED: Arguments = (
    _VALUE,
    Argument("gamma", Role.GAMMA),
    Argument("beta", Role.BETA),
    Argument("moving_mean", Role.MEAN),
    Argument("moving_var", Role.VAR),
)

Meaning = tuple[Attrs, Arguments] | None
"""What a node computes and what it is fed; None: the typed graph cannot express it."""

_POOL_KINDS: Mapping[str, PoolKind | None] = {
    "max": PoolKind.MAX,
    "avg": PoolKind.AVERAGE,
    "sum": PoolKind.SUM,
    "lp": None,
}
_CEIL: Mapping[str, bool | None] = {"valid": False, "full": True, "same": None}
_ACTIVATIONS = {
    "relu": ActivationKind.RELU,
    "sigmoid": ActivationKind.SIGMOID,
    "tanh": ActivationKind.TANH,
    "softrelu": ActivationKind.SOFTPLUS,
    "softsign": ActivationKind.SOFTSIGN,
}
_LAYOUTS = {name: name for name in ("None", "NCW", "NCHW", "NCDHW", "NWC", "NHWC", "NDHWC")}
_FLOATS = ("bfloat16", "float16", "float32", "float64")
_INTEGERS = ("bool", "int8", "int32", "int64", "uint8")
_DTYPES = {name: name for name in (*_FLOATS, *_INTEGERS)}

_CONVERT_LAYOUT = "another order of the axes is another network: export the model in MXNet with layout NCHW"


def _channels_first(attributes: Attributes) -> None:
    layout = attributes.choice("layout", _LAYOUTS)
    if layout not in {"NCHW", "None"}:
        raise UnsupportedError("the layout is not NCHW", expected="NCHW or None", found=layout, hint=_CONVERT_LAYOUT)


def convolution(attributes: Attributes) -> Meaning:
    _channels_first(attributes)
    channels = attributes.integer("num_filter", minimum=1)
    groups = attributes.integer("num_group", minimum=1)
    if channels % groups:
        raise FormatError("num_filter is no multiple of num_group", expected=f"a multiple of {groups}", found=channels)
    bias = not attributes.boolean("no_bias")
    conv = Conv(
        out_channels=channels,
        kernel=attributes.kernel("kernel"),
        stride=attributes.pair("stride", minimum=1),
        padding=attributes.pair("pad", minimum=0),
        dilation=attributes.pair("dilate", minimum=1),
        groups=groups,
        bias=bias,
    )
    return conv, _WEIGHTED if bias else _WEIGHTED[:2]


def batch_norm(attributes: Attributes) -> Meaning:
    if attributes.integer("axis") != 1:
        raise UnsupportedError(
            "the normalised axis is not 1", expected=1, found=attributes.integer("axis"), hint=_CONVERT_LAYOUT
        )
    return batch_norm_v1(attributes)


def batch_norm_v1(attributes: Attributes) -> Meaning:
    # use_global_stats makes no difference at inference: the moving statistics are taken either way.
    attrs = BatchNorm(
        eps=attributes.number("eps"),
        momentum=attributes.number("momentum"),
        fix_gamma=attributes.boolean("fix_gamma"),
    )
    return attrs, _NORMALISED


def pooling(attributes: Attributes) -> Meaning:
    _channels_first(attributes)
    count = attributes.is_none("count_include_pad") or attributes.boolean("count_include_pad")
    return _pooled(attributes, count_include_pad=count)


def pooling_v1(attributes: Attributes) -> Meaning:
    """The operator of before 0.9, kept under its own name.

    It divides an average by the whole kernel even where the window leaves the padded map, which only ``full`` can
    bring about, and pads a maximum with 0 (measured with 1.9.1). The first has no place in the typed graph; the
    second makes no difference after a ReLU, and the binding warns where none is before it.
    """
    meaning = _pooled(attributes, count_include_pad=True)
    match meaning:
        case (Pool(kind=PoolKind.AVERAGE, ceil=True), _):
            return None
    return meaning


def _pooled(attributes: Attributes, *, count_include_pad: bool) -> Meaning:
    kind = attributes.choice("pool_type", _POOL_KINDS)
    if kind is None:
        return None
    if attributes.boolean("global_pool"):  # kernel, stride, pad and convention are then not read
        return Pool(kind=kind, global_pool=True), ONE
    ceil = attributes.choice("pooling_convention", _CEIL)
    if ceil is None:
        raise UnsupportedError(
            "pooling_convention is for 1-D pooling",
            expected="valid or full",
            found="same",
            hint="only networks on images are read",
        )
    pool = Pool(
        kind=kind,
        kernel=attributes.kernel("kernel"),
        stride=attributes.pair("stride", minimum=1),
        padding=attributes.pair("pad", minimum=0),
        ceil=ceil,
        count_include_pad=count_include_pad,
    )
    return pool, ONE


def adaptive_pooling(attributes: Attributes) -> Meaning:
    if attributes.is_none("output_size") or set(attributes.integers("output_size")) <= {1}:
        return Pool(kind=PoolKind.AVERAGE, global_pool=True), ONE
    return None


def fully_connected(attributes: Attributes) -> Meaning:
    bias = not attributes.boolean("no_bias")
    axis = 1 if attributes.boolean("flatten") else -1
    linear = Linear(out_features=attributes.integer("num_hidden", minimum=1), bias=bias, axis=axis)
    return linear, _WEIGHTED if bias else _WEIGHTED[:2]


def activation(attributes: Attributes) -> Meaning:
    return Activation(kind=attributes.choice("act_type", _ACTIVATIONS)), ONE


def leaky_relu(attributes: Attributes) -> Meaning:
    kinds = {"leaky": 0, "prelu": 1, "elu": 2, "selu": 2, "gelu": 2, "rrelu": 2}
    match attributes.choice("act_type", kinds):
        case 0:
            return Activation(kind=ActivationKind.LEAKY, slope=attributes.float32("slope")), ONE
        case 1:
            return Activation(kind=ActivationKind.PRELU), _WITH_SLOPE
    return None


def add_n(attributes: Attributes) -> Meaning:
    return Add(), ONE * attributes.integer("num_args", 1, _MAX_ARGUMENTS)


def concat(attributes: Attributes) -> Meaning:
    return Concat(axis=attributes.integer("dim")), ONE * attributes.integer("num_args", 1, _MAX_ARGUMENTS)


def scalar(kind: ScalarKind, convert: Callable[[float], float] = float) -> Callable[[Attributes], Meaning]:
    return lambda attributes: (Scalar(kind=kind, value=convert(attributes.number("scalar"))), ONE)


def div_scalar(attributes: Attributes) -> Meaning:
    # The product with the reciprocal is within one unit in the last place of the quotient.
    divisor = attributes.number("scalar")
    return (Scalar(kind=ScalarKind.MULTIPLY, value=1 / divisor), ONE) if abs(divisor) > 1e-300 else None


def split(attributes: Attributes) -> Meaning:
    split = Split(
        axis=attributes.integer("axis"),
        parts=attributes.integer("num_outputs", 1, _MAX_ARGUMENTS),
        squeeze=attributes.boolean("squeeze_axis"),
    )
    return split, ONE


def slice_(attributes: Attributes) -> Meaning:
    begin, end, step = (attributes.bounds(name) for name in ("begin", "end", "step"))
    if not begin or len(begin) != len(end) or (step and len(step) != len(begin)) or 0 in step:
        raise FormatError(
            "begin, end and step do not belong together",
            expected="as many of each, and no step 0",
            found=f"{len(begin)}, {len(end)} and {step}",
        )
    return Slice(bounds=tuple(zip(begin, end, step or (None,) * len(begin), strict=True))), ONE


def slice_axis(attributes: Attributes) -> Meaning:
    axis = attributes.integer("axis", maximum=31)
    if axis < 0:  # counted from the end: the number of axes is not known here
        return None
    end = None if attributes.is_none("end") else attributes.integer("end")
    return Slice(bounds=((None, None, None),) * axis + ((attributes.integer("begin"), end, None),)), ONE


def reshape(attributes: Attributes) -> Meaning:
    shape = attributes.integers("shape")
    if not shape:
        return _reshape_to_target(attributes)
    if attributes.boolean("reverse") or min(shape) < -1:  # -2, -3, -4: copy the rest, merge two, split one
        return None
    if shape.count(-1) > 1:
        raise FormatError("more than one dimension is to be inferred", expected="-1 at most once", found=shape)
    return Reshape(shape=shape), ONE


def _reshape_to_target(attributes: Attributes) -> Meaning:
    """The older way to say it: 0 is inferred, and ``keep_highest`` copies the first dimension."""
    kept = int(attributes.boolean("keep_highest"))
    target = attributes.integers("target_shape")
    shape = (0,) * kept + tuple(size or -1 for size in target[kept:])
    if not target or min(target) < 0 or shape.count(-1) > 1:
        return None
    return Reshape(shape=shape), ONE


def transpose(attributes: Attributes) -> Meaning:
    return Transpose(axes=attributes.integers("axes")), ONE


def softmax_output(attributes: Attributes) -> Meaning:
    """Softmax over all but the batch axis, flattened, as the native kernel has it (SoftmaxOutputOp::Forward).

    1.9.1 takes the last axis instead where MKL-DNN executes it, which is a difference for 4-D data only.
    """
    if attributes.boolean("multi_output"):
        return Softmax(axis=1), WITH_LABEL
    return Softmax(axis=-1 if attributes.boolean("preserve_shape") else None), WITH_LABEL


def softmax(attributes: Attributes) -> Meaning:
    tempered = not attributes.is_none("temperature") and attributes.number("temperature") != 1
    if tempered or (not attributes.is_none("use_length") and attributes.boolean("use_length")):
        return None
    return Softmax(axis=attributes.integer("axis")), ONE


def softmax_activation(attributes: Attributes) -> Meaning:
    return Softmax(axis=attributes.choice("mode", {"channel": 1, "instance": -1})), ONE


def dropout(attributes: Attributes) -> Meaning:
    always = attributes.choice("mode", {"training": False, "always": True})
    return None if always else (Identity(), ONE)


def cast(attributes: Attributes) -> Meaning:
    dtype = attributes.choice("dtype", _DTYPES)
    return (Cast(dtype=dtype), ONE) if dtype in _FLOATS else None  # an integer would lose the fraction


def always(attrs: Attrs, arguments: Arguments = ONE) -> Callable[[Attributes], Meaning]:
    return lambda attributes: (attrs, arguments)
