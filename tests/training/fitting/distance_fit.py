"""A run of `fit` that moves three numbers to those of the records."""

import jax.numpy as jnp
import numpy as np
import optax

import dpjax

NUM, CLIP, RATE, DELTA = 30, 0.5, 0.1, 1e-3
KEY = dpjax.RunKey.from_seed(5)
DATA = np.random.default_rng(0).normal(size=(NUM, 3)).astype(np.float32)


def distance(params, record):
    return jnp.sum((params - record) ** 2) / 2


def fit(mechanism, **changes):
    options = {
        "loss": distance,
        "params": jnp.zeros(3),
        "data": DATA,
        "mechanism": mechanism,
        "optimizer": optax.sgd(RATE),
        "clip_norm": CLIP,
        "delta": DELTA,
        "run_key": KEY,
        "microbatch_size": 8,
    }
    return dpjax.fit(**options | changes)
