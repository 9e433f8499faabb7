"""The text of a Caffe net for OpenCV: what must be rewritten in it, what OpenCV would take otherwise than Caffe.

The text is read by its grammar alone (protobuf's text format), not by a schema: what OpenCV is asked does not depend
on our own reading of Caffe's messages. What is said here about OpenCV was measured with 4.8, 4.10 and 4.14.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Union

from google.protobuf import text_format

from resnext_convert.converter.errors import FormatError

Value = Union[bytes, str, "Block"]
"""A string; a word or number; a block."""

Field = tuple[str, Value]
"""A name and what it holds; one entry of a list is a field of its own."""

Block = list[Field]
"""What is between braces, or the whole text."""

_LAYERS = frozenset({"layer", "layers"})
COMMON: Final = frozenset({
    "name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "propagate_down", "blobs_lr",
    "weight_decay", "blob_share_mode",
})  # fmt: skip
"""Fields of layers of any type that OpenCV knows, and passes over or understands as Caffe does."""

OWN: Final[Mapping[str, frozenset[str]]] = {
    "Input": frozenset({"shape"}),
    "Convolution": frozenset({
        "num_output", "bias_term", "kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w", "pad",
        "pad_h", "pad_w", "dilation", "group", "axis", "weight_filler", "bias_filler", "engine", "force_nd_im2col",
    }),
    "InnerProduct": frozenset({"num_output", "bias_term", "axis", "transpose", "weight_filler", "bias_filler"}),
    "BatchNorm": frozenset({"eps", "moving_average_fraction", "use_global_stats"}),
    "Scale": frozenset({"axis", "num_axes", "bias_term", "filler", "bias_filler"}),
    "ReLU": frozenset({"negative_slope", "engine"}),
    "PReLU": frozenset({"channel_shared", "filler"}),
    "Sigmoid": frozenset({"engine"}),
    "TanH": frozenset({"engine"}),
    "Pooling": frozenset({
        "pool", "kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w", "pad", "pad_h", "pad_w",
        "global_pooling", "ceil_mode", "round_mode", "engine",
    }),
    "Eltwise": frozenset({"operation", "coeff", "stable_prod_grad"}),
    "Power": frozenset({"power", "scale", "shift"}),
    "Softmax": frozenset({"axis", "engine"}),
    "Dropout": frozenset({"dropout_ratio", "scale_train"}),
    "Flatten": frozenset({"axis", "end_axis"}),
    "Reshape": frozenset({"shape", "axis", "num_axes"}),
    "Concat": frozenset({"axis", "concat_dim"}),
    "Slice": frozenset({"axis", "slice_point", "slice_dim"}),
    "Split": frozenset(),
    "Axpy": frozenset(),
}  # fmt: skip
"""What a layer's own parameters may hold, by its type: the fields of OpenCV's schema, and ``round_mode``."""

_TYPES: Final = {name.upper(): name for name in OWN}


def parse(text: bytes) -> Block:
    """The fields of a protobuf text, lists as fields of their own.

    Raises:
        FormatError: it is none.
    """
    # As our reader does: bytes that are not UTF-8 may be in comments.
    tokens = text_format.Tokenizer(text.decode("utf-8-sig", errors="backslashreplace").split("\n"))
    try:
        return list(_fields(tokens, ""))
    except text_format.ParseError as error:
        raise FormatError(f"this is not protobuf text: {error}") from error
    except RecursionError as error:
        raise FormatError("the messages are nested too deeply") from error


def _fields(tokens: text_format.Tokenizer, end: str) -> Iterator[Field]:
    while not (tokens.TryConsume(end) if end else tokens.AtEnd()):
        name = tokens.ConsumeIdentifierOrNumber()
        tokens.TryConsume(":")
        if tokens.TryConsume("["):
            while not tokens.TryConsume("]"):
                yield name, _value(tokens)
                tokens.TryConsume(",")
        else:
            yield name, _value(tokens)
        if not tokens.TryConsume(","):
            tokens.TryConsume(";")


def _value(tokens: text_format.Tokenizer) -> Value:
    for begin, end in ("{}", "<>"):
        if tokens.TryConsume(begin):
            return list(_fields(tokens, end))
    if tokens.token[:1] in {'"', "'"}:
        return tokens.ConsumeByteString()
    sign = "-" if tokens.TryConsume("-") else ""
    word = tokens.token
    if not word[:1].isalnum() and word[:1] not in {"_", ".", "-", "+"}:
        raise tokens.ParseError("expected a value")  # type: ignore[arg-type]  # stubs
    tokens.NextToken()
    return sign + word


def _printed(block: Block) -> bytes:
    return b"\n".join(name.encode() + _printed_value(value) for name, value in block)


def _printed_value(value: Value) -> bytes:
    if isinstance(value, list):
        return b" {\n" + _printed(value) + b"\n}"
    if isinstance(value, bytes):
        return b': "' + b"".join(b"\\%03o" % byte for byte in value) + b'"'
    return b": " + value.encode()


def _texts(block: Block, name: str) -> list[str]:
    """The values of a field that are strings or words."""
    found = [value for key, value in block if key == name]
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for value in found
        if not isinstance(value, list)
    ]


def _name(layer: Block) -> str:
    return next(iter(_texts(layer, "name")), "")


def _type(layer: Block) -> str:
    return next(iter(_texts(layer, "type")), "")


def shown(name: str | bytes) -> str:
    """A name out of a file, safe to show."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return f"{text!r:.80}"


# The rewrites


def rewritten(text: bytes) -> bytes:
    """The text of a net as OpenCV must be given it to understand what Caffe does; itself where that is so already.

    - ``round_mode: FLOOR`` becomes ``ceil_mode: false``, and CEIL true: OpenCV has Caffe's pull request #3057, but not
      what Caffe got instead of it.
    - ``concat_dim`` and ``slice_dim`` become ``axis``: OpenCV passes over the older names and takes axis 1.
    - ``Axpy``, a * x + y of its bottoms a, x and y (axpy_layer.cpp of hujie-frank/SENet), becomes the layers that BVLC
      Caffe has for it, Flatten, Scale and Eltwise: OpenCV computes a * y + x, and that for single images only.
    - A byte order mark is taken off, for which OpenCV does not read the text.

    Raises:
        FormatError: it is not protobuf text.
    """
    net = parse(text)
    new = [field for name, value in net for field in _rewritten(name, value)]
    return text.removeprefix(codecs.BOM_UTF8) if new == net else _printed(new)


def _rewritten(name: str, value: Value) -> list[Field]:
    """What one field of a net becomes."""
    if name not in _LAYERS or not isinstance(value, list):
        return [(name, value)]
    layer: Block = [(inner, _respelt(inner, block)) for inner, block in value]
    bottoms, tops = _texts(layer, "bottom"), _texts(layer, "top")
    if (_type(layer), len(bottoms), len(tops)) != ("Axpy", 3, 1):
        return [(name, layer)]
    a, x, y = bottoms
    own = _name(layer)
    rows, product = f"{own} (a)", f"{own} (a * x)"
    scale: Block = [*_header(product, "Scale", [x, rows], product), ("scale_param", [("axis", "0")])]
    eltwise = _header(own, "Eltwise", [product, y], tops[0])
    return [(name, _header(rows, "Flatten", [a], rows)), (name, scale), (name, eltwise)]


def _respelt(name: str, block: Value) -> Value:
    """A field of a layer in OpenCV's words."""
    if not isinstance(block, list):
        return block
    match name:
        case "pooling_param":
            return [_ceil_mode(value) if key == "round_mode" else (key, value) for key, value in block]
        case "concat_param":
            return [("axis" if key == "concat_dim" else key, value) for key, value in block]
        case "slice_param":
            return [("axis" if key == "slice_dim" else key, value) for key, value in block]
    return block


def _ceil_mode(rounding: Value) -> Field:
    for value, words in (("false", ("FLOOR", "1")), ("true", ("CEIL", "0"))):
        if rounding in words:
            return "ceil_mode", value
    return "round_mode", rounding  # which OpenCV refuses


def _header(name: str, kind: str, bottoms: Sequence[str], top: str) -> Block:
    fields = [("name", name), ("type", kind), *(("bottom", bottom) for bottom in bottoms), ("top", top)]
    return [(field, text.encode()) for field, text in fields]


# What is read otherwise


def limit(net: Block) -> str | None:
    """Why OpenCV would fail at the text of a net, or take it for another net."""
    layers = [value for name, value in net if name in _LAYERS and isinstance(value, list)]
    names = Counter(name for layer in layers for name in _shared_names(layer))
    shared = [name for name, times in names.items() if times > 1]
    if shared:
        return f"OpenCV does not share parameters between layers (param {{ name: {shown(shared[0])} }})"
    return next(filter(None, map(_layer_limit, layers)), None)


def _layer_limit(layer: Block) -> str | None:
    kind = _type(layer)
    where = f"(layer {shown(_name(layer))}, {shown(kind)})"
    fields = {name for name, _ in layer}
    if fields & {"include", "exclude"}:
        return f"OpenCV does not look at phases {where}"
    if kind != "Input" and "bottom" not in fields:
        return f"OpenCV reads no data itself {where}"
    if strange := sorted(_strange(kind, layer)):
        return f"OpenCV does not pass over the field {strange[0]!r:.80}, as Caffe does {where}"
    blocks = (value for name, value in layer if name == "convolution_param" and isinstance(value, list))
    stated = {inner for block in blocks for inner, _ in block}
    if len(stated & {"pad_h", "pad_w"}) == 1:
        return f"OpenCV does not look at a convolution's padding where only one axis is stated {where}"
    return None


def _strange(kind: str, layer: Block) -> Iterator[str]:
    """Fields that leave a layer with other parameters in OpenCV.

    OpenCV throws all blocks of a layer together, so that an axis is the layer's wherever it stands; and where a block
    holds a field that it does not know, it takes the block's other fields as stated, at the schema's defaults
    (``use_global_stats: false``, ``kernel_h: 0``).
    """
    kind = _TYPES.get(kind.replace("_", "").upper(), kind)  # V1 says INNER_PRODUCT
    for name, value in layer:
        if name in COMMON:
            continue
        if name.replace("_", "") != f"{kind.lower()}param":
            yield name
        elif isinstance(value, list) and kind in OWN:
            yield from (f"{name}.{inner}" for inner, _ in value if inner not in OWN[kind])


def _shared_names(layer: Block) -> Iterator[str]:
    """The names that a layer gives to its parameters; in V1 layers, ``param`` itself is the name."""
    for name, value in layer:
        if name == "param":
            yield from _texts(value, "name") if isinstance(value, list) else _texts([(name, value)], name)


def writers(net: Block) -> dict[str, str]:
    """The layer to ask for each blob: the last that writes it; and for each ``blob@layer``.

    Layers of one name are numbered by OpenCV, and it has no name for a layer's second top.
    """
    times: Counter[str] = Counter()
    written: dict[str, str] = {}
    versions: dict[str, str] = {}
    for layer in (value for name, value in net if name in _LAYERS and isinstance(value, list)):
        name = _name(layer)
        asked = f"{name}_{times[name]}" if times[name] else name
        times[name] += 1
        for number, top in enumerate(_texts(layer, "top")):
            versions[f"{top}@{name}"] = written[top] = asked if number == 0 else ""
    return {blob: name for blob, name in (versions | written).items() if name}
