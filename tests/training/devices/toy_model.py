"""A small model and records to train with `fit`; importing this uses no device."""

import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import DPSGD, BandedDPSGD

import dpjax

NUM, WIDTH = 96, 64
MECHANISM = DPSGD(num_units=NUM, expected_batch_size=24, noise_multiplier=0.7, num_steps=20)
CORRELATED = BandedDPSGD(
    num_units=NUM,
    expected_batch_size=6,
    noise_multiplier=0.7,
    num_steps=20,
    bands=4,
    column_norm=1.0,
)


def loss(params, record, frozen):
    hidden = jnp.tanh(record["x"] @ params["in"] + params["bias"]) @ frozen["middle"]
    return jnp.mean((jnp.tanh(hidden) @ params["out"] - record["y"]) ** 2)


def make_options(mechanism=MECHANISM):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(0, 0.2, shape).astype(np.float32)  # noqa: E731
    x = rng.normal(size=(NUM, 16)).astype(np.float32)
    return {
        "loss": loss,
        "params": {"in": normal(16, WIDTH), "bias": np.zeros(WIDTH, np.float32)}
        | {"out": normal(WIDTH, 8)},
        "frozen": {"middle": normal(WIDTH, WIDTH)},
        "data": {"x": x, "y": x[:, :8] ** 2},
        "mechanism": mechanism,
        "optimizer": optax.adam(0.02),
        "clip_norm": 0.5,
        "run_key": dpjax.RunKey.from_seed(7),
        "microbatch_size": 16,
    }
