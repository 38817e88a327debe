"""The round-off of a composition, against the same composition with 64-bit significands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dpjax_accounting import DPSGD
from dpjax_accounting.engine.composed_loss import ComposedLoss
from dpjax_accounting.engine.one_step_grid import discretise
from dpjax_accounting.engine.window import Window

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="long double has no more digits than double here"
)


def folded(values, size):
    """Add up the cells that are a multiple of `size` apart."""
    whole = np.zeros(-(-len(values) // size) * size, dtype=values.dtype)
    whole[: len(values)] = values
    return whole.reshape(-1, size).sum(axis=0)


def composed(one_step, exponent, size):
    """The 2^exponent-fold cyclic convolution; of positive numbers, so that no digits cancel."""
    result = one_step.astype(np.longdouble)
    for _ in range(exponent):
        result = folded(np.convolve(result, result), size)
    return result


@pytest.mark.parametrize("order", [0.0, 4.0, 12.0])
@pytest.mark.parametrize(("q", "noise"), [(0.01, 1.0), (0.0005, 0.8), (0.5, 40.0)])
@pytest.mark.parametrize("exponent", [0, 6, 14])
def test_the_estimate_exceeds_the_error_of_the_transforms(order, q, noise, exponent):
    steps, size = 2**exponent, 1000
    run = DPSGD(
        num_units=10**6, expected_batch_size=q * 10**6, noise_multiplier=noise, num_steps=steps
    )
    ((release, _),) = run.releases()
    loss = ComposedLoss(((release.removed, steps),))
    interval = max(loss.moments.step_deviation, loss.moments.top / 800)
    ends = (-size, int(np.ceil(loss.moments.top / interval)))
    transform, _, _, error = loss._transform(order, interval, ends, size)
    by_transform = np.fft.irfft(transform, size)
    estimate = error * np.abs(transform).mean() + 2e-16 * by_transform.max()

    one = discretise(release.removed, interval, *ends)
    index = np.arange(one.first, one.first + len(one.probabilities))
    with np.errstate(divide="ignore"):
        tilted = np.log(one.probabilities) + order * interval * index
    tilted = np.exp(tilted - tilted.max())
    step = np.bincount(index % size, tilted / tilted.sum(), minlength=size)
    exact = composed(step, exponent, size)
    assert np.abs(exact - by_transform).max() <= estimate / 4
    # It is no guess either that swallows everything.
    assert estimate < 1e-7 * exact.max()


@pytest.mark.parametrize("order", [0.0, 3.0])
def test_between_grid_points_delta_is_that_of_losses_on_the_grid(order):
    interval, weights = 0.5, np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    losses = interval * np.arange(-1, 4)
    # The window holds P(loss) / exp(K − θ·l₀); K = 0 here.
    window = Window(losses, weights, np.zeros(5), order, 0.0, 0.0, wrapped=0.0)
    for epsilon in (-0.4, 0.0, 0.1, 0.3, 0.5, 0.74, 1.2, 1.49):
        delta = float(np.maximum(-np.expm1(epsilon - losses), 0) @ weights)
        assert math.exp(window.log_delta(epsilon)) == pytest.approx(delta, rel=1e-12)
        assert window.epsilon(math.log(delta)) == pytest.approx(epsilon, abs=1e-12)
