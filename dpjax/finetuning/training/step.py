"""The compiled parts of a training step: accumulate a microbatch, then apply the private mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dpjax_accounting import DPSGD

from dpjax.finetuning.tasks.base import Loss
from dpjax.privatize import clipped_grad, noisy_mean

PyTree = Any
# Gradients are summed as they are: none that float32 can take the norm of is longer.
_UNREACHED_NORM = 1e30


class Accumulator(NamedTuple):
    """Sums over the microbatches of one step, float32 and int32. Private until noise is added.

    Attributes:
        grads: of the gradients of all records where they are finite.
        loss: of the losses that are finite.
        num_records: how many records were drawn.
        num_clipped: how many gradients were clipped.
        num_nonfinite: how many records have a loss or a gradient that is not finite.
        num_losses: how many losses are finite.
    """

    grads: PyTree
    loss: jax.Array
    num_records: jax.Array
    num_clipped: jax.Array
    num_nonfinite: jax.Array
    num_losses: jax.Array


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled functions of a run; `are_finite` says whether all parameters are."""

    accumulate: Callable[[PyTree, PyTree, Accumulator, PyTree, jax.Array], Accumulator]
    apply: Callable[[PyTree, Any, Accumulator, jax.Array], tuple[PyTree, Any]]
    are_finite: Callable[[PyTree], jax.Array]


def empty_accumulator(trainable: PyTree) -> Accumulator:
    """All sums zero: what a step starts from, and all that an empty Poisson batch adds up to."""
    grads = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trainable)
    # Separate arrays, since the accumulator's buffers are donated.
    counts = [jnp.zeros((), jnp.int32) for _ in range(4)]
    return Accumulator(grads, jnp.zeros((), jnp.float32), *counts)


def make_private_steps(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mechanism: DPSGD,
    clip_norm: float,
) -> Steps:
    """Steps that clip every record's gradient, and add the mechanism's noise once per step.

    `loss` is that of one record, `(trainable, record, frozen) -> scalar`.
    """

    accumulate = _accumulate_clipped(loss, clip_norm)

    def apply(
        trainable: PyTree, optimizer_state: Any, total: Accumulator, noise_keys: jax.Array
    ) -> tuple[PyTree, Any]:
        mean = noisy_mean(total.grads, noise_keys, mechanism=mechanism, clip_norm=clip_norm)
        return _update(optimizer, trainable, optimizer_state, mean)

    return _compile(accumulate, apply)


def make_non_private_steps(
    loss: Loss, optimizer: optax.GradientTransformation, expected_batch_size: int
) -> Steps:
    """The same recipe without clipping and noise; `noise_keys` is ignored.

    Records whose gradient is not finite are left out here too: one of them would end the run.
    """

    accumulate = _accumulate_clipped(loss, _UNREACHED_NORM)

    def apply(
        trainable: PyTree, optimizer_state: Any, total: Accumulator, noise_keys: jax.Array
    ) -> tuple[PyTree, Any]:
        del noise_keys
        mean = jax.tree.map(lambda g: g / expected_batch_size, total.grads)
        return _update(optimizer, trainable, optimizer_state, mean)

    return _compile(accumulate, apply)


def _accumulate_clipped(loss: Loss, clip_norm: float) -> Callable:
    """Adds the clipped gradients of a microbatch, and what is counted of it, to the sums."""

    def accumulate(
        trainable: PyTree, frozen: PyTree, total: Accumulator, batch: PyTree, mask: jax.Array
    ) -> Accumulator:
        def record_loss(trainable: PyTree, record: PyTree) -> jax.Array:
            return loss(trainable, record, frozen)

        clipped = clipped_grad(record_loss, clip_norm=clip_norm)(trainable, batch, mask)
        has_loss = jnp.isfinite(clipped.losses)
        return Accumulator(
            jax.tree.map(jnp.add, total.grads, clipped.grads),
            total.loss + jnp.sum(jnp.where(has_loss, clipped.losses, 0.0)),
            total.num_records + _count(mask),
            total.num_clipped + clipped.num_clipped,
            total.num_nonfinite + _count(mask & ~(has_loss & jnp.isfinite(clipped.norms))),
            total.num_losses + _count(mask & has_loss),
        )

    return accumulate


def _count(flags: jax.Array) -> jax.Array:
    return jnp.sum(flags, dtype=jnp.int32)


def _are_finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _compile(accumulate: Callable, apply: Callable) -> Steps:
    return Steps(
        jax.jit(accumulate, donate_argnames="total"),
        jax.jit(apply, donate_argnames=("trainable", "optimizer_state")),
        jax.jit(_are_finite),
    )


def _update(
    optimizer: optax.GradientTransformation, trainable: PyTree, optimizer_state: Any, mean: PyTree
) -> tuple[PyTree, Any]:
    updates, optimizer_state = optimizer.update(mean, optimizer_state, trainable)
    return optax.apply_updates(trainable, updates), optimizer_state
