"""The loss of one record to forget, as a formula of what models say of it.

Descending these raises the loss of the forget record. ℓ is the mean negative log-probability of the
counted tokens of a record, in nats; log π is the sum of their log-probabilities. What is retained
enters as ℓ of a retained record, times a weight.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def grad_ascent(forget_loss: jax.Array) -> jax.Array:
    """Returns −ℓ(forget), a float32 scalar without a lower bound.

    Jang et al. 2023 (arXiv:2210.01504), section 3.1: the training loss with its sign changed.

    Args:
        forget_loss: scalar, ℓ of the forget record, in nats per token.

    Example:
        >>> float(grad_ascent(jnp.float32(2.0)))
        -2.0
    """
    return -forget_loss


def grad_diff(forget_loss: jax.Array, retain_loss: jax.Array, *, retain_weight: float) -> jax.Array:
    """Returns −ℓ(forget) + w ℓ(retain), a float32 scalar without a lower bound.

    Liu et al. 2022 (arXiv:2203.12817); Gradient Difference of TOFU (Maini et al. 2024,
    arXiv:2401.06121, section 4).

    Args:
        forget_loss: scalar, ℓ of the forget record, in nats per token.
        retain_loss: scalar, ℓ of the retained record.
        retain_weight: w.

    Example:
        >>> float(grad_diff(jnp.float32(2.0), jnp.float32(1.5), retain_weight=1.0))
        -0.5
    """
    return -forget_loss + retain_weight * retain_loss


def npo(
    forget_log_prob: jax.Array,
    reference_log_prob: jax.Array,
    retain_loss: jax.Array,
    *,
    beta: float,
    retain_weight: float,
) -> jax.Array:
    """Returns (2/β) log(1 + (π/π_ref)^β) + w ℓ(retain), a float32 scalar, at least 0.

    Negative Preference Optimization: Zhang et al. 2024 (arXiv:2404.05868), equation 3, with the
    retain loss of section 4.

    Args:
        forget_log_prob: scalar, log π of the forget record.
        reference_log_prob: scalar, log π_ref: the same of the model before unlearning.
        retain_loss: scalar, ℓ of the retained record.
        beta: β above 0; towards 0 the gradient becomes that of `grad_ascent`.
        retain_weight: w.

    Example:
        >>> same, nothing = jnp.float32(-3.0), jnp.float32(0.0)
        >>> round(float(npo(same, same, nothing, beta=0.1, retain_weight=1.0)), 4)  # 20 log 2
        13.8629
    """
    ratio = forget_log_prob - reference_log_prob
    return 2 / beta * jax.nn.softplus(beta * ratio) + retain_weight * retain_loss


def simnpo(
    forget_loss: jax.Array,
    retain_loss: jax.Array,
    *,
    beta: float,
    margin: float,
    retain_weight: float,
) -> jax.Array:
    """Returns −(2/β) log σ(β ℓ(forget) − γ) + w ℓ(retain), a float32 scalar, at least 0.

    Simple NPO, which needs no reference: Fan et al. 2024 (arXiv:2410.07163), equation 4. There
    log π / |y| stands for −ℓ.

    Args:
        forget_loss: scalar, ℓ of the forget record, in nats per token.
        retain_loss: scalar, ℓ of the retained record.
        beta: β above 0.
        margin: γ, at least 0.
        retain_weight: w.

    Example:
        >>> loss = simnpo(
        ...     jnp.float32(0.0), jnp.float32(0.0), beta=2.0, margin=0.0, retain_weight=1.0
        ... )
        >>> round(float(loss), 4)  # log 2
        0.6931
    """
    return 2 / beta * jax.nn.softplus(margin - beta * forget_loss) + retain_weight * retain_loss


def undial(
    logits: jax.Array,
    reference_logits: jax.Array,
    targets: jax.Array,
    counts: jax.Array,
    retain_loss: jax.Array,
    *,
    strength: float,
    retain_weight: float,
) -> jax.Array:
    """Returns the cross-entropy to the reference with lowered targets + w ℓ(retain), a scalar.

    Unlearning by self-distillation with adjusted logits: Dong et al. 2024 (arXiv:2402.10052),
    section 3. At each counted token the model learns softmax(z_ref − λ e_y), with z_ref the logits
    before unlearning and e_y the unit vector of the token to forget; the mean over these tokens.
    The paper has no retain loss: w = 0.

    Args:
        logits: `(T, V)` float32, z.
        reference_logits: `(T, V)` float32, z_ref.
        targets: `(T,)` integers, the tokens to forget.
        counts: `(T,)` bool, which of them count.
        retain_loss: scalar, ℓ of the retained record.
        strength: λ.
        retain_weight: w.

    Example:
        >>> logits, target, counts = jnp.zeros((1, 2)), jnp.array([0]), jnp.array([True])
        >>> nothing = jnp.float32(0.0)
        >>> loss = undial(
        ...     logits, logits, target, counts, nothing, strength=10.0, retain_weight=0.0
        ... )
        >>> round(float(loss), 4)  # log 2
        0.6931
    """
    is_target = jax.nn.one_hot(targets, logits.shape[-1])
    wanted = jax.nn.softmax(reference_logits - strength * is_target)
    each = -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)
    return _mean(each, counts) + retain_weight * retain_loss


def rmu(
    forget_hidden: jax.Array,
    forget_mask: jax.Array,
    retain_hidden: jax.Array,
    reference_hidden: jax.Array,
    retain_mask: jax.Array,
    direction: jax.Array,
    *,
    steering: float,
    retain_weight: float,
) -> jax.Array:
    """Returns mean ‖h − c u‖² of the forget record + w mean ‖h − h_ref‖² of the retained one.

    Representation Misdirection for Unlearning: Li et al. 2024 (arXiv:2403.03218), section 4. h are
    the hidden states of one layer; the means are over tokens.

    Args:
        forget_hidden: `(T, d)`, h of the forget record.
        forget_mask: `(T,)` bool, False at padding.
        retain_hidden: `(T, d)`, h of the retained record.
        reference_hidden: `(T, d)`, h_ref: the same in the model before unlearning.
        retain_mask: `(T,)` bool, False at padding.
        direction: `(d,)`, u, of norm 1.
        steering: c above 0.
        retain_weight: w.

    Example:
        >>> hidden, mask = jnp.zeros((3, 2)), jnp.ones(3, bool)
        >>> direction = jnp.array([0.6, 0.8])
        >>> loss = rmu(
        ...     hidden, mask, hidden, hidden, mask, direction, steering=2.0, retain_weight=1.0
        ... )
        >>> round(float(loss), 4)
        4.0
    """
    moved = forget_hidden.astype(jnp.float32) - steering * direction
    drifted = retain_hidden.astype(jnp.float32) - reference_hidden.astype(jnp.float32)
    forget = _mean(jnp.sum(moved**2, axis=-1), forget_mask)
    return forget + retain_weight * _mean(jnp.sum(drifted**2, axis=-1), retain_mask)


def _mean(values: jax.Array, counts: jax.Array) -> jax.Array:
    """Over the places that count; 0 if there is none."""
    return jnp.sum(jnp.where(counts, values, 0.0)) / jnp.maximum(jnp.sum(counts), 1)
