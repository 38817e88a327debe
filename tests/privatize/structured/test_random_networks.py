"""Networks put together at random: every strategy is right, and no example moves the sum by more
than the clip norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dpjax

pytestmark = pytest.mark.slow

SIZE, VOCAB = 5, 7
FAST = ("one_backward", "two_backwards")
few = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def dense(p, h):
    return jnp.tanh(h @ p["w"] + p["b"])


def scanned(p, h):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, p["stack"])[0]


def rematerialised(p, h):
    layer = jax.checkpoint(lambda h, w: (h + jnp.sin(h @ w), None))
    return jax.lax.scan(layer, h, p["stack"][::-1])[0]


def recurrent(p, h):
    return jax.lax.scan(lambda c, x: (jnp.tanh(c @ p["w"] + x),) * 2, jnp.zeros(SIZE), h)[1]


def normalised(p, h):
    return p["s"] * h / jnp.sqrt(1e-3 + jnp.mean(h**2, -1, keepdims=True))


def experts(p, h):
    gate = jax.nn.softmax(h @ p["w"][:, :2])
    return jnp.einsum("te,tef->tf", gate, jnp.einsum("td,edf->tef", h, p["stack"][:2]))


def transposed(p, h):
    return h @ p["w"].T


def tied(p, h):
    return jax.nn.softmax(h @ p["table"].T) @ p["table"]


PARTS = [dense, scanned, rematerialised, recurrent, normalised, experts, transposed, tied]


def network(parts, scale=1.0):
    def loss(p, ids):
        h = p["table"][ids]
        for part in parts:
            h = part(p, h)
        return scale * jnp.sum(jnp.sin(h))

    return loss


def make_params(seed):
    shapes = {
        "table": (VOCAB, SIZE), "w": (SIZE, SIZE), "b": (SIZE,), "s": (SIZE,),
        "stack": (3, SIZE, SIZE),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


networks = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 4))


def flatten(tree):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(tree)])


@pytest.mark.parametrize("strategy", FAST)
@few
@given(
    networks, sizes, st.integers(0, 2**16), st.floats(-3, 1), st.sampled_from([1e-12, 1.0, 1e12])
)
def test_equals_materialize(strategy, parts, size, seed, log_clip_norm, scale):
    rng = np.random.default_rng(seed)
    ids = jnp.asarray(rng.integers(0, VOCAB, size))
    mask = rng.random(size[0]) < 0.8
    loss, params, clip_norm = network(parts, scale), make_params(seed), scale * 10.0**log_clip_norm
    got, want = (
        jax.jit(dpjax.clipped_grad(loss, clip_norm=clip_norm, strategy=name))(params, ids, mask)
        for name in (strategy, "materialize")
    )
    np.testing.assert_allclose(got.norms, want.norms, rtol=1e-5)
    difference = np.linalg.norm(flatten(got.grads) - flatten(want.grads))
    assert difference <= 1e-5 * max(clip_norm, np.linalg.norm(flatten(want.grads)))


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("strategy", FAST)
@few
@given(networks, sizes, st.integers(0, 2**16), st.floats(-6, 1))
def test_one_example_moves_the_sum_by_at_most_the_clip_norm(
    strategy, parts, size, seed, log_clip_norm
):
    rng = np.random.default_rng(seed)
    ids = jnp.asarray(rng.integers(0, VOCAB, size))
    params, clip_norm = make_params(seed), 10.0**log_clip_norm
    fn = jax.jit(dpjax.clipped_grad(network(parts), clip_norm=clip_norm, strategy=strategy))
    everyone = np.ones(size[0], bool)
    without_first = everyone.copy()
    without_first[0] = False
    alone = flatten(fn(params, ids, ~without_first).grads)
    assert np.linalg.norm(alone) <= clip_norm
    difference = flatten(fn(params, ids, everyone).grads) - flatten(
        fn(params, ids, without_first).grads
    )
    assert np.linalg.norm(difference) <= clip_norm * (1 + 1e-5)
