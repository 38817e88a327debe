"""Random allocation: PLD_accounting's own values, exact and simulated divergences, refusals."""

from __future__ import annotations

import builtins
import json
import math

import numpy as np
import pytest
from dpjax_accounting import (
    BestOfRuns,
    Composition,
    GroupOfRecords,
    NoRenyiDivergence,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    compare,
    mechanism_from_dict,
)
from dpjax_accounting.mechanisms.other_samplings import random_allocation as module
from scipy import special

from tests.support.mechanisms import dpsgd, full_batch, random_allocation


def allocated(batches_per_epoch, noise_multiplier, num_epochs, **others):
    return RandomAllocationDPSGD(
        num_units=1000,
        batches_per_epoch=batches_per_epoch,
        noise_multiplier=noise_multiplier,
        num_epochs=num_epochs,
        **others,
    )


SMALL = allocated(10, 1.0, 1)


# PLD_accounting 2.0, gaussian_allocation_epsilon_range: the bounds from above and below.
@pytest.mark.parametrize(
    ("batches", "epochs", "noise", "delta", "lower", "upper"),
    [
        (100, 1, 0.5, 1e-6, 6.39038359189011, 6.403770387499199),
        (66, 3, 0.6, 7.424e-6, 5.295464181844083, 5.330047471258341),
    ],
)
def test_known_values_and_poisson_sampling(batches, epochs, noise, delta, lower, upper):
    epsilon = allocated(batches, noise, epochs).epsilon(delta)
    assert lower < epsilon < 1.02 * upper
    poisson = dpsgd(batches, 1, noise, batches * epochs).epsilon(delta)
    assert 0.8 * poisson < epsilon < 0.925 * poisson
    shuffled = ShuffledDPSGD(noise_multiplier=noise, num_epochs=epochs).epsilon(delta)
    assert epsilon < shuffled


def _exact_delta_of_two_batches(noise, epsilon):
    """The larger hockey-stick divergence of (N(e₁, σ²I) + N(e₂, σ²I)) / 2 and N(0, σ²I).

    With U, V the likelihood ratios of the two components to N(0, σ²I), log-normal with mean 1, it
    is E max((U + V)/2 − e^ε, 0), or E max(1 − e^ε (U + V)/2, 0) for the other direction: over V in
    closed form, over U by the trapezoidal rule.
    """
    a = 1 / noise
    x = np.linspace(-12 - a, 12 + a, 400_001)
    half_u = np.exp(a * x - a**2 / 2) / 2
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    def call_and_put(threshold):
        strike = threshold - half_u
        known = strike <= 0
        log_ratio = np.log(np.where(known, 1.0, 2 * strike))
        near, far = (-log_ratio + a**2 / 2) / a, (-log_ratio - a**2 / 2) / a
        call = special.ndtr(near) / 2 - strike * special.ndtr(far)
        put = strike * special.ndtr(-far) - special.ndtr(-near) / 2
        return np.where(known, 0.5 - strike, call), np.where(known, 0.0, put)

    call, _ = call_and_put(math.exp(epsilon))
    _, put = call_and_put(math.exp(-epsilon))
    removed = np.trapezoid(call * density, x)
    added = math.exp(epsilon) * np.trapezoid(put * density, x)
    return float(max(removed, added))


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_two_batches_are_not_below_the_exact_divergence(noise):
    mechanism = random_allocation(100, 2, noise, 1)
    for delta in (1e-3, 1e-5, 1e-8):
        epsilon = mechanism.epsilon(delta)
        exact = _exact_delta_of_two_batches(noise, epsilon)
        assert 0.9 * delta < exact <= delta
        assert exact <= mechanism.delta(epsilon) == pytest.approx(exact, rel=0.1)
    exact = _exact_delta_of_two_batches(noise, 0.0)
    assert exact <= mechanism.delta(0.0) < 1.05 * exact


def test_several_epochs_are_not_below_a_simulation():
    batches, epochs, noise, samples = 5, 3, 1.5, 200_000
    mechanism = random_allocation(100, batches, noise, epochs)
    outputs = np.random.default_rng(0).standard_normal((2, samples, epochs, batches))
    outputs[0, :, :, 0] += 1 / noise  # By symmetry the unit may be in the first batch.
    ratios = np.exp(outputs / noise - 0.5 / noise**2).mean(axis=3)
    losses = np.log(ratios).sum(axis=2) * np.array([[1], [-1]])
    for epsilon in (0.0, 1.0, 2.0):
        values = np.maximum(-np.expm1(epsilon - losses), 0)
        side = values.mean(axis=1).argmax()
        simulated, error = values[side].mean(), values[side].std() / math.sqrt(samples)
        assert simulated - 4 * error < mechanism.delta(epsilon) < 1.1 * simulated + 4 * error


def test_the_round_off_of_many_epochs_is_allowed_for():
    # With one batch per epoch the exact value is known; the mechanism does not ask the package.
    epochs = 100
    loss = module._loss_on_grid(1, 12.0, epochs, 4000)
    for delta in (1e-6, 1e-10, 1e-12):
        exact = full_batch(12.0, epochs).epsilon(delta)
        theirs = float(loss.get_delta_for_epsilon(exact))
        assert delta - 1e-15 * epochs < theirs < 1.0001 * delta + 1e-14 * epochs


def test_one_batch_per_epoch_is_the_full_batch():
    for delta in (1e-5, 1e-20):
        one = allocated(1, 4.0, 3).epsilon(delta)
        assert one == full_batch(4.0, 3).epsilon(delta)
    one = allocated(1, 4.0, 3)
    assert one.delta(0.5) == full_batch(4.0, 3).delta(0.5)
    assert allocated(10, 1.0, 0).epsilon(1e-20) == 0.0
    assert allocated(10, 1.0, 0).delta(0.0) == 0.0


def test_monotone_and_never_above_no_amplification():
    by_noise = [allocated(10, s, 1).epsilon(1e-5) for s in (0.7, 1.0, 1e3)]
    assert by_noise == sorted(by_noise, reverse=True)
    by_epochs = [allocated(10, 1.0, k).epsilon(1e-5) for k in (1, 3)]
    assert by_epochs == sorted(by_epochs)
    by_delta = [SMALL.epsilon(delta) for delta in (1e-3, 1e-6, 1e-11)]
    assert by_delta == sorted(by_delta)
    for delta, epsilon in zip((1e-3, 1e-6, 1e-11), by_delta, strict=True):
        assert epsilon < ShuffledDPSGD(noise_multiplier=1.0, num_epochs=1).epsilon(delta)
    # Where even a known batch hides the unit, the package is not asked.
    assert allocated(10, 1e5, 1).epsilon(1e-5) == 0.0
    for epsilon in (0.0, 1.0, 50.0):
        assert (
            0
            < SMALL.delta(epsilon)
            <= ShuffledDPSGD(noise_multiplier=1.0, num_epochs=1).delta(epsilon)
        )


def test_it_survives_json_and_says_what_it_is():
    mechanism = allocated(10, 1.0, 1, neighboring="zero_out")
    again = mechanism_from_dict(json.loads(json.dumps(mechanism.to_dict(), allow_nan=False)))
    assert again == mechanism
    assert hash(again) == hash(mechanism)
    assert mechanism.expected_batch_size == 100.0
    assert mechanism.epsilon(1e-5) == SMALL.epsilon(1e-5)
    assert mechanism.delta(mechanism.epsilon(1e-5)) == pytest.approx(1e-5, rel=1e-2)
    both = compare(mechanism, 1e-5)
    assert (both.pld, both.rdp) == (mechanism.epsilon(1e-5), None)
    assert GroupOfRecords(mechanism, records_per_user=2).epsilon(1e-5) > 2 * mechanism.epsilon(1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="neighboring='replace_one' is not supported: a bound is"):
        allocated(10, 1.0, 1, neighboring="replace_one")
    with pytest.raises(ValueError, match="unit='user' is not"):
        random_allocation(1000, 10, 1.0, 1, unit="user")
    with pytest.raises(ValueError, match="batches_per_epoch must be at least 1; got 0"):
        allocated(0, 1.0, 1)
    with pytest.raises(ValueError, match=r"below 0\.1 are not accounted for"):
        allocated(10, 0.09, 1).epsilon(1e-5)
    with pytest.raises(ValueError, match="smallest supported one is 2e-13"):
        allocated(10, 1.0, 2).epsilon(1.9e-13)
    with pytest.raises(ValueError, match="takes too long to account for"):
        allocated(100, 4.0, 200).epsilon(1e-5)
    with pytest.raises(NoRenyiDivergence, match="describe more epochs by num_epochs"):
        Composition((SMALL, SMALL)).epsilon(1e-5)
    with pytest.raises(NoRenyiDivergence, match="cannot be part of a composition or a search"):
        BestOfRuns(SMALL, mean_runs=2.0).epsilon(1e-5)
    with pytest.raises(ValueError, match="RandomAllocationDPSGD describes it"):
        dpsgd(1000, 100, 1.0, 10, sampling="random_allocation")


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("PLD_accounting"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "dpjax\[allocation\]"'):
        allocated(12, 1.0, 1).epsilon(1e-5)
