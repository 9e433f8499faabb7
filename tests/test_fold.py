"""Folding: the stock model computes what the source does, to float64's rounding; and a wrong fold is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from graph_builder import Spelling, source_model
from stock_nets import (
    BGR,
    PLAIN,
    RAW_RGB,
    UNIT,
    WITH_STD,
    Case,
    fixed_pool,
    folded_case,
    with_bias,
    with_bn_data,
    with_eps,
    without_norms,
)

from resnext_convert.converter.classes import places
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import LedgerError, TargetError
from resnext_convert.converter.resnext.config import NormConfig, ResNeXtConfig, resnext
from resnext_convert.converter.resnext.fold import IMAGENET_STD, OF_INPUT, faithful, fold
from resnext_convert.converter.resnext.ledger import Fold, Transform
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.resnext.state_dict import assemble
from resnext_convert.converter.resnext.stock import CAFFE_POOL, find_stock

# Folding adds a rounding of float64 here and there; 3e-14 of peak was the most that was measured.
FOLDED = 1e-12

SE_CAFFE = resnext((1, 1, 1, 1), cardinality=2, base_width=4, classes=1000, reduction=16, stem_pool=CAFFE_POOL)


@pytest.mark.parametrize(
    ("config", "domain", "spelling"),
    [
        (PLAIN, UNIT, None),
        (with_eps(PLAIN, 2e-5), RAW_RGB, None),
        (with_eps(PLAIN, 1e-3), WITH_STD, None),
        (with_eps(PLAIN, 1e-6), BGR, None),
        (with_bn_data(with_eps(PLAIN, 2e-5)), RAW_RGB, None),
        (with_bn_data(PLAIN), BGR, None),
        (with_bn_data(PLAIN), WITH_STD, None),
        (with_bias(PLAIN), BGR, None),
        (without_norms(PLAIN), UNIT, None),
        (PLAIN, UNIT, Spelling(norms="scale")),
        (PLAIN, BGR, Spelling(norms="apart", factor=999.98)),
        (PLAIN, BGR, Spelling(norms="unscaled")),
        (fixed_pool(PLAIN, 2), RAW_RGB, None),
        (replace(PLAIN, head=replace(PLAIN.head, bias=False)), UNIT, None),
        (with_eps(resnext((1, 1, 1, 1), cardinality=1, base_width=64, classes=10, basic=True), 2e-5), BGR, None),
    ],
    ids=[
        "as stock", "eps 2e-5", "eps 1e-3", "eps 1e-6", "bn_data", "bn_data of BGR less a mean", "bn_data behind a std",
        "biases", "no normalisation", "scales alone", "factor", "no gammas", "fixed pooling", "no bias in fc", "basic",
    ],
)  # fmt: skip
def test_the_stock_model_computes_the_same(
    config: ResNeXtConfig, domain: InputDomain, spelling: Spelling | None
) -> None:
    proof = folded_case(config, domain=domain, spelling=spelling).prove()
    assert proof.passed, proof.failure
    assert proof.worst.max_of_peak < FOLDED
    assert proof.gate == 1e-9


@pytest.mark.parametrize("order", [None, "imagenet-2012", "imagenet-2015"])
def test_legacy_models_and_orders_of_classes(order: str | None) -> None:
    case = folded_case(with_eps(SE_CAFFE, 1e-4), "timm", BGR, order)  # type: ignore[arg-type]  # one of them
    proof = case.prove()
    assert proof.passed, proof.failure
    assert proof.worst.max_of_peak < FOLDED


def test_rows_of_2015_come_out_in_the_order_of_2012() -> None:
    kept, moved = folded_case(PLAIN, domain=UNIT), folded_case(PLAIN, domain=UNIT, order="imagenet-2015")
    rows = list(places("imagenet-2012", "imagenet-2015"))
    for key in ("fc.weight", "fc.bias"):
        assert np.array_equal(moved.folded.arrays[key], kept.folded.arrays[key][rows])
        assert not np.array_equal(moved.folded.arrays[key], kept.folded.arrays[key])
    assert moved.folded.bindings[-1].folds == (Fold.CLASS_ORDER,)


def test_a_negative_variance_goes_into_gamma() -> None:
    # MXNet's caffe_converter leaves var + eps - 1e-4 behind, which is negative where a variance was near 0.
    model = source_model(with_eps(PLAIN, 1e-4))
    found = match(model)
    arrays = assemble(found, model.tensors)
    arrays["layer1.0.bn2.running_var"] = np.full(8, -9e-5, np.float32)
    folded = fold(found, arrays, find_stock(found.config, "torchvision"), UNIT, None).arrays
    assert not folded["layer1.0.bn2.running_var"].any()
    factor = np.sqrt(1e-5 / (np.float64(np.float32(-9e-5)) + 1e-4))
    assert np.allclose(
        folded["layer1.0.bn2.weight"], arrays["layer1.0.bn2.weight"].astype(np.float64) * factor, rtol=1e-12
    )


# --- the input ------------------------------------------------------------------------------------------------------


def test_raw_pixels_get_the_usual_std_and_a_scaled_first_convolution() -> None:
    case = folded_case(PLAIN, domain=BGR)
    domain = case.folded.domain
    assert domain is not None
    assert domain.text.startswith("RGB of 0..1")
    assert domain.std == IMAGENET_STD
    assert np.allclose(domain.mean, np.array([123.0, 117.0, 104.0]) / 255, rtol=1e-15)
    before = assemble(case.match, case.model.tensors)["conv1.weight"].astype(np.float64)
    factor = 255 * np.array(IMAGENET_STD)[:, None, None]
    assert np.allclose(case.folded.arrays["conv1.weight"], before[:, ::-1] * factor, rtol=1e-15)


def test_a_std_of_the_source_stays_in_normalize() -> None:
    case = folded_case(PLAIN, domain=WITH_STD)
    domain = case.folded.domain
    assert domain is not None
    assert np.allclose(domain.std, np.array([58.395, 57.12, 57.375]) / 255, rtol=1e-15)
    assert case.folded.arrays["conv1.weight"].dtype == np.float32


def test_bn_data_becomes_mean_and_std() -> None:
    case = folded_case(with_bn_data(PLAIN))
    assert not any(key.startswith("bn_data") for key in case.folded.arrays)
    reasons = {ignored.reason for ignored in case.folded.ignored}
    assert reasons == {OF_INPUT, Transform.ONES.value}
    assert len(case.folded.ignored) == 4
    assert "bn_data" not in dict(case.folded.activations)


def test_an_input_that_is_turned_around_is_refused() -> None:
    model = source_model(with_bn_data(PLAIN))
    found = match(model)
    arrays = assemble(found, model.tensors)
    arrays["bn_data.weight"] = np.array([1.0, -1.0, 1.0], np.float32)
    with pytest.raises(TargetError, match="scale is not positive"):
        fold(found, arrays, find_stock(found.config, "torchvision"), RAW_RGB, None)


def test_what_is_fed_and_what_is_converted_agree() -> None:
    folded = folded_case(PLAIN, domain=WITH_STD).folded
    pixels = np.random.default_rng(0).random((2, 3, 5, 4))
    fed, prepared = folded.feeds(pixels)
    assert np.allclose(folded.converted(fed), prepared, rtol=1e-12, atol=1e-12)
    assert np.allclose(fed[:, 0], (pixels[:, 2] * 255 - 103.52) / 57.375, rtol=1e-14)


# --- the books ------------------------------------------------------------------------------------------------------


def test_every_source_tensor_is_used_once_or_ignored() -> None:
    case = folded_case(with_bn_data(with_bias(PLAIN)))
    users = [name for binding in case.folded.bindings for name in (*binding.sources, *binding.folded)]
    assert len(set(users)) == len(users)
    assert {*users, *(ignored.source for ignored in case.folded.ignored)} == set(case.model.tensors)
    assert [binding.target for binding in case.folded.bindings] == list(case.folded.config.state_shapes())


@pytest.mark.parametrize("target", ["lost.weight", "fc.bias"])
def test_a_tensor_that_no_stock_key_takes_is_no_loss_in_silence(target: str) -> None:
    case = folded_case(PLAIN)
    lost = replace(case.match.bindings[0], target=target, sources=("lost",))
    found = replace(case.match, bindings=(*case.match.bindings, lost))
    arrays = assemble(case.match, case.model.tensors)
    with pytest.raises(LedgerError, match=r"no key of the target|used by no key"):
        fold(found, arrays, find_stock(found.config, "torchvision"), RAW_RGB, None)


def test_without_a_stock_model_only_the_classes_move() -> None:
    model = source_model(PLAIN)
    found = match(model)
    arrays = assemble(found, model.tensors)
    same = faithful(found, arrays)
    assert all(same.arrays[key] is arrays[key] for key in arrays)
    moved = faithful(found, arrays, "imagenet-2015")
    changed = {key for key in arrays if not np.array_equal(moved.arrays[key], arrays[key])}
    assert changed == {"fc.weight", "fc.bias"}
    logits = np.random.default_rng(0).random((2, 1000))
    rows = list(places("imagenet-2012", "imagenet-2015"))
    assert np.array_equal(moved.logits(logits[:, rows]), logits)


# --- wrong folds are noticed ----------------------------------------------------------------------------------------

State = dict[str, torch.Tensor]


def unabsorbed(case: Case, state: State) -> None:
    state["layer3.0.bn1.running_var"] += 1e-5 - 2e-5 + 1e-5 * 1.01  # an eps that is 1 % of 1e-5 off


def one_eps(case: Case, state: State) -> None:
    state["layer3.0.bn1.running_var"] -= 1e-5


def unreversed(case: Case, state: State) -> None:
    state["conv1.weight"] = state["conv1.weight"].flip(1)


def unscaled(case: Case, state: State) -> None:
    state["conv1.weight"] *= 1 + 1e-7


def bias_kept_out(case: Case, state: State) -> None:
    state["layer2.0.bn3.running_mean"] *= 1 + 1e-6


def order_of_2015(case: Case, state: State) -> None:
    state["fc.weight"] = state["fc.weight"][list(places("imagenet-2015", "imagenet-2012"))]


def two_classes(case: Case, state: State) -> None:
    state["fc.bias"][[7, 8]] = state["fc.bias"][[8, 7]]


@pytest.mark.parametrize(
    "wrong", [unabsorbed, one_eps, unreversed, unscaled, bias_kept_out, order_of_2015, two_classes]
)
def test_a_wrong_fold_is_noticed(wrong: Callable[[Case, State], None]) -> None:
    case = folded_case(with_bias(with_eps(PLAIN, 2e-5)), domain=BGR, order="imagenet-2015")
    state = case.state()
    wrong(case, state)
    proof = case.prove(state)
    assert not proof.passed
    assert proof.first_divergence is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.48, 0.4588, 0.4078)},
        {"std": (0.229, 0.224, 0.2250001)},
        {"colour": "bgr"},
    ],
)
def test_a_wrong_normalize_is_noticed(changes: dict[str, object]) -> None:
    case = folded_case(PLAIN, domain=BGR)
    assert case.folded.domain is not None
    wrong = replace(case.folded, domain=replace(case.folded.domain, **changes))  # type: ignore[arg-type]
    assert not replace(case, folded=wrong).prove().passed


def test_bn_data_as_a_bias_under_padding_is_noticed() -> None:
    """What other converters do: the shift of the input added to the first convolution's output."""
    case = folded_case(with_bn_data(PLAIN))
    domain = case.folded.domain
    assert domain is not None
    state = case.state()
    shift = torch.tensor(domain.mean, dtype=torch.float64) / torch.tensor(domain.std, dtype=torch.float64)
    weight = state["conv1.weight"].double()
    state["bn1.running_mean"] = state["bn1.running_mean"] + (weight * shift[:, None, None]).sum((1, 2, 3))
    unshifted = replace(case.folded, domain=replace(domain, mean=(0.0, 0.0, 0.0)))
    proof = replace(case, folded=unshifted).prove(state)
    assert not proof.passed
    assert proof.first_divergence is not None
    assert proof.first_divergence.name == "conv1"


def test_momentum_and_counters_do_not_matter() -> None:
    config = replace(PLAIN, stem=(replace(PLAIN.stem[0], norm=NormConfig(channels=64, momentum=0.01)),))
    assert find_stock(config, "torchvision").config == PLAIN
