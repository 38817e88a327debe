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
from dpjax_accounting import DPSGD, BandedDPSGD
from hypothesis import given, settings
from hypothesis import strategies as st

import dpjax
from dpjax import AutomaticClipping, FlatClipping, PerGroupClipping, RunKey
from dpjax.privatize import microbatches

UNITS, SIZE, CLIP_NORM = 60, 5, 0.3
MECHANISM = DPSGD(num_units=UNITS, expected_batch_size=12, noise_multiplier=1.7, num_steps=5)
KEY = RunKey.from_seed(3)


def loss(params, example):
    hidden = jnp.tanh(example["x"] @ params["w"] + params["b"])
    return jnp.sum((hidden - example["y"]) ** 2)


def make_params():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), "b": jnp.zeros(3)}


@functools.cache
def data():
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(UNITS, 5)).astype(np.float32) * rng.lognormal(size=(UNITS, 1)),
        "y": rng.normal(size=(UNITS, 3)).astype(np.float32),
    }


def take(rows):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[rows], jnp.float32), data())


def make(loss_fn=loss, **options):
    options = {"mechanism": MECHANISM, "run_key": KEY} | options
    if not {"clip_norm", "rule"} & set(options):
        options["clip_norm"] = CLIP_NORM
    return dpjax.private_gradient(loss_fn, **options)


def total_of(private, step=0, params=None, skip=0, start=()):
    params = params or make_params()
    total = private.zeros(params, step, *start)
    for rows, mask in list(private.batches(step, microbatch_size=SIZE))[skip:]:
        total = private.add(total, params, take(rows), mask)
    return total


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


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


@pytest.mark.usefixtures("full_optimisation")
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
def linear():
    private = make(lambda params, gradient: jnp.sum(params * gradient))
    return private, jnp.zeros(6), np.arange(SIZE) % 2 == 0


class TestMisuse:
    """Everything that would void the guarantee, and that can be seen, is refused."""

    def test_a_step_is_released_once(self):
        private = make()
        private.release(total_of(private), 0)
        for params in (make_params(), jax.tree.map(lambda leaf: leaf + 1, make_params())):
            with pytest.raises(ValueError, match=r"step 0 has been released already.*fresh RunKey"):
                private.release(total_of(private, 0, params), 0)

    def test_a_refused_release_leaves_the_step_open(self):
        private = make()
        with pytest.raises(ValueError, match="records"):
            private.release(total_of(private, skip=1), 0)
        private.release(total_of(private), 0)

    @pytest.mark.parametrize("skip", [1, 100])
    def test_a_skipped_add(self, skip):
        private = make()
        drawn = len(private._drawn_units(0))
        with pytest.raises(ValueError, match=rf"records, the Poisson batch of step 0 has {drawn}"):
            private.release(total_of(private, skip=skip), 0)

    def test_an_add_too_many_or_without_the_mask(self):
        private, params = make(), make_params()
        total = total_of(private)
        ((rows, mask), *_, (_, last_mask)) = private.batches(0, microbatch_size=SIZE)
        assert not last_mask.all()
        total = private.add(total, params, take(rows), mask)
        with pytest.raises(ValueError, match="Add every microbatch"):
            private.release(total, 0)
        total = private.zeros(params, 0)
        for rows, mask in private.batches(0, microbatch_size=SIZE):
            total = private.add(total, params, take(rows), np.ones_like(mask))
        with pytest.raises(ValueError, match="with its mask"):
            private.release(total, 0)

    def test_a_total_of_another_step(self):
        private = make()
        with pytest.raises(ValueError, match=r"total was made for step 0, got step 1"):
            private.release(total_of(private, 0), 1)

    @pytest.mark.parametrize("step", [-1, 5, 10**6])
    def test_a_step_that_is_not_accounted_for(self, step):
        private, params = make(), make_params()
        for use in (
            lambda: private.zeros(params, step),
            lambda: private.batches(step, microbatch_size=SIZE),
            lambda: private.release(total_of(private), step),
        ):
            with pytest.raises(ValueError, match=r"step must be in range\(5\)"):
                use()

    @pytest.mark.parametrize("step", [True, 1.0, None])
    def test_a_step_that_is_no_integer(self, step):
        with pytest.raises(TypeError, match="integer"):
            make().zeros(make_params(), step)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"clip_norm": 0.6},
            {"rule": AutomaticClipping(CLIP_NORM)},
            {"run_key": RunKey.from_seed(4)},
            {"mechanism": dataclasses.replace(MECHANISM, noise_multiplier=0.1)},
        ],
        ids=["equal", "clip_norm", "rule", "run_key", "mechanism"],
    )
    def test_a_total_of_another_object(self, options):
        private, other = make(), make(**options)
        ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
        for use in (
            lambda total: private.release(total, 0),
            lambda total: private.add(total, make_params(), take(rows), mask),
        ):
            with pytest.raises(ValueError, match="belongs to another private gradient"):
                use(total_of(other))

    def test_a_total_of_nobody(self):
        private, params = make(), make_params()
        with pytest.raises(ValueError, match="belongs to another"):
            private.release(dpjax.StepTotal.zeros(params), 0)
        for total in (params, None):
            with pytest.raises(TypeError, match="total must come from zeros and add, got"):
                private.release(total, 0)

    @pytest.mark.parametrize(
        "change",
        [lambda p: p | {"c": jnp.zeros(2)}, lambda p: {"w": p["w"]}, lambda p: p | {"b": p["w"]}],
    )
    def test_a_total_of_other_parameters(self, change):
        private = make(lambda params, example: jnp.sum(params["w"]) * example["x"][0])
        ((rows, mask), *_) = private.batches(0, microbatch_size=SIZE)
        for _ in range(2):
            total = private.zeros(make_params(), 0)
            with pytest.raises(ValueError, match=r"total was made for other parameters: params\["):
                private.add(total, change(make_params()), take(rows), mask)

    def test_release_cannot_be_traced(self):
        private = make()
        total = total_of(private)
        with pytest.raises(TypeError, match=r"outside jax\.jit; release_and_update"):
            jax.jit(lambda total: private.release(total, 0))(total)
        private.release(total, 0)

    def test_the_clip_norm_is_a_constant(self):
        with pytest.raises(TypeError, match="the clip norm must be a constant"):
            jax.jit(lambda c: make(clip_norm=c).zeros(make_params(), 0).grads)(0.3)
        # A rule keeps the clip norms that it was given.
        clip_norms = {"w": 0.2, "b": 0.1}
        private = make(rule=PerGroupClipping(lambda path: path, clip_norms))
        clip_norms["w"] = 100.0
        assert private.rule.clip_norm == pytest.approx(np.hypot(0.2, 0.1))

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"clip_norm": 1.0, "rule": FlatClipping(1.0)}, TypeError, "either clip_norm or rule"),
            ({"rule": None}, TypeError, "either clip_norm or rule"),
            ({"rule": 1.0}, TypeError, "rule must be a clipping rule"),
            ({"clip_norm": 0.0}, ValueError, "clip_norm must be positive"),
            ({"strategy": "auo"}, ValueError, "Did you mean 'auto'"),
            ({"run_key": jax.random.key(0)}, TypeError, "run_key must be a RunKey"),
            (
                {
                    "mechanism": BandedDPSGD(
                        num_units=100,
                        expected_batch_size=10,
                        noise_multiplier=1.0,
                        num_steps=4,
                        bands=2,
                        column_norm=1.0,
                    )
                },
                TypeError,
                "mechanism must be a DPSGD.*BandedDPSGD",
            ),
        ],
    )
    def test_bad_options(self, options, error, message):
        with pytest.raises(error, match=message):
            make(**options)

    @pytest.mark.parametrize("size", [0, -1])
    def test_bad_microbatches(self, size):
        with pytest.raises(ValueError, match="microbatch_size must be at least 1"):
            make().batches(0, microbatch_size=size)


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
