"""The operators of MXNet that the project reads: one table of names, attributes and defaults.

The defaults are those of MXNet 1.9.1, in the spelling of a symbol file; a test compares them with what that release's
own registry says, and the file and structure that hold them stand beside each entry. What 0.8 writes is a part of the
same set. A name that is not in the table, and a use of an operator that the typed graph cannot express, become
`Unknown`: the node stays in the graph, and whoever needs its value refuses it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import neg

from resnext_convert.converter.graph import (
    Activation,
    ActivationKind,
    Add,
    Attrs,
    Flatten,
    Identity,
    Multiply,
    ScalarKind,
    Unknown,
)
from resnext_convert.converter.mxnet import meaning
from resnext_convert.converter.mxnet.attributes import Attributes, Defaults
from resnext_convert.converter.mxnet.meaning import TWO, WITH_LABEL, Arguments, Meaning, always


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table.

    Attributes:
        names: all its names.
        source: where MXNet 1.9.1 says so, below ``src/operator``.
        defaults: all its attributes.
        read: the meaning of its attributes.
    """

    names: tuple[str, ...]
    source: str
    defaults: Defaults
    read: Callable[[Attributes], Meaning]


_BATCH_NORM_V1: Defaults = {
    # eps is the float32 nearest to 1e-3, written as the double that it is (batch_norm-inl.h:100). fix_gamma is True:
    # gamma is then not merely frozen but taken as 1 (batch_norm-inl.h:105). momentum is kept as a float32 too; 0.9
    # stands here because the number serves training alone, and 0.899999976 would only look like a mistake there.
    "eps": "0.0010000000474974513",
    "momentum": "0.9",
    "fix_gamma": "True",
    "use_global_stats": "False",
    "output_mean_var": "False",
}
_POOLING_V1: Defaults = {
    "kernel": "()",
    "pool_type": "max",
    "global_pool": "False",
    "pooling_convention": "valid",
    "stride": "()",
    "pad": "()",
}
_CONVOLUTION: Defaults = {
    "kernel": None,
    "stride": "()",
    "dilate": "()",
    "pad": "()",
    "num_filter": None,
    "num_group": "1",
    "workspace": "1024",
    "no_bias": "False",
    "cudnn_tune": "None",
    "cudnn_off": "False",
    "layout": "None",
}
_SCALAR: Defaults = {"scalar": "1", "is_int": "True"}
_GRAD_SCALE: Defaults = {"grad_scale": "1"}
_SCALAR_SOURCE = "tensor/elemwise_binary_scalar_op.h, NumpyBinaryScalarParam"
_REGRESSION_SOURCE = "regression_output-inl.h, RegressionOutputParam"
_SIGMOID = Activation(kind=ActivationKind.SIGMOID)

TABLE: tuple[Operator, ...] = (
    Operator(("Convolution",), "nn/convolution-inl.h, ConvolutionParam", _CONVOLUTION, meaning.convolution),
    Operator(("Convolution_v1",), "convolution_v1-inl.h, ConvolutionV1Param", _CONVOLUTION, meaning.convolution),
    Operator(
        ("BatchNorm", "CuDNNBatchNorm"),  # the second in GPU builds only
        "nn/batch_norm-inl.h, BatchNormParam",
        {
            **_BATCH_NORM_V1,
            "axis": "1",
            "cudnn_off": "False",
            "min_calib_range": "None",
            "max_calib_range": "None",
        },
        meaning.batch_norm,
    ),
    Operator(("BatchNorm_v1",), "batch_norm_v1-inl.h, BatchNormParam", _BATCH_NORM_V1, meaning.batch_norm_v1),
    Operator(("Activation",), "nn/activation-inl.h, ActivationParam", {"act_type": None}, meaning.activation),
    Operator(
        ("LeakyReLU",),
        "leaky_relu-inl.h, LeakyReLUParam",
        {"act_type": "leaky", "slope": "0.25", "lower_bound": "0.125", "upper_bound": "0.333999991"},
        meaning.leaky_relu,
    ),
    Operator(("relu",), "tensor/elemwise_unary_op_basic.cc", {}, always(Activation(kind=ActivationKind.RELU))),
    Operator(("sigmoid",), "tensor/elemwise_unary_op_basic.cc", {}, always(_SIGMOID)),
    Operator(("softsign",), "tensor/elemwise_unary_op_basic.cc", {}, always(Activation(kind=ActivationKind.SOFTSIGN))),
    Operator(("tanh",), "tensor/elemwise_unary_op_trig.cc", {}, always(Activation(kind=ActivationKind.TANH))),
    Operator(
        ("Pooling",),
        "nn/pooling-inl.h, PoolingParam",
        {
            **_POOLING_V1,
            "cudnn_off": "False",
            "p_value": "None",
            "count_include_pad": "None",  # taken as True
            "layout": "None",
        },
        meaning.pooling,
    ),
    Operator(("Pooling_v1",), "pooling_v1-inl.h, PoolingV1Param", _POOLING_V1, meaning.pooling_v1),
    Operator(
        ("_contrib_AdaptiveAvgPooling2D",),
        "contrib/adaptive_avg_pooling-inl.h, AdaptiveAvgPoolParam",
        {"output_size": "()"},
        meaning.adaptive_pooling,
    ),
    Operator(
        ("FullyConnected",),
        "nn/fully_connected-inl.h, FullyConnectedParam",
        {"num_hidden": None, "no_bias": "False", "flatten": "True"},
        meaning.fully_connected,
    ),
    Operator(("elemwise_add", "_add", "_plus", "_Plus"), "tensor/elemwise_binary_op_basic.cc", {}, always(Add(), TWO)),
    Operator(("_grad_add",), "tensor/elemwise_binary_op_basic.cc", {}, always(Add(), TWO)),
    Operator(
        ("broadcast_add", "broadcast_plus"), "tensor/elemwise_binary_broadcast_op_basic.cc", {}, always(Add(), TWO)
    ),
    Operator(
        ("add_n", "ElementWiseSum"),
        "tensor/elemwise_sum.cc, ElementWiseSumParam",
        {"num_args": None},
        meaning.add_n,
    ),
    Operator(("elemwise_mul", "_mul", "_Mul"), "tensor/elemwise_binary_op_basic.cc", {}, always(Multiply(), TWO)),
    Operator(("broadcast_mul",), "tensor/elemwise_binary_broadcast_op_basic.cc", {}, always(Multiply(), TWO)),
    Operator(("_plus_scalar", "_PlusScalar"), _SCALAR_SOURCE, _SCALAR, meaning.scalar(ScalarKind.ADD)),
    Operator(("_minus_scalar", "_MinusScalar"), _SCALAR_SOURCE, _SCALAR, meaning.scalar(ScalarKind.ADD, neg)),
    Operator(("_mul_scalar", "_MulScalar"), _SCALAR_SOURCE, _SCALAR, meaning.scalar(ScalarKind.MULTIPLY)),
    Operator(("_div_scalar", "_DivScalar"), _SCALAR_SOURCE, _SCALAR, meaning.div_scalar),
    Operator(("_maximum_scalar", "_MaximumScalar"), _SCALAR_SOURCE, _SCALAR, meaning.scalar(ScalarKind.MAXIMUM)),
    Operator(("_minimum_scalar", "_MinimumScalar"), _SCALAR_SOURCE, _SCALAR, meaning.scalar(ScalarKind.MINIMUM)),
    Operator(("Concat", "concat"), "nn/concat-inl.h, ConcatParam", {"num_args": None, "dim": "1"}, meaning.concat),
    Operator(
        ("SliceChannel", "split"),
        "slice_channel-inl.h, SliceChannelParam",
        {"num_outputs": None, "axis": "1", "squeeze_axis": "False"},
        meaning.split,
    ),
    Operator(
        ("slice", "crop"),
        "tensor/matrix_op-inl.h, SliceParam",
        {"begin": None, "end": None, "step": "()"},
        meaning.slice_,
    ),
    Operator(
        ("slice_axis",),
        "tensor/matrix_op-inl.h, SliceAxisParam",
        {"axis": None, "begin": None, "end": None},
        meaning.slice_axis,
    ),
    Operator(("Flatten", "flatten"), "tensor/matrix_op.cc", {}, always(Flatten())),
    Operator(
        ("Reshape", "reshape"),
        "tensor/matrix_op-inl.h, ReshapeParam",
        {"shape": "()", "reverse": "False", "target_shape": "()", "keep_highest": "False"},
        meaning.reshape,
    ),
    Operator(("transpose",), "tensor/matrix_op-inl.h, TransposeParam", {"axes": "()"}, meaning.transpose),
    Operator(
        ("SoftmaxOutput", "Softmax"),
        "softmax_output-inl.h, SoftmaxOutputParam",
        {
            **_GRAD_SCALE,
            "ignore_label": "-1",
            "multi_output": "False",
            "use_ignore": "False",
            "preserve_shape": "False",
            "normalization": "null",
            "out_grad": "False",
            "smooth_alpha": "0",
        },
        meaning.softmax_output,
    ),
    Operator(
        ("softmax",),
        "nn/softmax-inl.h, SoftmaxParam",
        {"axis": "-1", "temperature": "None", "dtype": "None", "use_length": "False"},
        meaning.softmax,
    ),
    Operator(
        ("SoftmaxActivation",),
        "nn/softmax_activation-inl.h, SoftmaxActivationParam",
        {"mode": "instance"},
        meaning.softmax_activation,
    ),
    Operator(
        ("Dropout",),
        "nn/dropout-inl.h, DropoutParam",
        {"p": "0.5", "mode": "training", "axes": "()", "cudnn_off": "False"},
        meaning.dropout,
    ),
    Operator(("Cast", "cast"), "tensor/elemwise_unary_op.h, CastParam", {"dtype": None}, meaning.cast),
    Operator(("amp_cast",), "tensor/amp_cast.h, AMPCastParam", {"dtype": None}, meaning.cast),
    Operator(("BlockGrad", "stop_gradient"), "tensor/elemwise_unary_op_basic.cc", {}, always(Identity())),
    Operator(("_copy", "identity"), "tensor/elemwise_unary_op_basic.cc", {}, always(Identity())),
    Operator(("make_loss",), "tensor/elemwise_unary_op_basic.cc", {}, always(Identity())),
    Operator(
        ("MakeLoss",),
        "make_loss-inl.h, MakeLossParam",
        {**_GRAD_SCALE, "valid_thresh": "0", "normalization": "null"},
        always(Identity()),
    ),
    Operator(("LinearRegressionOutput",), _REGRESSION_SOURCE, _GRAD_SCALE, always(Identity(), WITH_LABEL)),
    Operator(("MAERegressionOutput",), _REGRESSION_SOURCE, _GRAD_SCALE, always(Identity(), WITH_LABEL)),
    Operator(("LogisticRegressionOutput",), _REGRESSION_SOURCE, _GRAD_SCALE, always(_SIGMOID, WITH_LABEL)),
    Operator(
        ("SVMOutput",),
        "svm_output-inl.h, SVMOutputParam",
        {"margin": "1", "regularization_coefficient": "1", "use_linear": "False"},
        always(Identity(), WITH_LABEL),
    ),
)

_BY_NAME: Mapping[str, Operator] = {name: operator for operator in TABLE for name in operator.names}


def read_operator(op: str, texts: Mapping[str, str]) -> tuple[Attrs, Arguments | None]:
    """The meaning of one node.

    Args:
        op: MXNet's name of the operator.
        texts: the node's attributes as the file has them.

    Returns:
        What the node computes, and what its inputs are in order; None for the latter if it is `Unknown`, that is, not
        in the table or used in a way that the typed graph cannot express. All of its inputs are then plain values.

    Raises:
        FormatError: an attribute is unknown, missing or unreadable.
        UnsupportedError: it is legal, but means a network in another layout or of other dimensions.
    """
    operator = _BY_NAME.get(op)
    found: Meaning = None if operator is None else operator.read(Attributes(texts, operator.defaults))
    return (Unknown(attributes=dict(texts)), None) if found is None else found
