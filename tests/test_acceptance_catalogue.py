"""Acceptance: the catalogue against the published graphs: configuration, size, checksums, names of tensors.

The graphs are other people's files and are not part of the repository. Those of GluonCV were made by its own code.
"""

from __future__ import annotations

import hashlib
import re

import pytest
import weightless
from shared_data import shared

from resnext_convert.converter import releases
from resnext_convert.converter.releases import catalogue, find
from resnext_convert.converter.resnext.match import match

pytestmark = pytest.mark.acceptance

DJL = (
    "deepjavalibrary+djl/engines/mxnet/mxnet-model-zoo/src/test/resources/mlrepo/model/cv/"
    "image_classification/ai/djl/mxnet"
)
GLUON = "dmlc+gluon-cv/generated/{}-symbol-mxnet1.9.1.json"
LDPE = "Ldpe2G+DeepLearningForFun/MXNet-Python/CalculateFlopsTool/symbols"

GRAPHS = {
    "resnext-50": "wnagchenghku+mxnet-lambda/models/resnext-50-symbol.json",
    "resnext-101": "data.mxnet.io/models/imagenet/resnext/101-layers/resnext-101-symbol.json",
    "resnext-101-64x4d": f"{LDPE}/resnext-101-64x4d-symbol.json",
    "se-resnext-imagenet-50-0": "bruinxiong+SENet.mxnet/se-resnext-imagenet-50-0-symbol.json",
    "soeaver/resnext26_32x4d-priv": "soeaver+mxnet-model/cls/resnext/resnext26_32x4d-priv-symbol.json",
    "soeaver/resnext50_32x4d": "soeaver+mxnet-model/cls/resnext/resnext50_32x4d-symbol.json",
    "soeaver/resnext101_32x4d": "soeaver+mxnet-model/cls/resnext/resnext101_32x4d-symbol.json",
    "soeaver/resnext101_64x4d": "soeaver+mxnet-model/cls/resnext/resnext101_64x4d-symbol.json",
    "soeaver/se-resnext50-32x4d": "soeaver+mxnet-model/cls/senet/se-resnext50-32x4d-symbol.json",
    "soeaver/se-resnext101-32x4d": "soeaver+mxnet-model/cls/senet/se-resnext101-32x4d-symbol.json",
    "soeaver/se-resnext152-64x4d": "soeaver+mxnet-model/cls/senet/se-resnext152-64x4d-symbol.json",
    **{release.name: GLUON.format(release.bare_name) for release in catalogue() if release.layout == "gluoncv"},
    "djl/resnext101_64x4d": f"{DJL}/resnext/0.0.1/resnext101_64x4d-symbol.json",
    "djl/se_resnext101_32x4d": f"{DJL}/se_resnext/0.0.1/se_resnext101_32x4d-symbol.json",
    "djl/se_resnext101_64x4d": f"{DJL}/se_resnext/0.0.1/se_resnext101_64x4d-symbol.json",
    "djl/senet_154": f"{DJL}/senet/0.0.1/senet_154-symbol.json",
    **{f"ResNeXt-{depth}": f"cypw+ResNeXt-1/ResNeXt-{depth}-deploy.prototxt" for depth in (50, 101, 152)},
    **{
        f"soeaver/{name}": f"soeaver+caffe-model/cls/resnext/deploy_{name}.prototxt"
        for name in ("resnext26-32x4d-priv", "resnext50-32x4d", "resnext101-32x4d", "resnext101-64x4d")
    },
    **{name: f"hujie-frank+SENet/models/{name}.prototxt" for name in ("SE-ResNeXt-50", "SE-ResNeXt-101", "SENet-154")},
}


def test_every_release_with_a_graph_is_compared() -> None:
    with_graph = {release.name for release in catalogue() if len(release.files) == 2 or release.layout == "gluoncv"}
    assert set(GRAPHS) == with_graph


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_what_the_catalogue_says(name: str) -> None:
    release = find(name)
    path = shared(f"releases/{GRAPHS[name]}")
    read = weightless.mxnet_model if release.framework == "mxnet" else weightless.caffe_model
    model = read(path)
    found = match(model)
    expected = release.expected
    assert expected
    assert None not in (expected.stem_pool, expected.data_norm, expected.classes)
    assert expected.eps
    assert releases.check((release,), found.config, path, exactly=True) == (release,)
    if release.elements:
        assert sum(tensor.size for tensor in model.tensors.values()) == release.elements
    if release.first_tensor:
        first = next(tensor for tensor in model.tensors if tensor.endswith("weight"))
        assert re.fullmatch(release.first_tensor, first)


@pytest.mark.parametrize("name", [name for name in GRAPHS if not name.startswith("gluoncv/")])
def test_a_graph_s_size_and_checksums_are_those_of_the_catalogue(name: str) -> None:
    file = find(name).files[0]
    content = shared(f"releases/{GRAPHS[name]}").read_bytes()
    if name == "resnext-101-64x4d":
        # Not published by data.mxnet.io itself, so nothing can be said about its bytes.
        assert (file.bytes, file.checksums) == (None, ())
        return
    assert file.bytes == len(content)
    assert file.checksums
    for checksum in file.checksums:
        assert hashlib.new(checksum.algorithm, content).hexdigest() == checksum.value


@pytest.mark.parametrize("name", ["resnext26-32x4d-priv", "resnext50-32x4d", "resnext101-32x4d"])
def test_the_mirror_s_prototxts_are_soeaver_s_without_a_line(name: str) -> None:
    release = find(f"soeaver/{name}")
    (reissue,) = release.reissues
    (checksum,) = reissue.files[0].checksums
    text = shared(f"releases/{GRAPHS[release.name]}").read_bytes()
    assert hashlib.md5(text.replace(b"    ceil_mode: false\n", b"")).hexdigest() == checksum.value
