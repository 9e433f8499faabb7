"""The orders in which ImageNet's 1000 classes stand in published networks, and their names.

ILSVRC-2012 sorts them by WordNet id, as torchvision and timm do; ILSVRC-2015 (its ``map_clsloc.txt``) does not, and no
class has the same place in both. The reader of a network cannot tell which order it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal, get_args

ClassOrder = Literal["imagenet-2012", "imagenet-2015", "cifar-10"]

ORDERS: Final[tuple[ClassOrder, ...]] = get_args(ClassOrder)

CIFAR_10: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10 in the order of its ``batches.meta``."""


@dataclass(frozen=True, slots=True)
class _ImageNetClass:
    wnid: str
    place_2015: int
    names: str


@cache
def _imagenet() -> tuple[_ImageNetClass, ...]:
    """In the order of 2012."""
    text = resources.files("resnext_convert.schemas").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return tuple(_ImageNetClass(wnid, int(place), names) for wnid, place, names in rows)


def places(wanted: ClassOrder, given: ClassOrder) -> tuple[int, ...]:
    """Where each class of the order ``wanted`` stands in the order ``given``, for reordering rows: ``rows[list(...)]``.

    Raises:
        ValueError: the two orders are of different classes.
    """
    if wanted == given:
        return tuple(range(len(labels(given))))
    of_2012 = [row.place_2015 for row in _imagenet()]
    if (wanted, given) == ("imagenet-2012", "imagenet-2015"):
        return tuple(of_2012)
    if (wanted, given) == ("imagenet-2015", "imagenet-2012"):
        return tuple(sorted(range(len(of_2012)), key=of_2012.__getitem__))
    raise ValueError(f"{wanted} and {given} are orders of different classes")


def labels(order: ClassOrder) -> tuple[str, ...]:
    """The names of the classes, one a class; the several names of an ImageNet class are separated by commas."""
    if order == "cifar-10":
        return CIFAR_10
    names = tuple(row.names for row in _imagenet())
    return (
        names if order == "imagenet-2012" else tuple(names[place] for place in places("imagenet-2015", "imagenet-2012"))
    )


def wordnet_ids(order: ClassOrder) -> tuple[str, ...]:
    """The WordNet ids of the classes, such as ``n01440764``; none for CIFAR-10."""
    if order == "cifar-10":
        return ()
    ids = tuple(row.wnid for row in _imagenet())
    return ids if order == "imagenet-2012" else tuple(ids[place] for place in places("imagenet-2015", "imagenet-2012"))
