"""Networks of graph files alone: every weight has its shape and no memory of its own, so that even the largest network
is read and matched at once. Only its structure means anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnext_convert.converter.caffe import binding as caffe_binding
from resnext_convert.converter.caffe.network import build_network
from resnext_convert.converter.caffe.prototxt import read_prototxt
from resnext_convert.converter.caffe.weights import StoredLayer, StoredWeights
from resnext_convert.converter.graph import BatchNorm, Conv, Graph, Linear, Role, SourceModel
from resnext_convert.converter.mxnet import binding as mxnet_binding
from resnext_convert.converter.mxnet.params import ParamsFile
from resnext_convert.converter.mxnet.symbol import Variable, read_symbol
from resnext_convert.converter.origin import Origin
from resnext_convert.converter.tensors import DType, TensorRef, TensorStore

Shape = tuple[int, ...]
ONES = np.ones(2**25, np.float32).data.cast("B")  # as many as the largest tensor has, seen through by all


def tensor(name: str, shape: Shape) -> TensorRef:
    size = 4 * int(np.asarray(shape, np.int64).prod(dtype=np.int64)) if shape else 4
    return TensorRef(name, DType.FLOAT32, shape, "nowhere", ONES[:size])


def mxnet_model(symbol: Path) -> SourceModel:
    """The network of a symbol file. Of each variable, only the name counts before its operator tells its shape."""
    file = read_symbol(symbol)
    names = [node.name for number, node in file.nodes.items() if isinstance(node, Variable) and number not in file.fed]
    stored = TensorStore({name: tensor(name, ()) for name in names}, symbol)
    bound = mxnet_binding.bind(file, ParamsFile(tensors=stored, layouts=("V2",), named=True, notes=()))
    shapes = _shapes(bound.graph)
    return SourceModel(
        graph=bound.graph,
        tensors=TensorStore({name: tensor(name, shape) for name, shape in shapes.items()}, symbol),
        origin=Origin(framework="mxnet", version=file.release, files={"symbol": symbol}),
    )


def _shapes(graph: Graph) -> dict[str, Shape]:
    """The shape of each stored tensor, from the channels that reach its operator; maps are 1x1 where they are flat."""
    channels = dict.fromkeys(graph.inputs, 3)
    shapes: dict[str, Shape] = {}
    for node in graph.nodes:
        given = channels[node.inputs[0]]
        found: dict[Role, Shape] = {}
        match node.attrs:
            case Conv(out_channels=outputs, groups=groups, kernel=kernel):
                found = {Role.WEIGHT: (outputs, given // groups, *kernel), Role.BIAS: (outputs,)}
                given = outputs
            case Linear(out_features=outputs):
                found = {Role.WEIGHT: (outputs, given), Role.BIAS: (outputs,)}
                given = outputs
            case BatchNorm():
                found = dict.fromkeys(node.params, (given,))
        shapes |= {name: found[role] for role, name in node.params.items()}
        channels |= dict.fromkeys(node.outputs, given)
    return shapes


def caffe_model(prototxt: Path) -> SourceModel:
    """The network of a prototxt, with the blobs that Caffe would give its layers."""
    network = build_network(read_prototxt(prototxt).net, prototxt)
    layers = tuple(
        StoredLayer(
            name=layer.name,
            type="",
            blobs=tuple(
                tensor(f"{layer.name}[{number}]", layer.shape(number) or ()) for number in range(len(layer.keys))
            ),
            legacy=(False,) * len(layer.keys),
        )
        for layer in network.layers
    )
    bound = caffe_binding.bind(
        network, StoredWeights(file=prototxt, kind="caffemodel", name="", layers=layers, notes=())
    )
    return SourceModel(
        graph=bound.graph,
        tensors=bound.tensors,
        origin=Origin(framework="caffe", version=None, files={"prototxt": prototxt}),
    )
