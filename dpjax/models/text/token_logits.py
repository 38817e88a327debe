"""What the logits of every token tell, without all logits in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from dpjax.basics.typing import PyTree
from dpjax.models.net.heads import CausalLM
from dpjax.models.text.token_batch import check_causal_lm, checked_batch

# 64 MB in float32.
_LOGITS_AT_ONCE = 2**24

# (logits (c, V) float32, tokens (c,) int32) -> any arrays (c, ...).
Measure = Callable[[jax.Array, jax.Array], PyTree]


def measure_tokens(
    model: CausalLM,
    input_ids: ArrayLike,
    attention_mask: ArrayLike,
    measure: Measure,
    *,
    tokens: ArrayLike | None = None,
) -> PyTree:
    """Measures every token of given texts against the logits that predict it.

    At most 2^24 logits, 64 MB, are held at once. Compiled once for the model's structure, the shape
    and `measure`.

    Args:
        model: a causal language model.
        input_ids: `(N, T)` integers, padded on either side.
        attention_mask: `(N, T)` bool, False at padding.
        measure: a function from logits `(c, V)` float32 and the tokens that they should predict,
            `(c,)` int32, to arrays `(c, ...)`. It must be hashable: a function of a module, or a
            frozen dataclass that can be called.
        tokens: `(N, T)` integers that `measure` is given in the place of the texts' own; those of
            column 0 are not read.

    Returns:
        What `measure` returns, with the axes `(N, T)` in the place of `(c,)`. Column t belongs to
        the token at t. Column 0, which nothing predicts, is 0. What stands at padding, and at a
        token with nothing but padding before it, has no meaning.

    Raises:
        TypeError: the model has no causal head, ids are not integers, or the mask is not bool.
        ValueError: shapes do not fit, an id is not in the vocabulary, or a text is longer than the
            learned positions.

    Example:
        >>> from dpjax.models import parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model, ids = CausalLM(config, rngs=nnx.Rngs(0)), jnp.array([[3, 1, 2]])
        >>> def is_right(logits, tokens):
        ...     return logits.argmax(axis=-1) == tokens
        >>> measure_tokens(model, ids, jnp.ones((1, 3), bool), is_right).shape
        (1, 3)
    """
    check_causal_lm(model)
    ids, mask = checked_batch(input_ids, attention_mask, model.config.vocab_size)
    asked = ids if tokens is None else checked_batch(tokens, mask, model.config.vocab_size)[0]
    graphdef, state = nnx.split(model)
    return _measure(graphdef, state, ids, mask, asked, measure=measure)


@partial(jax.jit, static_argnames=("graphdef", "measure"))
def _measure(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    tokens: jax.Array,
    *,
    measure: Measure,
) -> PyTree:
    model = nnx.merge(graphdef, state)
    hidden = model.hidden_states(input_ids, attention_mask)[:, :-1]
    rows, predicted, size = hidden.shape
    num_tokens = rows * predicted
    at_once = max(1, min(num_tokens, _LOGITS_AT_ONCE // model.config.vocab_size))
    num_pieces = -(-num_tokens // at_once)

    def pieces(array: jax.Array) -> jax.Array:
        rest = num_pieces * at_once - num_tokens
        padded = jnp.pad(array, [(0, rest)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(num_pieces, at_once, *array.shape[1:])

    def rejoin(array: jax.Array) -> jax.Array:
        flat = array.reshape(num_pieces * at_once, *array.shape[2:])[:num_tokens]
        columns = flat.reshape(rows, predicted, *array.shape[2:])
        return jnp.pad(columns, [(0, 0), (1, 0)] + [(0, 0)] * (columns.ndim - 2))

    measured = jax.lax.map(
        lambda piece: measure(model.logits(piece[0]), piece[1]),
        (pieces(hidden.reshape(num_tokens, size)), pieces(tokens[:, 1:].reshape(num_tokens))),
    )
    return jax.tree.map(rejoin, measured)
