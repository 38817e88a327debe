"""DP-AdamBC: Adam where there is no noise, and the signal alone where there is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpjax.training import scale_by_adam_bc


def run(transform, gradients):
    """The last update after all gradients, (steps, n)."""

    def step(state, gradient):
        updates, state = transform.update(gradient, state)
        return state, updates

    state = transform.init(jnp.asarray(gradients[0], jnp.float32))
    _, updates = jax.lax.scan(step, state, jnp.asarray(gradients, jnp.float32))
    return np.asarray(updates[-1])


def test_without_noise_it_is_adam():
    gradients = np.random.default_rng(0).normal(size=(5, 4))
    ours = run(scale_by_adam_bc(0.0, least_square=1e-30), gradients)
    adam = run(optax.scale_by_adam(eps=0.0), gradients)
    np.testing.assert_allclose(ours, adam, rtol=2e-6)


def test_it_follows_its_formula():
    rng = np.random.default_rng(1)
    gradients, stddev, floor = rng.normal(size=(6, 50)) * 0.3, 0.25, 1e-3
    mean, square = np.zeros(50), np.zeros(50)
    for gradient in gradients:
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient**2
    signal = np.maximum(square / (1 - 0.9**6) - stddev**2, floor)
    expected = mean / (1 - 0.8**6) / np.sqrt(signal)
    assert (signal == floor).any() and (signal > floor).any()
    transform = scale_by_adam_bc(stddev, b1=0.8, b2=0.9, least_square=floor)
    np.testing.assert_allclose(run(transform, gradients), expected, rtol=1e-4)


def test_noise_does_not_hide_the_size_of_a_gradient():
    noise = 0.1 * jax.random.normal(jax.random.key(0), (2000, 2))
    gradients = jnp.array([0.3, 0.03]) + noise
    steady = {"b1": 0.999, "b2": 0.999}
    corrected = run(scale_by_adam_bc(0.1, least_square=1e-6, **steady), gradients)
    hidden = run(optax.scale_by_adam(**steady), gradients)
    # Without noise both coordinates would move by 1.
    np.testing.assert_allclose(corrected, 1.0, atol=0.25)
    assert hidden[1] < 0.4


@pytest.mark.parametrize(
    ("stddev", "changes", "message"),
    [
        (-1.0, {}, "noise_stddev must be at least 0"),
        (float("nan"), {}, "noise_stddev must be at least 0"),
        (1.0, {"least_square": 0.0}, "least_square must be above 0"),
        (1.0, {"b1": 1.0}, "b1 must be at least 0 and below 1"),
        (1.0, {"b2": -0.1}, "b2 must be"),
    ],
)
def test_numbers_out_of_range_are_refused(stddev, changes, message):
    with pytest.raises(ValueError, match=message):
        scale_by_adam_bc(stddev, **changes)


def test_its_state_may_be_taken_over_by_a_compiled_step():
    state = scale_by_adam_bc(0.1).init({"w": jnp.zeros(3)})
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    assert int(step(state).step) == 1
