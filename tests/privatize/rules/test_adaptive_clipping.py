"""Adaptive clipping: it finds the quantile, and both releases together cost what is accounted."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGD
from scipy import stats

import dpjax
from dpjax import AdaptiveClipping, RunKey
from dpjax.privatize import noisy_mean
from dpjax.privatize.randomness.discrete.noise import Grid
from dpjax.privatize.rules.adaptive_clipping import gradient_noise_multiplier

SIZE = 100_000


def linear_loss(params, x):
    """Its gradient is x."""
    return jnp.sum(params * x)


def dpsgd(num_units, expected_batch_size, noise_multiplier, num_steps=10):
    return DPSGD(
        num_units=num_units,
        expected_batch_size=expected_batch_size,
        noise_multiplier=noise_multiplier,
        num_steps=num_steps,
    )


def make(mechanism, rule, run_key=None):
    run_key = run_key or RunKey.from_seed(0)
    return dpjax.private_gradient(linear_loss, mechanism=mechanism, rule=rule, run_key=run_key)


def keys(seed, *shape):
    words = np.random.default_rng(seed).integers(0, 2**32, (*shape, 4, 2), dtype=np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("ratio", [0.51, 1.0, 50.0])
def test_both_releases_together_are_one_of_the_stated_noise_multiplier(noise_multiplier, ratio):
    """1/z² = 1/z_Δ² + (½/σ_b)²: squared sensitivities in units of the noise add up."""
    count_stddev = ratio * noise_multiplier
    z = gradient_noise_multiplier(noise_multiplier, count_stddev)
    assert z > noise_multiplier
    assert 1 / z**2 + (0.5 / count_stddev) ** 2 == pytest.approx(1 / noise_multiplier**2)


def test_the_cost_of_the_default_is_small():
    scales = make(dpsgd(100_000, 1024, 1.0), AdaptiveClipping()).noise_scales
    assert scales.count_stddev == 1024 / 20
    assert scales.gradient_noise_multiplier == pytest.approx(1 + 0.00005, abs=5e-6)


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("neighbour", ["removed", "not_finite", "masked"])
def test_one_unit_moves_both_releases_by_at_most_one_over_the_noise_multiplier(neighbour):
    """And a clipped gradient does so exactly: z_Δ is as small as it may be."""
    noise_multiplier, count_stddev, clip_norm = 1.3, 0.9, 0.25
    z = gradient_noise_multiplier(noise_multiplier, count_stddev)
    fn = dpjax.clipped_grad(linear_loss, clip_norm=clip_norm)
    batch = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    batch *= np.array([1e-3, 1e-2, 0.1, 1, 10, 1e6], np.float32)[:, None]
    whole = fn(jnp.zeros(5), batch)
    moved = []
    for i in range(6):
        others, mask = batch.copy(), np.ones(6, bool)
        if neighbour == "removed":
            others, mask = np.delete(batch, i, axis=0), np.ones(5, bool)
        elif neighbour == "not_finite":
            others[i] = np.nan
        else:
            mask[i] = False
        fewer = fn(jnp.zeros(5), others, mask)
        gradient = np.linalg.norm(np.asarray(whole.grads - fewer.grads, np.float64))
        count = abs(float(whole.centered_count - fewer.centered_count))
        assert count == 0.5
        moved.append(math.hypot(gradient / (z * clip_norm), count / count_stddev))
    assert max(moved) <= 1 / noise_multiplier * (1 + 1e-5)
    assert max(moved) >= 1 / noise_multiplier * (1 - 1e-5)


@pytest.mark.usefixtures("full_optimisation")
def test_replacing_a_unit_moves_the_count_by_at_most_one():
    rows = {"below": 0.1, "above": 10.0, "zero": 0.0, "not_finite": np.nan}
    fn = dpjax.clipped_grad(linear_loss, clip_norm=1.0)
    counts = {
        name: float(fn(jnp.zeros(2), np.array([[0.1, 0], [value, 0]], np.float32)).centered_count)
        for name, value in rows.items()
    }
    assert counts == {"below": 1.0, "above": 0.0, "zero": 1.0, "not_finite": 0.5}


def test_the_count_has_noise_of_the_stated_standard_deviation():
    private = make(dpsgd(1000, 100, 2.0), AdaptiveClipping(learning_rate=0.1, count_stddev=7.0))

    def release(count_noise):
        return private._make_release()(jnp.zeros(1), jnp.int32(25), 0.5, keys(0), count_noise)[1]

    drawn = Grid(2**15).draw(14.0, RunKey.from_seed(0).quantile_blocks(0), 5000)
    clip_norms = np.asarray(jax.jit(jax.vmap(release))(drawn), np.float64)
    # C' = C·exp(-η(b̃ - γ)), b̃ = ½ + (count + noise)/B, solved for the noise.
    noise = (0.5 - 0.5 - np.log(clip_norms / 0.5) / 0.1) * 100 - 12.5
    assert noise.std() == pytest.approx(7.0, rel=0.05)
    assert stats.kstest(noise / 7.0, "norm").pvalue > 1e-3
    for wrong in (0.8 * 7.0, 1.25 * 7.0):
        assert stats.kstest(noise / wrong, "norm").pvalue < 1e-6


def test_the_gradient_has_the_larger_noise():
    """z_Δ is 1.81 z here: whoever adds z promises more than is kept."""
    private = make(dpsgd(1000, 50, 1.5), AdaptiveClipping(count_stddev=0.9), RunKey.from_seed(2))
    total = private.zeros({"a": jnp.zeros(SIZE)}, 0, 0.2)
    drawn = len(private._drawn_units(0))
    total = dataclasses.replace(
        total, grads={"a": jnp.full(SIZE, 3.0)}, num_records=jnp.int32(drawn)
    )
    mean, _ = private.release(total, 0)
    expected = 0.2 / math.sqrt(1 / 1.5**2 - 1 / 1.8**2)
    residual = np.asarray(mean["a"]) * 50 - 3.0
    assert expected > 1.8 * 1.5 * 0.2
    assert residual.std() == pytest.approx(expected, rel=0.01)
    assert residual.mean() == pytest.approx(0, abs=5 * expected / np.sqrt(SIZE))


@pytest.mark.usefixtures("compilations_count")
@pytest.mark.usefixtures("full_optimisation")
def test_a_loop_is_that_of_the_formulas_bit_for_bit():
    """Σ over microbatches, the noise of both releases, and the clip norm that follows."""
    mechanism, key = dpsgd(60, 12, 1.7), RunKey.from_seed(8)
    private = make(mechanism, AdaptiveClipping(count_stddev=3.0), key)
    data = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    z = gradient_noise_multiplier(1.7, 3.0)

    @jax.jit
    def release(grads, count, clip_norm, noise_keys, count_noise):
        larger = dataclasses.replace(mechanism, noise_multiplier=z)
        mean = noisy_mean(grads, noise_keys, mechanism=larger, clip_norm=clip_norm)
        on_grid = (2 * count).astype(jnp.int32) * 2**15 + count_noise
        noisy_count = on_grid.astype(jnp.float32) / 2**16
        factor = jnp.exp(-0.2 * (0.5 + noisy_count / 12 - 0.5))
        return mean, clip_norm * factor

    clipped = jax.jit(lambda c, *args: dpjax.clipped_grad(linear_loss, clip_norm=c)(*args))
    sampler = dpjax.PoissonSampler.for_mechanism(mechanism, key)
    params, clip_norm = want_params, want_clip_norm = jnp.zeros(5), jnp.float32(1.5)
    for step in range(4):
        total, grads, count = private.zeros(params, step, clip_norm), jnp.zeros(5), jnp.float32(0)
        assert total.clip_norm is not clip_norm
        for rows, mask in private.batches(step, microbatch_size=5):
            total = private.add(total, params, data[rows], mask)
        for rows, mask in dpjax.privatize.microbatches(sampler.indices(step), 5):
            one = clipped(want_clip_norm, want_params, data[rows], mask)
            grads, count = grads + one.grads, count + one.centered_count
        mean, clip_norm = private.release(total, step)
        want, want_clip_norm = release(
            grads,
            count,
            want_clip_norm,
            key.noise_keys(step),
            Grid(2**15).draw(6.0, key.quantile_blocks(step), 1)[0],
        )
        np.testing.assert_array_equal(mean, want)
        assert float(clip_norm) == float(want_clip_norm) != 1.5
        params, want_params = params - mean, want_params - want
    assert private._compiled_add._cache_size() == 1


@pytest.mark.usefixtures("compilations_count")
@pytest.mark.parametrize(("quantile", "start"), [(0.3, 100.0), (0.5, 0.01), (0.9, 1.0)])
def test_the_clip_norm_goes_to_the_quantile(quantile, start):
    rng = np.random.default_rng(0)
    units = 200
    batch = rng.normal(size=(units, 5)).astype(np.float32)
    batch *= (rng.lognormal(size=(units, 1)) / np.linalg.norm(batch, axis=1)[:, None]).astype("f")
    private = make(
        dpsgd(units, units, 1.0, num_steps=80),
        AdaptiveClipping(target_quantile=quantile, learning_rate=0.5, count_stddev=2.0),
        RunKey.from_seed(5),
    )
    clip_norm = start
    for step in range(80):
        total = private.zeros(jnp.zeros(5), step, clip_norm)
        for rows, mask in private.batches(step, microbatch_size=units):
            total = private.add(total, jnp.zeros(5), batch[rows], mask)
        _, clip_norm = private.release(total, step)
    share = np.mean(np.linalg.norm(batch, axis=1) <= float(clip_norm))
    assert share == pytest.approx(quantile, abs=0.05)
    assert private._compiled_add._cache_size() == 1
    assert private._compiled_release._cache_size() == 1


def test_the_clip_norm_stays_a_positive_float32():
    rule = AdaptiveClipping(learning_rate=50.0, count_stddev=1.0)
    for start, count in ((1e-37, 5.0), (1e37, -5.0)):
        following = rule.next_clip_norm(jnp.float32(count), start, 10)
        assert following.dtype == jnp.float32
        assert 1e-38 < following < 1e38


def test_the_count_has_a_noise_stream_of_its_own():
    key = RunKey.from_seed(11)
    streams = [
        next(draw(step)) for draw in (key.noise_blocks, key.quantile_blocks) for step in range(20)
    ]
    assert len(set(streams)) == 40
    # A release takes the one for the count, and Threefry keys for the gradient.
    private = make(dpsgd(1000, 100, 1.0), AdaptiveClipping(), key)
    taken = {}
    object.__setattr__(private, "_compiled_release", lambda *args: taken.update(drawn=args[-2:]))
    total = private.zeros(jnp.zeros(1), 3, 1.0)
    total = dataclasses.replace(total, num_records=jnp.int32(len(private._drawn_units(3))))
    private.release(total, 3)
    noise_keys, count_noise = taken["drawn"]
    assert jnp.array_equal(jax.random.key_data(noise_keys), jax.random.key_data(key.noise_keys(3)))
    assert count_noise == Grid(2**15).draw(10.0, key.quantile_blocks(3), 1)[0]


def test_noise_that_no_grid_holds_is_refused_before_anything_is_computed():
    with pytest.raises(ValueError, match="count_stddev=1 does not go with batches"):
        make(dpsgd(10**10, 10**9, 1.0), AdaptiveClipping(count_stddev=1.0))


def test_it_is_a_rule_of_private_gradient_only():
    with pytest.raises(TypeError, match="rule must be a clipping rule"):
        dpjax.clipped_grad(linear_loss, rule=AdaptiveClipping())


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, jnp.float32(0.0)])
def test_a_bad_clip_norm_is_refused(clip_norm):
    private = make(dpsgd(1000, 100, 1.0), AdaptiveClipping())
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        private.zeros(jnp.zeros(1), 0, clip_norm)


def test_misuse_is_refused_as_with_a_constant_clip_norm():
    private = make(dpsgd(1000, 100, 1.0), AdaptiveClipping())
    zeros = private.zeros(jnp.zeros(1), 0, 1.0)
    with pytest.raises(ValueError, match="total has 0 records"):
        private.release(zeros, 0)
    total = dataclasses.replace(zeros, num_records=jnp.int32(len(private._drawn_units(0))))
    with pytest.raises(ValueError, match="made for step 0, got step 1"):
        private.release(total, 1)
    private.release(total, 0)
    with pytest.raises(ValueError, match="released already"):
        private.release(dataclasses.replace(total, grads=jnp.ones(1)), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_quantile": 1.0}, "target_quantile must lie strictly between 0 and 1, got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"count_stddev": float("nan")}, "count_stddev must be positive"),
        ({"count_stddev": 1.0}, "too small for the noise multiplier 2: .* above 1$"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(dpsgd(1000, 100, 2.0), AdaptiveClipping(**options))


def test_other_neighbouring_relations_are_refused():
    mechanism = dataclasses.replace(dpsgd(1000, 100, 1.0), neighboring="replace_one")
    with pytest.raises(ValueError, match="'replace_one'"):
        make(mechanism, AdaptiveClipping())
