"""The moving average of the parameters: its formula, and that training does not notice it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import dpjax
from dpjax import average_of, keep_average
from tests.support import mechanisms as kinds

DATA = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def fit(optimizer):
    return dpjax.fit(
        lambda params, record: jnp.sum((params - record) ** 2),
        jnp.zeros(3),
        DATA,
        mechanism=kinds.dpsgd(30, 6, 1.0, 7),
        optimizer=optimizer,
        clip_norm=1.0,
        run_key=dpjax.RunKey.from_seed(2),
    )


def test_it_is_the_weighted_mean_of_the_parameters_after_each_step():
    run, seen = fit(keep_average(optax.adam(0.1), 0.7)), []
    np.testing.assert_array_equal(average_of(run.state, run.params), np.zeros(3))
    for done in run:
        seen.append(np.asarray(done.params, np.float64))
        weights = 0.7 ** np.arange(len(seen))[::-1]
        expected = weights @ np.stack(seen) / weights.sum()
        np.testing.assert_allclose(average_of(done.state, done.params), expected, rtol=1e-5)
    # The last parameters, or a mean that counts the start, would be something else.
    assert np.abs(expected - seen[-1]).max() > 1e-2


def test_the_parameters_are_trained_as_without_it():
    quiet = Console(quiet=True)
    with_average = fit(keep_average(optax.adam(0.1), 0.7)).run(quiet)
    np.testing.assert_array_equal(with_average.params, fit(optax.adam(0.1)).run(quiet).params)


def test_it_is_kept_in_float32_and_returned_in_the_format_of_the_parameters():
    optimizer, params = keep_average(optax.sgd(1.0), 0.9), {"w": jnp.ones(4, jnp.bfloat16)}
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)({"w": jnp.ones(4, jnp.bfloat16)}, state, params)
    assert state.sums.ema["w"].dtype == jnp.float32
    reached = optax.apply_updates(params, updates)
    assert average_of(state, reached)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_bad_decays(decay):
    with pytest.raises(ValueError, match="decay must be above 0 and below 1"):
        keep_average(optax.sgd(1.0), decay)


def test_an_optimizer_without_an_average():
    with pytest.raises(TypeError, match=r"made by keep_average, got .*State|tuple"):
        average_of(optax.sgd(1.0).init(jnp.zeros(2)), jnp.zeros(2))
