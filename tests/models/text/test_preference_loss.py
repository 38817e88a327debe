"""The loss of a pair against its formula, and log-probabilities of sequences inside a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpjax.models import continuation_log_probs, preference_loss, sequence_log_probs
from tests.support.tiny_checkpoints import random_model


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_formula(beta, smoothing):
    for chosen, rejected in ((-3.0, -7.0), (1.5, 2.0), (0.0, 0.0)):
        loss, margin = preference_loss(
            jnp.array([chosen, rejected]), beta=beta, label_smoothing=smoothing
        )
        expected = beta * (chosen - rejected)
        assert margin == pytest.approx(expected, rel=1e-6)
        terms = np.log(sigmoid(expected)), np.log(sigmoid(-expected))
        assert loss == pytest.approx(-(1 - smoothing) * terms[0] - smoothing * terms[1], rel=1e-6)


def test_it_stays_finite_where_a_sigmoid_would_not():
    def loss(ratio):
        return preference_loss(jnp.array([ratio, 0.0]), beta=1.0)[0]

    assert loss(-1e4) == pytest.approx(1e4) and loss(1e4) == 0
    assert jax.grad(loss)(-1e4) == pytest.approx(-1) and jax.grad(loss)(1e4) == 0


@pytest.mark.parametrize(
    ("ratios", "options", "message"),
    [
        (jnp.zeros((4, 2)), {"beta": 0.1}, r"shape \(2,\)"),
        (jnp.zeros(2), {"beta": 0.0}, "beta must be above 0, got 0.0"),
        (jnp.zeros(2), {"beta": 0.1, "label_smoothing": 0.5}, r"in \[0, 0.5\), got 0.5"),
    ],
)
def test_what_does_not_fit_is_refused(ratios, options, message):
    with pytest.raises(ValueError, match=message):
        preference_loss(ratios, **options)


@pytest.mark.parametrize("vocab_chunk", [None, 7])
def test_log_probs_of_sequences(vocab_chunk):
    model = random_model("gpt2", "causal_lm")
    ids = jax.random.randint(jax.random.key(0), (2, 3, 9), 3, 61)
    mask = jnp.arange(9) < jnp.array([[9, 5, 7], [4, 9, 6]])[..., None]
    counts = mask & (jnp.arange(9) >= 3)
    graphdef, state = nnx.split(model)

    @jax.jit
    def compute(state):
        merged = nnx.merge(graphdef, state)
        return sequence_log_probs(merged, ids, mask, counts, vocab_chunk=vocab_chunk)

    found = compute(state)
    rows = (part.reshape(6, 9) for part in (ids, mask, counts))
    expected = continuation_log_probs(model, *rows).sum(axis=1).reshape(2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_does_not_count_has_no_part_in_the_gradient():
    graphdef, state = nnx.split(random_model("gpt2", "causal_lm"))
    mask = jnp.ones((1, 6), bool)
    counts = jnp.arange(6)[None] == 3

    @jax.jit
    @jax.grad
    def gradient(state, ids):
        return sequence_log_probs(nnx.merge(graphdef, state), ids, mask, counts)[0]

    ids = jnp.array([[3, 4, 5, 6, 7, 8]])
    one, other = (gradient(state, each) for each in (ids, ids.at[0, 4:].set(9)))
    jax.tree.map(np.testing.assert_array_equal, one, other)
