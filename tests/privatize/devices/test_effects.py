"""Losses that do more than compute: what keeps state is not taken apart, what prints prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from tests.support.slow import mark_slow

STRATEGIES = ("materialize", "one_backward", "two_backwards", "auto")


def running_value(w, x):
    total = jax.new_ref(jnp.zeros(3))
    total[...] = total[...] + jnp.tanh(x @ w)
    return jnp.sum(total[...] ** 2)


def running_value_in_a_call(w, x):
    return jax.jit(running_value)(w, x)


def running_value_in_a_loop(w, x):
    total = jax.new_ref(jnp.zeros(3))

    def step(h, _):
        total[...] = total[...] + h
        return jnp.tanh(h @ w), None

    h, _ = jax.lax.scan(step, x, None, length=3)
    return jnp.sum(total[...] ** 2) + jnp.sum(h)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", [running_value, running_value_in_a_call, running_value_in_a_loop])
def test_state_is_kept_in_order_or_every_gradient_computed(loss, strategy):
    w, xs = jnp.eye(3), jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.1]])
    right = [jax.grad(loss)(w, x) for x in xs]
    fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=1e6, strategy=strategy))
    if strategy == "materialize":
        got = fn(w, xs)
    else:
        with pytest.warns(UserWarning, match="every per-example gradient.*whose order matters"):
            got = fn(w, xs)
    np.testing.assert_allclose(got.grads, sum(right), rtol=1e-5)
    np.testing.assert_allclose(got.norms, [jnp.linalg.norm(g) for g in right], rtol=1e-5)
    np.testing.assert_allclose(got.losses, [loss(w, x) for x in xs], rtol=1e-5)


def test_state_from_outside_may_be_read():
    shift = jax.new_ref(jnp.ones(3))
    fn = dpjax.clipped_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w + shift[...])), clip_norm=1e6)
    xs = jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.1]])
    with pytest.warns(UserWarning, match="whose order matters"):
        got = fn(jnp.eye(3), xs)
    right = jax.grad(lambda w: jnp.sum(jnp.tanh(xs @ w + 1.0)))(jnp.eye(3))
    np.testing.assert_allclose(got.grads, right, rtol=1e-5)


def printing(where):
    """A loss that notes values, and where it notes them."""
    seen = []

    def note(x):
        jax.debug.callback(lambda v: seen.append(float(v)), x)

    @jax.custom_vjp
    def backwards(h):
        return h

    def rule(_, g):
        note(jnp.sum(g))
        return (g,)

    backwards.defvjp(lambda h: (h, None), rule)

    def layer(h, w):
        if where == "loop":
            note(jnp.sum(h))
        if where == "branch":
            jax.lax.cond(jnp.sum(h) < 1e9, lambda: note(jnp.sum(h)), lambda: None)
        return jnp.tanh(h @ w), None

    def loss(w, x):
        if where == "call":
            jax.jit(note)(x[0])
        if where == "shared":
            note(w[0, 0, 0])
        h, _ = jax.lax.scan(layer, x, w)
        if where == "backward":
            h = backwards(h)
        if where == "first":
            note(jnp.sum(h))
        return jnp.sum(h**2)

    return loss, seen


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize(
    "where",
    mark_slow(
        ["first", "call", "loop", "branch", "shared", "backward"],
        lambda where: where in ("call", "branch"),
    ),
)
def test_what_prints_prints_as_often_as_with_every_gradient(where, strategy):
    w, xs = jnp.stack([0.5 * jnp.eye(3)] * 2), jnp.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.1]])
    printed = []
    for name in ("materialize", strategy):
        loss, seen = printing(where)
        fn = jax.jit(dpjax.clipped_grad(loss, clip_norm=1.0, strategy=name))
        jax.block_until_ready(fn(w, xs))
        jax.effects_barrier()
        printed.append(sorted(seen))
    assert printed[0]
    np.testing.assert_allclose(printed[1], printed[0], rtol=1e-5)
