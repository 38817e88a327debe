"""A unit of several examples is clipped as one, and what is masked in it is not there."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from tests.support.slow import mark_slow
from tests.support.structures import build

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")
MASK = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


@functools.cache
def model(name):
    """Parameters, the loss of an example, units `(4, 3, ...)`, and the examples' gradients."""
    params, batch, loss = build(name)
    examples = jnp.stack([batch, batch[::-1], jnp.roll(batch, 1, axis=0)], axis=1)
    gradient = jax.jit(jax.grad(loss))
    gradients = np.stack(
        [[flatten(gradient(params, example)) for example in unit] for unit in examples]
    )
    return params, loss, examples, gradients


@pytest.mark.parametrize(
    ("reduction", "strategy"),
    mark_slow(
        itertools.product(["sum", "mean"], STRATEGIES),
        lambda reduction, strategy: reduction == "mean" and strategy != "auto",
    ),
)
def test_a_unit_is_clipped_as_one(reduction, strategy):
    params, loss, examples, gradients = model("tied_scanned_rematerialised_decoder")
    fn = dpjax.clipped_grad(
        dpjax.unit_loss(loss, reduction=reduction), clip_norm=0.5, strategy=strategy
    )
    got = jax.jit(fn)(params, {"examples": examples, "mask": MASK})
    of_units = np.einsum("ue,uep->up", MASK, gradients)
    if reduction == "mean":
        of_units /= np.maximum(1, MASK.sum(1))[:, None]
    norms = np.linalg.norm(of_units, axis=1)
    total = np.minimum(1, 0.5 / np.maximum(norms, 1e-9)) @ of_units
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    assert np.linalg.norm(flatten(got.grads) - total) <= 1e-5 * np.linalg.norm(total)
    assert got.norms[3] == got.losses[3] == 0
    # Clipped one by one, the examples would add up to something else.
    each = np.minimum(1, 0.5 / np.linalg.norm(gradients, axis=2)) * MASK
    assert np.linalg.norm(np.einsum("ue,uep->p", each, gradients) - total) > 0.1


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_unit_contributes_at_most_the_clip_norm(strategy):
    params, loss, examples, _ = model("dense_network")
    fn = jax.jit(dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=0.01, strategy=strategy))
    alone = fn(params, {"examples": examples[:1], "mask": MASK[:1]}).grads
    assert 0.00999 < np.linalg.norm(flatten(alone)) <= 0.01


def losses_that_are_not_finite_everywhere():
    return {
        "normalise": lambda p, x: p @ (x / jnp.sqrt(jnp.sum(x**2))),
        "logarithm": lambda p, x: p @ jnp.log(x),
        "product": lambda p, x: jnp.sum(jnp.exp(p * x) * x),
        "divide": lambda p, x: jnp.sum(p / x),
    }


@pytest.mark.quick_cases(16)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 0.0, 1e38])
@pytest.mark.parametrize("name", losses_that_are_not_finite_everywhere())
def test_masked_examples_contribute_nothing_whatever_they_hold(name, garbage, strategy):
    loss = losses_that_are_not_finite_everywhere()[name]
    params = jnp.array([0.3, -0.2])
    clean = np.random.default_rng(0).uniform(0.5, 2, size=(3, 3, 2)).astype(np.float32)
    mask = MASK[:3]
    dirty = np.where(mask[..., None], clean, np.float32(garbage))
    fn = jitted(name, strategy)
    got = fn(params, {"examples": dirty, "mask": mask})
    gradient = jax.grad(loss)
    want = [
        sum(gradient(params, x) for x, counts in zip(unit, row, strict=True) if counts)
        for unit, row in zip(clean, mask, strict=True)
    ]
    np.testing.assert_allclose(got.grads, sum(want), rtol=1e-5)
    assert int(got.num_nonfinite) == 0


@functools.cache
def jitted(name, strategy):
    loss = losses_that_are_not_finite_everywhere()[name]
    return jax.jit(dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=1e6, strategy=strategy))


@pytest.mark.quick_cases(12)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("garbage", [np.nan, 0.0, 1.0])
@pytest.mark.parametrize("name", losses_that_are_not_finite_everywhere())
def test_a_unit_without_examples_contributes_zero(name, garbage, strategy):
    units = {"examples": np.full((3, 3, 2), garbage, np.float32), "mask": np.zeros((3, 3), bool)}
    got = jitted(name, strategy)(jnp.ones(2), units)
    np.testing.assert_array_equal(got.grads, 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_units_without_room_for_examples(strategy):
    params, loss, examples, _ = model("dense_network")
    fn = dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=1.0, strategy=strategy)
    got = fn(params, {"examples": examples[:, :0], "mask": MASK[:, :0]})
    assert not flatten(got.grads).any()
    np.testing.assert_array_equal(got.norms, 0)


def test_an_example_that_counts_and_is_not_finite_takes_its_unit_out():
    params, loss, examples, gradients = model("dense_network")
    examples = examples.at[0, 1].set(jnp.nan)
    fn = dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=1e6)
    got = fn(params, {"examples": examples, "mask": MASK})
    total = np.einsum("ue,uep->p", MASK[1:], gradients[1:])
    np.testing.assert_allclose(flatten(got.grads), total, rtol=1e-4, atol=1e-5)
    assert int(got.num_nonfinite) == 1


def test_time_becomes_examples_times_time():
    params, loss, examples, _ = model("tied_scanned_rematerialised_decoder")
    found = dpjax.explain(dpjax.unit_loss(loss), params, {"examples": examples, "mask": MASK})
    terms = {p.name: [term.description for term in p.terms] for p in found.parameters}
    assert terms["['table']"] == ["contraction of 21, 11 × 6", "21 rows of 6 into 11"]
    assert terms["['w']"] == ["3 × contraction of 21, 6 × 6"]


@pytest.mark.slow
def test_an_example_may_hold_several_kinds_of_arrays():
    def loss(params, example):
        keep = jax.random.bernoulli(example["key"], 0.5, (2,))
        return jnp.sum(params[example["id"]] * example["x"] * keep)

    unit = {
        "examples": {
            "key": jax.random.split(jax.random.key(0), (2, 3)),
            "id": jnp.array([[0, 9, 9], [9, 9, 9]]),
            "x": jnp.ones((2, 3, 2), jnp.bfloat16),
        },
        "mask": np.array([[1, 0, 0], [0, 0, 0]], bool),
    }
    got = dpjax.clipped_grad(dpjax.unit_loss(loss), clip_norm=9.0)(jnp.ones(4), unit)
    want = jax.grad(loss)(jnp.ones(4), jax.tree.map(lambda leaf: leaf[0, 0], unit["examples"]))
    np.testing.assert_allclose(got.grads, want)


@pytest.mark.parametrize(
    ("unit", "error", "message"),
    [
        (jnp.ones(3), ValueError, "dict of 'examples' and 'mask'"),
        ({"examples": jnp.ones(3)}, ValueError, r"got \['examples'\]"),
        ({"examples": jnp.ones(3), "mask": jnp.ones(3)}, TypeError, "boolean"),
        ({"examples": jnp.ones(3), "mask": np.ones(2, bool)}, ValueError, "same leading"),
        ({"examples": {"x": 1.0}, "mask": np.ones(2, bool)}, ValueError, r"examples\['x'\]"),
    ],
)
def test_bad_units(unit, error, message):
    with pytest.raises(error, match=message):
        dpjax.unit_loss(lambda p, x: p * x)(jnp.ones(()), unit)


def test_a_reduction_that_is_not_known():
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        dpjax.unit_loss(lambda p, x: p * x, reduction="meen")
