"""The schema against what real Caffe wrote, as text and as binary, and against OpenCV's own copy of Caffe's schema."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from repository import FIXTURES, ROOT
from shared_data import shared

from resnext_convert.schemas import caffe_pb2
from resnext_convert.schemas.caffe_pb2 import (
    BlobProto,
    LayerParameter,
    NetParameter,
    PoolingParameter,
    V1LayerParameter,
)

RECORDINGS = FIXTURES / "caffe" / "recordings"
OWN_WEIGHTS = sorted(path.parent.name for path in RECORDINGS.glob("*/weights.caffemodel"))

# Fields of BVLC Caffe that the schema leaves out on purpose, by message and number, as far as real files have them.
LEFT_OUT = {
    ("ConvolutionParameter", 7),  # weight_filler
    ("ConvolutionParameter", 8),  # bias_filler
    ("ConvolutionParameter", 15),  # engine
    ("InnerProductParameter", 3),  # weight_filler
    ("InnerProductParameter", 4),  # bias_filler
    ("ScaleParameter", 3),  # filler
    ("ScaleParameter", 5),  # bias_filler
    ("DataParameter", 8),  # backend
}


def binary(path: Path) -> NetParameter:
    return NetParameter.FromString(path.read_bytes())


def text(path: Path) -> NetParameter:
    net: NetParameter = text_format.Parse(path.read_text(), NetParameter(), allow_unknown_field=True)
    return net


def loose(message: Message) -> list[tuple[int, int]]:
    """Number and wire type of a message's unknown fields."""
    fields = UnknownFieldSet(message)
    return [(fields[place].field_number, fields[place].wire_type) for place in range(len(fields))]


def unknown(message: Message) -> Iterator[tuple[str, int]]:
    """Message and number of every field of a binary that the schema does not have."""
    for number, _ in loose(message):
        yield message.DESCRIPTOR.name, number
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from unknown(inner)


@pytest.mark.parametrize("case", OWN_WEIGHTS)
def test_what_caffe_wrote_has_no_other_unknown_fields_than_those_left_out(case: str) -> None:
    for path in (RECORDINGS / case).glob("*.caffemodel"):
        net = binary(path)
        assert net.layer or net.layers
        assert set(unknown(net)) <= LEFT_OUT


@pytest.mark.acceptance
@pytest.mark.parametrize("folder", ["golden/caffe", "weights"])
def test_the_same_of_all_shared_files(folder: str) -> None:
    forks = {("LayerParameter", 10001), ("MemoryDataParameter", 10000), ("MemoryDataParameter", 10001)}  # Yahoo's
    broken = {"html_as_caffemodel.caffemodel", "truncated_caffemodel.caffemodel"}
    files = [path for path in shared(folder).glob("*/*.caffemodel") if path.name not in broken]
    assert len(files) > 10
    assert set().union(*(unknown(binary(path)) for path in files)) <= LEFT_OUT | forks


def parameters(net: NetParameter) -> dict[str, dict[str, Message]]:
    """Of each layer, its type's parameters by name, without the rounding of a pooling, which is the next test's."""
    found: dict[str, dict[str, Message]] = {}
    layers: list[LayerParameter | V1LayerParameter] = [*net.layer, *net.layers]
    for layer in layers:
        layer.DiscardUnknownFields()  # they would count in the comparison
        if layer.HasField("pooling_param"):
            layer.pooling_param.ClearField("ceil_mode")
            layer.pooling_param.ClearField("round_mode")
        found[layer.name] = {field.name: value for field, value in layer.ListFields() if field.name.endswith("_param")}
    return found


@pytest.mark.parametrize("case", OWN_WEIGHTS)
def test_numbers_and_names_mean_the_same(case: str) -> None:
    """Caffe saves a layer's parameters beside its blobs: what it wrote in numbers it had read in names."""
    named = parameters(text(RECORDINGS / case / "deploy.prototxt"))
    numbered = parameters(binary(RECORDINGS / case / "weights.caffemodel"))
    both = named.keys() & numbered.keys()
    assert len(both) >= 6
    for layer in both:
        assert numbered[layer] == named[layer], layer


def test_field_13_of_a_pooling_says_the_opposite_in_a_fork() -> None:
    """Why geometry comes from the text alone."""
    folder = RECORDINGS / "b_soeaver_floor"
    (named,) = [it for it in text(folder / "deploy.prototxt").layer if it.pooling_param.HasField("ceil_mode")]
    assert not named.pooling_param.ceil_mode  # rounds down
    (numbered,) = [it for it in binary(folder / "weights.caffemodel").layer if it.name == named.name]
    assert numbered.pooling_param.HasField("round_mode")
    assert numbered.pooling_param.round_mode == PoolingParameter.CEIL
    assert not numbered.pooling_param.HasField("ceil_mode")


def test_arrays_of_numbers_are_bytes_one_entry_a_chunk() -> None:
    packed = b"\x2a\x08" + bytes(8)  # field 5, eight bytes
    assert list(BlobProto.FromString(packed * 2).data) == [bytes(8), bytes(8)]
    unpacked = BlobProto.FromString(b"\x2d" + bytes(4))  # field 5, one float
    assert not unpacked.data
    assert loose(unpacked) == [(5, 5)]


PROGRAM = """
import sys
from pathlib import Path
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.internal import api_implementation

assert api_implementation.Type() == sys.argv[1], api_implementation.Type()
# pycaffe's schema, as far as names go
other = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
other.message_type.add(name="NetParameter").field.add(name="name", number=1, label=1, type=9)
descriptor_pool.Default().AddSerializedFile(other.SerializeToString())

from resnext_convert.schemas.caffe_pb2 import NetParameter

net = NetParameter.FromString(Path(sys.argv[2]).read_bytes())
print(len(net.layer), sum(len(chunk) for layer in net.layer for blob in layer.blobs for chunk in blob.data))
"""


@pytest.mark.parametrize("runtime", ["upb", "python"])
def test_every_runtime_takes_it_also_beside_pycaffe(runtime: str) -> None:
    weights = RECORDINGS / "a_cypw" / "weights.caffemodel"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, runtime, str(weights)],
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": runtime},
        capture_output=True,
        text=True,
        check=False,
    )
    net = binary(weights)
    size = sum(len(chunk) for layer in net.layer for blob in layer.blobs for chunk in blob.data)
    assert (run.stdout.split(), run.stderr) == ([str(len(net.layer)), str(size)], "")
    assert 0.9 * weights.stat().st_size < size < weights.stat().st_size


def test_the_generated_code_is_of_the_oldest_protoc() -> None:
    """Newer protoc call `runtime_version`, which protobuf 4 does not have. `make schema-check` compares the rest."""
    code = (ROOT / "schemas" / "caffe_pb2.py").read_text()
    assert "runtime_version" not in code
    assert "source: schemas/caffe.proto" in code


def messages(found: list[descriptor_pb2.DescriptorProto]) -> dict[str, descriptor_pb2.DescriptorProto]:
    return {message.name: message for message in found}


def opencv_schema() -> descriptor_pb2.FileDescriptorProto:
    """OpenCV carries a copy of Caffe's schema, with the fields of some forks, in its library."""
    spec = find_spec("cv2")
    assert spec is not None
    assert spec.origin is not None
    (library,) = Path(spec.origin).parent.glob("cv2*.so")
    content = library.read_bytes()
    start = end = content.index(b"\x0a\x12opencv-caffe.proto")
    while content[end] in {0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x62}:  # name, package, imports, messages, enums, syntax
        size = shift = 0
        end += 1
        while True:
            size |= (content[end] & 0x7F) << shift
            shift, end = shift + 7, end + 1
            if content[end - 1] < 0x80:
                break
        end += size
    return descriptor_pb2.FileDescriptorProto.FromString(content[start:end])


@pytest.mark.opencv
def test_names_numbers_types_and_defaults_are_those_of_opencvs_copy() -> None:
    ours = descriptor_pb2.FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(ours)
    theirs = messages(list(opencv_schema().message_type))
    different = set()
    for message in ours.message_type:
        other = theirs[message.name]
        fields = {field.name: field for field in other.field}
        for field in message.field:
            same = fields.get(field.name)
            if same is None or facts(field) != facts(same):
                different.add(f"{message.name}.{field.name}")
        for enum in message.enum_type:
            (values,) = [e for e in other.enum_type if e.name == enum.name] or [descriptor_pb2.EnumDescriptorProto()]
            if {(v.name, v.number) for v in enum.value} != {(v.name, v.number) for v in values.value}:
                different.add(f"{message.name}.{enum.name}")
    assert different == {
        *(f"BlobProto.{name}" for name in ("data", "diff", "double_data", "double_diff")),  # bytes
        *(f"BlobProto.{name}" for name in ("Type", "raw_diff", "raw_diff_type")),  # OpenCV has raw_data alone
        *(f"PoolingParameter.{name}" for name in ("RoundMode", "round_mode", "ceil_mode")),  # it reads ceil_mode as 13
    }


def facts(field: descriptor_pb2.FieldDescriptorProto) -> tuple[object, ...]:
    """What must be equal; a default of zero need not be said, and a float's may be written in more digits."""
    default: object = field.default_value
    if field.type == field.TYPE_FLOAT:
        default = round(float(field.default_value or 0), 7)
    return field.number, field.label, field.type, field.type_name.rpartition(".")[2], default or "0"
