"""The middle tier: what the loose parts compute, bit for bit, and nothing that they may not."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax import AutomaticClipping, FlatClipping, PerGroupClipping, RunKey
from dpjax.privatize import microbatches
from tests.support.private_loop import (
    CLIP_NORM,
    KEY,
    MECHANISM,
    SIZE,
    UNITS,
    assert_equal,
    linear,
    loss,
    make,
    make_params,
    take,
    total_of,
)


@pytest.mark.quick_cases(2)
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize(
    "rule",
    [
        FlatClipping(CLIP_NORM),
        AutomaticClipping(0.5),
        PerGroupClipping(lambda path: path, {"w": 0.2, "b": 0.1}),
    ],
    ids=["flat", "automatic", "groups"],
)
@pytest.mark.parametrize("strategy", ["materialize", "two_backwards"])
def test_it_is_the_loop_of_the_parts_bit_for_bit(rule, strategy):
    private = make(rule=rule, strategy=strategy)
    clipped = dpjax.clipped_grad(loss, rule=rule, strategy=strategy)
    sampler = dpjax.PoissonSampler.for_mechanism(MECHANISM, KEY)
    compiled = jax.jit(clipped)
    noisy_mean = jax.jit(
        functools.partial(dpjax.noisy_mean, mechanism=MECHANISM, clip_norm=clipped.clip_norm)
    )
    optimizer = optax.adam(0.1)
    params = expected = make_params()
    state = expected_state = optimizer.init(params)
    for step in range(3):
        total, grads = private.zeros(params, step), jax.tree.map(jnp.zeros_like, params)
        counts = np.zeros(2, int)
        for rows, mask in private.batches(step, microbatch_size=SIZE):
            total = private.add(total, params, take(rows), mask)
        for rows, mask in microbatches(sampler.indices(step), SIZE):
            one = compiled(expected, take(rows), mask)
            grads = jax.tree.map(jnp.add, grads, one.grads)
            counts += int(np.sum(mask)), int(one.num_clipped)
        assert_equal(total.grads, grads)
        assert [int(total.num_records), int(total.num_clipped)] == counts.tolist()
        assert int(total.num_losses) == counts[0] and int(total.num_nonfinite) == 0
        mean, want = private.release(total, step), noisy_mean(grads, KEY.noise_keys(step))
        assert_equal(mean, want)
        updates, state = optimizer.update(mean, state)
        params = optax.apply_updates(params, updates)
        updates, expected_state = optimizer.update(want, expected_state)
        expected = optax.apply_updates(expected, updates)
    assert_equal(params, expected)


@pytest.mark.usefixtures("compilations_count")
@pytest.mark.usefixtures("full_optimisation")
def test_release_and_update_is_one_program_with_the_update():
    optimizer = optax.adam(0.1)

    def update(mean, params, state):
        updates, state = optimizer.update(mean, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def fused(grads, keys, params, state):
        mean = dpjax.noisy_mean(grads, keys, mechanism=MECHANISM, clip_norm=CLIP_NORM)
        return update(mean, params, state)

    private = make()
    params = make_params()
    state = optimizer.init(params)
    for step in range(2):
        total = total_of(private, step, params)
        want = fused(total.grads, KEY.noise_keys(step), params, state)
        before = params
        params, state = private.release_and_update(update, total, step, params, state)
        assert_equal((params, state), want)
        # The buffers of what was updated are taken over.
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert private._compiled_update._cache_size() == 1
    with pytest.raises(ValueError, match="step 1 has been released already"):
        private.release_and_update(update, total, 1, params, state)


@pytest.mark.usefixtures("compilations_count")
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.slow
def test_what_is_shared_is_an_argument_and_no_constant():
    frozen = {"scale": jnp.full(100_000, 0.5), "table": jnp.arange(3)}

    def of_frozen(params, example, frozen, factor):
        logits = jnp.sum(params["w"] * frozen["scale"][:15].reshape(5, 3)) * frozen["table"][1]
        return factor * logits * jnp.sum(example["x"]) + params["b"].sum()

    private, params = make(of_frozen), make_params()
    ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
    zeros = functools.partial(private.zeros, params, 0)
    args = (params, take(rows), mask, frozen)
    lowered = private._compiled_add.lower(zeros(), *args, 2.0).as_text()
    assert "tensor<100000xf32>" in lowered and len(lowered) < 100_000
    one = private.add(zeros(), *args, 2.0)
    want = dpjax.clipped_grad(lambda p, x: of_frozen(p, x, frozen, 2.0), clip_norm=CLIP_NORM)(
        params, take(rows), mask
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), one.grads, want.grads)
    before = private._compiled_add._cache_size()
    private.add(zeros(), *args[:3], jax.tree.map(lambda leaf: leaf + 1, frozen), 3.0)
    assert private._compiled_add._cache_size() == before


def test_the_total_is_taken_over_by_add_and_by_release():
    private, params = make(), make_params()
    ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
    first = private.zeros(params, 0)
    private.add(first, params, take(rows), mask)
    assert first.grads["w"].is_deleted()
    for use in (
        lambda: private.add(first, params, take(rows), mask),
        lambda: private.release(first, 0),
    ):
        with pytest.raises(ValueError, match=r"used up.*Write total = private.add"):
            use()
    total = total_of(private)
    private.release(total, 0)
    assert total.grads["w"].is_deleted()
    assert int(total.num_records) == len(private._drawn_units(0))


def test_integer_leaves_keep_their_dtype_and_have_no_noise():
    fixed = {"ids": jnp.arange(3), "flag": jnp.array([True])}
    params = {"w": make_params()["w"].astype(jnp.bfloat16), "b": jnp.zeros(3), "fixed": fixed}
    private = make()
    total = total_of(private, 0, params)
    assert total.grads["w"].dtype == jnp.float32
    mean = private.release(total, 0)
    assert_equal(mean["fixed"], jax.tree.map(jnp.zeros_like, fixed))
    assert jax.tree.structure(mean) == jax.tree.structure(params)


def test_counts_of_units_that_are_not_finite():
    def of_scale(params, scale):
        return jnp.sum(params) * scale

    private = make(of_scale)
    total = private.add(
        private.zeros(jnp.ones(2), 0),
        jnp.ones(2),
        jnp.array([1.0, jnp.nan, 0.01, jnp.inf]),
        jnp.array([True, True, True, False]),
    )
    counts = (total.num_records, total.num_clipped, total.num_nonfinite, total.num_losses)
    assert [int(count) for count in counts] == [3, 1, 1, 2]
    assert float(total.loss) == pytest.approx(2.02)


def test_an_empty_batch_is_a_step_of_noise_alone():
    mechanism = dataclasses.replace(MECHANISM, expected_batch_size=0.05)
    private = make(mechanism=mechanism)
    step = next(s for s in range(5) if not len(private._drawn_units(s)))
    assert list(private.batches(step, microbatch_size=SIZE)) == []
    mean = private.release(private.zeros(make_params(), step), step)
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(mean))


def test_an_absent_unit_is_never_added_and_its_total_is_complete():
    drawn = np.concatenate([rows[mask] for rows, mask in make().batches(0, microbatch_size=SIZE)])
    present = np.arange(UNITS) != drawn[0]
    private = make(present=present)
    rest = np.concatenate([rows[mask] for rows, mask in private.batches(0, microbatch_size=SIZE)])
    assert sorted(rest) == sorted(drawn[1:])
    private.release(total_of(private), 0)


def test_an_order_may_only_change_the_order():
    private = make()
    drawn = private._drawn_units(0)
    ordered = list(private.batches(0, microbatch_size=SIZE, order=lambda units: units[::-1]))
    assert [row for rows, mask in ordered for row in rows[mask]] == drawn[::-1].tolist()
    for wrong in (
        lambda units: units[1:],
        lambda units: np.repeat(units, 2),
        lambda units: np.arange(len(units)),
        lambda units: np.where(units == units[0], units[1], units),
    ):
        with pytest.raises(ValueError, match="each once"):
            private.batches(0, microbatch_size=SIZE, order=wrong)


def test_a_resumed_run_repeats_the_release_of_the_step():
    params = make_params()
    first = make()
    for step in range(2):
        total = total_of(first, step, params)
        mean = first.release(total, step)
    resumed = make()
    assert_equal(resumed.release(total_of(resumed, 1, params), 1), mean)


# Units' gradients: vectors of any length, one of which may be missing.
LENGTHS = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=SIZE)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**32 - 1), st.integers(0, SIZE - 1))
def test_one_unit_moves_the_total_by_at_most_the_clip_norm(lengths, seed, missing):
    private, params, rows = linear()
    directions = np.random.default_rng(seed).normal(size=(SIZE, 6))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gradients = np.zeros((SIZE, 6), np.float32)
    gradients[: len(lengths)] = directions[: len(lengths)] * np.array(lengths)[:, None]
    mask = np.arange(SIZE) < len(lengths)
    without = mask & (np.arange(SIZE) != missing)
    sums = []
    for counted in (mask, without):
        # In two microbatches, so that a sum is added to a sum.
        total = private.add(private.zeros(params, 0), params, gradients, rows & counted)
        total = private.add(total, params, gradients, ~rows & counted)
        sums.append(np.asarray(total.grads, np.float64))
    moved = np.linalg.norm(sums[0] - sums[1])
    assert moved <= CLIP_NORM + 1e-5 * CLIP_NORM


@functools.cache
def test_the_key_is_not_printed():
    private = make(run_key=RunKey.from_os_entropy())
    assert private.run_key.secret.hex() not in repr(private) + repr(total_of(private))
    assert repr(private.run_key.secret) not in repr(private)


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_is_freed_with_all_that_it_compiled(adaptive):
    """Each compiled function holds memory maps; a process that makes many would run out of them."""

    def use():
        def own_loss(params, example):
            return loss(params, example)

        rule = dpjax.AdaptiveClipping(count_stddev=5.0) if adaptive else FlatClipping(CLIP_NORM)
        private = make(own_loss, rule=rule)
        start = (0.3,) if adaptive else ()
        private.release(total_of(private, 0, start=start), 0)
        if not adaptive:
            update = optax.apply_updates
            total = total_of(private, 1)
            private.release_and_update(
                lambda mean, params: update(params, mean), total, 1, make_params()
            )
        return weakref.ref(private), weakref.ref(own_loss)

    references = use()
    gc.collect()
    assert [reference() for reference in references] == [None, None]
