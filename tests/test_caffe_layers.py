"""What each layer type means, which blobs it has, and what Caffe refuses."""

from __future__ import annotations

import re

import pytest
from google.protobuf import text_format

from resnext_convert.converter.caffe.layers import (
    AXPY,
    LOSSES,
    SINKS,
    SOURCES,
    TABLE,
    Meaning,
    axpy_product,
    meaning,
)
from resnext_convert.converter.caffe.parameters import IN_CODE
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
    Identity,
    Linear,
    Maximum,
    Multiply,
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
from resnext_convert.schemas.caffe_pb2 import BatchNormParameter, ConvolutionParameter, LayerParameter

WEIGHTED = (Role.WEIGHT, Role.BIAS)
STATISTICS = (Role.MEAN, Role.VAR, Role.FACTOR)
EPS_1E5 = 9.999999747378752e-06  # the float32 nearest to 1e-5, as a double
FRACTION = 0.9990000128746033
BATCH_NORM = BatchNorm(eps=EPS_1E5, momentum=FRACTION, gamma=False, beta=False, factor=True)


def layer(kind: str, text: str = "", bottoms: int = 1, tops: int = 1) -> LayerParameter:
    """A layer as a prototxt has it: ``text`` is what stands in it besides its type, bottoms and tops."""
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    parsed: LayerParameter = text_format.Parse(f'name: "it" type: "{kind}" {blobs} {text}', LayerParameter())
    return parsed


def pool(kind: PoolKind = PoolKind.MAX, size: int = 3, **others: object) -> Pool:
    arguments: dict[str, object] = {"kernel": (size, size), "ceil": True, "clip": True, **others}
    return Pool(kind=kind, **arguments)  # type: ignore[arg-type]


def conv(**others: object) -> Conv:
    arguments: dict[str, object] = {"out_channels": 8, "kernel": (3, 3), "bias": True, **others}
    return Conv(**arguments)  # type: ignore[arg-type]


MEANINGS: list[tuple[str, str, Attrs, tuple[Role, ...]]] = [
    ("Convolution", "convolution_param { num_output: 8 kernel_size: 3 }", conv(), WEIGHTED),
    (
        "Convolution",
        "convolution_param { num_output: 8 kernel_size: 3 bias_term: false group: 4 stride: 2 pad: 1 dilation: 2 }",
        conv(bias=False, groups=4, stride=(2, 2), padding=(1, 1), dilation=(2, 2)),
        (Role.WEIGHT,),
    ),
    (
        "Convolution",
        "convolution_param { num_output: 8 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2 }",
        conv(kernel=(3, 5), stride=(2, 1), padding=(0, 2)),
        WEIGHTED,
    ),
    (
        "Convolution",
        "convolution_param { num_output: 8 kernel_size: [3, 5] stride: [1, 2] pad: [2, 1] dilation: [2, 3] axis: 1 }",
        conv(kernel=(3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 3)),
        WEIGHTED,
    ),
    (
        "Convolution",
        "convolution_param { num_output: 8 kernel_size: 3 pad_w: 1 axis: -3 force_nd_im2col: true }",
        conv(padding=(0, 1)),
        WEIGHTED,
    ),
    ("InnerProduct", "inner_product_param { num_output: 7 }", Linear(out_features=7, bias=True), WEIGHTED),
    (
        "InnerProduct",
        "inner_product_param { num_output: 7 axis: -1 transpose: true bias_term: false }",
        Linear(out_features=7, bias=False, axis=-1, transpose=True),
        (Role.WEIGHT,),
    ),
    ("BatchNorm", "", BATCH_NORM, STATISTICS),
    ("BatchNorm", "batch_norm_param { use_global_stats: true }", BATCH_NORM, STATISTICS),
    (
        "BatchNorm",
        "batch_norm_param { eps: 2e-5 moving_average_fraction: 0.9 }",
        BatchNorm(eps=1.9999999494757503e-05, momentum=0.8999999761581421, gamma=False, beta=False, factor=True),
        STATISTICS,
    ),
    (
        "BatchNorm",
        "batch_norm_param { use_global_stats: false }",
        BatchNorm(eps=EPS_1E5, momentum=FRACTION, gamma=False, beta=False, factor=True, batch_statistics=True),
        STATISTICS,
    ),
    ("Scale", "", Scale(bias=False), (Role.GAMMA,)),
    ("Scale", "scale_param { bias_term: true }", Scale(bias=True), (Role.GAMMA, Role.BETA)),
    (
        "Scale",
        "scale_param { axis: -2 num_axes: -1 bias_term: true }",
        Scale(axis=-2, num_axes=-1, bias=True),
        (Role.GAMMA, Role.BETA),
    ),
    ("Scale", "scale_param { num_axes: 0 }", Scale(num_axes=0, bias=False), (Role.GAMMA,)),
    ("Bias", "", Bias(), (Role.BETA,)),
    ("Bias", "bias_param { axis: 0 num_axes: 2 }", Bias(axis=0, num_axes=2), (Role.BETA,)),
    ("ReLU", "", Activation(kind=ActivationKind.RELU), ()),
    ("ReLU", "relu_param { negative_slope: 0 }", Activation(kind=ActivationKind.RELU), ()),
    (
        "ReLU",
        "relu_param { negative_slope: 0.1 }",
        Activation(kind=ActivationKind.LEAKY, slope=0.10000000149011612),
        (),
    ),
    ("PReLU", "", Activation(kind=ActivationKind.PRELU), (Role.WEIGHT,)),
    (
        "PReLU",
        "prelu_param { channel_shared: true }",
        Activation(kind=ActivationKind.PRELU, shared=True),
        (Role.WEIGHT,),
    ),
    ("Sigmoid", "", Activation(kind=ActivationKind.SIGMOID), ()),
    ("TanH", "", Activation(kind=ActivationKind.TANH), ()),
    ("Pooling", "pooling_param { kernel_size: 3 }", pool(), ()),
    (
        "Pooling",
        "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }",
        pool(PoolKind.AVERAGE, stride=(2, 2), padding=(1, 1), ceil=False),
        (),
    ),
    (
        "Pooling",
        "pooling_param { kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2 round_mode: CEIL }",
        pool(kernel=(3, 5), stride=(2, 3), padding=(1, 2)),
        (),
    ),
    ("Pooling", "pooling_param { kernel_size: 3 kernel_h: 5 }", pool(), ()),  # Caffe does not look at kernel_h
    ("Pooling", "pooling_param { kernel_size: 3 ceil_mode: true }", pool(), ()),
    ("Pooling", "pooling_param { kernel_size: 3 ceil_mode: false }", pool(ceil=False), ()),
    ("Pooling", "pooling_param { kernel_size: 3 ceil_mode: false round_mode: FLOOR }", pool(ceil=False), ()),
    ("Pooling", "pooling_param { kernel_size: 3 pool: STOCHASTIC }", Unknown(), ()),
    ("Pooling", "pooling_param { global_pooling: true }", Pool(kind=PoolKind.MAX, global_pool=True), ()),
    (
        "Pooling",
        "pooling_param { global_pooling: true pool: AVE pad: 0 stride_h: 1 stride_w: 1 }",
        Pool(kind=PoolKind.AVERAGE, global_pool=True),
        (),
    ),
    ("Power", "", Power(), ()),
    (
        "Power",
        "power_param { power: 2 scale: 0.017 shift: -0.3 }",
        Power(power=2.0, scale=0.017000000923871994, shift=-0.30000001192092896),
        (),
    ),
    ("LRN", "", LRN(), ()),
    (
        "LRN",
        "lrn_param { local_size: 3 alpha: 1e-4 beta: 0.5 k: 2 }",
        LRN(size=3, alpha=9.999999747378752e-05, beta=0.5, k=2.0),
        (),
    ),
    (
        "LRN",
        "lrn_param { norm_region: WITHIN_CHANNEL k: 2 }",  # k is not looked at
        LRN(within_channel=True),
        (),
    ),
    ("Softmax", "", Softmax(axis=1), ()),
    ("Softmax", "softmax_param { axis: -1 }", Softmax(axis=-1), ()),
    ("Dropout", "dropout_param { dropout_ratio: 0.7 }", Identity(), ()),
    ("Flatten", "", Flatten(), ()),
    ("Flatten", "flatten_param { axis: 2 end_axis: -2 }", Flatten(axis=2, end_axis=-2), ()),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", Reshape(shape=(0, -1)), ()),
    (
        "Reshape",
        "reshape_param { shape { dim: 2 dim: 3 } axis: -2 num_axes: 1 }",
        Reshape(shape=(2, 3), axis=-2, num_axes=1),
        (),
    ),
    ("Reshape", "", Reshape(shape=()), ()),
    ("Concat", "", Concat(axis=1), ()),
    ("Concat", "concat_param { axis: -1 }", Concat(axis=-1), ()),
    ("Concat", "concat_param { concat_dim: 0 }", Concat(axis=0), ()),
    ("Split", "", Identity(), ()),
    ("Permute", "", Unknown(), ()),
    ("", "", Unknown(), ()),
    *((kind, "", Unknown(), ()) for kind in sorted(SOURCES | SINKS | {AXPY})),
]


@pytest.mark.parametrize(("kind", "text", "attrs", "roles"), MEANINGS)
def test_meaning(kind: str, text: str, attrs: Attrs, roles: tuple[Role, ...]) -> None:
    assert meaning(layer(kind, text)) == Meaning(attrs, roles)


@pytest.mark.parametrize(
    ("kind", "text", "bottoms", "tops", "attrs", "roles"),
    [
        ("Scale", "scale_param { axis: 0 num_axes: 5 }", 2, 1, Scale(axis=0, bias=False), ()),
        ("Scale", "scale_param { bias_term: true num_axes: -9 }", 2, 1, Scale(bias=True), (Role.BETA,)),
        ("Bias", "bias_param { axis: 0 num_axes: -9 }", 2, 1, Bias(axis=0), ()),
        ("Eltwise", "", 2, 1, Add(), ()),
        ("Eltwise", "eltwise_param { operation: SUM coeff: [1, 1] }", 2, 1, Add(), ()),
        ("Eltwise", "eltwise_param { coeff: [1, -1] }", 2, 1, Add(coefficients=(1.0, -1.0)), ()),
        (
            "Eltwise",
            "eltwise_param { coeff: 0.1 coeff: -2 coeff: 3 }",
            3,
            1,
            Add(coefficients=(0.10000000149011612, -2.0, 3.0)),
            (),
        ),
        ("Eltwise", "eltwise_param { operation: PROD }", 3, 1, Multiply(), ()),
        ("Eltwise", "eltwise_param { operation: MAX coeff: [1, 2] }", 2, 1, Maximum(), ()),
        ("Concat", "", 3, 1, Concat(axis=1), ()),
        ("Slice", "", 1, 3, Split(axis=1, parts=3), ()),
        ("Slice", "slice_param { slice_point: [1, 3] axis: -2 }", 1, 3, Split(axis=-2, parts=3, points=(1, 3)), ()),
        ("Slice", "slice_param { slice_dim: 0 }", 1, 1, Split(axis=0, parts=1), ()),
        ("Split", "", 1, 3, Identity(), ()),
        ("Pooling", "pooling_param { kernel_size: 3 }", 1, 2, Unknown(), ()),
        ("SoftmaxWithLoss", "", 2, 0, Softmax(axis=1), ()),
        ("SoftmaxWithLoss", "softmax_param { axis: 2 }", 2, 2, Softmax(axis=2), ()),
        ("SigmoidCrossEntropyLoss", "", 2, 1, Activation(kind=ActivationKind.SIGMOID), ()),
        *((kind, "", 2, 1, Identity(), ()) for kind in ("EuclideanLoss", "HingeLoss", "MultinomialLogisticLoss")),
    ],
)
def test_meaning_of_several_blobs(
    kind: str, text: str, bottoms: int, tops: int, attrs: Attrs, roles: tuple[Role, ...]
) -> None:
    assert meaning(layer(kind, text, bottoms, tops)) == Meaning(attrs, roles)


CONV = "convolution_param { num_output: 8 %s }"
POOL = "pooling_param { %s }"


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        # base_conv_layer.cpp
        ("Convolution", CONV % "kernel_size: 3 kernel_h: 3 kernel_w: 3", "Either kernel_size or kernel_h/w"),
        ("Convolution", CONV % "kernel_size: 3 stride: 1 stride_w: 1", "Either stride or stride_h/w"),
        ("Convolution", CONV % "kernel_size: 3 pad: 1 pad_h: 1", "Either pad or pad_h/w"),
        ("Convolution", CONV % "", "kernel_size must be specified once, or once per spatial dimension.*found 0"),
        ("Convolution", CONV % "kernel_size: [3, 3, 3]", "kernel_size must be specified once.*found 3"),
        ("Convolution", CONV % "kernel_size: 3 stride: [1, 1, 1]", "stride must be specified once"),
        ("Convolution", CONV % "kernel_size: 3 pad: [1, 1, 1]", "pad must be specified once"),
        ("Convolution", CONV % "kernel_size: 3 dilation: [1, 1, 1]", "dilation must be specified once"),
        ("Convolution", CONV % "kernel_size: 0", "kernel_size cannot be this.*at least 1, found 0"),
        ("Convolution", CONV % "kernel_h: 3", "kernel_size cannot be this.*at least 1, found 0"),
        ("Convolution", CONV % "kernel_size: 3 stride: 0", "stride cannot be this"),
        ("Convolution", CONV % "kernel_size: 3 stride_h: 2", "stride cannot be this.*found 0"),
        ("Convolution", CONV % "kernel_size: 3 dilation: 0", "dilation cannot be this"),
        ("Convolution", CONV % "kernel_size: 4294967295", "kernel_size cannot be this.*at most 1024"),
        ("Convolution", CONV % "kernel_size: 3 pad: 2147483648", "pad cannot be this"),
        ("Convolution", CONV % "kernel_size: 3 group: 3", "Number of output should be multiples of group.*found 8"),
        ("Convolution", CONV % "kernel_size: 3 group: 0", "group cannot be this"),
        ("Convolution", "convolution_param { kernel_size: 3 }", "num_output cannot be this.*found 0"),
        ("Convolution", "convolution_param { kernel_size: 3 num_output: 2147483648 }", "num_output cannot be this"),
        # pooling_layer.cpp
        ("Pooling", "", "Filter size is kernel_size OR kernel_h and kernel_w"),
        ("Pooling", POOL % "kernel_h: 3", "Filter size is kernel_size OR"),
        ("Pooling", POOL % "kernel_size: 3 kernel_h: 3 kernel_w: 3", "not both"),
        ("Pooling", POOL % "kernel_size: 0", "kernel_h cannot be this"),
        ("Pooling", POOL % "kernel_h: 2 kernel_w: 2000", "kernel_w cannot be this"),
        ("Pooling", POOL % "kernel_size: 3 pad_h: 1", "pad is pad OR pad_h and pad_w"),
        ("Pooling", POOL % "kernel_size: 3 pad: 1 pad_h: 1 pad_w: 1", "pad is pad OR pad_h and pad_w"),
        ("Pooling", POOL % "kernel_size: 3 pad: 1 pad_w: 1", "pad is pad OR"),
        ("Pooling", POOL % "kernel_size: 3 stride_w: 1", "stride is stride OR stride_h and stride_w"),
        ("Pooling", POOL % "kernel_size: 3 stride: 1 stride_h: 1 stride_w: 1", "stride is stride OR"),
        ("Pooling", POOL % "kernel_size: 3 stride: 0", "stride cannot be this"),
        ("Pooling", POOL % "kernel_size: 3 pad: 3", r"pad must be less than the kernel.*found \(3, 3\)"),
        ("Pooling", POOL % "kernel_h: 3 kernel_w: 2 pad: 2", "pad must be less than the kernel"),
        ("Pooling", POOL % "global_pooling: true kernel_size: 3", "With Global_pooling: true Filter size cannot"),
        ("Pooling", POOL % "global_pooling: true kernel_w: 3", "With Global_pooling: true Filter size cannot"),
        ("Pooling", POOL % "global_pooling: true pad: 1", "With Global_pooling: true; only pad = 0 and stride = 1"),
        ("Pooling", POOL % "global_pooling: true stride: 2", "With Global_pooling: true; only pad = 0"),
        ("Pooling", POOL % "kernel_size: 3 ceil_mode: true round_mode: FLOOR", "contradict"),
        ("Pooling", POOL % "kernel_size: 3 ceil_mode: false round_mode: CEIL", "contradict"),
        # others
        ("InnerProduct", "", "num_output cannot be this"),
        ("BatchNorm", "batch_norm_param { eps: nan }", "eps is not a finite number.*found nan"),
        ("BatchNorm", "batch_norm_param { eps: 1e39 }", "eps is not a finite number"),
        ("Scale", "scale_param { num_axes: -2 }", "num_axes cannot be this"),
        ("Bias", "bias_param { num_axes: -2 }", "num_axes cannot be this"),
        ("ReLU", "relu_param { negative_slope: inf }", "negative_slope is not a finite number"),
        ("Power", "power_param { shift: -inf }", "shift is not a finite number"),
        ("LRN", "lrn_param { local_size: 4 }", "LRN only supports odd values for local_size.*found 4"),
        ("LRN", "lrn_param { local_size: 0 }", "local_size cannot be this"),
        ("LRN", "lrn_param { alpha: nan }", "alpha is not a finite number"),
        ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", "new shape contains multiple -1 dims"),
        ("Reshape", "reshape_param { shape { dim: -2 } }", "shape cannot be this"),
        ("Reshape", "reshape_param { shape { dim: 4294967296 } }", "shape cannot be this"),
        ("Reshape", "reshape_param { num_axes: -2 }", "num_axes cannot be this"),
        ("Reshape", "reshape_param { shape { %s } }" % ("dim: 1 " * 33), "32 dims"),
        ("Concat", "concat_param { axis: 1 concat_dim: 1 }", "Either axis or concat_dim should be specified; not both"),
        ("Concat", "concat_param { concat_dim: 4294967295 }", "concat_dim cannot be this"),
        ("Slice", "slice_param { axis: 1 slice_dim: 1 }", "Either axis or slice_dim should be specified; not both"),
        ("Slice", "slice_param { slice_point: 1 }", "slice_point does not cut into the tops"),
    ],
)  # fmt: skip
def test_what_caffe_refuses(kind: str, text: str, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        meaning(layer(kind, text))
    assert not isinstance(caught.value, UnsupportedError)
    assert (caught.value.file, caught.value.place) == (None, None)  # its reader knows them


@pytest.mark.parametrize(
    ("kind", "text", "bottoms", "tops", "says"),
    [
        ("Eltwise", "eltwise_param { coeff: 1 }", 2, 1, "one coefficient per bottom blob.*expected 2, found 1"),
        ("Eltwise", "eltwise_param { operation: PROD coeff: [1, 1] }", 2, 1, "only takes coefficients for summation"),
        ("Eltwise", "eltwise_param { coeff: [1, nan] }", 2, 1, "coeff is not a finite number"),
        ("Eltwise", "", 1, 1, "Eltwise Layer takes another number of bottom blobs .expected at least 2, found 1"),
        ("Slice", "slice_param { slice_point: [2, 2] }", 1, 3, "slice_point"),
        ("Slice", "slice_param { slice_point: [0, 2] }", 1, 3, "slice_point"),
        ("Slice", "slice_param { slice_point: 1 }", 1, 3, "slice_point"),
        ("Slice", "", 1, 0, "another number of top blobs .expected at least 1, found 0"),
        ("Scale", "", 3, 1, "another number of bottom blobs .expected 1 to 2, found 3"),
        ("ReLU", "", 1, 2, "ReLU Layer takes another number of top blobs .expected 1, found 2"),
        ("Convolution", CONV % "kernel_size: 3", 0, 1, "bottom blobs"),
        ("Pooling", POOL % "kernel_size: 3", 1, 3, "top blobs"),
        ("SoftmaxWithLoss", "", 1, 1, "bottom blobs"),
    ],
)
def test_what_caffe_refuses_of_several_blobs(kind: str, text: str, bottoms: int, tops: int, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        meaning(layer(kind, text, bottoms, tops))


@pytest.mark.parametrize(("text", "bottoms", "tops"), [("axis: 2", 1, 1), ("axis: 0", 1, 1), ("", 2, 2), ("", 1, 2)])
def test_convolutions_that_are_no_operator_on_images(text: str, bottoms: int, tops: int) -> None:
    with pytest.raises(UnsupportedError):
        meaning(layer("Convolution", CONV % f"kernel_size: 3 {text}", bottoms, tops))


def test_every_row_is_tested_and_says_where_caffe_says_so() -> None:
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    assert not set(names) & (SOURCES | SINKS | {AXPY})
    assert set(names) >= LOSSES
    assert all(name.endswith("Loss") for name in LOSSES)
    tested = {kind for kind, *_ in MEANINGS} | LOSSES | {"Eltwise", "Slice"}
    assert set(names) <= tested
    assert all(re.fullmatch(r"[a-z_]+_layer\.cpp", row.source) for row in TABLE)


def test_defaults_that_stand_in_code_have_none_in_the_schema() -> None:
    fields = [*ConvolutionParameter.DESCRIPTOR.fields, *BatchNormParameter.DESCRIPTOR.fields]
    found = {field.name: field.has_default_value for field in fields if field.name in IN_CODE}
    assert found == dict.fromkeys(IN_CODE, False)


def test_the_product_of_an_axpy() -> None:
    assert axpy_product(4) == Multiply()
    assert axpy_product(None) == Multiply()
    assert axpy_product(2) == Scale(axis=0, bias=False)
