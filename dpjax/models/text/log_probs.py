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
    found = _of_targets(model, input_ids, attention_mask, asked, vocab_chunk)
    return jnp.pad(found, ((0, 0), (1, 0)))


def sequence_log_probs(
    model: CausalLM,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    loss_mask: jax.Array,
    *,
    vocab_chunk: int | None = None,
) -> jax.Array:
    """Log p(the counted tokens | all before them) of each sequence, `(...)` float32 in nats.

    The sum over the counted tokens. Any other position contributes exactly zero to value and
    gradient. It is for losses: nothing is checked or compiled here.

    Args:
        model: a causal language model, perhaps merged inside a transformation.
        input_ids: `(..., T)` int32.
        attention_mask: `(..., T)` bool, False at padding.
        loss_mask: `(..., T)` bool, True at the tokens that count; the first never does.
        vocab_chunk: as for `token_losses`.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> ids, is_text = jnp.array([[3, 1, 2], [3, 5, 0]]), jnp.ones((2, 3), bool)
        >>> is_answer = jnp.array([[False, False, True], [False, True, False]])
        >>> (sequence_log_probs(model, ids, is_text, is_answer) < 0).tolist()
        [True, True]
    """
    found = _of_targets(model, input_ids, attention_mask, loss_mask, vocab_chunk)
    return jnp.sum(found, axis=-1)


def _of_targets(
    model: CausalLM,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    asked: jax.Array,
    vocab_chunk: int | None,
) -> jax.Array:
    """Log-probabilities of all tokens but the first, `(..., T - 1)`; 0 where not asked for."""
    # Nothing follows the last token.
    hidden = model.hidden_states(input_ids, attention_mask)[..., :-1, :]
    targets, counts = input_ids[..., 1:], asked[..., 1:]
    # What positions that do not count hold, perhaps NaN, must not reach a sum.
    hidden = jnp.where(counts[..., None], hidden, jnp.zeros((), hidden.dtype))
    rows = hidden.reshape(-1, hidden.shape[-1])
    head, vocab_axis = model.head_weights()
    losses = token_losses(
        rows,
        head,
        jnp.where(counts, targets, 0).reshape(-1),
        vocab_axis=vocab_axis,
        vocab_chunk=vocab_chunk,
        logit_softcap=model.config.logit_softcap,
        addition=model.head_addition(rows),
    )
    return jnp.where(counts, -losses.reshape(counts.shape), 0.0)


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
