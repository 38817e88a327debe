"""The loss of one pair of answers: Direct Preference Optimization."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def preference_loss(
    log_ratios: jax.Array, *, beta: float, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """The loss of Direct Preference Optimization, and the margin of rewards that it rests on.

    With the log-ratio r(y) = log π(y | x) − log π_ref(y | x) of an answer y, the margin is
    m = β (r(chosen) − r(rejected)) and the loss −(1 − s) log σ(m) − s log σ(−m), in nats. With
    s = 0 this is equation 7 of Rafailov et al. 2023 (arXiv:2305.18290); with s above 0 the
    conservative loss of Mitchell 2023, "A note on DPO with noisy preferences".

    Args:
        log_ratios: `(2,)` float32, of the chosen and of the rejected answer, in nats.
        beta: β > 0, how strongly the model is kept at the reference.
        label_smoothing: s in [0, 0.5), how often the order of a pair is expected to be wrong.

    Returns:
        loss and margin, both float32 scalars.

    Raises:
        ValueError: the shape does not fit, or a number is outside its range.

    Example:
        >>> loss, margin = preference_loss(jnp.array([-3.0, -7.0]), beta=0.1)
        >>> round(float(margin), 4), round(float(jnp.exp(-loss)), 4)
        (0.4, 0.5987)
    """
    if jnp.shape(log_ratios) != (2,):
        raise ValueError(
            f"log_ratios must have shape (2,), of one pair, got {jnp.shape(log_ratios)}; for a "
            "batch use jax.vmap"
        )
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    margin = beta * (log_ratios[0] - log_ratios[1])
    loss = -(1.0 - label_smoothing) * jax.nn.log_sigmoid(margin)
    return loss - label_smoothing * jax.nn.log_sigmoid(-margin), margin
