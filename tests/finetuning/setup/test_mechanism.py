"""The mechanism that the options describe: sizes, steps, noise, and what is no whole epoch."""

import pytest
from dpjax_accounting import (
    DPSGD,
    BandedDPSGD,
    FixedSizeDPSGD,
    FullBatch,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    calibrate_noise,
)

from dpjax.finetuning.config import Privacy, Training
from dpjax.finetuning.config.sampling import MECHANISM_OF
from dpjax.finetuning.setup.mechanism import fix_noise, make_recipe
from dpjax.privatize import num_steps_of

N, B = 1000, 64


def recipe(sampling, neighboring="zero_out", **training):
    privacy = Privacy(noise_multiplier=2.5, sampling=sampling, neighboring=neighboring)
    return make_recipe(privacy, Training(**{"expected_batch_size": B} | training), N)


EXPECTED = {
    # ⌈3 · 1000 / 64⌉ = 47; an epoch has ⌈1000 / 64⌉ = 16 batches; 64 + 6 · 8 = 112.
    "poisson": DPSGD(
        num_units=N,
        expected_batch_size=B,
        noise_multiplier=2.5,
        num_steps=47,
        neighboring="zero_out",
    ),
    "truncated-poisson": TruncatedPoissonDPSGD(
        num_units=N,
        expected_batch_size=B,
        noise_multiplier=2.5,
        num_steps=47,
        largest_batch_size=112,
    ),
    "fixed-size": FixedSizeDPSGD(
        num_units=N, batch_size=B, noise_multiplier=2.5, num_steps=47, neighboring="zero_out"
    ),
    "random-allocation": RandomAllocationDPSGD(
        num_units=N,
        batches_per_epoch=16,
        noise_multiplier=2.5,
        num_epochs=3,
        neighboring="zero_out",
    ),
    "shuffled": ShuffledDPSGD(noise_multiplier=2.5, num_epochs=3, num_units=N, batch_size=B),
    "full-batch": FullBatch(noise_multiplier=2.5, num_steps=3, num_units=N, neighboring="zero_out"),
}


@pytest.mark.parametrize("sampling", MECHANISM_OF)
def test_the_options_decide_the_mechanism(sampling):
    assert recipe(sampling) == EXPECTED[sampling]
    steps = num_steps_of(EXPECTED[sampling])
    assert num_steps_of(recipe(sampling, num_steps=2 * steps)) == 2 * steps
    # Without privacy the batches are the same.
    plain = make_recipe(Privacy(sampling=sampling), Training(expected_batch_size=B), N)
    assert type(plain) is MECHANISM_OF[sampling] and num_steps_of(plain) == steps


def test_a_batch_is_never_cut_above_all_records():
    privacy = Privacy(noise_multiplier=1.0, sampling="truncated-poisson", neighboring="zero_out")
    assert make_recipe(privacy, Training(expected_batch_size=50), 60).largest_batch_size == 60


@pytest.mark.parametrize("sampling", [s for s in MECHANISM_OF if s != "random-allocation"])
def test_the_target_is_met(sampling):
    privacy = Privacy(target_epsilon=3.0, sampling=sampling, neighboring="zero_out")
    made = make_recipe(privacy, Training(expected_batch_size=B), N)
    mechanism = fix_noise(made, privacy, 1e-5)
    assert 0.999 * 3 <= mechanism.epsilon(1e-5) <= 3
    given = Privacy(noise_multiplier=2.5, sampling=sampling, neighboring="zero_out")
    assert fix_noise(recipe(sampling), given, 1e-5) == recipe(sampling)


@pytest.mark.slow
def test_the_target_of_random_allocation_is_met():
    privacy = Privacy(target_epsilon=3.0, sampling="random-allocation")
    made = make_recipe(privacy, Training(expected_batch_size=B), N)
    assert 0.97 * 3 <= fix_noise(made, privacy, 1e-5).epsilon(1e-5) <= 3


def test_poisson_runs_have_the_noise_that_they_always_had():
    privacy, training = Privacy(target_epsilon=3.0), Training(expected_batch_size=B)
    before = calibrate_noise(3.0, 1e-5, num_units=N, expected_batch_size=B, num_steps=47)
    assert fix_noise(make_recipe(privacy, training, N), privacy, 1e-5) == before


@pytest.mark.parametrize("sampling", ["random-allocation", "shuffled"])
def test_epochs_must_be_whole(sampling):
    with pytest.raises(ValueError, match=r"num_epochs=1.5 must be a whole .*num_epochs=2"):
        recipe(sampling, num_epochs=1.5)
    with pytest.raises(ValueError, match=r"num_steps=17 is no whole .* of 16 steps.*num_steps=32"):
        recipe(sampling, num_steps=17)
    assert recipe(sampling, num_epochs=2.0).num_epochs == 2
    # Others have steps.
    assert recipe("fixed-size", num_epochs=1.5).num_steps == 24


def test_a_missing_accountant_is_named_before_anything_is_read(pretend_package):
    pretend_package("PLD_accounting", None)
    with pytest.raises(ValueError, match=r'pip install "dpjax\[allocation\]"'):
        recipe("random-allocation")
    plain = make_recipe(Privacy(sampling="random-allocation"), Training(), N)
    assert isinstance(plain, RandomAllocationDPSGD)


def correlated(noise, bands=None, **training):
    privacy = Privacy(target_epsilon=3.0, noise=noise, bands=bands, neighboring="zero_out")
    made = make_recipe(privacy, Training(**{"expected_batch_size": B} | training), N)
    return fix_noise(made, privacy, 1e-5)


@pytest.mark.parametrize(
    ("options", "steps", "bands"),
    [(("banded", 4), 47, 4), (("blt",), 15, 15)],
)
def test_correlated_noise_meets_the_target(options, steps, bands):
    training = {} if bands == 4 else {"num_steps": steps}
    mechanism = correlated(*options, **training)
    assert 0.999 * 3 <= mechanism.epsilon(1e-5) <= 3
    assert mechanism == BandedDPSGD(
        num_units=N,
        expected_batch_size=B,
        noise_multiplier=mechanism.noise_multiplier,
        num_steps=steps,
        bands=bands,
        column_norm=1.0,
    )


@pytest.mark.parametrize(
    ("options", "training", "words"),
    [
        (("banded", 16), {}, r"leave a batch of 64 records .* Give privacy.bands=15 or less"),
        (("banded", 4), {"num_steps": 3}, r"at most the 3 steps .* Give privacy.bands=3 or less"),
        (("banded", 2), {"expected_batch_size": 600}, r"Give a smaller training.expected_batch_"),
        (("blt",), {}, r"in one step at most.*got 47 steps.*Give training.num_steps=15 or less"),
        (("blt",), {"num_steps": 1}, r"at least 2 steps, got 1 steps"),
    ],
)
def test_groups_that_are_smaller_than_a_batch_are_refused(options, training, words):
    with pytest.raises(ValueError, match=words):
        correlated(*options, **training)
