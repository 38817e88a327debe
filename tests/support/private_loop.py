"""A small loss, its data, and the loop of one step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD

import dpjax
from dpjax import RunKey

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


def linear():
    private = make(lambda params, gradient: jnp.sum(params * gradient))
    return private, jnp.zeros(6), np.arange(SIZE) % 2 == 0
