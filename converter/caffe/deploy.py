"""The deploy net of a net: what it computes at inference, as text that needs no data and no labels.

It is for whoever reads prototxts on their own and knows neither phases nor the layers of a training: `oracles.opencv`.
The converter itself does not need it; `network` reads training nets as they are, and the values have the same names
here as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf import text_format

from resnext_convert.converter.caffe.layers import LOSSES, SINKS, SOURCES, meaning
from resnext_convert.converter.caffe.phase import select
from resnext_convert.converter.graph import Activation, Attrs, Identity, Softmax
from resnext_convert.schemas.caffe_pb2 import LayerParameter, NetParameter

_STAND_INS: Final[Mapping[type[Attrs], str]] = {Softmax: "Softmax", Activation: "Sigmoid", Identity: "Split"}
"""What computes the same as a loss does to its prediction."""


def obstacles(net: NetParameter) -> tuple[str, ...]:
    """What keeps a net from being a deploy net; nothing if it is one.

    Args:
        net: upgraded.
    """
    found = {
        "phases": any(layer.include or layer.exclude for layer in net.layer),
        "layers that read data": any(_yields_data(layer) and layer.type != "Input" for layer in net.layer),
        "losses": any(layer.type in LOSSES for layer in net.layer),
        "layers without a use at inference": any(layer.type in SINKS for layer in net.layer),
    }
    return tuple(what for what, there in found.items() if there)


def deploy_text(net: NetParameter, feed: Mapping[str, Sequence[int]]) -> str:
    """The text of the deploy net: the layers of phase TEST, from what is fed on.

    Layers that yield data become inputs; a loss becomes what it does to its prediction, under the name that `network`
    gives that value; what hangs on labels is left out. Weights are not written.

    Args:
        net: upgraded, and one that `network.build_network` takes.
        feed: the shape of each blob that is fed.

    Raises:
        FormatError: as `phase.select` and `layers.meaning`.
    """
    deploy = NetParameter(name=net.name)
    for blob, shape in feed.items():
        layer = deploy.layer.add(name=blob, type="Input", top=[blob])
        layer.input_param.shape.add(dim=shape)
    live = set(feed)
    for layer in select(net):
        for kept in _at_inference(layer, live):
            live.update(kept.top)
            deploy.layer.append(kept)
            deploy.layer[-1].ClearField("include")
            deploy.layer[-1].ClearField("exclude")
            deploy.layer[-1].ClearField("blobs")
    return text_format.MessageToString(deploy)


def _yields_data(layer: LayerParameter) -> bool:
    return layer.type in SOURCES or not layer.bottom


def _at_inference(layer: LayerParameter, live: set[str]) -> Iterator[LayerParameter]:
    """What stands for a layer, given the blobs that depend on nothing but what is fed."""
    if _yields_data(layer) or layer.type in SINKS:
        return
    if layer.type in LOSSES:
        yield from _stand_in(layer, live)
    elif not live.issuperset(layer.bottom):
        return
    else:
        yield layer


def _stand_in(layer: LayerParameter, live: set[str]) -> Iterator[LayerParameter]:
    """A loss's second top is the prediction; where it has none, `network` calls it after the blob and the layer."""
    prediction = next((blob for blob in layer.bottom if blob in live), None)
    if prediction is not None:
        top = layer.top[1] if len(layer.top) > 1 else f"{prediction}@{layer.name}"
        kind = _STAND_INS[type(meaning(layer).attrs)]
        stand_in = LayerParameter(name=layer.name, type=kind, bottom=[prediction], top=[top])
        if kind == "Softmax":
            stand_in.softmax_param.CopyFrom(layer.softmax_param)
        yield stand_in
