"""The registry of structures, and what they share."""

import jax
import jax.numpy as jnp

STRUCTURES = {}


def structure(make):
    """`make(random, integers)` returns (params, batch, loss) for four examples."""
    STRUCTURES[make.__name__] = make
    return make


def cross_entropy(logits, labels):
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[..., None], -1))
