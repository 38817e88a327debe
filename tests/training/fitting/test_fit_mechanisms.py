"""`fit` with every way of sampling: batches, noise, ε after each step, and the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dpjax_accounting import (
    Composition,
    DPSGDSchedule,
    FullBatch,
    ShuffledDPSGD,
    claim,
    verify_report,
)
from rich.console import Console

import dpjax
from dpjax.privatize import StepTotal, gaussian_noise, num_steps_of, sampler_for
from tests.support import mechanisms as kinds
from tests.training.fitting.distance_fit import CLIP, DATA, DELTA, KEY, NUM, RATE, distance, fit

QUIET = Console(quiet=True)
SCHEDULE = DPSGDSchedule(
    num_units=NUM, segments=(kinds.segment(6, 4.0, 2), kinds.segment(15, 5.0, 3))
)
# With what sums are divided by in a step.
MECHANISMS = {
    "poisson": (kinds.dpsgd(NUM, 6, 4.0, 5), lambda step: 6),
    "schedule": (SCHEDULE, lambda step: 6 if step < 2 else 15),
    "truncated": (kinds.truncated_poisson(NUM, 6, 4.0, 5, largest_batch_size=5), lambda step: 6),
    "fixed size": (kinds.fixed_size(NUM, 6, 9.0, 5), lambda step: 6),
    "allocation": (kinds.random_allocation(NUM, 3, 4.0, 2), lambda step: 10),
    "shuffled": (
        ShuffledDPSGD(noise_multiplier=6.0, num_epochs=2, num_units=NUM, batch_size=12),
        lambda step: 12,
    ),
    "full batch": (FullBatch(noise_multiplier=8.0, num_steps=4, num_units=NUM), lambda step: NUM),
}
EVERY = pytest.mark.parametrize("name", MECHANISMS)


def noise_of(mechanism, step):
    if isinstance(mechanism, DPSGDSchedule):
        mechanism = mechanism.segment_at(step)
    stddev = mechanism.noise_multiplier * CLIP
    return np.asarray(gaussian_noise(KEY.noise_keys(step), jnp.zeros(3), stddev))


@EVERY
def test_batches_noise_and_divisor_are_those_of_the_mechanism(name):
    mechanism, divisor = MECHANISMS[name]
    result = fit(mechanism).run(QUIET)
    sampler, w = sampler_for(mechanism, KEY), np.zeros(3)
    for step in range(num_steps_of(mechanism)):
        gradients = w - DATA[sampler.indices(step)]
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        total = (gradients * np.minimum(1, CLIP / norms)).sum(axis=0)
        w = w - RATE * (total + noise_of(mechanism, step)) / divisor(step)
    np.testing.assert_allclose(result.params, w, rtol=1e-4, atol=1e-6)
    assert [row["num_records"] for row in result.metrics] == [
        len(sampler.indices(step)) for step in range(num_steps_of(mechanism))
    ]


@EVERY
def test_epsilon_after_each_step_and_the_report(name):
    mechanism, _ = MECHANISMS[name]
    run = fit(mechanism)
    assert run.num_steps == num_steps_of(mechanism)
    seen = []
    for done in run:
        seen.append(done.epsilon)
        if done.step in (1, run.num_steps):
            so_far = mechanism.after(done.step).epsilon(DELTA)
            assert so_far <= done.epsilon <= 1.05 * so_far
            result = run.result()
            assert result.epsilon == so_far
            assert verify_report(result.privacy) == []
            expected = claim(mechanism, DELTA, steps_completed=done.step)
            assert expected.items() <= result.privacy.items()
    assert seen == sorted(seen) and seen[-1] == mechanism.epsilon(DELTA)
    assert result.privacy["status"] == "complete"


def report_of(name):
    return fit(MECHANISMS[name][0]).result().privacy


@pytest.mark.parametrize(
    ("name", "sampling", "divided_by", "public"),
    [
        ("poisson", "Poisson: every record", "expected_batch_size", "The sampling probability"),
        ("schedule", "Poisson, with the prob", "of the step's segment", "The segments with their"),
        ("truncated", "Of a batch of more than 5", "expected_batch_size", "largest batch size"),
        ("fixed size", "random subset of 6 records", "batch_size", "records, the batch size"),
        ("allocation", "one of 3 batches", "num_units / batches_per_epoch", "batches in an epoch"),
        ("shuffled", "cut into batches of 12", "batch_size", "number of records, the batch size"),
        ("full batch", "every record takes part", "num_units", "number of records that sums"),
    ],
)
def test_the_report_says_how_it_was_sampled(name, sampling, divided_by, public):
    report = report_of(name)
    done, assumptions = report["implementation"], " ".join(report["assumptions"])
    assert sampling in done["sampling"] and done["gradient_divided_by"].endswith(divided_by)
    assert public in assumptions
    is_secret = name not in ("shuffled", "full batch")
    assert ("Which records were drawn in which step." in report["trust"]["kept_secret"]) == (
        is_secret
    )
    assert ("but not which records were drawn" in assumptions) == is_secret
    # Only Poisson batches are said to be Poisson batches.
    is_poisson = name in ("poisson", "schedule", "truncated")
    assert ("oisson" in done["sampling"]) == is_poisson
    counts = report["data_uses"][0]["explanation"]
    assert ("every epoch that was begun" in counts) == (name in ("allocation", "shuffled"))


@EVERY
def test_every_relation_is_named(name):
    mechanism, _ = MECHANISMS[name]
    words = {
        "add_or_remove_one": "one record added or removed",
        "zero_out": "contributes nothing",
        "replace_one": "another one in one of them",
    }
    for relation in mechanism.relations:
        changed = dataclasses.replace(mechanism, neighboring=relation)
        report = fit(changed).result().privacy
        assert words[relation] in report["assumptions"][0]
        assert report["guarantee"]["neighboring"] == relation
        public = "The number of records is public" in report["assumptions"][0]
        assert public == (relation != "add_or_remove_one")


def test_mostly_empty_batches_train():
    # Three units at one percent: 97 of 100 batches are empty, and are steps of pure noise.
    mechanism = kinds.dpsgd(3, 0.03, 2.0, 40)
    result = fit(mechanism, data=DATA[:3], optimizer=optax.sgd(1e-3)).run(QUIET)
    sizes = [row["num_records"] for row in result.metrics]
    assert sizes == [len(sampler_for(mechanism, KEY).indices(step)) for step in range(40)]
    assert sizes.count(0) >= 30 and sum(sizes) > 0
    assert [row["loss"] is None for row in result.metrics] == [size == 0 for size in sizes]
    assert np.all(np.isfinite(result.params)) and np.any(result.params != 0)
    assert verify_report(result.privacy) == []


def test_a_run_of_epochs_that_stops_has_the_epsilon_of_those_begun():
    mechanism, _ = MECHANISMS["shuffled"]
    of_epoch = [dataclasses.replace(mechanism, num_epochs=e).epsilon(DELTA) for e in range(3)]
    run = fit(mechanism)
    assert run.result().epsilon == 0.0
    for done in run:
        begun = 1 if done.step <= 3 else 2
        assert run.result().epsilon == pytest.approx(of_epoch[begun])
    unfinished = fit(mechanism)
    next(iter(unfinished))
    stopping = unfinished.result().privacy["data_uses"][1]
    assert "1 of 6 steps" in stopping["explanation"]


@pytest.mark.parametrize(
    ("mechanism", "error", "message"),
    [
        (3, TypeError, "must be one of dpjax_accounting, .* got int"),
        (
            kinds.user_level(NUM, 6, 1.0, 5, records_per_user=2),
            TypeError,
            "data must be OwnedRecords",
        ),
        (kinds.adaptive_clipping(NUM, 6, 1.0, 5, count_stddev=2.0), TypeError, "releases a count"),
        (Composition((kinds.dpsgd(NUM, 6, 1.0, 5),)), TypeError, "describes several runs"),
        (FullBatch(noise_multiplier=1.0, num_steps=2), ValueError, "num_units of FullBatch must"),
        (
            ShuffledDPSGD(noise_multiplier=4.0, num_epochs=1, num_units=NUM),
            ValueError,
            "batch_size of ShuffledDPSGD must be given",
        ),
        (kinds.fixed_size(NUM + 1, 6, 9.0, 5), ValueError, "30 records and num_units=31"),
    ],
)
def test_what_fit_cannot_run_is_refused_with_the_reason(mechanism, error, message):
    with pytest.raises(error, match=message):
        fit(mechanism)


def test_the_largest_batch_of_a_schedule_decides_when_a_run_has_diverged():
    large = DPSGDSchedule(
        num_units=NUM, segments=(kinds.segment(2, 9.0, 1), kinds.segment(29, 9.0, 1))
    )
    watch = fit(large).watch
    watch.check_losses(1, num_records=28, num_losses=0)
    with pytest.raises(dpjax.RunStopped, match="none of the last 29 records"):
        watch.check_losses(2, num_records=1, num_losses=0)


def test_a_step_of_an_empty_batch_is_noise_alone():
    private = dpjax.private_gradient(
        distance, mechanism=kinds.dpsgd(3, 0.001, 2.0, 1), clip_norm=CLIP, run_key=KEY
    )
    total = private.zeros(jnp.zeros(3), 0)
    assert isinstance(total, StepTotal) and list(private.batches(0, microbatch_size=4)) == []
    released = private.release(total, 0)
    noise = gaussian_noise(KEY.noise_keys(0), jnp.zeros(3), 2.0 * CLIP) / 0.001
    assert jax.tree.all(jax.tree.map(np.allclose, released, noise))
