"""How probable a language model finds given texts."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from dpjax.models.net.heads import CausalLM
from dpjax.models.text.losses import token_losses
from dpjax.models.text.token_batch import check_causal_lm, checked_batch, checked_mask


def continuation_log_probs(
    model: CausalLM,
    input_ids: ArrayLike,
    attention_mask: ArrayLike,
    continuation_mask: ArrayLike,
    *,
    vocab_chunk: int | None = 8192,
) -> jax.Array:
    """Log p(token | all before it) of chosen tokens of given texts, `(N, T)` float32 in nats.

    0 where `continuation_mask` is False. The sum over a row is the log-probability of its
    continuation. Compiled once for the model's structure, the shape and `vocab_chunk`.

    Args:
        model: a causal language model.
        input_ids: `(N, T)` integers, padded on either side.
        attention_mask: `(N, T)` bool, False at padding.
        continuation_mask: `(N, T)` bool, True at the tokens that are asked for; the `loss_mask` of
            `encode_language` is one. Each needs a token before it.
        vocab_chunk: how many tokens of the vocabulary are compared at a time, so that `(N, T)` by
            so many logits are in memory; None for all. It does not change the result but for
            rounding.

    Raises:
        TypeError: the model has no causal head, ids are not integers, or a mask is not bool.
        ValueError: shapes do not fit, an id is not in the vocabulary, a text is longer than the
            learned positions, or a token is asked for that is padding or has none before it.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> ids, is_text = jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)
        >>> is_answer = jnp.array([[False, False, True]])
        >>> log_probs = continuation_log_probs(model, ids, is_text, is_answer)
        >>> (log_probs < 0).tolist()
        [[False, False, True]]
    """
    check_causal_lm(model)
    ids, mask = checked_batch(input_ids, attention_mask, model.config.vocab_size)
    asked = checked_mask("continuation_mask", continuation_mask, ids.shape)
    _check_asked(asked, mask)
    graphdef, state = nnx.split(model)
    return _log_probs(graphdef, state, ids, mask, asked, vocab_chunk=vocab_chunk)


@partial(jax.jit, static_argnames=("graphdef", "vocab_chunk"))
def _log_probs(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    asked: jax.Array,
    *,
    vocab_chunk: int | None,
) -> jax.Array:
    model = nnx.merge(graphdef, state)
    hidden = model.hidden_states(input_ids, attention_mask)[:, :-1]
    head, vocab_axis = model.head_weights()
    losses = token_losses(
        hidden.reshape(-1, hidden.shape[-1]),
        head,
        input_ids[:, 1:].reshape(-1),
        vocab_axis=vocab_axis,
        vocab_chunk=vocab_chunk,
        logit_softcap=model.config.logit_softcap,
        addition=model.head_addition(hidden.reshape(-1, hidden.shape[-1])),
    )
    losses = losses.reshape(len(input_ids), -1)
    return jnp.pad(jnp.where(asked[:, 1:], -losses, 0.0), ((0, 0), (1, 0)))


def _check_asked(asked: np.ndarray, mask: np.ndarray) -> None:
    before = np.pad(mask[:, :-1], ((0, 0), (1, 0)))
    wrong = np.argwhere(asked & ~(mask & before))
    if wrong.size:
        row, column = wrong[0].tolist()
        what = "has no token before it" if mask[row, column] else "is padding"
        raise ValueError(
            f"continuation_mask asks for row {row}, column {column}, which {what}; "
            f"{len(wrong)} such places"
        )
