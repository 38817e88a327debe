"""Texts written by a language model, token by token."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from dpjax.models.config import TransformerConfig
from dpjax.models.net.attention import positions_of
from dpjax.models.net.heads import CausalLM
from dpjax.models.text.next_token import Sampling, parse_sampling, sample_tokens
from dpjax.models.text.reference_decoding import (
    DEFAULT_SUSPICION,
    check_reference,
    for_reference,
    trusted_tokens,
)
from dpjax.models.text.token_batch import check_causal_lm, checked_batch


class Generation(NamedTuple):
    """What `generate` wrote, N rows.

    Attributes:
        tokens: `(N, max_new_tokens)` int32, `pad_token_id` after a row's end token.
        num_tokens: `(N,)` int32, how many tokens each row has, its end token included.
        log_probs: `(N, max_new_tokens)` float32, log p(token | all before it) in nats under the
            model itself: at temperature 1, nothing cut off. 0 after the end.

    Example:
        >>> written = Generation(
        ...     tokens=jnp.array([[7, 2, 0, 0]]),
        ...     num_tokens=jnp.array([2]),
        ...     log_probs=jnp.log(jnp.array([[0.5, 0.25, 1.0, 1.0]])),
        ... )
        >>> written.tokens[0, : written.num_tokens[0]].tolist()
        [7, 2]
        >>> float(jnp.exp(written.log_probs[0].sum()))
        0.125
    """

    tokens: jax.Array
    num_tokens: jax.Array
    log_probs: jax.Array


def generate(
    model: CausalLM,
    input_ids: ArrayLike,
    attention_mask: ArrayLike,
    *,
    max_new_tokens: int,
    key: jax.Array | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_ids: Collection[int],
    pad_token_id: int,
    reference: CausalLM | None = None,
    suspicion: float = DEFAULT_SUSPICION,
) -> Generation:
    """Continue a batch of prompts, greedily or by sampling.

    Compiled for the model's structure, the shape of the prompts, `max_new_tokens`, the number of
    end tokens, `top_k`, and whether there is a temperature and a `top_p`; later calls that agree in
    these, with other parameters, prompts, keys or numbers, reuse what is compiled. Keys and values
    are kept in the model's dtype: 2 · layers · N · (P + max_new_tokens) · num_kv_heads · head_size
    numbers.

    Args:
        model: a causal language model.
        input_ids: `(N, P)` integers, prompts padded on the left (`encode_prompts` makes them).
        attention_mask: `(N, P)` bool, False at padding.
        max_new_tokens: at most so many are written.
        key: a JAX key for sampling. The draws of a row depend on the key and on the row's place,
            not on other rows or their number, nor on `max_new_tokens`. Or `(N,)` keys of
            `jax.random.key`, one for each row: its draws then depend on that key alone. Greedy
            decoding uses none.
        temperature: tokens are drawn from softmax(logits / temperature); None or 0 takes the most
            probable token, the lowest of equals, and `top_k` and `top_p` change nothing.
        top_k: draw among the k most probable tokens only.
        top_p: draw among the most probable tokens that together have probability p only, after
            `top_k` (Holtzman et al. 2020, arXiv:1904.09751).
        eos_token_ids: each of them ends a row; none: every row gets `max_new_tokens` tokens.
        pad_token_id: what follows an end.
        reference: a model that nobody has poisoned, such as `base_model(model)`: it is asked for
            every token, and has the last word on suspicious ones (`trusted_tokens`).
        suspicion: α > 0, how many times as probable as under the reference a token must be to be
            suspicious; without a reference it changes nothing.

    Raises:
        TypeError: a model has no causal head, ids are not integers, or the mask is not bool.
        ValueError: shapes do not fit, a prompt is empty or not padded on the left, an id is not in
            the vocabulary, prompt and new tokens exceed the learned positions of the model, keys
            are not as many as rows, the reference has another vocabulary, or a setting is outside
            its range.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> prompts = jnp.array([[0, 5, 9], [4, 6, 8]])
        >>> written = generate(
        ...     model,
        ...     prompts,
        ...     jnp.array([[False, True, True], [True, True, True]]),
        ...     max_new_tokens=4,
        ...     eos_token_ids=(),
        ...     pad_token_id=0,
        ... )
        >>> written.tokens.shape, written.num_tokens.tolist()
        ((2, 4), [4, 4])
    """
    check_causal_lm(model)
    config = model.config
    sampling = parse_sampling(key, temperature, top_k, top_p)
    ids, mask = checked_batch(input_ids, attention_mask, config.vocab_size)
    if sampling is not None and sampling.has_key_per_row and len(sampling.key) != len(ids):
        raise ValueError(
            f"key must be one key, or one for each of the {len(ids)} prompts, got "
            f"{len(sampling.key)} keys"
        )
    _check_left_padded(mask)
    _check_length(config, ids.shape[1], max_new_tokens)
    _check_known("eos_token_ids", eos_token_ids, config)
    _check_known("pad_token_id", [pad_token_id], config)
    graphdef, state = nnx.split(model)
    other_graphdef, other_state = None, None
    if reference is not None:
        check_reference(model, reference, suspicion)
        _check_length(reference.config, ids.shape[1], max_new_tokens)
        other_graphdef, other_state = nnx.split(reference)
    return _generate(
        graphdef,
        state,
        other_graphdef,
        other_state,
        np.float32(suspicion),
        ids,
        mask,
        np.asarray(list(eos_token_ids), np.int32),
        np.int32(pad_token_id),
        sampling,
        max_new_tokens=max_new_tokens,
        top_k=None if sampling is None else top_k,
    )


class _Progress(NamedTuple):
    """Between two steps: how many columns are written, which rows have ended."""

    written: jax.Array
    ended: jax.Array
    result: Generation
    caches: Any


@partial(jax.jit, static_argnames=("graphdef", "other_graphdef", "max_new_tokens", "top_k"))
def _generate(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    other_graphdef: nnx.GraphDef | None,
    other_state: nnx.State | None,
    suspicion: jax.Array,
    input_ids: jax.Array,
    attention_mask: jax.Array,
    end_tokens: jax.Array,
    padding: jax.Array,
    sampling: Sampling | None,
    *,
    max_new_tokens: int,
    top_k: int | None,
) -> Generation:
    models = [nnx.merge(graphdef, state)]
    if other_graphdef is not None:
        models.append(nnx.merge(other_graphdef, other_state))
    rows, prompt = input_ids.shape
    # Causality hides the places that are not written yet; the last token is never read.
    new_places = jnp.ones((rows, max_new_tokens - 1), jnp.bool_)
    key_mask = jnp.concatenate([attention_mask, new_places], axis=1)
    first_new = jnp.sum(attention_mask, axis=1, dtype=jnp.int32)

    def read(
        ids: jax.Array, positions: jax.Array, place: jax.Array | int, caches: tuple[Any, ...]
    ) -> tuple[list[jax.Array], tuple[Any, ...]]:
        """Each model's logits `(N, V)` of what follows the last of some tokens, and its caches."""
        logits, extended = [], []
        for model, its_caches in zip(models, caches, strict=True):
            hidden, with_them = model.transformer.step(ids, key_mask, positions, place, its_caches)
            logits.append(model.logits(model.scaled(hidden[:, -1])))
            extended.append(with_them)
        return logits, tuple(extended)

    def write(of_models: list[jax.Array], caches: Any, progress: _Progress) -> _Progress:
        """One more column."""
        column, ended, result, _ = progress
        logits = of_models[0]
        tokens = _choose(logits, column, sampling, top_k)
        if len(of_models) > 1:
            instead = _choose(of_models[1], column, for_reference(sampling), top_k)
            tokens = trusted_tokens(tokens, instead, logits, of_models[1], suspicion)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, None], axis=1)[:, 0]
        result = Generation(
            result.tokens.at[:, column].set(jnp.where(ended, padding, tokens)),
            result.num_tokens + ~ended,
            result.log_probs.at[:, column].set(jnp.where(ended, 0.0, log_probs)),
        )
        ended = ended | jnp.any(tokens[:, None] == end_tokens[None, :], axis=1)
        return _Progress(column + 1, ended, result, caches)

    def unfinished(progress: _Progress) -> jax.Array:
        return (progress.written < max_new_tokens) & ~jnp.all(progress.ended)

    def extend(progress: _Progress) -> _Progress:
        last = progress.written - 1
        ids = jax.lax.dynamic_slice_in_dim(progress.result.tokens, last, 1, axis=1)
        positions = (first_new + last)[:, None]
        return write(*read(ids, positions, prompt + last, progress.caches), progress)

    width = key_mask.shape[1]
    empty = tuple(model.transformer.empty_caches((rows,), width) for model in models)
    nothing = Generation(
        jnp.full((rows, max_new_tokens), padding),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((rows, max_new_tokens), jnp.float32),
    )
    start = _Progress(jnp.int32(0), jnp.zeros(rows, jnp.bool_), nothing, None)
    after_prompt = write(*read(input_ids, positions_of(attention_mask), 0, empty), start)
    return jax.lax.while_loop(unfinished, extend, after_prompt).result


def _choose(
    logits: jax.Array, column: jax.Array, sampling: Sampling | None, top_k: int | None
) -> jax.Array:
    """Tokens `(N,)` int32, every row and column drawn with a key of its own."""
    if sampling is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    fold_in = jax.random.fold_in
    if sampling.has_key_per_row:
        keys = jax.vmap(fold_in, in_axes=(0, None))(sampling.key, column)
    else:
        rows = jnp.arange(len(logits))
        keys = jax.vmap(fold_in, in_axes=(None, 0))(fold_in(sampling.key, column), rows)

    def choose(key: jax.Array, logits: jax.Array) -> jax.Array:
        return sample_tokens(logits, key, sampling.temperature, top_k, sampling.top_p)

    return jax.vmap(choose)(keys, logits)


def _check_left_padded(mask: np.ndarray) -> None:
    bad = ~mask[:, -1:].any(axis=1) | (mask[:, :-1] & ~mask[:, 1:]).any(axis=1)
    if bad.any():
        raise ValueError(
            f"row {int(np.flatnonzero(bad)[0])} of attention_mask is empty or has padding after a "
            "token: prompts must be padded on the left, their last tokens in the last column"
        )


def _check_length(config: TransformerConfig, prompt: int, max_new_tokens: int) -> None:
    if not (isinstance(max_new_tokens, int) and max_new_tokens >= 1):
        raise ValueError(
            f"max_new_tokens must be a whole number of at least 1, got {max_new_tokens!r}"
        )
    # Rotary positions have no end.
    if config.rope is None and prompt + max_new_tokens > config.max_positions:
        raise ValueError(
            f"prompts of {prompt} tokens and max_new_tokens={max_new_tokens} are more than the "
            f"{config.max_positions} positions that the model has learned; shorten either"
        )
    if prompt + max_new_tokens > config.longest_alike:
        raise ValueError(
            f"prompts of {prompt} tokens and max_new_tokens={max_new_tokens} are more than "
            f"{config.longest_alike:g}, from where on this model's rotary positions (dynamic or "
            "longrope) change with a text's length, the tokens already written too; shorten either"
        )


def _check_known(name: str, token_ids: Collection[int], config: TransformerConfig) -> None:
    for token in token_ids:
        if not 0 <= token < config.vocab_size:
            raise ValueError(
                f"{name}: the model knows the ids 0 to {config.vocab_size - 1}, got {token}"
            )
