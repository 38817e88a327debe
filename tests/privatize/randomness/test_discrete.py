"""Discrete Gaussian noise: the sampler is exact, nothing overflows, and ε is an upper bound."""

import functools
import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dpjax_accounting import DPSGD, DPSGDSchedule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpjax import RunKey
from dpjax.privatize import StepNoise
from dpjax.privatize.randomness.discrete.noise import SMOOTHING, DiscreteNoise, Grid
from dpjax.privatize.randomness.discrete.sampler import (
    RandomBits,
    bernoulli_exp,
    discrete_gaussian,
    discrete_laplace,
)
from tests.support.mechanisms import segment

KEY = RunKey.from_seed(5)
GRID = Grid(2**15)


def bits(step=0):
    return RandomBits(KEY.noise_blocks(step))


def given_numbers(*numbers):
    """Bits of these bytes, the low ones first."""
    return RandomBits(bytes([number]) for number in numbers)


def pmf(variance, reach):
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x**2) / (2 * variance))
    return x, weights / weights.sum()


def check_frequencies(draws, x, probabilities):
    """Chi-square, with the rare values at both ends together."""
    counts = Counter(draws)
    often = probabilities * len(draws) >= 10
    seen = np.array([counts[value] for value in x[often].tolist()])
    expected = probabilities[often] * len(draws)
    seen = np.append(seen, len(draws) - seen.sum())
    expected = np.append(expected, len(draws) - expected.sum())
    return stats.chisquare(seen, expected).pvalue


def test_numbers_below_a_bound_are_uniform():
    source = bits()
    draws = [source.below(6) for _ in range(6000)]
    assert stats.chisquare(np.bincount(draws, minlength=6)).pvalue > 1e-3
    assert [bits(1).below(1) for _ in range(3)] == [0, 0, 0]
    # 257 needs nine bits, across the ends of blocks.
    source = RandomBits(iter([b"\xff", b"\xff", b"\x00", b"\x00", b"\x00"]))
    # 511 is too much; then seven ones and two zeros.
    assert source.below(257) == 127


def test_bernoulli_by_hand():
    """γ = ½: stops at k with the first number that is not below γ/k."""
    # below(2) = 1: stopped at k = 1, which is odd.
    assert bernoulli_exp(given_numbers(0b1), 1, 2)
    # 0, then below(4) = 1: stopped at k = 2, which is even.
    assert not bernoulli_exp(given_numbers(0b010), 1, 2)
    # 0, then below(4) = 0, then below(6) = 1 of three bits: stopped at k = 3.
    assert bernoulli_exp(given_numbers(0b001_00_0), 1, 2)
    # γ = 0 is certain; nothing is drawn.
    assert bernoulli_exp(RandomBits(iter([])), 0, 1)


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 3), (1, 1), (5, 2), (7, 1000)])
def test_bernoulli_has_the_probability_that_is_stated(numerator, denominator):
    source = bits(2)
    hits = sum(bernoulli_exp(source, numerator, denominator) for _ in range(8000))
    assert stats.binomtest(hits, 8000, math.exp(-numerator / denominator)).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1, 4])
def test_laplace_draws_have_the_exact_distribution(scale):
    source = bits(3)
    draws = [discrete_laplace(source, scale) for _ in range(8000)]
    x = np.arange(-60 * scale, 60 * scale + 1)
    probabilities = np.exp(-np.abs(x) / scale) * math.tanh(1 / (2 * scale))
    assert check_frequencies(draws, x, probabilities) > 1e-3


@pytest.mark.parametrize("variance", [1, 4, 30])
def test_gaussian_draws_have_the_exact_distribution(variance):
    source = bits(4)
    draws = [discrete_gaussian(source, variance) for _ in range(8000)]
    assert check_frequencies(draws, *pmf(variance, 80)) > 1e-3
    # The test sees other distributions, among them what rounding of a float would make.
    for wrong in (1.2 * variance, variance / 1.2):
        assert check_frequencies(draws, *pmf(wrong, 80)) < 1e-3
    rounded = np.rint(np.random.default_rng(0).normal(0, 1, 200_000)).astype(int).tolist()
    assert check_frequencies(rounded, *pmf(1, 20)) < 1e-6


def test_noise_of_a_fine_grid_is_normal_with_the_stated_moments():
    drawn = GRID.draw(1.5, KEY.noise_blocks(7), 4000).astype(float) / GRID.resolution
    assert stats.kstest(drawn / 1.5, "norm").pvalue > 1e-3
    assert drawn.std() == pytest.approx(1.5, rel=0.05)
    for wrong in (0.85, 1.15):
        assert stats.kstest(drawn / 1.5 / wrong, "norm").pvalue < 1e-3
    x, probabilities = pmf(4, 60)
    assert (x**2 * probabilities).sum() == pytest.approx(4, rel=1e-12)


def test_a_draw_is_a_function_of_run_key_purpose_and_step():
    def draw(key, step, blocks=RunKey.noise_blocks):
        return GRID.draw(1.0, blocks(key, step), 3).tolist()

    first = draw(KEY, 0)
    assert draw(RunKey.from_seed(5), 0) == first
    others = [draw(RunKey.from_seed(6), 0), draw(KEY, 1), draw(KEY, 0, RunKey.quantile_blocks)]
    assert len({tuple(drawn) for drawn in (first, *others)}) == 4
    blocks = list(itertools.islice(KEY.noise_blocks(0), 50))
    assert len(set(blocks)) == 50 and {len(block) for block in blocks} == {64}
    pinned = GRID.draw(1.0, RunKey.from_seed(0).noise_blocks(1), 4).tolist()
    assert pinned == PINNED, "raise NOISE_VERSION where these have to be changed"


PINNED = [-3408, -9487, -26554, 69398]


def test_the_grid_is_as_fine_as_int32_allows():
    for noise, batch in [(1.0, 1024), (0.5, 10**6), (30.0, 10**8), (500.0, 64), (1e4, 10)]:
        grid = Grid.for_noise([StepNoise(noise, batch)])
        assert 8 * (batch + 8) * grid.resolution + 8 * noise * grid.resolution <= 2**31 * 1.25
        assert 0.01 * (noise * grid.resolution) ** 2 >= SMOOTHING
        assert grid.variance(noise) >= (noise * grid.resolution) ** 2 + SMOOTHING
        assert grid.variance(noise) < (noise * grid.resolution) ** 2 + SMOOTHING + 2
    with pytest.raises(ValueError, match=r"batches of 2e\+09 units and noise multipliers from 1 "):
        Grid.for_noise([StepNoise(1.0, 2e9)])
    with pytest.raises(ValueError, match="do not fit"):
        Grid.for_noise([StepNoise(1.0, 10), StepNoise(1e8, 10)])


def check_rounding(rounded=None):
    """Towards zero, coordinate by coordinate; and the length in whole numbers is at most m."""
    rounded = rounded or jax.jit(GRID.rounded)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 3)).astype(np.float32)
    vectors *= 0.3 / np.linalg.norm(vectors, axis=1, keepdims=True) * (1 - 2**-19)
    vectors[::2] *= rng.random((250, 1), np.float32)
    got = np.asarray(rounded(jnp.asarray(vectors), 0.3), np.int64)
    exact = vectors.astype(np.float64) / 0.3 * GRID.resolution
    # A product of floats may fall on the other side of a whole number.
    near = np.abs(exact - np.rint(exact)) < 0.01
    np.testing.assert_array_equal(np.where(near, 0, got), np.where(near, 0, np.trunc(exact)))
    assert np.abs(got - exact).max() <= 1.01
    assert ((got**2).sum(axis=1) <= GRID.resolution**2).all()


ROUNDED = {m: jax.jit(functools.partial(Grid(m).rounded, clip_norm=1.0)) for m in (1, 64, 2**15)}


def test_contributions_are_rounded_towards_zero():
    check_rounding()


@pytest.mark.parametrize("wrong", ["floor", "rint", "ceil"])
def test_rounding_elsewhere_is_noticed(wrong, monkeypatch):
    monkeypatch.setattr(jnp, "trunc", getattr(jnp, wrong))
    with pytest.raises(AssertionError):
        check_rounding()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4), st.sampled_from([1, 64, 2**15])
)
def test_no_vector_is_longer_than_the_clip_norm_whatever_floats_do(vector, resolution):
    got = ROUNDED[resolution](np.array([vector], np.float32))
    got = np.asarray(got, np.int64)[0]
    assert (got**2).sum() <= resolution**2
    whole = np.clip(np.trunc(np.array(vector) * resolution), -resolution, resolution)
    if (whole**2).sum() <= resolution**2:
        np.testing.assert_array_equal(got, whole)


def test_a_long_vector_of_the_largest_values_does_not_overflow():
    ones = np.ones((2, 2**15), np.float32)
    assert not np.any(ROUNDED[2**15](ones))
    short = ones * np.float32(2**-7.5 * (1 - 1e-6))
    assert np.all(np.asarray(ROUNDED[2**15](short)) == 181)


def test_sums_and_noise_wrap_around_as_whole_numbers_do():
    """A released number is a function of the true sum plus noise, also beyond 2³¹."""
    mechanism = DPSGD(num_units=60, expected_batch_size=12, noise_multiplier=1.7, num_steps=5)
    noise = DiscreteNoise(mechanism, KEY, 0.3, 2)
    drawn, scale = noise.arguments(3, None)
    sums = jnp.array([2**31 - 5, -7], jnp.int32)
    mean = jax.jit(noise.make_mean())(sums, drawn, scale)
    whole = (np.array([2**31 - 5, -7]) + drawn.astype(np.int64) + 2**31) % 2**32 - 2**31
    np.testing.assert_allclose(mean, whole * 0.3 / (2**15 * 12), rtol=1e-6)
    assert [leaf.shape for leaf in noise.shapes(None)] == [(2,), ()]


def test_a_schedule_has_one_grid():
    parts = (segment(12, 1.7, 1), segment(24, 3000.0, 1))
    noise = DiscreteNoise(DPSGDSchedule(num_units=60, segments=parts), KEY, 1.0, 1000)
    first, second = (noise.arguments(step, None) for step in (0, 1))
    m = noise.grid.resolution
    assert m == 2**14
    assert np.std(first[0] / m) == pytest.approx(1.7, rel=0.1)
    assert np.std(second[0] / m) == pytest.approx(3000, rel=0.1)
    assert first[1] == pytest.approx(1 / (12 * m)) and second[1] == pytest.approx(1 / (24 * m))


def test_vectors_that_are_too_long_are_refused():
    mechanism = DPSGD(num_units=60, expected_batch_size=12, noise_multiplier=1.7, num_steps=5)
    with pytest.raises(ValueError, match="at most 32768 numbers, got 40000"):
        DiscreteNoise(mechanism, KEY, 1.0, 40_000)


DELTAS = (1e-3, 1e-5, 1e-8)

# The accounting: docs/accounting/proofs.md, "Discrete Gaussian noise".


def discrete_delta(epsilon, variance, shifts, q):
    """δ of one Poisson-sampled step with independent discrete Gaussians, from all outcomes."""
    reach = 12 * math.isqrt(variance) + max(abs(s) for s in shifts)
    x = np.arange(-reach, reach + 1)
    log_absent, log_ratio = 0.0, 0.0
    for axis, shift in enumerate(shifts):
        shape = [1] * len(shifts)
        shape[axis] = -1
        logs = -(x**2) / (2 * variance)
        log_absent = log_absent + (logs - special.logsumexp(logs)).reshape(shape)
        log_ratio = log_ratio + ((2 * x - shift) * shift / (2 * variance)).reshape(shape)
    absent = np.exp(log_absent)
    present = absent * (1 - q + q * np.exp(log_ratio))
    removed = np.maximum(present - np.exp(epsilon) * absent, 0).sum()
    return removed, np.maximum(absent - np.exp(epsilon) * present, 0).sum()


def gaussian_delta(epsilon, noise_multiplier, q):
    """The same of the Gaussian mechanism, by its formula: Zhu, Dong and Wang 2022, theorem 11."""

    def of(z):
        return special.ndtr(z), special.ndtr(z - 1 / noise_multiplier)

    s = noise_multiplier
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log((np.exp(epsilon) - 1 + q) / q)
        above, above_shifted = of(-(ratio * s + 0.5 / s) + 1 / s)
        removed = (1 - q) * above_shifted + q * above - np.exp(epsilon) * above_shifted
        ratio = np.log((np.exp(-epsilon) - 1 + q) / q)
        below, below_shifted = of(ratio * s + 0.5 / s)
        added = below - np.exp(epsilon) * ((1 - q) * below + q * below_shifted)
    return removed, np.nan_to_num(added, nan=0.0)


def largest_excess(extra, noise_multiplier=0.8, resolution=4, shifts=(4,), q=1.0):
    """The largest relative excess of δ over the Gaussian's, with `extra` in the variance."""
    variance = math.ceil((noise_multiplier * resolution) ** 2) + extra
    excess = 0.0
    for epsilon in np.linspace(0.01, 4, 157):
        pairs = zip(
            discrete_delta(epsilon, variance, shifts, q),
            gaussian_delta(epsilon, noise_multiplier, q),
            strict=True,
        )
        excess = max([excess, *(d / g - 1 for d, g in pairs if g > 1e-12)])
    return excess


@pytest.mark.parametrize("q", [1.0, 0.1])
@pytest.mark.parametrize("shifts", [(4,), (3, 2), (-4, 0), (2, 3)])
def test_one_step_loses_no_more_than_the_gaussian(shifts, q):
    """With several directions too: the shifts are vectors of whole numbers of length at most m."""
    assert math.hypot(*shifts) <= 4
    assert largest_excess(SMOOTHING, shifts=shifts, q=q) < 1e-9


def test_without_more_variance_the_claim_would_be_wrong():
    """A discrete Gaussian of the same variance loses more at some ε, by up to 1 % of δ here."""
    assert largest_excess(0, noise_multiplier=1.0) > 1e-3


def discrete_epsilons(variance, sensitivity, q, num_steps):
    """By dp-accounting, from its discrete Gaussian."""
    loss = privacy_loss_distribution.from_discrete_gaussian_mechanism(
        math.sqrt(variance),
        sensitivity=sensitivity,
        sampling_prob=q,
        pessimistic_estimate=False,
        value_discretization_interval=1e-4,
        use_connect_dots=False,
    )
    composed = loss.self_compose(num_steps)
    return np.array([composed.get_epsilon_for_delta(delta) for delta in DELTAS])


@pytest.mark.parametrize(
    ("noise_multiplier", "q", "num_steps", "resolution"),
    [(1.0, 1.0, 1, 4), (1.3, 0.05, 200, 8), (0.7, 0.02, 50, 32)],
)
def test_a_run_loses_no_more_than_is_accounted_for(noise_multiplier, q, num_steps, resolution):
    """dp-accounting's lower estimate for the discrete Gaussian against the ε that dpjax reports."""
    mechanism = DPSGD(
        num_units=1000,
        expected_batch_size=1000 * q,
        noise_multiplier=noise_multiplier,
        num_steps=num_steps,
    )
    variance = Grid(resolution).variance(noise_multiplier)
    reported = np.array([mechanism.epsilon(delta) for delta in DELTAS])
    found = discrete_epsilons(variance, resolution, q, num_steps)
    assert (found > 0.5 * reported).all() and (found <= reported).all()
    # It has the power to see noise that is too small.
    less = (0.9 * noise_multiplier * resolution) ** 2
    assert (discrete_epsilons(less, resolution, q, num_steps) > reported).all()
