"""Scores from gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpjax.audit import (
    GradientStatistics,
    gradient_norm_score,
    gradient_statistics,
    gradient_update_score,
)

PARAMS = {"w": jnp.array([[0.3, -0.2], [0.1, 0.5]]), "b": jnp.array([0.2, -0.4])}
RECORDS = {"x": jax.random.normal(jax.random.key(0), (7, 2)), "y": jnp.arange(7) % 2}


def loss(params, record):
    return -jax.nn.log_softmax(record["x"] @ params["w"] + params["b"])[record["y"]]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_they_equal_a_loop_over_records(batch_size):
    update = jax.tree.map(lambda x: 0.1 + x**2, PARAMS)
    found = gradient_statistics(loss, PARAMS, RECORDS, update=update, batch_size=batch_size)
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)])
    for index in range(7):
        record = {name: array[index] for name, array in RECORDS.items()}
        gradient = jax.grad(loss)(PARAMS, record)
        vector = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
        np.testing.assert_allclose(found.norms[index], np.linalg.norm(vector), rtol=1e-5)
        np.testing.assert_allclose(found.products[index], vector @ flat, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradient_norm_score(found), -found.norms.astype(np.float64))
    np.testing.assert_array_equal(gradient_update_score(found), -found.products.astype(np.float64))


def test_a_step_of_descent_gives_its_members_the_higher_score():
    member, other = jax.tree.map(lambda x: x[:1], RECORDS), jax.tree.map(lambda x: x[1:2], RECORDS)
    step = jax.tree.map(lambda g: -g, jax.grad(loss)(PARAMS, jax.tree.map(lambda x: x[0], member)))
    scores = [
        gradient_update_score(gradient_statistics(loss, PARAMS, records, update=step))[0]
        for records in (member, other)
    ]
    assert scores[0] > 0 > scores[1]


def test_what_is_missing_or_impossible_is_refused():
    alone = gradient_statistics(loss, PARAMS, RECORDS)
    assert alone.products is None
    with pytest.raises(ValueError, match="gradients must hold products, got None"):
        gradient_update_score(alone)
    with pytest.raises(ValueError, match="update must have the structure and the shapes of params"):
        gradient_statistics(loss, PARAMS, RECORDS, update={"w": PARAMS["w"]})
    with pytest.raises(ValueError, match="records must hold at least 1 record"):
        gradient_statistics(loss, PARAMS, jax.tree.map(lambda x: x[:0], RECORDS))
    broken = {"x": RECORDS["x"].at[2].set(jnp.nan), "y": RECORDS["y"]}
    with pytest.raises(ValueError, match="norms must be finite, got nan for record 2"):
        gradient_statistics(loss, PARAMS, broken)
    with pytest.raises(ValueError, match="norms must have shape"):
        GradientStatistics(norms=np.array([-1.0]))
    with pytest.raises(ValueError, match=r"products must have shape \(1,\)"):
        GradientStatistics(norms=np.ones(1), products=np.ones(2))
