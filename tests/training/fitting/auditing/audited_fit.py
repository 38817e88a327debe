"""A run of `fit` with canaries that each have a coordinate of their own."""

import jax.numpy as jnp
import numpy as np
import optax
from dpjax_accounting import FullBatch
from rich.console import Console

import dpjax

QUIET = Console(quiet=True)
KEY = dpjax.RunKey.from_seed(3)
NUM, CANARIES = 40, 100
FLAT = FullBatch(noise_multiplier=2.0, num_steps=4, num_units=NUM + CANARIES // 2)


def attention(params, x):
    """Training moves the coordinate of a canary by its clipped gradient, and no other."""
    return -jnp.vdot(params, x)


def canaries(num=CANARIES):
    return 100 * np.eye(num, dtype=np.float32)


def options(**changes):
    given = {
        "loss": attention,
        "params": jnp.zeros(CANARIES),
        "data": np.zeros((NUM, CANARIES), np.float32),
        "mechanism": FLAT,
        "optimizer": optax.sgd(1.0),
        "clip_norm": 1.0,
        "delta": 1e-5,
        "run_key": KEY,
        "audit": dpjax.FitAudit(canaries=canaries()),
    }
    return given | changes


def train(**changes):
    return dpjax.fit(**options(**changes)).run(QUIET)
