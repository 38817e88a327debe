"""Adaptive clipping: it finds the quantile, and both releases together cost what is accounted."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGD
from scipy import stats

import dpjax
from dpjax import AdaptiveClipping, RunKey
from dpjax.privatize.rules.adaptive_clipping import gradient_noise_multiplier

SIZE = 100_000


def linear_loss(params, x):
    """Its gradient is x."""
    return jnp.sum(params * x)


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
    adaptive = AdaptiveClipping(DPSGD(100_000, 1024, 1.0, 10))
    assert adaptive.count_stddev == 1024 / 20
    assert adaptive.gradient_noise_multiplier == pytest.approx(1 + 0.00005, abs=5e-6)


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
    mechanism = DPSGD(1000, 100, 2.0, 10)
    adaptive = AdaptiveClipping(mechanism, learning_rate=0.1, count_stddev=7.0)

    def release(quantile_keys):
        return adaptive.noisy_mean(
            jnp.zeros(1), 12.5, 0.5, noise_keys=keys(0), quantile_keys=quantile_keys
        )[1]

    clip_norms = np.asarray(jax.jit(jax.vmap(release))(keys(1, 5000)), np.float64)
    # C' = C·exp(-η(b̃ - γ)), b̃ = ½ + (count + noise)/B, solved for the noise.
    noise = (0.5 - 0.5 - np.log(clip_norms / 0.5) / 0.1) * 100 - 12.5
    assert noise.std() == pytest.approx(7.0, rel=0.05)
    assert stats.kstest(noise / 7.0, "norm").pvalue > 1e-3
    for wrong in (0.8 * 7.0, 1.25 * 7.0):
        assert stats.kstest(noise / wrong, "norm").pvalue < 1e-6


def test_the_gradient_has_the_larger_noise():
    """z_Δ is 1.81 z here: whoever adds z promises more than is kept."""
    adaptive = AdaptiveClipping(DPSGD(1000, 50, 1.5, 10), count_stddev=0.9)
    total = {"a": jnp.full(SIZE, 3.0)}
    key = RunKey.from_seed(2)
    mean, _ = adaptive.noisy_mean(
        total, 0.0, jnp.float32(0.2), noise_keys=key.noise_keys(0), quantile_keys=key.noise_keys(1)
    )
    expected = 0.2 / math.sqrt(1 / 1.5**2 - 1 / 1.8**2)
    residual = np.asarray(mean["a"]) * 50 - 3.0
    assert expected > 1.8 * 1.5 * 0.2
    assert residual.std() == pytest.approx(expected, rel=0.01)
    assert residual.mean() == pytest.approx(0, abs=5 * expected / np.sqrt(SIZE))


@pytest.mark.parametrize(("quantile", "start"), [(0.3, 100.0), (0.5, 0.01), (0.9, 1.0)])
def test_the_clip_norm_goes_to_the_quantile(quantile, start):
    rng = np.random.default_rng(0)
    units = 200
    batch = rng.normal(size=(units, 5)).astype(np.float32)
    batch *= (rng.lognormal(size=(units, 1)) / np.linalg.norm(batch, axis=1)[:, None]).astype("f")
    adaptive = AdaptiveClipping(
        DPSGD(units, units, 1.0, 1), target_quantile=quantile, learning_rate=0.5, count_stddev=2.0
    )
    run_key = RunKey.from_seed(5)

    @jax.jit
    def step(clip_norm, noise_keys, quantile_keys):
        one = dpjax.clipped_grad(linear_loss, clip_norm=clip_norm)(jnp.zeros(5), batch)
        return adaptive.noisy_mean(
            one.grads,
            one.centered_count,
            clip_norm,
            noise_keys=noise_keys,
            quantile_keys=quantile_keys,
        )[1]

    clip_norm = jnp.float32(start)
    for t in range(80):
        clip_norm = step(clip_norm, run_key.noise_keys(t), run_key.quantile_keys(t))
    share = np.mean(np.linalg.norm(batch, axis=1) <= float(clip_norm))
    assert share == pytest.approx(quantile, abs=0.05)
    assert step._cache_size() == 1


def test_the_clip_norm_stays_a_positive_float32():
    adaptive = AdaptiveClipping(DPSGD(10, 10, 1.0, 1), learning_rate=50.0, count_stddev=1.0)
    for start, count in ((1e-37, 5.0), (1e37, -5.0)):
        _, following = adaptive.noisy_mean(
            jnp.zeros(1), count, start, noise_keys=keys(0), quantile_keys=keys(1)
        )
        assert following.dtype == jnp.float32
        assert 1e-38 < following < 1e38


def test_the_count_has_a_noise_stream_of_its_own():
    key = RunKey.from_seed(11)
    words = [
        jax.random.key_data(draw(step)).ravel().tolist()
        for draw in (key.noise_keys, key.quantile_keys)
        for step in range(20)
    ]
    flat = [tuple(w[i : i + 2]) for w in words for i in range(0, len(w), 2)]
    assert len(set(flat)) == len(flat) == 2 * 20 * 4
    again = RunKey.from_seed(11).quantile_keys(3)
    assert jnp.array_equal(jax.random.key_data(again), jax.random.key_data(key.quantile_keys(3)))
    adaptive = AdaptiveClipping(DPSGD(1000, 100, 1.0, 10))
    with pytest.raises(ValueError, match="must differ"):
        adaptive.noisy_mean(jnp.zeros(1), 0.0, 1.0, noise_keys=again, quantile_keys=again)


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
        AdaptiveClipping(DPSGD(1000, 100, 2.0, 10), **options)


def test_other_neighbouring_relations_are_refused():
    mechanism = types.SimpleNamespace(
        neighboring="replace_one", noise_multiplier=1.0, expected_batch_size=100
    )
    with pytest.raises(ValueError, match="'replace_one'"):
        AdaptiveClipping(mechanism)
