"""The books of a match: nothing twice, nothing missing, nothing left over without a reason."""

from __future__ import annotations

import pytest

from resnext_convert.converter.errors import LedgerError
from resnext_convert.converter.resnext.ledger import Binding, Ignored, Ledger, Transform, used


def bound(target: str, *sources: str, transform: Transform = Transform.IDENTITY) -> Binding:
    return Binding(target=target, sources=sources, transform=transform)


BINDINGS = (
    bound("bn1.weight", "arg:gamma", transform=Transform.ONES),
    bound("conv1.weight", "arg:weight"),
    bound("bn1.num_batches_tracked", transform=Transform.ZERO),
)


def balanced() -> Ledger:
    """Two targets from a tensor each, one of them not in the source's values, and a counter from none."""
    ledger = Ledger()
    for binding in BINDINGS:
        ledger.bind(binding)
    return ledger


def test_the_order_is_the_targets_and_the_files() -> None:
    bindings, ignored = balanced().close(
        ["arg:z", "arg:weight", "arg:a", "arg:gamma"],
        ["conv1.weight", "bn1.weight", "bn1.num_batches_tracked"],
        {"arg:a": "of another head"},
        "no node names it",
    )
    assert bindings == (BINDINGS[1], BINDINGS[0], BINDINGS[2])
    assert ignored == (
        Ignored(source="arg:z", reason="no node names it"),
        Ignored(source="arg:a", reason="of another head"),
    )


def test_a_target_is_filled_once() -> None:
    ledger = balanced()
    with pytest.raises(LedgerError, match=r"the target 'conv1\.weight' is filled twice") as error:
        ledger.bind(bound("conv1.weight", "arg:other"))
    assert "arg:weight" in str(error.value)
    assert "arg:other" in str(error.value)
    assert error.value.exit_code == 4


def test_a_source_is_used_once() -> None:
    ledger = balanced()
    with pytest.raises(LedgerError, match="'arg:weight' is used twice") as error:
        ledger.bind(bound("layer1.0.conv1.weight", "arg:weight"))
    assert error.value.found == "conv1.weight and layer1.0.conv1.weight"
    assert "share their weights" in str(error.value.hint)


def test_what_fills_several_targets_is_no_tensor() -> None:
    ledger = balanced()
    ledger.bind(bound("bn2.num_batches_tracked", transform=Transform.ZERO))


@pytest.mark.parametrize(
    ("stored", "targets", "says"),
    [
        (["arg:weight", "arg:gamma"], ["conv1.weight", "bn1.weight"], "bn1.num_batches_tracked is no key"),
        (
            ["arg:weight", "arg:gamma"],
            ["conv1.weight", "bn1.weight", "bn1.num_batches_tracked", "fc.weight", "fc.bias"],
            "nothing fills fc.weight; nothing fills fc.bias",
        ),
        (
            ["arg:gamma"],
            ["conv1.weight", "bn1.weight", "bn1.num_batches_tracked"],
            "arg:weight is not in the file",
        ),
        (["arg:gamma"], ["fc.weight"], "nothing fills fc.weight; "),
    ],
)
def test_books_that_do_not_balance(stored: list[str], targets: list[str], says: str) -> None:
    with pytest.raises(LedgerError, match="the match does not balance") as error:
        balanced().close(stored, targets, {}, "")
    assert says in str(error.value)


def test_all_that_is_wrong_is_said_at_once_and_in_the_same_order() -> None:
    with pytest.raises(LedgerError) as error:
        balanced().close([], ["fc.weight"], {}, "")
    assert str(error.value) == (
        "the match does not balance: nothing fills fc.weight; bn1.weight is no key of the target; conv1.weight is no"
        " key of the target; bn1.num_batches_tracked is no key of the target; arg:gamma is not in the file;"
        " arg:weight is not in the file"
    )


def test_a_factor_may_divide_several_and_is_not_left_over() -> None:
    ledger = Ledger()
    for statistic in ("mean", "var"):
        ledger.bind(
            Binding(target=statistic, sources=(f"sum of {statistic}",), transform=Transform.FACTOR, factors=("factor",))
        )
    bindings, ignored = ledger.close(["factor", "sum of mean", "sum of var"], ["mean", "var"], {}, "")
    assert ignored == ()
    assert used(bindings) == 3
    with pytest.raises(LedgerError, match="factor is not in the file"):
        ledger.close(["sum of mean", "sum of var"], ["mean", "var"], {}, "")


def test_each_branch_is_used_once() -> None:
    ledger = balanced()
    with pytest.raises(LedgerError, match="'b' is used twice") as error:
        ledger.bind(bound("layer1.0.conv1.weight", "a", "b", "b"))
    assert error.value.found == "layer1.0.conv1.weight and layer1.0.conv1.weight"


@pytest.mark.parametrize(
    ("binding", "origin", "how"),
    [
        (bound("k", transform=Transform.NO_GAMMA), "", Transform.NO_GAMMA.value),
        (bound("k", "a"), "a", "identity"),
        (bound("k", "a", "b", transform=Transform.SUM), "a and 1 more", Transform.SUM.value),
        (
            Binding(target="k", sources=("a", "b", "c"), transform=Transform.IDENTITY, axis=1),
            "a and 2 more",
            "identity; the 3 branches stacked along axis 1",
        ),
    ],
)
def test_a_binding_in_words(binding: Binding, origin: str, how: str) -> None:
    assert (binding.origin, binding.how) == (origin, how)
