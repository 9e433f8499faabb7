"""Shapes of blobs, by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from resnext_convert.converter.caffe.shapes import Shape, axpy_shape, blob_shapes, fits, output_shapes
from resnext_convert.converter.errors import ShapeError
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

CONV = Conv(out_channels=8, kernel=(3, 5), stride=(2, 1), padding=(0, 2), groups=2, bias=True)
DILATED = Conv(out_channels=8, kernel=(3, 3), dilation=(2, 3), padding=(1, 1), bias=False)
CEIL = Pool(kind=PoolKind.MAX, kernel=(3, 3), stride=(2, 2), ceil=True, clip=True)
PADDED = Pool(kind=PoolKind.MAX, kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil=True, clip=True)
GLOBAL = Pool(kind=PoolKind.AVERAGE, global_pool=True)
NORM = BatchNorm(eps=1e-5, momentum=0.999, gamma=False, beta=False, factor=True)
PRELU = Activation(kind=ActivationKind.PRELU)
IMAGE = (2, 4, 5, 6)


@pytest.mark.parametrize(
    ("attrs", "inputs", "outputs"),
    [
        (CONV, [(1, 8, 17, 15)], [(1, 8, 8, 15)]),
        (CONV, [(0, 8, 0, 15)], [(0, 8, 0, 15)]),
        (CONV, [(1, 0, 17, 0)], [(1, 8, 8, 0)]),
        (CONV, [None], [(0, 8, 0, 0)]),
        (DILATED, [(1, 8, 17, 15)], [(1, 8, 15, 11)]),
        (CEIL, [(1, 64, 112, 112)], [(1, 64, 56, 56)]),
        (CEIL, [(1, 64, 112, 0)], [(1, 64, 56, 0)]),
        (CEIL, [None], [(0, 0, 0, 0)]),
        (PADDED, [(1, 64, 112, 112)], [(1, 64, 57, 57)]),  # soeaver without ceil_mode: false
        (PADDED, [(1, 64, 5, 6)], [(1, 64, 3, 4)]),
        (Pool(kind=PoolKind.MAX, kernel=(1, 1), stride=(5, 5), ceil=True, clip=True), [(2, 3, 13, 11)], [(2, 3, 4, 3)]),
        (
            # where there is padding on one axis, the last window is left out on both
            Pool(kind=PoolKind.MAX, kernel=(2, 1), stride=(5, 5), padding=(1, 0), ceil=True, clip=True),
            [(2, 3, 13, 11)],
            [(2, 3, 3, 3)],
        ),
        (
            Pool(kind=PoolKind.MAX, kernel=(2, 1), stride=(5, 5), padding=(1, 0), ceil=True, clip=True),
            [(2, 3, 13, 13)],
            [(2, 3, 3, 3)],
        ),
        (GLOBAL, [(2, 3, 13, 0)], [(2, 3, 1, 1)]),
        (GLOBAL, [None], [(0, 0, 1, 1)]),
        (NORM, [IMAGE], [IMAGE]),
        (NORM, [(3, 4)], [(3, 4)]),
        (NORM, [None], [None]),
        (Scale(bias=True), [IMAGE], [IMAGE]),
        (Scale(axis=0, bias=True), [IMAGE, (2, 4)], [IMAGE]),
        (Scale(axis=0, bias=True), [(2, 0, 5, 6), (0, 4)], [(2, 0, 5, 6)]),
        (Scale(axis=9, bias=True), [IMAGE, ()], [IMAGE]),
        (Scale(axis=-2, num_axes=2, bias=True), [IMAGE], [IMAGE]),
        (Scale(bias=True), [None], [None]),
        (Bias(axis=1), [IMAGE, None], [IMAGE]),
        (PRELU, [IMAGE], [IMAGE]),
        (Activation(kind=ActivationKind.RELU), [(3,)], [(3,)]),
        (Power(), [(0, 3)], [(0, 3)]),
        (Identity(), [None], [None]),
        (LRN(), [IMAGE], [IMAGE]),
        (LRN(), [None], [(0, 0, 0, 0)]),
        (Softmax(axis=-4), [IMAGE], [IMAGE]),
        (Linear(out_features=7, bias=True), [IMAGE], [(2, 7)]),
        (Linear(out_features=7, bias=True, axis=2), [(2, 0, 5, 6)], [(2, 0, 7)]),
        (Linear(out_features=7, bias=True, axis=-1), [IMAGE], [(2, 4, 5, 7)]),
        (Linear(out_features=7, bias=True, axis=0), [IMAGE], [(7,)]),
        (Linear(out_features=7, bias=True), [None], [(0, 7)]),
        (Linear(out_features=7, bias=True, axis=-1), [None], [None]),
        (Add(), [IMAGE, IMAGE, IMAGE], [IMAGE]),
        (Multiply(), [(0, 4, 5, 0), None, (2, 0, 0, 0)], [(2, 4, 5, 0)]),
        (Maximum(), [None, None], [None]),
        (Flatten(), [IMAGE], [(2, 120)]),
        (Flatten(), [(0, 4, 5, 6)], [(0, 120)]),
        (Flatten(), [(2, 4, 0, 6)], [(2, 0)]),
        (Flatten(axis=-3, end_axis=2), [IMAGE], [(2, 20, 6)]),
        (Flatten(axis=0), [(7,)], [(7,)]),
        (Flatten(), [None], [None]),
        (Reshape(shape=(0, -1)), [IMAGE], [(2, 120)]),
        (Reshape(shape=(0, -1)), [(0, 4, 5, 6)], [(0, 120)]),
        (Reshape(shape=(0, -1)), [(2, 4, 0, 6)], [(2, 0)]),
        (Reshape(shape=(-1, 4)), [(0, 4, 5, 6)], [(0, 4)]),
        (Reshape(shape=(-1, 0, 0, 0)), [(0, 4, 0, 6)], [(0, 4, 0, 6)]),
        (Reshape(shape=(2, -1), axis=1, num_axes=1), [(0, 4, 0, 6)], [(0, 2, 2, 0, 6)]),
        (Reshape(shape=(2, 2), axis=-4, num_axes=1), [IMAGE], [(2, 2, 2, 5, 6)]),
        (Reshape(shape=(1,), axis=1, num_axes=0), [IMAGE], [(2, 1, 4, 5, 6)]),
        (Reshape(shape=(1, 1), axis=-1), [(0, 4)], [(0, 4, 1, 1)]),
        (Reshape(shape=(0, -1), axis=1, num_axes=1), [(2, 4, 5)], [(2, 4, 1, 5)]),
        (Reshape(shape=(-1, 0), axis=1, num_axes=1), [(2, 4, 2)], [(2, 2, 2, 2)]),  # a copy of an axis that stays
        (Reshape(shape=(4, 5, 6)), [None], [None]),
        (Concat(axis=1), [IMAGE, (2, 3, 5, 6)], [(2, 7, 5, 6)]),
        (Concat(axis=-3), [(0, 4, 5, 0), (2, 3, 0, 0)], [(2, 7, 5, 0)]),
        (Concat(axis=1), [IMAGE, (2, 0, 5, 6)], [(2, 0, 5, 6)]),
        (Concat(axis=1), [IMAGE, None], [(2, 0, 5, 6)]),
        (Concat(axis=1), [None, None], [None]),
        (Concat(axis=0), [(3,)], [(3,)]),
        (Split(axis=1, parts=2), [IMAGE], [(2, 2, 5, 6)] * 2),
        (Split(axis=-1, parts=3, points=(1, 3)), [IMAGE], [(2, 4, 5, 1), (2, 4, 5, 2), (2, 4, 5, 3)]),
        (Split(axis=1, parts=2, points=(3,)), [(2, 0, 5, 6)], [(2, 3, 5, 6), (2, 0, 5, 6)]),
        (Split(axis=1, parts=2), [(2, 0, 5, 6)], [(2, 0, 5, 6)] * 2),
        (Split(axis=1, parts=2), [None], [None, None]),
        (Unknown(), [IMAGE], [None]),
    ],
)
def test_output_shapes(attrs: Attrs, inputs: list[Shape | None], outputs: list[Shape | None]) -> None:
    assert output_shapes(attrs, inputs) == outputs


@pytest.mark.parametrize(
    ("attrs", "inputs", "says"),
    [
        (CONV, [(1, 1, 17, 15)], r"channels_ % group_ == 0 \(expected a multiple of 2, found 1\)"),
        (CONV, [(1, 8, 2, 15)], r"window is larger than the padded map \(expected >= 3, found 2\)"),
        (DILATED, [(1, 8, 0, 4)], r"window is larger.*expected >= 7, found 6"),
        (CONV, [(1, 8, 17)], "Input must have 4 axes.*found 1 8 17"),
        (CONV, [(1, 8, 4, 17, 15)], "Input must have 4 axes"),
        (CEIL, [(2, 64)], r"Input must have 4 axes, corresponding to \(num, channels, height, width\)"),
        (CEIL, [(1, 64, 2, 2)], "window is larger"),
        (GLOBAL, [(2, 64)], "Input must have 4 axes"),
        (LRN(), [(2, 64)], "Input must have 4 axes"),
        (NORM, [(3,)], "no axis of channels"),
        (PRELU, [()], "no axis of channels"),
        (Scale(axis=4, bias=False), [IMAGE], "axis 4 out of range for 4-D Blob"),
        (Scale(axis=-5, bias=False), [IMAGE], "axis -5 out of range"),
        (Scale(axis=2, num_axes=3, bias=False), [IMAGE], r"extends past bottom\[0\]'s shape.*3 axes from 2 on"),
        (Scale(axis=1, num_axes=0, bias=False), [(3,)], "axis 1 out of range"),
        (Scale(bias=False), [IMAGE, (4, 5, 6, 1)], "extends past"),
        (Scale(bias=False), [IMAGE, (2, 4)], "dimension mismatch.*expected 4 5, found 2 4"),
        (Bias(axis=0), [IMAGE, (2, 4, 1, 1)], "dimension mismatch"),
        (Bias(), [(3,)], "axis 1 out of range"),
        (Softmax(axis=4), [IMAGE], "axis 4 out of range for 4-D Blob"),
        (Linear(out_features=7, bias=True, axis=2), [(2, 4)], "axis 2 out of range"),
        (
            Add(),
            [(1, 64, 16, 16), (1, 64, 8, 8)],
            r"found bottom\[0\]: 1 64 16 16, bottom\[1\]: 1 64 8 8",  # golden/caffe/t_errors, eltwise_shape
        ),
        (Multiply(), [IMAGE, (2, 4, 1, 1)], r"bottom\[1\]: 2 4 1 1"),
        (Maximum(), [IMAGE, None, (2, 4, 5)], r"bottom\[2\]: 2 4 5"),
        (Add(), [(0, 4), (2, 0), (2, 5)], r"found bottom\[0\]: 2 4, bottom\[2\]: 2 5"),
        (Flatten(axis=4), [IMAGE], "axis 4 out of range"),
        (Flatten(axis=2, end_axis=1), [IMAGE], "no axes to flatten"),
        (Reshape(shape=(0, 7)), [IMAGE], "output count must match input count"),
        (Reshape(shape=(0, 7)), [(0, 4, 5, 6)], "output count must match input count"),
        (Reshape(shape=(0, 7, -1)), [IMAGE], "output count must match input count"),
        (Reshape(shape=(1,), axis=5), [IMAGE], "out of range"),
        (Reshape(shape=(1,), axis=-6), [IMAGE], "out of range"),
        (Reshape(shape=(1,), axis=3, num_axes=2), [IMAGE], "out of range"),
        (Reshape(shape=(0, 0), axis=3), [IMAGE], "out of range"),
        (Concat(axis=4), [IMAGE, IMAGE], "axis 4 out of range"),
        (Concat(axis=1), [IMAGE, (2, 4, 5)], "All inputs must have the same #axes.*found 2 4 5 6, 2 4 5"),
        (Concat(axis=1), [IMAGE, (2, 3, 5, 7)], "same shape, except at concat_axis.*found 2 4 5 6 and 2 3 5 7"),
        (Split(axis=1, parts=3), [IMAGE], "evenly divide input slice axis.*expected 3, found 4"),
        (Split(axis=1, parts=3, points=(1, 4)), [IMAGE], "a slice would be empty"),
        (Split(axis=4, parts=1), [IMAGE], "axis 4 out of range"),
        (Linear(out_features=2**30, bias=False), [(2, 3)], "exceeds INT_MAX"),
        (Linear(out_features=2**30, bias=False, axis=2), [(2, 0, 3)], "exceeds INT_MAX"),
    ],
)
def test_shapes_that_caffe_refuses(attrs: Attrs, inputs: list[Shape | None], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        output_shapes(attrs, inputs)


W, B, G, BETA = Role.WEIGHT, Role.BIAS, Role.GAMMA, Role.BETA
STATISTICS = (Role.MEAN, Role.VAR, Role.FACTOR)


@pytest.mark.parametrize(
    ("attrs", "inputs", "blobs"),
    [
        (CONV, [(1, 8, 17, 15)], {W: (8, 4, 3, 5), B: (8,)}),
        (CONV, [(1, 0, 17, 15)], {W: (8, 0, 3, 5), B: (8,)}),
        (DILATED, [None], {W: (8, 0, 3, 3)}),
        (NORM, [IMAGE], dict(zip(STATISTICS, [(4,), (4,), (1,)], strict=True))),
        (NORM, [None], dict(zip(STATISTICS, [(0,), (0,), (1,)], strict=True))),
        (Scale(bias=True), [IMAGE], {G: (4,), BETA: (4,)}),
        (Scale(bias=False), [None], {G: (0,)}),
        (Scale(axis=2, num_axes=2, bias=False), [IMAGE], {G: (5, 6)}),
        (Scale(num_axes=-1, bias=False), [IMAGE], {G: (4, 5, 6)}),
        (Scale(num_axes=-1, bias=False), [None], {}),  # not even the number of axes is known
        (Scale(num_axes=0, bias=True), [IMAGE], {G: (), BETA: ()}),
        (Scale(axis=-1, bias=False), [IMAGE], {G: (6,)}),
        (Scale(axis=0, bias=True), [IMAGE, (2, 4)], {BETA: (2, 4)}),
        (Scale(axis=0, bias=True), [IMAGE, (0, 4)], {BETA: (2, 4)}),
        (Scale(axis=0, bias=True), [None, (0, 4)], {BETA: (0, 4)}),
        (Scale(axis=0, bias=True), [IMAGE, None], {}),
        (Bias(), [IMAGE], {BETA: (4,)}),
        (Linear(out_features=7, bias=True), [IMAGE], {W: (7, 120), B: (7,)}),
        (Linear(out_features=7, bias=False, transpose=True), [IMAGE], {W: (120, 7)}),
        (Linear(out_features=7, bias=False, axis=-1), [(2, 4, 0, 6)], {W: (7, 6)}),
        (Linear(out_features=7, bias=False), [(2, 4, 0, 6)], {W: (7, 0)}),
        (Linear(out_features=7, bias=False, transpose=True), [None], {W: (0, 7)}),
        (PRELU, [IMAGE], {W: (4,)}),
        (Add(), [IMAGE, IMAGE], {}),
    ],
)
def test_blob_shapes(attrs: Attrs, inputs: list[Shape | None], blobs: Mapping[Role, Shape]) -> None:
    roles = tuple(blobs) or tuple(Role)  # without one there is none, whatever is asked for
    assert list(blob_shapes(attrs, inputs, roles).items()) == list(blobs.items())


@pytest.mark.parametrize(
    ("stored", "target", "legacy", "fit"),
    [
        ((8, 3, 7, 7), (8, 3, 7, 7), False, True),
        ((8, 3, 7, 7), (8, 3, 7, 7), True, True),
        ((8, 3, 7, 7), (8, 3, 5, 5), False, False),
        ((8,), (8,), False, True),
        ((1, 1, 1, 8), (8,), True, True),
        ((1, 1, 1, 8), (8,), False, False),
        ((1, 8, 1, 1), (8,), True, False),
        ((8, 1, 1, 1), (8,), True, False),
        ((10, 256, 1, 1), (10, 256), False, False),
        ((10, 256, 1, 1), (10, 256), True, False),
        ((1, 1, 10, 256), (10, 256), True, True),
        ((1, 1, 1, 1), (), True, True),
        ((), (), False, True),
        ((1,), (), False, False),
        ((1, 1, 1, 1), (1, 1, 1, 1, 1), True, False),
        ((8, 3, 7, 7), (8, 0, 7, 7), False, True),
        ((1, 1, 1, 8), (0,), True, True),
        ((1, 1, 2, 8), (0,), True, False),
        ((8, 3), (0,), False, False),
        ((0, 3), (8, 3), False, False),  # a stored 0 is a 0
    ],
)
def test_fits(stored: Shape, target: Shape, legacy: bool, fit: bool) -> None:
    assert fits(stored, target, legacy) is fit


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ([(2, 4, 1, 1), IMAGE, IMAGE], IMAGE),
        ([(2, 4), IMAGE, IMAGE], IMAGE),
        ([(2, 4), (2, 4), (2, 4)], (2, 4)),
        ([(0, 4, 0, 1), (2, 0, 5, 6), (0, 4, 5, 0)], IMAGE),
        ([None, IMAGE, None], IMAGE),
        ([(2, 4, 1, 1), None, None], None),
    ],
)
def test_axpy(inputs: list[Shape | None], output: Shape | None) -> None:
    assert axpy_shape(inputs) == output


@pytest.mark.parametrize(
    "inputs",
    [
        [(2, 4, 1, 1), IMAGE, (2, 4, 5, 7)],
        [(2, 4, 5, 6), IMAGE, IMAGE],
        [(2, 3, 1, 1), IMAGE, IMAGE],
        [(1, 4), IMAGE, IMAGE],
        [(2, 4, 1), IMAGE, IMAGE],
        [(2, 4, 1, 1), (2, 4), (2, 4)],
        [(2, 4, 2, 1), None, None],
    ],
)
def test_axpy_of_blobs_that_do_not_go_together(inputs: list[Shape | None]) -> None:
    with pytest.raises(ShapeError):
        axpy_shape(inputs)
