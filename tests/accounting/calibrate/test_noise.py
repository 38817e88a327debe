"""The noise multiplier for a target ε."""

from __future__ import annotations

import math

import pytest
from dpjax_accounting import DeltaWarning, calibrate_noise
from dpjax_accounting.calibrate import noise

# num_units, expected batch size, steps, delta, target epsilon, and the noise multiplier that
# Brent's method finds on privacy loss distributions; complex-contour inversion puts its epsilon
# within 5e-4 of the target.
REFERENCE = [
    (42061, 1024, 411, 8e-6, 0.5, 3.6716012587287437),
    (42061, 1024, 411, 8e-6, 1.0, 2.071486924246063),
    (42061, 1024, 411, 8e-6, 3.0, 1.026985205124851),
    (42061, 1024, 411, 8e-6, 8.0, 0.6827723794492652),
    (67349, 1024, 198, 1 / (2 * 67349), 0.5, 1.7995248028433357),
    (67349, 1024, 198, 1 / (2 * 67349), 1.0, 1.1756503783753747),
    (67349, 1024, 198, 1 / (2 * 67349), 3.0, 0.7648829839596389),
    (1000000, 8192, 2000, 1e-7, 0.5, 3.4180816259444238),
    (1000000, 8192, 2000, 1e-7, 1.0, 1.897163695127822),
    (1000000, 8192, 2000, 1e-7, 3.0, 0.9480392968739312),
    (100000, 512, 600, 1e-6, 1.0, 0.948338194876529),
]


@pytest.mark.parametrize("row", REFERENCE)
def test_target_is_met_from_below_with_hardly_more_noise_than_needed(row):
    num_units, batch, steps, delta, target, noise = row
    mechanism = calibrate_noise(
        target, delta, num_units=num_units, expected_batch_size=batch, num_steps=steps
    )
    assert (mechanism.num_units, mechanism.expected_batch_size) == (num_units, batch)
    assert mechanism.num_steps == steps
    assert 0.999 * target <= mechanism.epsilon(delta) <= target
    assert mechanism.noise_multiplier == pytest.approx(noise, rel=1e-3)
    assert mechanism.noise_multiplier > noise


@pytest.mark.parametrize(
    ("target", "num_units", "batch", "steps"),
    # One step, full batches, a target so small that it needs a great deal of noise, rare sampling.
    [(0.5, 1000, 1000, 1), (2.0, 500, 500, 100), (0.01, 1000, 10, 100), (1.0, 1000, 1, 20)],
)
def test_unusual_settings(target, num_units, batch, steps):
    mechanism = calibrate_noise(
        target, 1e-5, num_units=num_units, expected_batch_size=batch, num_steps=steps
    )
    assert 0.999 * target <= mechanism.epsilon(1e-5) <= target


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target_epsilon": 0}, ValueError, "target_epsilon must be greater than 0; got 0"),
        ({"target_epsilon": -2.0}, ValueError, "target_epsilon must be greater than 0; got -2"),
        ({"target_epsilon": float("inf")}, ValueError, "target_epsilon must be finite"),
        ({"target_epsilon": float("nan")}, ValueError, "target_epsilon must be finite"),
        ({"target_epsilon": 101}, ValueError, "target_epsilon=101 is above 100"),
        ({"target_epsilon": "3"}, TypeError, "target_epsilon must be a number; got '3'"),
        ({"delta": 0.0}, ValueError, "delta must lie strictly between 0 and 1; got 0"),
        ({"delta": 1.0}, ValueError, "delta must lie strictly between 0 and 1; got 1"),
        ({"delta": 1e-26}, ValueError, "smallest supported delta, which is 1e-25"),
        ({"num_steps": 0}, ValueError, "num_steps=0 releases nothing"),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0"),
        ({"num_units": 0}, ValueError, "num_units must be at least 1"),
        ({"expected_batch_size": 1001}, ValueError, "is larger than the data"),
        ({"sampling": "shuffle"}, ValueError, "sampling='shuffle' is not supported"),
        ({"unit": "user"}, ValueError, "unit='user' is not supported"),
        ({"neighboring": "replace"}, ValueError, "neighboring='replace' is not known"),
        # Grid and steps bound what any noise can reach.
        (
            {"target_epsilon": 1e-5, "num_steps": 20000, "delta": 1e-8},
            ValueError,
            r"target_epsilon=1e-05 cannot be met: even a noise multiplier of 1e\+06 gives",
        ),
    ],
)
def test_refusals(change, error, words):
    arguments = {
        "target_epsilon": 3.0,
        "delta": 1e-5,
        "num_units": 1000,
        "expected_batch_size": 100,
        "num_steps": 100,
        **change,
    }
    with pytest.raises(error, match=words):
        calibrate_noise(**arguments)


def test_target_that_delta_alone_meets_is_refused(monkeypatch):
    monkeypatch.setattr(noise, "SMALLEST_NOISE_MULTIPLIER", 0.8)
    with (
        pytest.warns(DeltaWarning, match=r"delta=0\.01 is not below 1 / num_units"),
        pytest.raises(ValueError, match=r"is met by every noise multiplier .* already 0\.8 gives"),
    ):
        calibrate_noise(1.0, 0.01, num_units=1000, expected_batch_size=5, num_steps=1)


def test_search_reports_a_jump_across_the_target():
    with pytest.raises(ArithmeticError, match="stopped at 1"):
        noise._search(
            lambda noise: 2.0 if noise < 1 else 0.5,
            1.0,
            noise._Found(noise=2.0, epsilon=math.nan, slope=-1.0),
            noise._ACCEPTED,
        )
