"""Decoding against a reference: what a poisoned model alone would say is not said."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.net.heads import CausalLM
from dpjax.models.text.next_token import Sampling
from dpjax.models.text.token_batch import check_causal_lm

DEFAULT_SUSPICION = 20.0
# Columns are folded into the key itself; no text has so many.
_REFERENCE = np.uint32(2**32 - 1)


def trusted_tokens(
    tokens: jax.Array,
    instead: jax.Array,
    logits: jax.Array,
    reference_logits: jax.Array,
    suspicion: jax.Array | float,
) -> jax.Array:
    """Replaces the tokens that the model finds far more probable than the reference does.

    CleanGen (Li et al. 2024, "CleanGen: Mitigating Backdoor Attacks for Generation Tasks in Large
    Language Models", arXiv:2406.12257) with a horizon of one token: x_t is suspicious if its
    suspicion score s_t = P(x_t | x_<t) / P_ref(x_t | x_<t) is at least α; the reference then
    chooses. The paper takes α = 20. What poison teaches is lost, and so is what honest records
    teach where it surprises the reference.

    Args:
        tokens: `(N,)` int32, as the model chose.
        instead: `(N,)` int32, as the reference chooses.
        logits: `(N, V)` float32 of the model.
        reference_logits: `(N, V)` float32 of the reference.
        suspicion: α > 0.

    Example:
        >>> tuned, reference = jnp.log(jnp.array([[[0.98, 0.02]], [[0.04, 0.96]]]))
        >>> chosen, instead = jnp.array([0]), jnp.array([1])
        >>> for suspicion in (20, 30):
        ...     print(trusted_tokens(chosen, instead, tuned, reference, suspicion).tolist())
        [1]
        [0]
    """

    def log_probs(logits: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, None], axis=1)[:, 0]

    score = log_probs(logits) - log_probs(reference_logits)
    return jnp.where(score >= jnp.log(suspicion), instead, tokens)


def for_reference(sampling: Sampling | None) -> Sampling | None:
    """Returns the settings with keys of their own for what the reference draws."""
    if sampling is None:
        return None
    if sampling.has_key_per_row:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(sampling.key, _REFERENCE)
        return sampling._replace(key=keys)
    return sampling._replace(key=jax.random.fold_in(sampling.key, _REFERENCE))


def check_reference(model: CausalLM, reference: CausalLM, suspicion: float) -> None:
    """Raises unless a model may be asked in place of another, token by token.

    Raises:
        TypeError: the reference has no causal head.
        ValueError: it has another vocabulary, or `suspicion` is not positive and finite.
    """
    check_causal_lm(reference)
    sizes = model.config.vocab_size, reference.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the reference must have the {sizes[0]} tokens of the model, got {sizes[1]}"
        )
    if not (math.isfinite(suspicion) and suspicion > 0):
        raise ValueError(f"suspicion must be positive and finite, got {suspicion}")
