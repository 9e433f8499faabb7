"""The orders of classes, against the permutation that was derived from 50 000 labels, and against themselves."""

from __future__ import annotations

import json

import pytest
from shared_data import shared

from resnext_convert.converter import classes


def test_the_orders_of_imagenet_have_no_place_in_common() -> None:
    places = classes.places("imagenet-2012", "imagenet-2015")
    assert sorted(places) == list(range(1000))
    assert all(place != index for index, place in enumerate(places))


def test_one_order_and_back_is_where_one_began() -> None:
    there = classes.places("imagenet-2012", "imagenet-2015")
    back = classes.places("imagenet-2015", "imagenet-2012")
    assert [there[place] for place in back] == list(range(1000))


@pytest.mark.acceptance
def test_the_permutation_is_that_of_fifty_thousand_labels() -> None:
    derived = shared("releases/derived/imagenet_2012_to_2015_class_permutation.json")
    assert (
        list(classes.places("imagenet-2012", "imagenet-2015")) == json.loads(derived.read_text())["perm_2012_to_2015"]
    )


@pytest.mark.parametrize(
    ("order", "place", "name"),
    [
        # tench is first in 2012, kit fox in 2015; a kite is 21 and 396 (the outputs that MMdnn recorded for a gull).
        ("imagenet-2012", 0, "tench"),
        ("imagenet-2015", 0, "kit fox"),
        ("imagenet-2012", 21, "kite"),
        ("imagenet-2015", 396, "kite"),
        ("imagenet-2012", 23, "vulture"),
        ("imagenet-2015", 398, "vulture"),
        ("cifar-10", 3, "cat"),
    ],
)
def test_labels_stand_where_they_should(order: classes.ClassOrder, place: int, name: str) -> None:
    assert classes.labels(order)[place].split(",")[0] == name


def test_the_order_of_2012_is_by_wordnet_id() -> None:
    ids = classes.wordnet_ids("imagenet-2012")
    assert list(ids) == sorted(ids)
    assert classes.wordnet_ids("imagenet-2015")[0] == "n02119789"
    assert classes.wordnet_ids("cifar-10") == ()


def test_orders_of_different_classes_have_no_permutation() -> None:
    with pytest.raises(ValueError, match="different classes"):
        classes.places("imagenet-2012", "cifar-10")


@pytest.mark.parametrize("order", classes.ORDERS)
def test_an_order_is_itself(order: classes.ClassOrder) -> None:
    assert classes.places(order, order) == tuple(range(len(classes.labels(order))))
