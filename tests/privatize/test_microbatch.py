"""Microbatches: order, masks and odd sizes under every strategy, and the memory they take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize import microbatch

STRATEGIES = ("materialize", "one_backward", "two_backwards")
SIZE, LENGTH = 6, 5


def loss(params, x):
    """Of one example, with what must come back in the caller's order."""
    h = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean(h @ params["v"]), {"first": x[0, 0], "h": h}


def make_params(size=SIZE):
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32),
        "b": jnp.ones(size),
        "v": jnp.asarray(rng.normal(size=(size, 2)), jnp.float32),
    }


def make_batch(examples):
    return jnp.asarray(np.random.default_rng(1).normal(size=(examples, LENGTH, SIZE)), jnp.float32)


@functools.cache
def clipped(strategy, microbatch_size):
    return jax.jit(
        dpjax.clipped_grad(
            loss,
            clip_norm=0.5,
            strategy=strategy,
            microbatch_size=microbatch_size,
            has_aux=True,
        )
    )


def check_equal(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), got, expected)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
@pytest.mark.parametrize(
    ("examples", "size"), [(7, 3), pytest.param(6, 4, marks=pytest.mark.slow), (3, 1), (1, 4)]
)
def test_the_size_of_microbatches_does_not_change_the_result(strategy, examples, size):
    params, batch = make_params(), make_batch(examples)
    mask = np.arange(examples) % 3 != 1
    got = clipped(strategy, size)(params, batch, mask)
    check_equal(got, clipped("materialize", None)(params, batch, mask))
    np.testing.assert_array_equal(got.aux["first"], batch[:, 0, 0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "masked", [range(3), range(3, 6), range(7), [0], [6], [0, 2, 4, 6], [1, 3, 5]]
)
def test_rows_may_be_masked_anywhere(strategy, masked):
    """Also all rows of a microbatch, and rows that the last microbatch sees a second time."""
    params, batch = make_params(), make_batch(7)
    mask = ~np.isin(np.arange(7), list(masked))
    soiled = jnp.where(mask[:, None, None], batch, jnp.nan)
    got = clipped(strategy, 3)(params, soiled, mask)
    expected = clipped("materialize", None)(params, batch, mask)
    check_equal(got[:3], expected[:3])
    assert int(got.num_nonfinite) == 0


@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
def test_an_empty_batch_is_all_zero(strategy):
    got = clipped(strategy, 3)(make_params(), make_batch(0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(got.grads))
    assert got.norms.shape == got.losses.shape == got.aux["first"].shape == (0,)
    assert got.aux["h"].shape == (0, LENGTH, SIZE)


def test_every_row_is_taken_once_and_comes_back_in_its_place():
    def clip(params, rows, mask):
        total = {"w": jnp.sum(jnp.where(mask, 2.0**rows, 0.0))}
        return total, jnp.where(mask, rows, 0), -rows, rows

    run = jax.jit(functools.partial(microbatch.run, clip, {"w": jnp.zeros(())}), static_argnums=2)
    for examples, size in [(1, 1), (5, 1), (7, 3), (8, 4), (9, 9), (12, 8), (14, 12), (15, 4)]:
        numbers = jnp.arange(1, examples + 1)
        grads, *rest = run(numbers, jnp.ones(examples, bool), size)
        assert grads["w"] == 2.0 ** (examples + 1) - 2
        for got, expected in zip(rest, (numbers, -numbers, numbers), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_is_that_of_one_microbatch_and_one_sum(strategy):
    params = make_params(64)
    parameter_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    def temporary_bytes(examples, microbatch_size):
        fn = dpjax.clipped_grad(
            lambda p, x: loss(p, x)[0],
            clip_norm=1.0,
            strategy=strategy,
            microbatch_size=microbatch_size,
        )
        batch = jax.ShapeDtypeStruct((examples, LENGTH, 64), jnp.float32)
        return jax.jit(fn).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    one = temporary_bytes(8, None)
    per_row = 64  # a few numbers for each example: the mask, its norm and its loss
    assert temporary_bytes(500, 8) <= one + 4 * parameter_bytes + 500 * per_row


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_adding_up_outside_holds_one_sum_when_it_is_donated(strategy):
    """As a training loop does that draws batches of varying size."""
    params = make_params(64)
    fn = dpjax.clipped_grad(lambda p, x: loss(p, x)[0], clip_norm=1.0, strategy=strategy)

    def accumulate(params, total, batch, mask):
        return jax.tree.map(jnp.add, total, fn(params, batch, mask).grads)

    rows = jax.ShapeDtypeStruct((8, LENGTH, 64), jnp.float32), jax.ShapeDtypeStruct((8,), bool)
    total = jax.tree.map(jnp.zeros_like, params)
    memory = (
        jax.jit(accumulate, donate_argnames="total")
        .lower(params, total, *rows)
        .compile()
        .memory_analysis()
    )
    assert memory.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(total))
    plain = jax.jit(fn).lower(params, *rows).compile().memory_analysis()
    own = plain.output_size_in_bytes + plain.temp_size_in_bytes
    assert memory.temp_size_in_bytes <= own
