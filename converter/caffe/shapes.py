"""The shapes of blobs, as far as a net says them: what flows between layers, and what each layer stores.

What Caffe's ``Reshape`` (and the part of ``LayerSetUp`` that looks at bottoms) dies of is a typed error. A dimension
that is not known is 0; it fits anything, and nothing is guessed from it. None is a blob of which not even the number
of axes is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from resnext_convert.converter.caffe.parameters import INT_MAX
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
    Power,
    Reshape,
    Role,
    Scale,
    Softmax,
    Split,
)

Shape = tuple[int, ...]
"""The dimensions of a blob; 0: not known."""

Bottoms = Sequence[Shape | None]
"""What is known of a layer's inputs."""


def output_shapes(attrs: Attrs, inputs: Bottoms) -> list[Shape | None]:
    """The shape of each output of an operator that came from a Caffe net.

    Args:
        attrs: the operator; None is all that is known of one that the nets of this family do not have.
        inputs: its inputs, at least one.

    Raises:
        ShapeError: Caffe refuses these inputs. Stricter than Caffe in two cases that torch cannot express: a window
            larger than the padded map (a pooling rounded up takes one that exceeds it by less than a stride), and a
            part of a slice or a range of axes to flatten that is empty.
    """
    outputs = _parts(attrs, inputs[0]) if isinstance(attrs, Split) else [_output(attrs, inputs)]
    for shape in outputs:
        if shape is not None and math.prod(size for size in shape if size) > INT_MAX:
            raise ShapeError("blob size exceeds INT_MAX", expected=f"at most {INT_MAX}", found=_dims(shape))
    return outputs


def _output(attrs: Attrs, inputs: Bottoms) -> Shape | None:
    first = inputs[0]
    match attrs:
        case Conv():
            batch, _, *size = _maps(first)
            _divide(attrs, first)
            return batch, attrs.out_channels, *_windows(attrs, size)
        case Pool():
            batch, channels, *size = _maps(first)
            return batch, channels, *((1, 1) if attrs.global_pool else _windows(attrs, size))
        case LRN():
            return _maps(first)
        case Linear():
            return _linear(attrs, first)
        case BatchNorm() | Activation(kind=ActivationKind.PRELU):
            if first is not None and len(first) < 2:
                raise ShapeError("the blob has no axis of channels", expected="at least 2 axes", found=_dims(first))
            return first
        case Scale() | Bias():
            _scaled(attrs, inputs)
            return first
        case Add() | Multiply() | Maximum():
            return _same(inputs)
        case Softmax():
            if first is not None and attrs.axis is not None:
                _canonical(attrs.axis, first)
            return first
        case Flatten():
            return _flat(attrs, first)
        case Reshape():
            return _reshaped(attrs, first)
        case Concat():
            return _joined(attrs, inputs)
        case Activation() | Power() | Identity():
            return first
    return None


def blob_shapes(attrs: Attrs, inputs: Bottoms, roles: Sequence[Role]) -> dict[Role, Shape]:
    """The shape that Caffe gives each blob of a layer, 0 where it follows from a dimension that is not known.

    Args:
        attrs: the layer's operator.
        inputs: its inputs, at least one.
        roles: its blobs.

    Returns:
        By role, in the order of ``roles``; without those of which not even the number of axes is known.

    Raises:
        ShapeError: Caffe cannot give them a shape.
    """
    shapes = _stored(attrs, inputs)
    return {role: shapes[role] for role in roles if role in shapes}


def _stored(attrs: Attrs, inputs: Bottoms) -> Mapping[Role, Shape]:
    first = inputs[0]
    channels = first[1] if first is not None and len(first) > 1 else 0
    match attrs:
        case Conv(out_channels=outputs):
            return {Role.WEIGHT: (outputs, _divide(attrs, first), *attrs.kernel), Role.BIAS: (outputs,)}
        case Linear(out_features=outputs):
            matrix = (outputs, _features(attrs, first))
            return {Role.WEIGHT: matrix[::-1] if attrs.transpose else matrix, Role.BIAS: (outputs,)}
        case BatchNorm():
            return {Role.MEAN: (channels,), Role.VAR: (channels,), Role.FACTOR: (1,)}
        case Scale() | Bias():
            shape = _scaled(attrs, inputs)
            return {} if shape is None else {Role.GAMMA: shape, Role.BETA: shape}
        case Activation(kind=ActivationKind.PRELU):
            return {Role.WEIGHT: () if attrs.shared else (channels,)}
    return {}


def fits(stored: Shape, target: Shape, legacy: bool) -> bool:
    """Whether Caffe copies a stored blob into one of the net (blob.cpp, ShapeEquals).

    Args:
        stored: the blob's shape in the file.
        target: the shape that the layer gives it; 0 is any size.
        legacy: the file says num, channels, height and width. Those are compared with the target from the right,
            with 1 where it has no axis: (C) takes 1, 1, 1, C, but not 1, C, 1, 1.
    """
    if legacy:
        target = (1,) * (4 - len(target)) + target
    return len(stored) == len(target) and all(wanted in {0, size} for size, wanted in zip(stored, target, strict=True))


def axpy_shape(inputs: Bottoms) -> Shape | None:
    """The shape of ``a * x``, and of the sum of that and y, for the inputs a, x and y of an ``Axpy`` layer.

    After axpy_layer.cpp of hujie-frank/SENet, Reshape.

    Raises:
        ShapeError: x and y differ, or a is neither (N, C, 1, 1) nor (N, C) beside them.
    """
    a, *terms = inputs
    x = _same(terms, 1)
    if a is not None:
        channels = (0, 0) if x is None else x[:2]
        shapes = (channels, (*channels, 1, 1)) if x is None or len(x) == 4 else (channels,)
        if not any(_agree(a, shape) for shape in shapes):
            raise ShapeError("a of a * x + y is not one number a channel", expected=_dims(shapes[-1]), found=_dims(a))
    return x


# What the layers share


def _dims(shape: Shape) -> str:
    """As Caffe prints it: ``1 64 16 16``; ``?`` where a dimension is not known."""
    return " ".join(str(size or "?") for size in shape) or "no axes"


def _agree(shape: Shape, other: Shape) -> bool:
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(size == wanted or 0 in (size, wanted) for size, wanted in pairs)


def _merge(shape: Shape | None, other: Shape | None) -> Shape | None:
    """What two descriptions of the same shape say together."""
    if shape is None or other is None:
        return other if shape is None else shape
    return tuple(size or known for size, known in zip(shape, other, strict=True))


def _same(inputs: Bottoms, number: int = 0) -> Shape | None:
    """The one shape of all inputs (eltwise_layer.cpp, Reshape), numbered from ``number`` on: nothing is broadcast."""
    merged: Shape | None = None
    for place, shape in enumerate(inputs, number):
        if merged is not None and shape is not None and not _agree(merged, shape):
            raise ShapeError(
                "all bottoms must have the same shape",
                found=f"bottom[{number}]: {_dims(merged)}, bottom[{place}]: {_dims(shape)}",
            )
        merged = _merge(merged, shape)
    return merged


def _canonical(axis: int, shape: Shape) -> int:
    """An axis from the start (blob.hpp, CanonicalAxisIndex)."""
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"axis {axis} out of range for {len(shape)}-D Blob", found=_dims(shape))
    return axis % len(shape)


def _maps(shape: Shape | None) -> Shape:
    if shape is None:
        return 0, 0, 0, 0
    if len(shape) != 4:
        raise ShapeError(
            "Input must have 4 axes, corresponding to (num, channels, height, width)", expected=4, found=_dims(shape)
        )
    return shape


# Layers


def _divide(attrs: Conv, shape: Shape | None) -> int:
    """The input channels of one group (base_conv_layer.cpp, LayerSetUp)."""
    channels = _maps(shape)[1]
    if channels % attrs.groups:
        raise ShapeError(
            "the input channels cannot be divided into the groups: channels_ % group_ == 0",
            expected=f"a multiple of {attrs.groups}",
            found=channels,
        )
    return channels // attrs.groups


def _windows(attrs: Conv | Pool, sizes: Sequence[int]) -> tuple[int, ...]:
    """Height and width of the output (conv_layer.cpp, compute_output_shape; pooling_layer.cpp, Reshape)."""
    dilation, ceil, clip = (
        (attrs.dilation, False, False) if isinstance(attrs, Conv) else ((1, 1), attrs.ceil, attrs.clip)
    )
    counts = []
    for size, k, s, p, d in zip(sizes, attrs.kernel, attrs.stride, attrs.padding, dilation, strict=True):
        span = (k - 1) * d + 1
        room = size + 2 * p - span
        if size and room < 0:
            raise ShapeError("the window is larger than the padded map", expected=f">= {span}", found=size + 2 * p)
        count = (-(-room // s) if ceil else room // s) + 1
        if clip and any(attrs.padding) and (count - 1) * s >= size + p:
            count -= 1
        counts.append(count if size else 0)
    return tuple(counts)


def _features(attrs: Linear, shape: Shape | None) -> int:
    return 0 if shape is None else math.prod(shape[_canonical(attrs.axis, shape) :])


def _linear(attrs: Linear, shape: Shape | None) -> Shape | None:
    """After inner_product_layer.cpp, Reshape."""
    if shape is not None:
        return *shape[: _canonical(attrs.axis, shape)], attrs.out_features
    return None if attrs.axis < 0 else (0,) * attrs.axis + (attrs.out_features,)


def _scaled(attrs: Scale | Bias, inputs: Bottoms) -> Shape | None:
    """The shape of the factor or the offset (scale_layer.cpp, bias_layer.cpp, LayerSetUp and Reshape)."""
    first, *others = inputs
    second = others[0] if others else None
    if first is None or (others and second is None):
        unknown = None if attrs.num_axes == -1 else (0,) * attrs.num_axes
        return second if others else unknown
    axes = attrs.num_axes if second is None else len(second)
    axis = 0 if second == () else _canonical(attrs.axis, first)
    shape = first[axis:] if axes == -1 else first[axis : axis + axes]
    if len(shape) < axes:
        raise ShapeError(
            "the blob extends past bottom[0]'s shape", expected=f"{axes} axes from {axis} on", found=_dims(first)
        )
    if second is not None and not _agree(shape, second):
        raise ShapeError(
            "dimension mismatch between bottom[0] and bottom[1]", expected=_dims(shape), found=_dims(second)
        )
    return _merge(shape, second)


def _flat(attrs: Flatten, shape: Shape | None) -> Shape | None:
    """After flatten_layer.cpp, Reshape."""
    if shape is None:
        return None
    axis, end = _canonical(attrs.axis, shape), _canonical(attrs.end_axis, shape) + 1
    if axis >= end:
        raise ShapeError(
            "there are no axes to flatten", expected=f"{attrs.axis} to {attrs.end_axis}", found=_dims(shape)
        )
    return *shape[:axis], math.prod(shape[axis:end]), *shape[end:]


def _reshaped(attrs: Reshape, shape: Shape | None) -> Shape | None:
    """After reshape_layer.cpp, Reshape. Dimensions that are copied need not be known to infer another one."""
    if shape is None:
        return None
    axis = attrs.axis + (len(shape) + 1 if attrs.axis < 0 else 0)
    end = len(shape) if attrs.num_axes == -1 else axis + attrs.num_axes
    copied = [axis + place for place, size in enumerate(attrs.shape) if size == 0]
    if not 0 <= axis <= end <= len(shape) or any(place >= len(shape) for place in copied):
        raise ShapeError(
            "the axes to reshape are out of range",
            expected=f"{attrs.num_axes} axes from {attrs.axis} on, {len(copied)} of them copied",
            found=_dims(shape),
        )
    new = [size or shape[axis + place] for place, size in enumerate(attrs.shape)]
    replaced = [shape[place] for place in range(axis, end) if place not in copied]
    given = [size for size in attrs.shape if size > 0] + [shape[place] for place in copied if place >= end]
    before, after = math.prod(replaced), math.prod(given)
    if before and after and (before % after or (-1 not in new and before != after)):
        raise ShapeError(
            "output count must match input count", expected=f"{before} numbers", found=f"new dimensions {attrs.shape}"
        )
    inferred = before // after if after else 0
    return *shape[:axis], *(inferred if size == -1 else size for size in new), *shape[end:]


def _joined(attrs: Concat, inputs: Bottoms) -> Shape | None:
    """After concat_layer.cpp, Reshape."""
    known = [shape for shape in inputs if shape is not None]
    if not known:
        return None
    axis = _canonical(attrs.axis, known[0])
    if any(len(shape) != len(known[0]) for shape in known):
        raise ShapeError("All inputs must have the same #axes", found=", ".join(map(_dims, known)))
    merged: Shape | None = None
    for shape in known:
        rest = (*shape[:axis], 0, *shape[axis + 1 :])
        if merged is not None and not _agree(merged, rest):
            found = f"{_dims(known[0])} and {_dims(shape)}"
            raise ShapeError("All inputs must have the same shape, except at concat_axis", found=found)
        merged = _merge(merged, rest)
    sizes = [0 if shape is None else shape[axis] for shape in inputs]
    total = sum(sizes) if all(sizes) else 0
    return None if merged is None else (*merged[:axis], total, *merged[axis + 1 :])


def _parts(attrs: Split, shape: Shape | None) -> list[Shape | None]:
    """After slice_layer.cpp, Reshape."""
    if shape is None:
        return [None] * attrs.parts
    axis = _canonical(attrs.axis, shape)
    size = shape[axis]
    if attrs.points:
        edges = (0, *attrs.points)
        if size and edges[-1] >= size:
            raise ShapeError("a slice would be empty", expected=f"slice points below {size}", found=attrs.points)
        sizes = [end - start for start, end in zip(edges, attrs.points, strict=False)]
        sizes.append(size - edges[-1] if size else 0)
    else:
        if size % attrs.parts:
            raise ShapeError(
                "Number of top blobs should evenly divide input slice axis", expected=attrs.parts, found=size
            )
        sizes = [size // attrs.parts] * attrs.parts
    return [(*shape[:axis], part, *shape[axis + 1 :]) for part in sizes]
