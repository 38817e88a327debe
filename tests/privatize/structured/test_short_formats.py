"""No contribution exceeds C, whatever format a loss computes in and whatever it multiplies with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize.float32.scaling import dense_norm, normalised, sum_in_blocks
from dpjax.privatize.structured.terms.moves import Scale, apply_moves, factor_of

pytestmark = pytest.mark.slow

FAST = ("one_backward", "two_backwards")
FORMATS = {
    "float32": (jnp.float32, jnp.float32),
    "float16": (jnp.float16, jnp.float16),
    "bfloat16": (jnp.bfloat16, jnp.bfloat16),
    "float8": (jnp.float8_e5m2, jnp.float8_e4m3fn),
    "mixed": (jnp.float16, jnp.bfloat16),
}


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(tree)))


def worst_contribution(loss, params, batch, strategy, count=40):
    """The largest share of C that one example contributes, over many values of C."""
    norms = dpjax.clipped_grad(loss, clip_norm=1e30, strategy=strategy)(params, batch).norms
    fn = jax.jit(lambda c: dpjax.clipped_grad(loss, clip_norm=c, strategy=strategy)(params, batch))
    assert np.all(np.isfinite(norms))
    worst = 0.0
    for share in np.linspace(0.05, 0.99, count):
        c = np.float32(share * float(norms[0]))
        if c > 0:
            worst = max(worst, norm_of(fn(c).grads) / c)
    return worst


def times(x, w):
    """A product in float32 of what was rounded to shorter formats."""
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def scaled_weight_used_twice(formats, factor):
    first, second = formats

    def loss(p, example):
        x, y, g = example
        one, two = ((p["w"] * factor).astype(kind) for kind in formats)
        found = times(x.astype(first), one) + 3.0 * times(y.astype(second), two)
        return jnp.vdot(found, g) / factor

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(16, 12)), jnp.float32)}
    shapes = ((1, 4, 16), (1, 4, 16), (1, 4, 12))
    return loss, params, tuple(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)


def scaled_table_looked_up_and_multiplied(formats, factor):
    first, second = formats

    def loss(p, example):
        ids, targets = example
        table = (p["table"] * factor).astype(first)
        h = jnp.tanh((table[ids] * jnp.asarray(1.5, first)).astype(jnp.float32) / factor)
        logits = times(h.astype(second), (p["table"] * factor).astype(second).T) / factor
        return jnp.vdot(logits, targets)

    rng = np.random.default_rng(1)
    params = {"table": jnp.asarray(rng.normal(size=(9, 8)), jnp.float32)}
    ids = jnp.asarray(rng.integers(0, 9, (1, 6)), jnp.int32)
    return loss, params, (ids, jnp.asarray(rng.normal(size=(1, 6, 9)), jnp.float32))


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("factor", [1e-8, 2.9e-8, 0.1, 1.0038, 300.0, 1e8])
@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("make", [scaled_weight_used_twice, scaled_table_looked_up_and_multiplied])
def test_no_contribution_exceeds_the_clip_norm(make, formats, factor, strategy):
    loss, params, batch = make(FORMATS[formats], factor)
    norms = dpjax.clipped_grad(loss, clip_norm=1e30, strategy="materialize")(params, batch).norms
    if not np.isfinite(norms[0]) or norms[0] == 0:
        # The loss itself leaves the range of its format.
        got = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)(params, batch)
        assert norm_of(got.grads) <= 1.0
        return
    assert worst_contribution(loss, params, batch, strategy) <= 1.0


@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn])
def test_rows_that_are_zero_count_as_zero(kind, strategy):
    def loss(p, example):
        h = p["table"].astype(kind)[example["ids"]]
        return jnp.sum(h.astype(jnp.float32)) * example["on"] + jnp.sum(jnp.tanh(p["bias"]))

    params = {"table": jnp.ones((7, 3)), "bias": jnp.ones(2)}
    batch = {"ids": jnp.asarray([[1, 2], [3, 3]]), "on": jnp.asarray([0.0, 1.0])}
    got = jax.jit(dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy))(params, batch)
    right = dpjax.clipped_grad(loss, clip_norm=1.0, strategy="materialize")(params, batch)
    assert np.all(got.counted)
    np.testing.assert_allclose(got.norms, right.norms, rtol=1e-5)


@pytest.mark.parametrize("strategy", FAST)
@pytest.mark.parametrize("constants", [(1e30, 1e30, 1e-30), (1e-30, 1e-30, 1e30), (1e-20, 1e-20)])
def test_extreme_constants_in_a_row(constants, strategy):
    """One after the other they leave the range of float32 in a sum, all at once in a norm."""

    def loss(w, x):
        for constant in constants:
            w = w * constant
        return jnp.sum(x @ w)

    x = jnp.ones((1, 4, 3)) / min(1e30, max(1e-30, float(np.prod(constants))))
    got = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e-3, strategy=strategy))(jnp.ones((3, 5)), x)
    assert norm_of(got.grads) <= 1e-3


def test_constants_are_applied_at_once():
    moves = tuple(Scale(factor) for factor in (1e30, 1e30, -1e-30, 1e-30))
    assert factor_of(moves) == pytest.approx(1.0)
    np.testing.assert_allclose(apply_moves(moves, jnp.ones(3)), -jnp.ones(3))


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16, jnp.float8_e5m2, jnp.float32])
@pytest.mark.parametrize("size", [0.0, 3e-8, 1e-3, 57000.0])
def test_normalising_is_exact_in_every_format(kind, size):
    x = jnp.asarray([size, -0.37 * size], kind)
    got, scale = normalised(x)
    np.testing.assert_array_equal(np.float64(got) * float(scale), np.asarray(x, np.float64))


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize(
    "shape", [(), (1,), (31,), (33,), (1733,), (100_001,), (50257, 3), (768, 3072), (2, 3, 5, 7)]
)
def test_equal_numbers_are_added_without_drifting(shape):
    for value in np.float32(1 + np.random.default_rng(0).random(5)):
        got, additions = jax.jit(sum_in_blocks)(jnp.full(shape, value))
        right = np.prod(shape, dtype=float) * float(value)
        assert abs(float(got) - right) <= (int(additions) + 1) / 2 * 2**-24 * right
        assert additions < 130 + (shape[-1] if len(shape) > 1 else 0)
        norm = float(jax.jit(dense_norm)(jnp.full(shape, value)))
        exact = np.sqrt(np.prod(shape, dtype=float)) * float(value)
        assert exact * (1 - 2**-23) <= norm <= exact * (1 + int(additions) * 2**-24)


def test_numbers_that_are_not_finite_are_seen():
    x = jnp.ones((70, 9)).at[66, 3].set(jnp.nan)
    assert jnp.isnan(sum_in_blocks(x)[0])
    assert jnp.isinf(sum_in_blocks(jnp.ones(100).at[99].set(jnp.inf))[0])


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", ["materialize", *FAST])
@pytest.mark.parametrize("make", ["leaf", "leaves", "rows", "tokens", "products of tokens"])
def test_thousands_of_equal_entries_in_a_batch_of_one(make, strategy):
    """Every rounding has the same sign there."""
    value = jnp.float32(1.6180339)
    losses = {
        "leaf": (jnp.zeros((64, 48)), lambda p, x: jnp.sum(p * x)),
        "leaves": ([jnp.zeros(())] * 300, lambda p, x: sum(jnp.sum(w * x) for w in p)),
        "rows": (jnp.zeros((7, 16)), lambda p, x: jnp.sum(p[jnp.ones(4096, int)] * x)),
        "tokens": (jnp.ones((8, 8)), lambda p, x: jnp.sum((jnp.ones((4096, 8)) * x) @ p)),
        "products of tokens": (
            jnp.ones((1024, 512)),
            lambda p, x: jnp.sum((jnp.ones((64, 1024)) * x) @ p * x),
        ),
    }
    params, loss = losses[make]
    assert worst_contribution(loss, params, value[None], strategy, count=20) <= 1.0
