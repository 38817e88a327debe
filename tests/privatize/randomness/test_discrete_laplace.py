"""Discrete Laplace noise: what is drawn, and that ε is an upper bound for it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import LaplaceDPSGD
from scipy import stats

from dpjax import RunKey
from dpjax.privatize import noisy_mean, private_gradient
from dpjax.privatize.randomness.discrete.noise import LAPLACE_MARGIN, DiscreteNoise, Grid
from tests.support.mechanisms import laplace

KEY = RunKey.from_seed(5)
GRID = Grid(2**15)


def draws(scale, number=3000):
    noise = (GRID.draw_laplace(scale, KEY.noise_blocks(step)) for step in range(number))
    return np.concatenate(list(noise)).astype(float) / GRID.resolution


def test_noise_of_a_fine_grid_has_the_stated_scale():
    drawn = draws(1.5)
    assert stats.kstest(drawn / 1.5, "laplace").pvalue > 1e-3
    assert np.abs(drawn).mean() == pytest.approx(1.5, rel=0.06)
    for wrong in (0.8, 1.25):
        assert stats.kstest(drawn / 1.5 / wrong, "laplace").pvalue < 1e-3
    # A Gaussian of the same variance is told apart.
    assert stats.kstest(drawn / drawn.std(), "norm").pvalue < 1e-6


def test_the_scale_is_never_below_the_claim():
    for noise in (0.1, 0.7, 1.0, 33.3, 1e3):
        for m in (1, 64, 2**15):
            scale = Grid(m).laplace_scale(noise)
            # Of the continuous Laplace noise that dominates it, for the sensitivity m.
            assert scale / (m + 1 / (4 * scale)) >= noise
            assert scale <= noise * m + LAPLACE_MARGIN + 1


def test_a_draw_is_a_function_of_run_key_and_step():
    noise = DiscreteNoise(laplace(60, 12, 1.7, 5), KEY, 0.3, 1)
    first, scale = noise.arguments(3, None)
    assert first.shape == (1,) and first.dtype == np.int32
    assert first == noise.arguments(3, None)[0] == GRID.draw_laplace(1.7, KEY.noise_blocks(3))
    assert first != noise.arguments(2, None)[0]
    mean = jax.jit(noise.make_mean())(jnp.array([40], jnp.int32), first, scale)
    np.testing.assert_allclose(mean, (40 + first) * 0.3 / (2**15 * 12), rtol=1e-6)
    pinned = [GRID.draw_laplace(1.0, RunKey.from_seed(0).noise_blocks(s)).item() for s in range(3)]
    assert pinned == PINNED, "raise NOISE_VERSION where these have to be changed"


PINNED = [31823, -3408, 46014]


def test_several_numbers_are_refused():
    with pytest.raises(ValueError, match="is for one number in each step, got 2: contributions"):
        DiscreteNoise(laplace(60, 12, 1.7, 5), KEY, 1.0, 2)


def test_gaussian_noise_is_not_added_for_it():
    mechanism = laplace(60, 12, 1.7, 5)
    words = "independent noise, got LaplaceDPSGD: its noise is not Gaussian"
    with pytest.raises(TypeError, match=words):
        private_gradient(lambda p, x: p * x, mechanism=mechanism, run_key=KEY, clip_norm=1.0)
    with pytest.raises(TypeError, match=words):
        noisy_mean(jnp.ones(3), KEY.noise_keys(0), mechanism=mechanism, clip_norm=1.0)


# The accounting: docs/accounting/proofs.md, "Discrete Laplace noise".


def discrete_deltas(epsilon, scale, shift, q=1.0):
    """δ of one Poisson-sampled step, from all outcomes: for a unit removed, and one added."""
    x = np.arange(-60 * scale, 60 * scale + shift + 1)
    normaliser = math.tanh(0.5 / scale)
    absent = normaliser * np.exp(-np.abs(x) / scale)
    present = (1 - q) * absent + q * normaliser * np.exp(-np.abs(x - shift) / scale)
    e = math.exp(epsilon)
    return np.maximum(present - e * absent, 0).sum(), np.maximum(absent - e * present, 0).sum()


def continuous_delta(epsilon, scale, shift):
    """1 - exp((ε - shift/scale)/2) where |ε| is below the largest loss."""
    largest = shift / scale
    if epsilon >= largest:
        return 0.0
    return -math.expm1(epsilon if epsilon <= -largest else (epsilon - largest) / 2)


def largest_excess(margin, scale=3, shift=4):
    """Of the discrete δ over that of continuous noise for the sensitivity `shift` + `margin`."""
    epsilons = np.linspace(-2, 2, 161)
    return max(
        max(discrete_deltas(e, scale, shift)) - continuous_delta(e, scale, shift + margin)
        for e in epsilons
    )


@pytest.mark.parametrize(("scale", "shift"), [(3, 4), (1, 1), (1, 3), (7, 5), (40, 16)])
def test_it_is_dominated_by_continuous_noise_for_a_little_more(scale, shift):
    exact = 2 * scale * math.log(math.cosh(0.5 / scale))
    assert exact <= 1 / (4 * scale)
    assert largest_excess(exact, scale, shift) < 1e-12
    assert largest_excess(1 / (4 * scale), scale, shift) < 1e-12


def test_without_more_scale_the_claim_would_be_wrong():
    assert largest_excess(0.0) > 1e-3
    # Nor does less than the margin of the proof do.
    assert largest_excess(0.5 * 6 * math.log(math.cosh(1 / 6))) > 1e-4


@pytest.mark.parametrize("q", [1.0, 0.3, 0.02])
@pytest.mark.parametrize(("b", "m"), [(0.6, 4), (2.0, 2), (1.0, 16)])
def test_a_sampled_step_loses_no_more_than_is_accounted_for(b, m, q):
    mechanism = LaplaceDPSGD(
        num_units=1000, expected_batch_size=1000 * q, noise_multiplier=b, num_steps=1
    )
    scale = Grid(m).laplace_scale(b)
    for epsilon in np.linspace(0, 1.1 * mechanism.largest_loss, 12):
        for shift in range(1, m + 1):
            found = max(discrete_deltas(epsilon, scale, shift, q))
            assert found <= mechanism.delta(epsilon) + 1e-13
    # It has the power to see noise that is too small.
    less = max(1, math.floor(0.8 * b * m))
    assert max(discrete_deltas(0.0, less, m, q)) > mechanism.delta(0.0)
