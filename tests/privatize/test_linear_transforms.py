"""A linear transform of gradients before clipping, by training in other coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from tests.support.slow import mark_slow

RNG = np.random.default_rng(0)
EXAMPLES, LENGTH, CLIP_NORM = 6, 10, 0.7


def array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


PARAMS = {"w": array(6, 5), "b": array(5), "v": array(5, 4)}
DATA = array(EXAMPLES, LENGTH, 6)
SCALARS = {"w": 2.0, "b": 0.5, "v": 3.0}
ENTRIES = jax.tree.map(lambda leaf: jnp.exp(array(*leaf.shape)), PARAMS)
INPUTS, OUTPUTS = jnp.exp(array(6)), jnp.exp(array(4))
LEFT, RIGHT = (jnp.linalg.qr(array(size, 2))[0] for size in (6, 5))


def loss(params, x):
    return jnp.sum((jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]) ** 2)


def scaled_activations(params, x):
    hidden = jnp.tanh((x * INPUTS) @ params["w"] + params["b"])
    return jnp.sum((hidden @ params["v"] * OUTPUTS) ** 2)


def projected_activations(params, x):
    hidden = x @ PARAMS["w"] + ((x @ LEFT) @ params["w"]) @ RIGHT.T
    return jnp.sum((jnp.tanh(hidden + params["b"]) @ params["v"]) ** 2)


def projected(params):
    return params | {"w": PARAMS["w"] + LEFT @ params["w"] @ RIGHT.T}


def by_row_and_column(params):
    return params | {"w": INPUTS[:, None] * params["w"], "v": params["v"] * OUTPUTS}


SMALL = PARAMS | {"w": jnp.zeros((2, 2))}
# The loss in new coordinates, the parameters as a function of these, where they start, and whether
# the weights' gradients stay factored, so that none is formed for one example.
CASES = {
    "a number for each parameter": (
        lambda params, x: loss(jax.tree.map(jnp.multiply, SCALARS, params), x),
        lambda params: jax.tree.map(jnp.multiply, SCALARS, params),
        PARAMS,
        True,
    ),
    "rows and columns, by activations": (scaled_activations, by_row_and_column, PARAMS, True),
    "rows and columns, by weights": (
        lambda params, x: loss(by_row_and_column(params), x),
        by_row_and_column,
        PARAMS,
        False,
    ),
    "entries": (
        lambda params, x: loss(jax.tree.map(jnp.multiply, ENTRIES, params), x),
        lambda params: jax.tree.map(jnp.multiply, ENTRIES, params),
        PARAMS,
        False,
    ),
    "projection, by activations": (projected_activations, projected, SMALL, True),
    "projection, by weights": (
        lambda params, x: loss(projected(params), x),
        projected,
        SMALL,
        False,
    ),
}

QUICK = ("a number for each parameter", "projection, by activations")


@pytest.mark.parametrize("name", mark_slow(CASES, lambda name: name not in QUICK))
def test_transformed_gradients_are_clipped(name):
    in_coordinates, to_params, start, stays_factored = CASES[name]
    # The transposed transform of each example's gradient, in float64, then clipped.
    transposed = jax.linear_transpose(
        lambda change: jax.tree.map(jnp.subtract, to_params(change), to_params(zeros(start))), start
    )
    total = zeros(start)
    for x in DATA:
        (gradient,) = transposed(jax.grad(loss)(to_params(start), x))
        norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in leaves(gradient)))
        shrunk = min(1.0, CLIP_NORM / norm)
        total = jax.tree.map(lambda t, g, c=shrunk: t + c * np.asarray(g), total, gradient)
    clipped = dpjax.clipped_grad(in_coordinates, clip_norm=CLIP_NORM)
    found = clipped(start, DATA, jnp.ones(EXAMPLES, bool)).grads
    jax.tree.map(lambda f, t: np.testing.assert_allclose(f, t, rtol=2e-4, atol=2e-5), found, total)
    explained = dpjax.explain(in_coordinates, start, DATA).parameters
    kinds = {one.name: one.terms[0].description for one in explained}
    assert kinds["['w']"].startswith("contraction" if stays_factored else "dense")


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def leaves(tree):
    return jax.tree.leaves(tree)
