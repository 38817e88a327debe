"""Gradient canaries: exactly C in a coordinate of their own, and scores by the densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpjax.audit import auc
from dpjax.audit.canaries.gradient_canaries import (
    add_gradient_canaries,
    canary_coordinates,
    log_likelihood_ratio,
    unused_coordinates,
)
from dpjax.privatize import RunKey, clipped_grad, gaussian_noise

TREE = {
    "a": jnp.arange(6.0).reshape(2, 3),
    "b": {"w": jnp.float32(7.0), "none": jnp.zeros((0, 4)), "v": jnp.arange(8.0, 12.0)},
}
SIZE = 11


def flatten(tree):
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_each_included_canary_adds_the_clip_norm_at_its_place(transform):
    coordinates = np.array([10, 0, 6, 3])
    included = np.array([True, False, True, True])

    @transform
    def add(tree, included, coordinates, clip_norm):
        return add_gradient_canaries(tree, included, coordinates=coordinates, clip_norm=clip_norm)

    new = add(TREE, included, coordinates, 0.25)
    assert jax.tree.structure(new) == jax.tree.structure(TREE)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))
    expected = flatten(TREE)
    expected[[10, 6, 3]] += 0.25
    np.testing.assert_array_equal(flatten(new), expected)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_what_was_added_is_read_again(transform):
    coordinates = jnp.arange(SIZE)[::-1]
    read = transform(lambda tree: canary_coordinates(tree, coordinates=coordinates, clip_norm=0.5))
    np.testing.assert_array_equal(read(TREE), flatten(TREE)[::-1] / 0.5)
    # A flat array is a tree too.
    np.testing.assert_array_equal(read(jnp.arange(11.0)), np.arange(11.0)[::-1] / 0.5)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_any_tree_agrees_with_its_flat_form(shapes, seed):
    rng = np.random.default_rng(seed)
    tree = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    flat = flatten(tree)
    coordinates = rng.permutation(len(flat))[: rng.integers(0, len(flat) + 1)]
    included = rng.random(len(coordinates)) < 0.5
    new = add_gradient_canaries(tree, included, coordinates=coordinates, clip_norm=1.5)
    expected = flat.copy()
    expected[coordinates[included]] += np.float32(1.5)
    np.testing.assert_array_equal(flatten(new), expected)
    read = canary_coordinates(new, coordinates=coordinates, clip_norm=1.0)
    np.testing.assert_array_equal(read, expected[coordinates])


def test_a_leaf_that_no_loss_reads_is_unused():
    params = {"model": jnp.ones(5), "canaries": jnp.zeros(4)}
    grads = jax.jit(clipped_grad(lambda p, x: jnp.dot(p["model"], x), clip_norm=1.0))(
        params, jnp.eye(5), jnp.ones(5, bool)
    ).grads
    coordinates = unused_coordinates(grads, 4)
    # Leaves are in the order of their names.
    assert coordinates.tolist() == [0, 1, 2, 3] and coordinates.dtype == np.int32
    with pytest.raises(ValueError, match=r"5 canaries need as many coordinates .* got 4"):
        unused_coordinates(grads, 5)
    with pytest.raises(ValueError, match="at least 1"):
        unused_coordinates(grads, 0)


def test_canaries_change_nothing_else():
    """Orthogonal: with and without a canary the sums differ in one coordinate, by exactly C."""
    base = jax.tree.map(lambda x: x * 1e4, TREE)
    some = add_gradient_canaries(
        base, jnp.array([True, True]), coordinates=jnp.array([0, 6]), clip_norm=2.0
    )
    one = add_gradient_canaries(
        base, jnp.array([True, False]), coordinates=jnp.array([0, 6]), clip_norm=2.0
    )
    difference = flatten(some) - flatten(one)
    assert np.linalg.norm(difference) == 2.0 and np.flatnonzero(difference).tolist() == [6]


def density_ratio(x, sigma, q):
    """From the two densities, in float64."""
    present = stats.norm.pdf(x, 1, sigma)
    absent = stats.norm.pdf(x, 0, sigma)
    return np.log(((1 - q) * absent + q * present) / absent)


@pytest.mark.parametrize("q", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_the_ratio_is_that_of_the_densities(q, sigma):
    x = np.random.default_rng(1).normal(0.3, sigma, (40, 6))
    scores = log_likelihood_ratio(x, noise_multiplier=sigma, sampling_probability=q)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, density_ratio(x, sigma, q).sum(axis=0), rtol=2e-5, atol=2e-5)


def test_values_by_hand():
    """log(0.9 + 0.1·e^{0.5}), log(0.9 + 0.1·e^{-0.5}), and an exponent that would overflow."""
    x = jnp.array([[1.0, 0.0, 200.0]])
    scores = log_likelihood_ratio(x, noise_multiplier=1.0, sampling_probability=0.1)
    np.testing.assert_allclose(scores, [0.062854723, -0.040141949, 197.197415], rtol=1e-6)


def test_scores_of_parts_of_the_steps_add_up():
    x = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    score = jax.jit(
        lambda x: log_likelihood_ratio(x, noise_multiplier=1.5, sampling_probability=0.2)
    )
    np.testing.assert_allclose(score(x[:2]) + score(x[2:]), score(x), atol=1e-6)


@pytest.fixture(scope="module")
def mechanism():
    """Scores of 2,000 canaries, half of them in, by the real noise: total and all iterates."""
    m, steps, sigma, clip, q = 2000, 60, 0.7, 0.25, 0.1
    key, rng = RunKey.from_seed(5), np.random.default_rng(3)
    coins = rng.random(m) < 0.5
    coordinates = rng.permutation(m)

    @jax.jit
    def step(taking_part, keys):
        total = {"canaries": jnp.zeros((40, 50))}
        total = add_gradient_canaries(total, taking_part, coordinates=coordinates, clip_norm=clip)
        noise = gaussian_noise(keys, total, sigma * clip)
        noisy = jax.tree.map(jnp.add, total, noise)
        return canary_coordinates(noisy, coordinates=coordinates, clip_norm=clip)

    taken = coins & (rng.random((steps, m)) < q)
    iterates = np.stack([step(taken[t], key.noise_keys(t)) for t in range(steps)])
    return coins, taken, iterates, sigma, q


def test_iterates_are_distributed_as_said(mechanism):
    _, taken, iterates, sigma, _ = mechanism
    assert stats.kstest(iterates[taken], stats.norm(1, sigma).cdf).pvalue > 1e-3
    assert stats.kstest(iterates[~taken], stats.norm(0, sigma).cdf).pvalue > 1e-3


def test_the_ratio_of_all_iterates_tells_more_than_the_total(mechanism):
    coins, _, iterates, sigma, q = mechanism
    ratio = log_likelihood_ratio(iterates, noise_multiplier=sigma, sampling_probability=q)
    of_ratio = auc(np.asarray(ratio)[coins], np.asarray(ratio)[~coins])
    total = iterates.sum(axis=0)
    of_total = auc(total[coins], total[~coins])
    assert of_ratio > of_total + 0.03 > 0.8
    # Of the members E[ratio] is a divergence, hence positive, and of the others negative.
    assert ratio[coins].mean() > 0 > ratio[~coins].mean()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"coordinates": jnp.array([1, 1])}, ValueError, "must differ"),
        ({"coordinates": jnp.array([0, SIZE])}, ValueError, "between 0 and 10, got 0 to 11"),
        ({"coordinates": jnp.array([-1, 0])}, ValueError, "between 0 and 10, got -1"),
        ({"coordinates": jnp.array([0.0, 1.0])}, ValueError, "must be integers"),
        ({"coordinates": jnp.array([[0, 1]])}, ValueError, "must be integers"),
        ({"included": jnp.array([True])}, ValueError, r"included must be \(2,\)"),
        ({"clipped_sum": {"a": jnp.zeros(11, jnp.bfloat16)}}, TypeError, "need float32"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    right = {
        "clipped_sum": TREE,
        "included": jnp.array([True, True]),
        "coordinates": jnp.array([0, 1]),
        "clip_norm": 1.0,
    }
    with pytest.raises(error, match=message):
        add_gradient_canaries(**(right | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier must be positive"),
        ({"noise_multiplier": np.inf}, "noise_multiplier must be positive"),
        ({"sampling_probability": 0.0}, "sampling_probability must be above 0"),
        ({"sampling_probability": 1.1}, "sampling_probability must be above 0"),
        ({"iterates": np.zeros(3)}, "iterates must be"),
    ],
)
def test_impossible_mechanisms_are_refused(change, message):
    right = {"iterates": np.zeros((2, 3)), "noise_multiplier": 1.0, "sampling_probability": 0.5}
    with pytest.raises(ValueError, match=message):
        log_likelihood_ratio(**(right | change))
