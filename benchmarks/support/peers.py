"""Clipped-gradient steps of other JAX libraries, where these are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Step = Callable[[PyTree, PyTree, PyTree], PyTree]


def jax_peer_steps(
    loss: Callable[..., jax.Array], microbatch_size: int | None, *, is_full: bool
) -> dict[str, Step]:
    """Returns steps `(params, frozen, batch) -> clipped sum` by the name of the library.

    Args:
        loss: of one example, `(params, frozen, example) -> scalar`.
        microbatch_size: examples at once; None for all. jaxdpopt leaves microbatches to its
            caller, and is measured without.
        is_full: whether everything is trained. jaxdpopt differentiates by all parameters, and is
            measured where there are no others.
    """
    steps: dict[str, Step] = {}
    if importlib.util.find_spec("jax_privacy"):
        steps["jax_privacy"] = _jax_privacy_step(loss, microbatch_size)
    if importlib.util.find_spec("jaxdpopt") and is_full and microbatch_size is None:
        steps["jaxdpopt"] = _jaxdpopt_step(loss)
    return steps


def _jax_privacy_step(loss: Callable[..., jax.Array], microbatch_size: int | None) -> Step:
    from jax_privacy import clipping

    def step(params: PyTree, frozen: PyTree, batch: PyTree) -> PyTree:
        fn = clipping.clipped_grad(
            lambda p, example: loss(p, frozen, example),
            l2_clip_norm=1.0,
            batch_argnums=1,
            keep_batch_dim=False,
            microbatch_size=microbatch_size,
        )
        return fn(params, batch)

    return step


def _jaxdpopt_step(loss: Callable[..., jax.Array]) -> Step:
    from flax.training.train_state import TrainState
    from jaxdpopt import jax_mask_efficient

    def loss_of(params: PyTree, example: PyTree, label: jax.Array) -> jax.Array:
        del label
        return loss(params, (), example)

    def step(params: PyTree, frozen: PyTree, batch: PyTree) -> PyTree:
        del frozen
        size = len(jax.tree.leaves(batch)[0])
        state = TrainState.create(apply_fn=None, params=params, tx=optax.identity())
        # Labels are part of the batch: the loss reads none of these.
        gradients = jax_mask_efficient.compute_per_example_gradients_physical_batch(
            state, batch, jnp.zeros(size), loss_of
        )
        clipped = jax_mask_efficient.clip_physical_batch(gradients, 1.0)
        return jax_mask_efficient.accumulate_physical_batch(clipped, jnp.ones(size))

    return step
