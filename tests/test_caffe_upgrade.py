"""Older forms of a net against their newest, rule by rule, and against what real Caffe made of the same files."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from shared_data import shared

from resnext_convert.converter.caffe.upgrade import V0_TYPES, V1_TYPES, upgrade
from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas.caffe_pb2 import BlobProto, LayerParameter, NetParameter, V1LayerParameter


def net(text: str) -> NetParameter:
    parsed: NetParameter = text_format.Parse(text, NetParameter(), allow_unknown_field=True)
    return parsed


def upgraded(text: str) -> NetParameter:
    found = net(text)
    upgrade(found)
    return found


def check(older: str, newest: str) -> None:
    assert upgraded(older) == net(newest)
    assert upgraded(newest) == net(newest)  # and nothing is left to do


# The newest form


def test_a_net_of_the_newest_form_stays_as_it_is() -> None:
    text = (
        'name: "n" state { stage: "a" } layer { name: "x" type: "ReLU" bottom: "a" top: "a" include { phase: TEST } }'
    )
    check(text, text)


def test_both_forms_at_once_are_refused() -> None:
    with pytest.raises(FormatError, match="includes both 'layer' and 'layers'") as refusal:
        upgraded('layer { name: "a" } layers { name: "b" } layer { name: "c" }')
    assert refusal.value.found == "2 layer, 1 layers"
    assert "Caffe refuses" in str(refusal.value.hint)


# V1 to V2


def test_a_layer_of_v1() -> None:
    check(
        """layers {
          name: "c" type: CONVOLUTION bottom: "a" bottom: "b" top: "t" top: "u"
          convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 bias_term: false }
          include { phase: TRAIN min_level: 2 } exclude { stage: "s" } exclude { not_stage: "t" }
          loss_weight: 1 loss_weight: 0.5
          blobs { num: 1 channels: 2 height: 3 width: 4 data: "1234" }
        }""",
        """layer {
          name: "c" type: "Convolution" bottom: "a" bottom: "b" top: "t" top: "u"
          convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 bias_term: false }
          include { phase: TRAIN min_level: 2 } exclude { stage: "s" } exclude { not_stage: "t" }
          loss_weight: 1 loss_weight: 0.5
          blobs { num: 1 channels: 2 height: 3 width: 4 data: "1234" }
        }""",
    )


def test_parameters_of_v1_become_one_spec_a_blob() -> None:
    check(
        """layers { param: "w" param: "b" blob_share_mode: PERMISSIVE blobs_lr: 1 blobs_lr: 2 blobs_lr: 0
                    weight_decay: 1 }""",
        """layer { param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 1 } param { name: "b" lr_mult: 2 }
                   param { lr_mult: 0 } }""",
    )
    check("layers { blob_share_mode: STRICT }", "layer { param { share_mode: STRICT } }")


def test_what_is_not_said_in_v1_is_not_said_afterwards() -> None:
    check("layers {}", "layer {}")
    check("layers { type: NONE }", 'layer { type: "" }')


TYPES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "DECONVOLUTION": "Deconvolution",
    "ELTWISE": "Eltwise",
    "HDF5_DATA": "HDF5Data",
    "IM2COL": "Im2col",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}


@pytest.mark.parametrize("old", TYPES)
def test_types_of_v1(old: str) -> None:
    check(f"layers {{ type: {old} }}", f'layer {{ type: "{TYPES[old]}" }}')


def test_every_type_has_a_successor() -> None:
    assert set(V1_TYPES) == set(V1LayerParameter.LayerType.values())
    assert len(set(V1_TYPES.values())) == len(V1_TYPES)
    assert set(V0_TYPES.values()) < set(V1_TYPES)
    for number, word in V1_TYPES.items():
        old = V1LayerParameter.LayerType.Name(number).replace("_", "").lower()
        assert word.lower() == {"none": "", "softmaxloss": "softmaxwithloss"}.get(old, old)


def test_every_field_of_v1_has_a_successor() -> None:
    ours = set(V1LayerParameter.DESCRIPTOR.fields_by_name)
    assert ours - set(LayerParameter.DESCRIPTOR.fields_by_name) == {
        "layer",
        "blobs_lr",
        "weight_decay",
        "blob_share_mode",
    }


def test_transformations_leave_the_data_parameters() -> None:
    check(
        """layers { type: DATA
                    data_param { source: "s" batch_size: 4 scale: 0.5 mean_file: "m" crop_size: 9 mirror: true }
                    transform_param { crop_size: 7 mean_value: 3 } }""",
        """layer { type: "Data" data_param { source: "s" batch_size: 4 }
                   transform_param { scale: 0.5 mean_file: "m" crop_size: 9 mirror: true mean_value: 3 } }""",
    )
    check(
        "layers { type: IMAGE_DATA image_data_param { new_height: 8 scale: 2 } }",
        'layer { type: "ImageData" image_data_param { new_height: 8 } transform_param { scale: 2 } }',
    )
    check(
        "layers { type: WINDOW_DATA window_data_param { mirror: true } }",
        'layer { type: "WindowData" window_data_param {} transform_param { mirror: true } }',
    )


def test_transformations_stay_where_caffe_does_not_look_for_them() -> None:
    check("layers { type: RELU data_param { scale: 2 } }", 'layer { type: "ReLU" data_param { scale: 2 } }')
    text = 'layer { type: "Data" data_param { scale: 2 } }'
    check(text, text)


# V0 to V1


def test_a_layer_of_v0() -> None:
    check(
        """input: "data"
        layers {
          bottom: "data" top: "c"
          layer { name: "conv1" type: "conv" num_output: 8 biasterm: false kernelsize: 3 pad: 1 stride: 2 group: 4
                  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 blobs { num: 1 data: "1234" } }
        }
        layers { bottom: "c" top: "p" layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 3 pad: 1 } }
        layers { bottom: "p" top: "l" layer { name: "l" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } }
        layers { bottom: "l" top: "f" layer { name: "f" type: "innerproduct" num_output: 5 biasterm: true } }
        layers { bottom: "f" top: "f" layer { name: "d" type: "dropout" dropout_ratio: 0.25 } }
        layers { bottom: "f" bottom: "f" top: "j" layer { name: "j" type: "concat" concat_dim: 0 } }
        layers { bottom: "j" top: "s" layer { name: "s" type: "softmax" } }""",
        """layer {
          bottom: "data" top: "c" name: "conv1" type: "Convolution"
          convolution_param { num_output: 8 bias_term: false kernel_size: 3 pad: 1 stride: 2 group: 4 }
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 } blobs { num: 1 data: "1234" }
        }
        layer { bottom: "c" top: "p" name: "p" type: "Pooling"
                pooling_param { pool: AVE kernel_size: 2 stride: 3 pad: 1 } }
        layer { bottom: "p" top: "l" name: "l" type: "LRN"
                lrn_param { local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } }
        layer { bottom: "l" top: "f" name: "f" type: "InnerProduct"
                inner_product_param { num_output: 5 bias_term: true } }
        layer { bottom: "f" top: "f" name: "d" type: "Dropout" dropout_param { dropout_ratio: 0.25 } }
        layer { bottom: "f" bottom: "f" top: "j" name: "j" type: "Concat" concat_param { concat_dim: 0 } }
        layer { bottom: "j" top: "s" name: "s" type: "Softmax" }""",
    )


def test_data_layers_of_v0() -> None:
    check(
        """layers { top: "data" layer { type: "data" source: "s" batchsize: 4 scale: 0.5 meanfile: "m" cropsize: 9
                                         mirror: true } }
        layers { top: "x" layer { type: "images" source: "t" batchsize: 2 } }""",
        """layer { top: "data" type: "Data" data_param { source: "s" batch_size: 4 }
                   transform_param { scale: 0.5 mean_file: "m" crop_size: 9 mirror: true } }
        layer { top: "x" type: "ImageData" image_data_param { source: "t" batch_size: 2 } }""",
    )


def test_what_a_type_of_v0_does_not_have_is_left_out() -> None:
    """Caffe logs `Unknown parameter pad for layer type relu` and goes on."""
    check('layers { layer { type: "relu" pad: 1 num_output: 3 } }', 'layer { type: "ReLU" }')
    check(
        'layers { layer { type: "pool" group: 2 stride: 2 } }', 'layer { type: "Pooling" pooling_param { stride: 2 } }'
    )


def test_an_unknown_type_of_v0_is_refused() -> None:
    with pytest.raises(FormatError, match="Unknown layer name") as refusal:
        upgraded('layers { layer { name: "a" type: "reshape" } }')
    assert refusal.value.place == "layer 'a' (reshape)"


PADDED = """input: "data"
layers { bottom: "data" top: "wide" layer { name: "wide" type: "padding" pad: 2 } }
layers { bottom: "wide" top: "c" layer { name: "c" type: "%s" kernelsize: 5 } }"""


@pytest.mark.parametrize(("kind", "newest"), [("conv", "Convolution"), ("pool", "Pooling")])
def test_a_padding_layer_goes_into_its_reader(kind: str, newest: str) -> None:
    field = newest.lower()
    check(
        PADDED % kind,
        f'layer {{ bottom: "data" top: "c" name: "c" type: "{newest}" {field}_param {{ kernel_size: 5 pad: 2 }} }}',
    )


def test_the_last_writer_of_a_blob_is_the_one_that_is_read() -> None:
    """In place, after the padding: what the pooling reads is the result of the ReLU, not the padding."""
    found = upgraded(
        """input: "data"
        layers { bottom: "data" top: "x" layer { name: "a" type: "padding" pad: 2 } }
        layers { bottom: "x" top: "x" layer { name: "b" type: "conv" } }
        layers { bottom: "x" top: "y" layer { name: "c" type: "conv" } }"""
    )
    assert [(it.name, list(it.bottom), list(it.convolution_param.pad)) for it in found.layer] == [
        ("b", ["data"], [2]),
        ("c", ["x"], []),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PADDED % "relu", "a padding layer is read by a layer that cannot pad"),
        ((PADDED % "conv").replace('top: "wide"', 'top: "wide" top: "other"'), "read by a layer that cannot pad"),
        ((PADDED % "conv").replace('bottom: "wide"', 'bottom: "wide" bottom: "data"'), "layer that cannot pad"),
        ((PADDED % "conv").replace('bottom: "wide"', 'bottom: "none"'), "Unknown blob input 'none'"),
        (PADDED % "padding", "a padding layer is read by a layer that cannot pad"),
    ],
)
def test_paddings_that_caffe_dies_of(text: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as refusal:
        upgraded(text)
    assert "'c'" in str(refusal.value.place)


# Inputs


def test_input_shapes_become_a_layer_put_first() -> None:
    check(
        'input: "a" input: "b" input_shape { dim: 1 dim: 3 } input_shape { dim: 7 } layer { name: "x" }',
        """layer { name: "input" type: "Input" top: "a" top: "b"
                   input_param { shape { dim: 1 dim: 3 } shape { dim: 7 } } }
        layer { name: "x" }""",
    )


def test_input_dims_are_four_an_input() -> None:
    dims = " ".join(f"input_dim: {dim}" for dim in (1, 3, 224, 225, 5, 6, 7, 8))
    check(
        f'input: "a" input: "b" {dims} layers {{ name: "x" }}',
        """layer { name: "input" type: "Input" top: "a" top: "b"
                   input_param { shape { dim: [1, 3, 224, 225] } shape { dim: [5, 6, 7, 8] } } }
        layer { name: "x" }""",
    )


def test_input_shapes_win_over_dims() -> None:
    check(
        'input: "a" input_dim: 9 input_shape { dim: 1 } layer {}',
        'layer { name: "input" type: "Input" top: "a" input_param { shape { dim: 1 } } } layer {}',
    )


def test_more_dims_than_inputs_are_not_looked_at() -> None:
    check(
        'input: "a" input_dim: [1, 2, 3, 4, 5] layer {}',
        'layer { name: "input" type: "Input" top: "a" input_param { shape { dim: [1, 2, 3, 4] } } } layer {}',
    )


def test_inputs_without_dims_go() -> None:
    """As in the binaries of old: the dims were in the prototxt."""
    check('input: "a" layer { name: "x" }', 'layer { name: "x" }')
    check('input_dim: 3 layer { name: "x" }', 'layer { name: "x" }')


@pytest.mark.parametrize("dims", ["input_dim: [1, 3, 224]", "input_dim: 1", 'input: "b" input_dim: [1, 2, 3, 4]'])
def test_too_few_dims_are_refused(dims: str) -> None:
    with pytest.raises(FormatError, match="the inputs have not all got a shape") as refusal:
        upgraded(f'input: "a" {dims} layer {{}}')
    assert "input_dim" in str(refusal.value.expected)
    with pytest.raises(FormatError, match="the inputs have not all got a shape"):
        upgraded('input: "a" input: "b" input_shape {} layer {}')


# BatchNorm


def test_batch_norms_of_2015_are_not_to_be_learned() -> None:
    layer = 'layer { type: "%s" %s }'
    learned, fixed = "param { lr_mult: 1 decay_mult: 2 } ", "param { lr_mult: 0 decay_mult: 0 } "
    check(layer % ("BatchNorm", learned * 3), layer % ("BatchNorm", fixed * 3))
    check(
        layer % ("BatchNorm", 'param { name: "m" } ' * 3),
        layer % ("BatchNorm", fixed.replace("{", '{ name: "m"') * 3),
    )
    for text in (
        layer % ("BatchNorm", learned * 2),
        layer % ("BatchNorm", learned * 4),
        layer % ("Scale", learned * 3),
    ):
        check(text, text)


# Binaries


def test_numbers_that_were_written_unpacked_survive() -> None:
    """They are unknown fields of the blob."""
    loose = b"\x08\x01" + b"\x2d\x00\x00\x80\x3f" * 3
    old = NetParameter()
    old.layers.add(name="a").blobs.append(BlobProto.FromString(loose))
    upgrade(old)
    assert old.layer[0].blobs[0].SerializeToString() == loose


@pytest.mark.acceptance
def test_real_caffes_upgrade() -> None:
    """`upgrade_net_proto_text` and `upgrade_net_proto_binary` of BVLC Caffe, on the same files."""
    folder = shared("golden/caffe/d_v1")
    text = upgraded((folder / "deploy.prototxt").read_text())
    assert text == net((folder / "upgraded_v2.prototxt").read_text())
    assert len(text.layer) > 50
    binary, theirs = (
        NetParameter.FromString((folder / name).read_bytes())
        for name in ("weights.caffemodel", "upgraded_v2.caffemodel")
    )
    upgrade(binary)
    assert binary == theirs
    assert binary.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert sum(len(chunk) for layer in binary.layer for blob in layer.blobs for chunk in blob.data) > 250_000
