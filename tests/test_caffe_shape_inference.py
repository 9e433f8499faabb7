"""Shapes of blobs against what the executor computes, and against what real Caffe recorded."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared_data import shared
from single_node import ramp, run_all

from resnext_convert.converter.caffe.layers import AXPY, input_shapes, meaning
from resnext_convert.converter.caffe.shapes import Shape, axpy_shape, blob_shapes, fits, output_shapes
from resnext_convert.converter.errors import InputError, ShapeError
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
)
from resnext_convert.schemas.caffe_pb2 import NetParameter

NORM = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, factor=True)
PRELU = Activation(kind=ActivationKind.PRELU)


def roles_of(attrs: Attrs, inputs: int) -> tuple[Role, ...]:
    """As `meaning` has them."""
    match attrs:
        case Conv(bias=bias) | Linear(bias=bias):
            return (Role.WEIGHT, Role.BIAS) if bias else (Role.WEIGHT,)
        case BatchNorm():
            return Role.MEAN, Role.VAR, Role.FACTOR
        case Scale(bias=bias):
            return (Role.GAMMA,) * (inputs == 1) + (Role.BETA,) * bias
        case Bias():
            return (Role.BETA,) * (inputs == 1)
    return (Role.WEIGHT,) if attrs == PRELU else ()


# Against the executor


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


AXES = st.integers(-5, 5)
OPERATORS = st.one_of(
    st.builds(
        Conv,
        out_channels=st.sampled_from([2, 4]),
        kernel=pairs(1, 3),
        stride=pairs(1, 3),
        padding=pairs(0, 2),
        dilation=pairs(1, 2),
        groups=st.integers(1, 2),
        bias=st.booleans(),
    ),
    st.builds(
        Pool,
        kind=st.sampled_from([PoolKind.MAX, PoolKind.AVERAGE]),
        kernel=pairs(1, 4),
        stride=pairs(1, 5),
        padding=pairs(0, 3),
        ceil=st.booleans(),
        clip=st.just(True),
        global_pool=st.integers(0, 5).map(lambda n: n == 0),
    ),
    st.sampled_from([NORM, PRELU, Power(), Identity(), LRN(), LRN(within_channel=True), Multiply(), Maximum()]),
    st.builds(Scale, axis=AXES, num_axes=st.integers(-1, 4), bias=st.booleans()),
    st.builds(Bias, axis=AXES, num_axes=st.integers(-1, 4)),
    st.builds(Linear, out_features=st.integers(1, 4), bias=st.booleans(), axis=AXES, transpose=st.booleans()),
    st.builds(Add, coefficients=st.just(())),
    st.builds(Flatten, axis=AXES, end_axis=AXES),
    st.builds(
        Reshape,
        shape=st.lists(st.integers(-1, 4), max_size=4).map(tuple).filter(lambda shape: shape.count(-1) <= 1),
        axis=AXES,
        num_axes=st.integers(-1, 4),
    ),
    st.builds(Concat, axis=AXES),
    st.builds(Split, axis=AXES, parts=st.integers(1, 3)),
    st.sampled_from([(1,), (2,), (3,), (1, 2), (1, 3)]).flatmap(
        lambda points: st.builds(Split, axis=AXES, parts=st.just(len(points) + 1), points=st.just(points))
    ),
    st.builds(Softmax, axis=AXES),
)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Attrs, list[Shape]]:
    attrs = draw(OPERATORS)
    windowed = isinstance(attrs, Conv | Pool | LRN) and draw(st.integers(0, 9)) > 0
    rank = 4 if windowed else draw(st.integers(1, 5))
    shape = draw(st.tuples(*(st.integers(1, 7 if windowed else 4) for _ in range(rank))))
    others = 0
    if isinstance(attrs, Scale | Bias):
        others = draw(st.integers(0, 1))
    elif isinstance(attrs, Add | Multiply | Maximum | Concat):
        others = draw(st.integers(0, 2))
    start, end = sorted(draw(st.tuples(st.integers(0, rank), st.integers(0, rank))))
    other = st.just(shape[start:end] if isinstance(attrs, Scale | Bias) else shape)
    changed = st.lists(st.integers(1, 4), min_size=max(rank - 1, 0), max_size=rank + 1).map(tuple)
    return attrs, [shape, *(draw(other | other | changed) for _ in range(others))]


def computed_shapes(attrs: Attrs, inputs: list[Shape]) -> list[Shape]:
    """What the executor computes on arrays of these shapes, with the blobs that Caffe would give the layer."""
    blobs = blob_shapes(attrs, inputs, roles_of(attrs, len(inputs)))
    stored = {role.value: np.abs(ramp(*shape)) for role, shape in blobs.items()}
    arrays = [ramp(*shape) for shape in inputs]
    parts = attrs.parts if isinstance(attrs, Split) else 1
    return [y.shape for y in run_all(attrs, *arrays, parts=parts, **stored)]


@given(layers())
@settings(max_examples=1500)
def test_shapes_are_those_that_the_executor_computes(case: tuple[Attrs, list[Shape]]) -> None:
    """And what the executor refuses is refused. (Caffe is stricter: it does not broadcast, for one.)"""
    attrs, inputs = case
    try:
        expected = computed_shapes(attrs, inputs)
    except ShapeError:
        with pytest.raises(ShapeError):
            output_shapes(attrs, inputs)
        return
    try:
        found = output_shapes(attrs, inputs)
    except ShapeError:
        broadcast = isinstance(attrs, Add | Multiply | Maximum) and len(set(inputs)) > 1
        scalar = isinstance(attrs, Scale | Bias) and 0 in {attrs.num_axes, *(len(shape) for shape in inputs[1:])}
        assert broadcast or scalar
        return
    assert found == expected


@given(layers(), st.data())
@settings(max_examples=1500)
def test_nothing_is_guessed_where_a_dimension_is_not_known(
    case: tuple[Attrs, list[Shape]], data: st.DataObject
) -> None:
    """Forgetting dimensions, or whole shapes, forgets some of the answer and changes none of it."""
    attrs, inputs = case
    try:
        known, blobs = output_shapes(attrs, inputs), blob_shapes(attrs, inputs, tuple(Role))
    except ShapeError:
        assume(False)
    partly: list[Shape | None] = [
        None if data.draw(st.integers(0, 5)) == 0 else tuple(size * data.draw(st.integers(0, 1)) for size in shape)
        for shape in inputs
    ]
    for found, shape in zip(output_shapes(attrs, partly), known, strict=True):
        assert shape is not None
        assert found is None or fits(shape, found, legacy=False)
    assert all(
        fits(blobs[role], found, legacy=False) for role, found in blob_shapes(attrs, partly, tuple(Role)).items()
    )


# Against real Caffe


def net(path: str) -> NetParameter:
    parsed: NetParameter = text_format.Parse(shared(path).read_text(), NetParameter(), allow_unknown_field=True)
    return parsed


def all_shapes(deploy: NetParameter, weights: NetParameter | None) -> dict[str, Shape | None]:
    """The final shape of each blob of a net in today's format, last layer last; checks stored blobs on the way."""
    stored = {} if weights is None else {layer.name: layer.blobs for layer in weights.layer}
    blobs: dict[str, Shape | None] = {
        name: tuple(shape.dim) for name, shape in zip(deploy.input, deploy.input_shape, strict=True)
    }
    for layer in deploy.layer:
        if layer.type == "Input":
            blobs.update(zip(layer.top, input_shapes(layer), strict=True))
            continue
        found, inputs = meaning(layer), [blobs[name] for name in layer.bottom]
        shapes = [axpy_shape(inputs)] if layer.type == AXPY else output_shapes(found.attrs, inputs)
        blobs.update(zip(layer.top, shapes, strict=True))
        targets = blob_shapes(found.attrs, inputs, found.roles)
        if layer.name in stored:
            assert len(stored[layer.name]) == len(targets), layer.name
            for blob, (role, target) in zip(stored[layer.name], targets.items(), strict=True):
                legacy = blob.HasField("num")
                shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
                assert 0 not in target
                assert fits(shape, target, legacy), (layer.name, role)
        else:
            assert not targets or weights is None, layer.name
    return blobs


BROKEN = {"s_extra_and_missing", "s_truncated_layers", "t_errors"}
FORMER = {"d_v1", "d_v1_mixed"}  # in a former format


@pytest.mark.acceptance
def test_shapes_are_those_that_caffe_recorded() -> None:
    """Those of all blobs of all nets, and of all that is stored in their weights."""
    compared = 0
    cases = {path.parent.name for path in shared("golden/caffe").glob("*/io.npz")}
    for case in sorted(cases - BROKEN - FORMER):
        folder = shared(f"golden/caffe/{case}")
        weights = folder / "weights.caffemodel"
        stored = NetParameter.FromString(weights.read_bytes()) if weights.exists() else None
        found = all_shapes(net(f"golden/caffe/{case}/deploy.prototxt"), stored)
        with np.load(folder / "io.npz") as recorded:
            for name in recorded.files:
                blob = name.removesuffix("__f64").partition("__")[2]
                if blob in found:
                    assert found[blob] == recorded[name].shape, (case, name)
                    compared += 1
    assert len(cases - BROKEN - FORMER) == 33
    assert compared > 1000


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bad_group", "multiples of group"),
        ("global_pool_with_kernel", "With Global_pooling: true Filter size cannot specified"),
        ("eltwise_shape", r"bottom\[0\]: 1 64 16 16, bottom\[1\]: 1 64 8 8"),
    ],
)
def test_nets_that_caffe_dies_of(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        all_shapes(net(f"golden/caffe/t_errors/{name}.prototxt"), None)


@pytest.mark.acceptance
def test_published_nets() -> None:
    paths = sorted(shared("releases").rglob("*.prototxt"))
    assert len(paths) == 10
    for path in paths:
        shapes = list(all_shapes(net(str(path.relative_to(shared("releases").parent))), None).values())
        assert shapes[-2:] == [(1, 1000), (1, 1000)], path
        pooled = len(shapes) - 1 - shapes[::-1].index((1, 2048, 1, 1))
        assert shapes[pooled - 1] == (1, 2048, 7, 7), path
        assert None not in shapes


@pytest.mark.acceptance
def test_a_net_that_lost_its_ceil_mode_has_a_larger_map() -> None:
    deploy = net("releases/soeaver+caffe-model/cls/resnext/deploy_resnext50-32x4d.prototxt")
    (pooling,) = (layer.pooling_param for layer in deploy.layer if layer.pooling_param.HasField("ceil_mode"))
    pooling.ClearField("ceil_mode")
    assert list(all_shapes(deploy, None).values())[-4:-2] == [(1, 2048, 8, 8), (1, 2048, 1, 1)]
