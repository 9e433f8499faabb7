"""What each operator means, what the typed graph cannot express, and what is refused."""

from __future__ import annotations

import pytest
from mxnet_graphs import document, parsed, variables

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
    Flatten,
    Identity,
    Linear,
    Multiply,
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
    Unknown,
)
from resnext_convert.converter.mxnet.meaning import Feed
from resnext_convert.converter.mxnet.operators import TABLE, read_operator

CONV = {"kernel": "(3, 3)", "num_filter": "8"}
RELU, SIGMOID = Activation(kind=ActivationKind.RELU), Activation(kind=ActivationKind.SIGMOID)
GLOBAL = Pool(kind=PoolKind.AVERAGE, global_pool=True)

MEANINGS: list[tuple[str, dict[str, str], Attrs]] = [
    ("Convolution", CONV, Conv(out_channels=8, kernel=(3, 3), bias=True)),
    ("Convolution_v1", CONV | {"no_bias": "1"}, Conv(out_channels=8, kernel=(3, 3), bias=False)),
    (
        "Convolution",
        CONV
        | {"stride": "(2, 1)", "pad": "(0, 1)", "dilate": "(3, 2)", "num_group": "4", "no_bias": "True"}
        | {"workspace": "512", "cudnn_tune": "off", "cudnn_off": "True", "layout": "NCHW"},
        Conv(out_channels=8, kernel=(3, 3), stride=(2, 1), padding=(0, 1), dilation=(3, 2), groups=4, bias=False),
    ),
    (
        "Convolution",
        CONV | {"stride": "()", "pad": "()", "dilate": "()", "layout": "None"},
        Conv(out_channels=8, kernel=(3, 3), bias=True),
    ),
    (
        "BatchNorm",
        {"eps": "2e-05", "fix_gamma": "False", "momentum": "0.99", "use_global_stats": "True", "axis": "1"},
        BatchNorm(eps=2e-5, momentum=0.99, fix_gamma=False),
    ),
    ("BatchNorm_v1", {}, BatchNorm(eps=0.0010000000474974513, momentum=0.9, fix_gamma=True)),
    ("CuDNNBatchNorm", {"eps": "1e-5"}, BatchNorm(eps=1e-5, momentum=0.9, fix_gamma=True)),
    ("Activation", {"act_type": "relu"}, RELU),
    ("Activation", {"act_type": "tanh"}, Activation(kind=ActivationKind.TANH)),
    ("Activation", {"act_type": "softrelu"}, Activation(kind=ActivationKind.SOFTPLUS)),
    ("Activation", {"act_type": "softsign"}, Activation(kind=ActivationKind.SOFTSIGN)),
    ("relu", {}, RELU),
    ("sigmoid", {}, SIGMOID),
    ("tanh", {}, Activation(kind=ActivationKind.TANH)),
    ("softsign", {}, Activation(kind=ActivationKind.SOFTSIGN)),
    ("LeakyReLU", {}, Activation(kind=ActivationKind.LEAKY, slope=0.25)),
    ("LeakyReLU", {"slope": "0.1"}, Activation(kind=ActivationKind.LEAKY, slope=0.10000000149011612)),
    ("LeakyReLU", {"act_type": "prelu"}, Activation(kind=ActivationKind.PRELU)),
    ("Pooling", {"kernel": "(3, 3)"}, Pool(kind=PoolKind.MAX, kernel=(3, 3))),
    (
        "Pooling",
        {"kernel": "(3, 2)", "stride": "(2, 1)", "pad": "(1, 0)", "pool_type": "avg", "pooling_convention": "full"},
        Pool(kind=PoolKind.AVERAGE, kernel=(3, 2), stride=(2, 1), padding=(1, 0), ceil=True),
    ),
    (
        "Pooling",
        {"kernel": "(3, 3)", "pool_type": "sum", "count_include_pad": "False"},
        Pool(kind=PoolKind.SUM, kernel=(3, 3), count_include_pad=False),
    ),
    ("Pooling", {"kernel": "(2, 2)", "count_include_pad": "None"}, Pool(kind=PoolKind.MAX, kernel=(2, 2))),
    (
        "Pooling",
        {"kernel": "(7, 7)", "stride": "(2, 2)", "pad": "(3, 3)", "global_pool": "True", "pool_type": "avg"}
        | {"pooling_convention": "full", "count_include_pad": "False"},
        GLOBAL,
    ),
    ("Pooling", {"global_pool": "True"}, Pool(kind=PoolKind.MAX, global_pool=True)),
    ("Pooling_v1", {"kernel": "(2, 2)", "pool_type": "avg"}, Pool(kind=PoolKind.AVERAGE, kernel=(2, 2))),
    ("Pooling_v1", {"pooling_convention": "full", "global_pool": "1", "pool_type": "avg"}, GLOBAL),
    ("_contrib_AdaptiveAvgPooling2D", {}, GLOBAL),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "1"}, GLOBAL),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "(1, 1)"}, GLOBAL),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "None"}, GLOBAL),
    ("FullyConnected", {"num_hidden": "10"}, Linear(out_features=10, bias=True, axis=1)),
    (
        "FullyConnected",
        {"num_hidden": "10", "no_bias": "True", "flatten": "False"},
        Linear(out_features=10, bias=False, axis=-1),
    ),
    *((name, {}, Add()) for name in ("elemwise_add", "_add", "_plus", "_Plus", "_grad_add")),
    *((name, {}, Add()) for name in ("broadcast_add", "broadcast_plus")),
    *((name, {"num_args": "3"}, Add()) for name in ("add_n", "ElementWiseSum")),
    *((name, {}, Multiply()) for name in ("elemwise_mul", "_mul", "_Mul", "broadcast_mul")),
    ("_plus_scalar", {"scalar": "3"}, Scalar(kind=ScalarKind.ADD, value=3.0)),
    ("_PlusScalar", {"scalar": "3.5"}, Scalar(kind=ScalarKind.ADD, value=3.5)),
    ("_minus_scalar", {"scalar": "3", "is_int": "True"}, Scalar(kind=ScalarKind.ADD, value=-3.0)),
    ("_MinusScalar", {"scalar": "3"}, Scalar(kind=ScalarKind.ADD, value=-3.0)),
    ("_mul_scalar", {"scalar": "0.1"}, Scalar(kind=ScalarKind.MULTIPLY, value=0.1)),
    ("_MulScalar", {}, Scalar(kind=ScalarKind.MULTIPLY, value=1.0)),
    ("_div_scalar", {"scalar": "4"}, Scalar(kind=ScalarKind.MULTIPLY, value=0.25)),
    ("_DivScalar", {"scalar": "-8"}, Scalar(kind=ScalarKind.MULTIPLY, value=-0.125)),
    ("_maximum_scalar", {"scalar": "0"}, Scalar(kind=ScalarKind.MAXIMUM, value=0.0)),
    ("_MaximumScalar", {"scalar": "0"}, Scalar(kind=ScalarKind.MAXIMUM, value=0.0)),
    ("_minimum_scalar", {"scalar": "6"}, Scalar(kind=ScalarKind.MINIMUM, value=6.0)),
    ("_MinimumScalar", {"scalar": "6"}, Scalar(kind=ScalarKind.MINIMUM, value=6.0)),
    ("Concat", {"num_args": "2"}, Concat(axis=1)),
    ("concat", {"num_args": "2", "dim": "-1"}, Concat(axis=-1)),
    ("SliceChannel", {"num_outputs": "4"}, Split(axis=1, parts=4)),
    ("split", {"num_outputs": "4", "axis": "2", "squeeze_axis": "1"}, Split(axis=2, parts=4, squeeze=True)),
    ("slice", {"begin": "(0, None)", "end": "(2, 3)"}, Slice(bounds=((0, 2, None), (None, 3, None)))),
    ("crop", {"begin": "(0,)", "end": "(None,)", "step": "(2,)"}, Slice(bounds=((0, None, 2),))),
    (
        "slice_axis",
        {"axis": "1", "begin": "2", "end": "None"},
        Slice(bounds=((None, None, None), (2, None, None))),
    ),
    ("slice_axis", {"axis": "0", "begin": "-4", "end": "-1"}, Slice(bounds=((-4, -1, None),))),
    ("Flatten", {}, Flatten()),
    ("flatten", {}, Flatten()),
    ("Reshape", {"shape": "(0, -1)"}, Reshape(shape=(0, -1))),
    ("reshape", {"shape": "(-1, 512, 1, 1)", "target_shape": "(0, 0)"}, Reshape(shape=(-1, 512, 1, 1))),
    ("Reshape", {"target_shape": "(0, 64)"}, Reshape(shape=(-1, 64))),
    ("Reshape", {"target_shape": "(0, 0)", "keep_highest": "True"}, Reshape(shape=(0, -1))),
    ("Reshape", {"target_shape": "(2, 64)"}, Reshape(shape=(2, 64))),
    ("transpose", {}, Transpose(axes=())),
    ("transpose", {"axes": "(0, 2, 3, 1)"}, Transpose(axes=(0, 2, 3, 1))),
    ("SoftmaxOutput", {"normalization": "batch", "smooth_alpha": "0.1"}, Softmax(axis=None)),
    ("Softmax", {"multi_output": "True"}, Softmax(axis=1)),
    ("SoftmaxOutput", {"preserve_shape": "True"}, Softmax(axis=-1)),
    ("softmax", {}, Softmax(axis=-1)),
    ("softmax", {"axis": "1", "temperature": "1.0", "use_length": "None"}, Softmax(axis=1)),
    ("SoftmaxActivation", {}, Softmax(axis=-1)),
    ("SoftmaxActivation", {"mode": "channel"}, Softmax(axis=1)),
    ("Dropout", {"p": "0.5"}, Identity()),
    *((name, {}, Identity()) for name in ("BlockGrad", "stop_gradient", "_copy", "identity", "make_loss", "MakeLoss")),
    *((name, {}, Identity()) for name in ("LinearRegressionOutput", "MAERegressionOutput", "SVMOutput")),
    ("LogisticRegressionOutput", {"grad_scale": "2"}, SIGMOID),
    ("Cast", {"dtype": "float16"}, Cast(dtype="float16")),
    ("amp_cast", {"dtype": "bfloat16"}, Cast(dtype="bfloat16")),
    ("cast", {"dtype": "float64"}, Cast(dtype="float64")),
]


@pytest.mark.parametrize(("op", "texts", "attrs"), MEANINGS)
def test_meaning(op: str, texts: dict[str, str], attrs: Attrs) -> None:
    found, arguments = read_operator(op, texts)
    assert found == attrs
    assert arguments


def test_every_name_of_the_table_has_a_meaning_above() -> None:
    assert {op for op, _, _ in MEANINGS} == {name for row in TABLE for name in row.names}


# Legal in MXNet, and not in the typed graph: the node is kept, whoever needs it names it.
INEXPRESSIBLE: list[tuple[str, dict[str, str]]] = [
    ("Deconvolution", {"kernel": "(2, 2)", "num_filter": "1", "whatever": "is there"}),
    ("MyOp", {}),
    *(("LeakyReLU", {"act_type": kind}) for kind in ("elu", "selu", "gelu", "rrelu")),
    ("Pooling", {"kernel": "(2, 2)", "pool_type": "lp", "p_value": "2"}),
    ("Pooling_v1", {"kernel": "(2, 2)", "pool_type": "avg", "pooling_convention": "full"}),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "(2, 2)"}),
    ("_contrib_AdaptiveAvgPooling2D", {"output_size": "7"}),
    ("_div_scalar", {"scalar": "0"}),
    ("slice_axis", {"axis": "-1", "begin": "0", "end": "1"}),
    ("Reshape", {"shape": "(-2,)"}),
    ("Reshape", {"shape": "(0, -3)"}),
    ("Reshape", {"shape": "(0, -4, 2, -1)"}),
    ("Reshape", {"shape": "(0, -1)", "reverse": "True"}),
    ("Reshape", {"target_shape": "(0, 0)"}),
    ("Reshape", {}),
    ("softmax", {"temperature": "2"}),
    ("softmax", {"use_length": "True"}),
    ("Dropout", {"mode": "always"}),
    ("Cast", {"dtype": "uint8"}),
    ("clip", {"a_min": "0", "a_max": "6"}),
]


@pytest.mark.parametrize(("op", "texts"), INEXPRESSIBLE)
def test_what_the_graph_cannot_express_is_kept_as_unknown(op: str, texts: dict[str, str]) -> None:
    assert read_operator(op, texts) == (Unknown(attributes=texts), None)


REFUSED: list[tuple[str, dict[str, str], type[FormatError], str]] = [
    ("Convolution", CONV | {"kernel": "(3,)"}, UnsupportedError, "1-D"),
    ("Convolution", CONV | {"kernel": "3"}, UnsupportedError, "1-D"),
    ("Convolution", CONV | {"kernel": "(3, 3, 3)"}, UnsupportedError, "3-D"),
    ("Convolution", CONV | {"layout": "NHWC"}, UnsupportedError, "layout"),
    ("Convolution", CONV | {"layout": "NCDHW"}, UnsupportedError, "layout"),
    ("Convolution", CONV | {"layout": "CHWN"}, FormatError, "'layout'"),
    ("Convolution", CONV | {"kernel": "()"}, FormatError, "'kernel'"),
    ("Convolution", CONV | {"kernel": "(0, 3)"}, FormatError, "'kernel'"),
    ("Convolution", CONV | {"kernel": "(3, None)"}, FormatError, "'kernel'"),
    ("Convolution", CONV | {"stride": "2"}, FormatError, "'stride'"),
    ("Convolution", CONV | {"stride": "(2,)"}, FormatError, "'stride'"),
    ("Convolution", CONV | {"stride": "None"}, FormatError, "'stride'"),
    ("Convolution", CONV | {"stride": "(0, 1)"}, FormatError, "'stride'"),
    ("Convolution", CONV | {"pad": "(-1, 1)"}, FormatError, "'pad'"),
    ("Convolution", CONV | {"pad": "(1, 2147483648)"}, FormatError, "'pad'"),
    ("Convolution", CONV | {"dilate": "(0, 0)"}, FormatError, "'dilate'"),
    ("Convolution", CONV | {"num_filter": "0"}, FormatError, "'num_filter'"),
    ("Convolution", CONV | {"num_group": "0"}, FormatError, "'num_group'"),
    ("Convolution", CONV | {"num_group": "3"}, FormatError, "multiple"),
    ("BatchNorm", {"axis": "3"}, UnsupportedError, "axis"),
    ("BatchNorm", {"axis": "-3"}, UnsupportedError, "axis"),
    ("BatchNorm", {"eps": "nan"}, FormatError, "'eps'"),
    ("BatchNorm_v1", {"axis": "1"}, FormatError, "'axis'"),
    ("Activation", {}, FormatError, "'act_type'"),
    ("Activation", {"act_type": "swish"}, FormatError, "'act_type'"),
    ("Pooling", {}, FormatError, "'kernel'"),
    ("Pooling", {"kernel": "(2, 2)", "pool_type": "Max"}, FormatError, "'pool_type'"),
    ("Pooling", {"kernel": "(2, 2)", "pooling_convention": "same"}, UnsupportedError, "1-D"),
    ("Pooling", {"kernel": "(2, 2)", "layout": "NHWC"}, UnsupportedError, "layout"),
    ("Pooling", {"kernel": "(2, 2)", "stride": "(0, 0)"}, FormatError, "'stride'"),
    ("FullyConnected", {"num_hidden": "0"}, FormatError, "'num_hidden'"),
    ("Concat", {"num_args": "0"}, FormatError, "'num_args'"),
    ("add_n", {"num_args": "1000000000"}, FormatError, "'num_args'"),
    ("split", {"num_outputs": "1000000000"}, FormatError, "'num_outputs'"),
    ("slice", {"begin": "()", "end": "()"}, FormatError, "begin, end and step"),
    ("slice", {"begin": "(0,)", "end": "(1, 2)"}, FormatError, "begin, end and step"),
    ("slice", {"begin": "(0,)", "end": "(1,)", "step": "(1, 1)"}, FormatError, "begin, end and step"),
    ("slice", {"begin": "(0,)", "end": "(1,)", "step": "(0,)"}, FormatError, "begin, end and step"),
    ("slice_axis", {"axis": "1000000000", "begin": "0", "end": "1"}, FormatError, "'axis'"),
    ("Reshape", {"shape": "(-1, -1)"}, FormatError, "inferred"),
    ("Cast", {"dtype": "complex64"}, FormatError, "'dtype'"),
]


@pytest.mark.parametrize(("op", "texts", "error", "match"), REFUSED)
def test_refused(op: str, texts: dict[str, str], error: type[FormatError], match: str) -> None:
    with pytest.raises(FormatError, match=match) as refusal:
        read_operator(op, texts)
    assert type(refusal.value) is error


# Arguments


@pytest.mark.parametrize(
    ("op", "texts", "names", "uses"),
    [
        ("Convolution", CONV, ["data", "weight", "bias"], [Feed.VALUE, Role.WEIGHT, Role.BIAS]),
        ("Convolution", CONV | {"no_bias": "True"}, ["data", "weight"], [Feed.VALUE, Role.WEIGHT]),
        ("FullyConnected", {"num_hidden": "1"}, ["data", "weight", "bias"], [Feed.VALUE, Role.WEIGHT, Role.BIAS]),
        (
            "BatchNorm",
            {},
            ["data", "gamma", "beta", "moving_mean", "moving_var"],
            [Feed.VALUE, Role.GAMMA, Role.BETA, Role.MEAN, Role.VAR],
        ),
        ("LeakyReLU", {"act_type": "prelu"}, ["data", "gamma"], [Feed.VALUE, Role.WEIGHT]),
        ("LeakyReLU", {}, ["data"], [Feed.VALUE]),
        ("SoftmaxOutput", {}, ["data", "label"], [Feed.VALUE, Feed.LABEL]),
        ("elemwise_add", {}, ["lhs", "rhs"], [Feed.VALUE, Feed.VALUE]),
        ("Concat", {"num_args": "3"}, ["data"] * 3, [Feed.VALUE] * 3),
    ],
)
def test_arguments(op: str, texts: dict[str, str], names: list[str], uses: list[Feed | Role]) -> None:
    _, arguments = read_operator(op, texts)
    assert arguments is not None
    assert [argument.name for argument in arguments] == names
    assert [argument.use for argument in arguments] == uses


def test_an_unknown_operator_reads_plain_values() -> None:
    found = parsed(document(*variables("data", "x"), ("MyOp", "mine", [0, 1, 1])))
    assert found.fed == (0, 1)
