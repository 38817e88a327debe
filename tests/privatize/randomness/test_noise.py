"""Scale, distribution and independence of the noise, and the randomness it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dpjax_accounting import DPSGD
from scipy import stats

from dpjax.privatize import NOISE_VERSION, RunKey, gaussian_noise, noisy_mean

SIZE = 100_000
# Of two vectors of one shape, and the ends of a stack of two large matrices.
PINNED = [-0.290661, 0.077535, 0.040938, -0.654015, -1.570630, 0.777507, 0.587736, 1.059057]


def noise(step=0, stddev=1.0, key=None, shape=(SIZE,)):
    key = key or RunKey.from_seed(7)
    return np.asarray(gaussian_noise(key.noise_keys(step), jnp.zeros(shape), stddev))


def test_noise_that_changes_has_another_version():
    """These numbers belong to NOISE_VERSION: raise it where they have to be changed."""
    like = {"w": jnp.zeros((2, 128, 129)), "b": jnp.zeros(3), "c": jnp.zeros(3)}
    noise = gaussian_noise(RunKey.from_seed(0).noise_keys(step=1), like, 1.0)
    pinned = [*noise["b"], *noise["c"], noise["w"][0, 0, 0], noise["w"][1, 127, 128]]
    assert NOISE_VERSION == 3
    np.testing.assert_allclose(pinned, PINNED, atol=1e-5)


@pytest.mark.parametrize("stddev", [1e-3, 1.0, 250.0])
def test_noise_is_normal_with_the_stated_scale(stddev):
    draw = noise(stddev=stddev)
    assert stats.kstest(draw / stddev, "norm").pvalue > 1e-3
    # The test has the power to see a wrong scale or the variance of a single halved draw.
    for wrong in (0.95, 1.05, 0.5, 2.0):
        assert stats.kstest(wrong * draw / stddev, "norm").pvalue < 1e-6


def test_noise_is_the_halved_sum_of_four_draws():
    """One float32 draw cannot leave [-5.42, 5.22]; four reach twice as far. All four count."""
    keys = RunKey.from_seed(7).noise_keys(0)
    other = RunKey.from_seed(8).noise_keys(0)
    whole = gaussian_noise(keys, jnp.zeros(SIZE), 1.0)
    for i in range(4):
        changed = jax.random.wrap_key_data(
            jax.random.key_data(keys).at[i].set(jax.random.key_data(other[i]))
        )
        correlation = np.corrcoef(whole, gaussian_noise(changed, jnp.zeros(SIZE), 1.0))[0, 1]
        assert correlation == pytest.approx(0.75, abs=0.01)


def test_noisy_mean_reads_the_mechanism():
    mechanism = DPSGD(num_units=1000, expected_batch_size=50, noise_multiplier=1.7, num_steps=10)
    total = {"a": jnp.full((SIZE,), 3.0), "b": jnp.zeros((4, 5))}
    mean = noisy_mean(total, RunKey.from_seed(1).noise_keys(0), mechanism=mechanism, clip_norm=0.3)
    residual = np.asarray(mean["a"]) * 50 - 3.0
    assert stats.kstest(residual / (1.7 * 0.3), "norm").pvalue > 1e-3
    assert np.std(residual) == pytest.approx(1.7 * 0.3, rel=0.01)
    assert mean["b"].shape == (4, 5)


def test_leaves_and_steps_have_independent_noise():
    key = RunKey.from_seed(3)
    two = gaussian_noise(key.noise_keys(0), {"a": jnp.zeros(SIZE), "b": jnp.zeros(SIZE)}, 1.0)
    pairs = [(two["a"], two["b"]), (noise(0, key=key), noise(1, key=key))]
    for left, right in pairs:
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("shape", [(3, 2, 128, 160), (2, 300, 128), (1, 200, 128)])
def test_matrices_that_are_drawn_in_turn_are_normal_and_independent(shape):
    draws = gaussian_noise(RunKey.from_seed(3).noise_keys(0), [jnp.zeros(shape)] * 2, 1.5)
    matrices = np.concatenate(draws).reshape(-1, shape[-2] * shape[-1])
    assert all(stats.kstest(matrix / 1.5, "norm").pvalue > 1e-3 for matrix in matrices)
    correlations = np.corrcoef(matrices) - np.eye(len(matrices))
    assert np.abs(correlations).max() < 5 / np.sqrt(matrices.shape[1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_lower_precision_is_refused(dtype):
    with pytest.raises(TypeError, match="float32 only"):
        gaussian_noise(RunKey.from_seed(0).noise_keys(0), jnp.zeros(3, dtype), 1.0)


def test_bad_arguments_are_refused():
    keys = RunKey.from_seed(0).noise_keys(0)
    with pytest.raises(ValueError, match="stddev"):
        gaussian_noise(keys, jnp.zeros(3), -1.0)
    with pytest.raises(ValueError, match="4 typed JAX keys"):
        gaussian_noise(keys[:1], jnp.zeros(3), 1.0)


def test_two_runs_never_share_a_noise_stream():
    first, second = RunKey.from_os_entropy(), RunKey.from_os_entropy()
    assert first.secret != second.secret
    assert abs(np.corrcoef(noise(key=first), noise(key=second))[0, 1]) < 5 / np.sqrt(SIZE)


def test_streams_of_one_run_are_separate_and_repeatable():
    key = RunKey.from_seed(11)
    words = [jax.random.key_data(key.noise_keys(step)).ravel().tolist() for step in range(50)]
    words += [jax.random.key_data(key.model_key(name)).tolist() for name in ("head", "lora")]
    flat = [tuple(w[i : i + 2]) for w in words for i in range(0, len(w), 2)]
    assert len(set(flat)) == len(flat) == 50 * 4 + 2
    np.testing.assert_array_equal(noise(5, key=key), noise(5, key=RunKey.from_seed(11)))
    first = key.sampling_rng(4).random(8)
    np.testing.assert_array_equal(first, RunKey.from_seed(11).sampling_rng(4).random(8))
    assert not np.array_equal(first, key.sampling_rng(5).random(8))


def test_seeds_beyond_32_bits_are_distinct():
    assert RunKey.from_seed(5).secret != RunKey.from_seed(2**32 + 5).secret
    with pytest.raises(ValueError, match="seed"):
        RunKey.from_seed(-1)


def test_the_secret_is_256_bits_and_not_printed():
    key = RunKey.from_os_entropy()
    assert len(key.secret) == 32
    assert "secret" not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        RunKey(b"short")


def test_what_is_dropped_has_a_stream_of_its_own():
    key = RunKey.from_seed(3)
    keys = [key.dropout_key(step) for step in (0, 1)] + [*key.noise_keys(0), *key.quantile_keys(0)]
    data = np.stack([jax.random.key_data(one) for one in keys])
    assert len(np.unique(data, axis=0)) == len(keys) == 10
    np.testing.assert_array_equal(data[0], jax.random.key_data(RunKey.from_seed(3).dropout_key(0)))
