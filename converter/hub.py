"""What is written beside the weights for others' loaders: timm's ``config.json``, texts for a checkpoint's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from resnext_convert import __version__
from resnext_convert.converter import probe
from resnext_convert.converter.classes import labels, wordnet_ids
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.releases import Release
from resnext_convert.converter.resnext.config import Pair
from resnext_convert.converter.targets import Target


def hub_config(target: Target, release: Release | None, size: Pair) -> dict[str, Any]:
    """The ``config.json`` of a folder that ``timm.create_model('local-dir:FOLDER', pretrained=True)`` loads.

    Keys as timm 1.0 reads them (``models/_hub.py``, _parse_model_cfg; ``models/_pretrained.py``, PretrainedCfg).

    Args:
        target: what goes out. That of others than timm does not say what timm would have to build.
        release: the published release that it is of, if any; for licence and origin.
        size: (height, width) of the images that it is made for, unless its domain says a crop.
    """
    config, domain = target.folded.config, target.domain
    if target.name != "timm" or target.stock is None or domain is None:
        return {
            "library_name": "resnext_convert",
            "num_classes": config.head.classes,
            "num_features": config.head.in_features,
            **_labels(target),
        }
    size = (domain.crop, domain.crop) if domain.crop else size
    names = target.keys()
    pretrained: dict[str, Any] = {
        "tag": release.name.replace("/", "-") if release else "converted",
        "custom_load": False,
        "input_size": [config.in_channels, *size],
        "fixed_input_size": False,
        # Every release was evaluated on bilinearly resized images, as far as it says.
        "interpolation": "bilinear",
        "crop_pct": _crop_share(domain, size),
        "crop_mode": "center",
        "mean": list(domain.mean),
        "std": list(domain.std),
        "num_classes": config.head.classes,
        "pool_size": list(probe.last_map(config, size) or ()),
        "first_conv": names[target.first_conv].removesuffix(".weight"),
        "classifier": names["fc.weight"].removesuffix(".weight"),
    }
    if release is not None:
        pretrained |= {"license": release.licence} if release.licence else {}
        pretrained |= {"origin_url": origin} if (origin := _origin(release)) else {}
        pretrained["description"] = f"{release.name} of {release.publisher}, converted by resnext-convert {__version__}"
    return {
        "architecture": target.stock.architecture,
        "num_classes": config.head.classes,
        "num_features": config.head.in_features,
        "pretrained_cfg": pretrained,
        "model_args": dict(target.stock.arguments),
        **_labels(target),
    }


def metadata(target: Target, network: str) -> dict[str, str]:
    """Texts for the header of a checkpoint whose format has one: what made it, and what it wants to be fed."""
    found = {"tool": f"resnext-convert {__version__}", "network": network, "target": target.name}
    if target.stock:
        found["model"] = target.stock.call
    if domain := target.domain:
        preprocessing: Mapping[str, object] = {
            "colour": domain.colour,
            "range": domain.range,
            "mean": domain.mean,
            "std": domain.std,
            "resize": domain.resize,
            "crop": domain.crop,
        }
        found["preprocessing"] = json.dumps(preprocessing, separators=(",", ":"))
    if target.class_order:
        found["class_order"] = target.class_order
    return found


def _crop_share(domain: InputDomain, size: Pair) -> float:
    """The side of the crop as a share of what the shorter side was resized to."""
    return round(min(size) / domain.resize, 6) if domain.resize else 1.0


def _origin(release: Release) -> str:
    """The first address at which the release was published."""
    return next((location.url for file in release.files for location in file.locations), "")


def _labels(target: Target) -> dict[str, Any]:
    """Names of the classes as timm has them: WordNet ids with descriptions, or names alone."""
    order = target.class_order
    if order is None:
        return {}
    ids = wordnet_ids(order)
    if not ids:
        return {"label_names": list(labels(order))}
    return {"label_names": list(ids), "label_descriptions": dict(zip(ids, labels(order), strict=True))}
