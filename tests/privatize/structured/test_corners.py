"""Losses at the edge: nothing to sum over, values shared by all examples, derivatives of a sum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.privatize.structured import clipped_sums
from tests.support.slow import mark_slow
from tests.support.structures import build

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")
EMPTY = {
    "no tokens": (
        {"w": (5, 3), "b": (3,)},
        (0, 5),
        lambda p, x: jnp.sum(x @ p["w"]) + jnp.sum(jnp.tanh(p["b"])),
    ),
    "an adapter of rank zero": (
        {"w": (5, 3), "a": (5, 0), "r": (0, 3)},
        (4, 5),
        lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + (x @ p["a"]) @ p["r"])),
    ),
    "no layers": (
        {"w": (0, 5, 5), "v": (5,)},
        (4, 5),
        lambda p, x: jnp.sum(
            jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0] @ p["v"]
        ),
    ),
    "no lookups": (
        {"table": (7, 3), "w": (3, 3)},
        (0,),
        lambda p, x: jnp.sum(p["table"][x.astype(int)]) + jnp.sum(jnp.tanh(p["table"] @ p["w"])),
    ),
    "no experts": (
        {"w": (0, 5, 3), "b": (3,)},
        (4, 5),
        lambda p, x: jnp.sum(jnp.einsum("td,edp->tp", x, p["w"]) + jnp.tanh(p["b"])),
    ),
}


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("name", "microbatch_size"),
    mark_slow(
        itertools.product(EMPTY, [None, 1]),
        lambda name, microbatch_size: microbatch_size == 1 and name != "no tokens",
    ),
)
def test_nothing_to_sum_over_adds_nothing(name, microbatch_size, strategy):
    shapes, shape, loss = EMPTY[name]
    rng = np.random.default_rng(0)
    params = {key: jnp.asarray(rng.normal(size=size), jnp.float32) for key, size in shapes.items()}
    batch = jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
    right = [jax.grad(loss)(params, x) for x in batch]
    norms = [np.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(one))) for one in right]
    fn = dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy, microbatch_size=microbatch_size)
    got = jax.jit(fn)(params, batch)
    np.testing.assert_allclose(got.norms, norms, rtol=1e-5)
    for key in params:
        np.testing.assert_allclose(got.grads[key], sum(g[key] for g in right), rtol=1e-4, atol=1e-6)
    dpjax.explain(loss, params, batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loop_that_is_never_entered(strategy):
    """Its weight is a constant of the loop, whose gradient the loop would add up."""

    def loss(w, x):
        h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ w["in"]), None), x, None, length=0)
        return jnp.sum(jnp.tanh(h @ w["out"]))

    w, x = {"in": jnp.eye(3), "out": jnp.eye(3)}, jax.random.normal(jax.random.key(0), (2, 4, 3))
    got = dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy)(w, x)
    right = [jax.grad(loss)(w, one) for one in x]
    np.testing.assert_allclose(got.norms, [jnp.linalg.norm(g["out"]) for g in right], rtol=1e-5)
    assert not np.any(got.grads["in"])


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize(
    "strategy", mark_slow(STRATEGIES, lambda strategy: strategy == "materialize")
)
@pytest.mark.parametrize(
    ("kind", "rows"),
    [("uint8", 256), ("uint8", 300), ("int8", 200), ("int16", 300), ("uint16", 70), ("uint32", 9)],
)
def test_row_numbers_of_any_integer_format(kind, rows, strategy):
    """The size of the table may not fit into it."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(rows, 4)), jnp.float32)
    last = min(rows - 1, int(np.iinfo(kind).max))
    ids = rng.integers(0, last + 1, (3, 6))
    ids[:, 0], ids[:, 1] = last, last
    ids = jnp.asarray(ids, kind)

    def loss(table, ids):
        h = jnp.take(table, ids, axis=0)
        return jnp.sum(jnp.tanh(h @ table[:7].T) ** 2)

    right = [jax.grad(loss)(table, one) for one in ids]
    got = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy))(table, ids)
    np.testing.assert_allclose(got.norms, [jnp.linalg.norm(g) for g in right], rtol=1e-5)
    np.testing.assert_allclose(got.grads, sum(right), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clamped", [False, True])
def test_row_numbers_outside_of_the_table_stay_outside(clamped):
    """Also those that a signed format of 32 bits does not hold."""
    ids = jnp.asarray([[1, 2**32 - 1, 2**31, 3]], jnp.uint32)
    mode = "clip" if clamped else "fill"

    def loss(table, ids):
        h = jnp.take(table, ids, axis=0, mode=mode, fill_value=0.0)
        return jnp.sum(jnp.tanh(h) ** 2)

    table = jax.random.normal(jax.random.key(0), (5, 3))
    right = jax.grad(loss)(table, ids[0])
    got = dpjax.clipped_grad(loss, clip_norm=1e6, strategy="two_backwards")(table, ids)
    np.testing.assert_allclose(got.grads, right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.norms[0], jnp.linalg.norm(right), rtol=1e-5)


def every_other_layer(w, x):
    """The number of the layer is carried beside the activations."""

    def layer(carry, w):
        index, h = carry
        h = jax.lax.cond(index % 2 == 0, lambda h: jnp.tanh(h @ w), lambda h: h, h)
        return (index + 1, h), None

    return jnp.sum(jax.lax.scan(layer, (0, x), w)[0][1] ** 2)


def by_a_flag_of_the_parameters(w, x):
    use = jnp.sum(w) > 0
    h = jax.lax.cond(use, lambda h: jnp.tanh(h @ w[0]), lambda h: h, x)
    return jnp.sum(jax.lax.cond(use, lambda h: jnp.sin(h @ w[1]), lambda h: h, h) ** 2)


@pytest.mark.parametrize("strategy", STRATEGIES[1:3])
@pytest.mark.parametrize(
    "loss",
    [every_other_layer, pytest.param(by_a_flag_of_the_parameters, marks=pytest.mark.slow)],
)
def test_a_conditional_on_what_all_examples_share_stays_one(loss, strategy):
    w, x = jnp.stack([0.5 * jnp.eye(3)] * 4), jax.random.normal(jax.random.key(0), (2, 3))
    right = [jnp.linalg.norm(jax.grad(loss)(w, one)) for one in x]
    fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy))
    np.testing.assert_allclose(fn(w, x).norms, right, rtol=1e-5)
    conditionals = [
        jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=name))
        .lower(w, x)
        .as_text()
        .count("stablehlo.case")
        for name in ("materialize", strategy)
    ]
    assert conditionals[1] >= conditionals[0] >= 2
    assert "stablehlo.select" not in fn.lower(w, x).as_text().split("stablehlo.case")[1][:200]


@pytest.mark.parametrize("strategy", STRATEGIES[1:3])
def test_a_loop_whose_end_must_be_shared(strategy):
    """As equinox's loops that are differentiated in reverse demand of their counters."""

    @jax.custom_batching.custom_vmap
    def demand(counter):
        return counter

    @demand.def_vmap
    def refuse(axis_size, in_batched, counter):
        assert not in_batched[0], "the counter differs between examples"
        return counter, False

    @jax.custom_vjp
    def step(counter, h):
        return h

    def forwards(counter, h):
        return h, counter

    def backwards(counter, g):
        return None, g * jnp.where(demand(counter) >= 0, 1.0, 2.0)

    step.defvjp(forwards, backwards)

    def loss(w, x):
        def layer(carry, _):
            counter, h = carry
            return (counter + 1, step(counter, jnp.tanh(h @ w))), None

        return jnp.sum(jax.lax.scan(layer, (jnp.zeros((), int), x), None, length=3)[0][1])

    x = jax.random.normal(jax.random.key(0), (2, 3))
    right = [jnp.linalg.norm(jax.grad(loss)(jnp.eye(3), one)) for one in x]
    got = dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy)(jnp.eye(3), x)
    np.testing.assert_allclose(got.norms, right, rtol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES[1:3])
@pytest.mark.parametrize(
    "name",
    [
        "dense_network",
        "one_token",
        pytest.param("tied_scanned_rematerialised_decoder", marks=pytest.mark.slow),
        pytest.param("tied_head_in_slices_rematerialised", marks=pytest.mark.slow),
    ],
)
def test_a_clipped_sum_can_be_differentiated(name, strategy):
    """For meta-learning, hypergradients, and attacks that look for the worst example."""
    params, batch, loss = build(name)

    def derivative(strategy):
        fn = dpjax.clipped_grad(loss, clip_norm=0.5, strategy=strategy)

        def size(params):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(fn(params, batch).grads))

        return jax.jit(jax.grad(size))(params)

    got, right = derivative(strategy), derivative("materialize")
    for path, leaf in jax.tree_util.tree_leaves_with_path(right):
        value = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(got)}
        size = float(jnp.max(jnp.abs(leaf)))
        np.testing.assert_allclose(
            value[jax.tree_util.keystr(path)], leaf, rtol=2e-3, atol=2e-3 * size
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("microbatch_size", [None, 3])
@pytest.mark.parametrize(
    "name",
    [
        "tied_scanned_rematerialised_decoder",
        "tied_head_in_slices_rematerialised",
        "head_in_slices",
        "computed_in_bfloat16",
    ],
)
def test_ranks_are_never_promoted_in_silence(monkeypatch, name, microbatch_size, strategy):
    if microbatch_size is not None:
        # So small that norms are taken in slices.
        monkeypatch.setattr(clipped_sums, "DEFAULT_BUDGET_VALUES", 64)
    params, batch, loss = build(name)
    if "s" in params:
        params |= {"s": params["s"][None]}
    fn = dpjax.clipped_grad(loss, clip_norm=0.5, strategy=strategy, microbatch_size=microbatch_size)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(fn, params, batch, jnp.ones(4, bool))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_operation_that_cannot_be_batched_is_named(strategy):
    def loss(w, example):
        return jnp.sum(jnp.tanh(jax.lax.ragged_dot(example[0], w, example[1])))

    batch = jnp.ones((2, 6, 5)), jnp.asarray([[1, 2, 3], [3, 0, 3]], jnp.int32)
    fn = dpjax.clipped_grad(loss, clip_norm=1.0, strategy=strategy)
    with pytest.raises(NotImplementedError, match="ragged_dot, multiply by every expert"):
        fn(jnp.ones((3, 5, 4)), batch)
