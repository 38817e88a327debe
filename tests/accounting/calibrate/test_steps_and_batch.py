"""The number of steps and the expected batch size for a target ε."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
import hypothesis.strategies as st
import pytest
from dpjax_accounting import calibrate_batch_size, calibrate_dpsgd, calibrate_noise, calibrate_steps
from dpjax_accounting.calibrate.integer_search import largest_within

from tests.support.mechanisms import dpsgd

N = 10**5
few = hypothesis.settings(max_examples=3, deadline=None, derandomize=True, database=None)
targets = st.floats(0.3, 8.0)
noises = st.floats(1.5, 8.0)


@few
@hypothesis.given(target=targets, noise=noises, batch=st.integers(200, N))
def test_one_more_step_would_exceed_the_target(target, noise, batch):
    hypothesis.assume(dpsgd(N, batch, noise, 1).epsilon(1e-6) <= target)
    found = calibrate_steps(
        target, 1e-6, num_units=N, expected_batch_size=batch, noise_multiplier=noise
    )
    assert found == dpsgd(N, batch, noise, found.num_steps)
    assert found.epsilon(1e-6) <= target
    assert dataclasses.replace(found, num_steps=found.num_steps + 1).epsilon(1e-6) > target


@few
@hypothesis.given(target=targets, noise=noises, steps=st.integers(1, 2000))
def test_one_more_unit_in_the_batch_would_exceed_the_target(target, noise, steps):
    found = calibrate_batch_size(target, 1e-6, num_units=N, noise_multiplier=noise, num_steps=steps)
    batch = found.expected_batch_size
    assert found == dpsgd(N, batch, noise, steps)
    assert batch == int(batch)
    assert found.epsilon(1e-6) <= target
    if batch < N:
        assert dataclasses.replace(found, expected_batch_size=batch + 1).epsilon(1e-6) > target


def test_the_three_directions_agree():
    noise = calibrate_noise(
        3.0, 1e-6, num_units=N, expected_batch_size=512, num_steps=400
    ).noise_multiplier
    by_steps = calibrate_steps(
        3.0, 1e-6, num_units=N, expected_batch_size=512, noise_multiplier=noise
    )
    assert 400 <= by_steps.num_steps <= 402
    by_batch = calibrate_batch_size(3.0, 1e-6, num_units=N, noise_multiplier=noise, num_steps=400)
    assert 512 <= by_batch.expected_batch_size <= 514


def test_full_batches_have_the_steps_that_the_exact_formula_gives():
    # μ = √T / σ, and ε grows with it.
    one = dpsgd(100, 100, 4.0, 1).epsilon(1e-5)
    found = calibrate_steps(
        one * (1 + 1e-9),
        1e-5,
        num_units=100,
        expected_batch_size=100,
        noise_multiplier=4.0 * 17**0.5,
    )
    assert found.num_steps == 17


def test_a_target_that_all_units_meet_gives_full_batches():
    found = calibrate_batch_size(8.0, 1e-6, num_units=1000, noise_multiplier=6.0, num_steps=20)
    assert found.expected_batch_size == 1000


def test_relation_is_kept():
    found = calibrate_steps(
        2.0,
        1e-6,
        num_units=N,
        expected_batch_size=512,
        noise_multiplier=2.0,
        neighboring="replace_one",
    )
    assert found.neighboring == "replace_one"
    other = calibrate_steps(2.0, 1e-6, num_units=N, expected_batch_size=512, noise_multiplier=2.0)
    assert found.num_steps < other.num_steps


STEPS = {
    "target_epsilon": 3.0,
    "delta": 1e-5,
    "num_units": 1000,
    "expected_batch_size": 100,
    "noise_multiplier": 1.0,
}
BATCH = {name: value for name, value in STEPS.items() if name != "expected_batch_size"} | {
    "num_steps": 100
}


@pytest.mark.parametrize(
    ("calibrate", "change", "error", "words"),
    [
        (calibrate_steps, {"target_epsilon": 0.01}, ValueError, "the nearest is one step, which"),
        (calibrate_steps, {"target_epsilon": 101}, ValueError, "is above 100"),
        (calibrate_steps, {"noise_multiplier": 0.05}, ValueError, r"below 0\.1 are not accounted"),
        (calibrate_steps, {"noise_multiplier": 0.0}, ValueError, "must be greater than 0"),
        (calibrate_steps, {"noise_multiplier": "1"}, TypeError, "must be a number"),
        (calibrate_steps, {"expected_batch_size": 2000}, ValueError, "is larger than the data"),
        (calibrate_steps, {"delta": 0.0}, ValueError, "strictly between 0 and 1"),
        (calibrate_steps, {"sampling": "shuffle"}, ValueError, "is not supported"),
        (
            calibrate_steps,
            {"num_units": 10**9, "expected_batch_size": 1, "delta": 1e-10},
            ValueError,
            r"met by every number of steps that is accounted for: even 10,000,000 give",
        ),
        (
            calibrate_batch_size,
            {"target_epsilon": 0.001},
            ValueError,
            "the nearest is an expected batch size of 1, which gives epsilon=",
        ),
        (calibrate_batch_size, {"num_steps": 0}, ValueError, "every expected batch size"),
        (calibrate_batch_size, {"num_steps": 10**8}, ValueError, "steps are not accounted for"),
        (calibrate_batch_size, {"noise_multiplier": 0.05}, ValueError, "are not accounted for"),
        (calibrate_batch_size, {"delta": 1e-26}, ValueError, "smallest supported delta"),
        (calibrate_batch_size, {"unit": "user"}, ValueError, "is not supported"),
    ],
)
def test_refusals(calibrate, change, error, words):
    arguments = STEPS if calibrate is calibrate_steps else BATCH
    with pytest.raises(error, match=words):
        calibrate(**arguments | change)


@pytest.mark.parametrize("start", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    ("value_of", "expected"),
    [
        (lambda x: x**0.5, 9801),
        (lambda x: 0.0 if x < 777 else math.inf, 776),
        (lambda x: 0.0 if x < 500 else x - 300.0, 499),
        (lambda x: 1e-9 * x, 10**6),
        (lambda x: 99 + x, 0),
    ],
)
def test_search_finds_the_last_number_within(start, value_of, expected):
    tried = []

    def watched(x):
        tried.append(x)
        return value_of(x)

    assert largest_within(watched, 99.0, start, 1, 10**6) == expected
    assert len(tried) == len(set(tried)) < 60


def test_one_function_finds_what_is_left_out():
    numbers = {"num_units": N, "expected_batch_size": 512, "noise_multiplier": 1.5, "num_steps": 99}
    for missing, named in (
        ("noise_multiplier", calibrate_noise),
        ("num_steps", calibrate_steps),
        ("expected_batch_size", calibrate_batch_size),
    ):
        others = {name: value for name, value in numbers.items() if name != missing}
        assert calibrate_dpsgd(2.0, 1e-6, **others) == named(2.0, 1e-6, **others)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_steps": 9}, "expected_batch_size, noise_multiplier. Give"),
        ({"expected_batch_size": 9, "noise_multiplier": 2.0, "num_steps": 9}, "none of them"),
    ],
)
def test_exactly_one_is_left_out(given, words):
    with pytest.raises(ValueError, match=words):
        calibrate_dpsgd(2.0, 1e-6, num_units=N, **given)
