"""Forward passes of a language model over encoded records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.token_statistics import TokenStatistics, mean_over_targets
from dpjax.data import LanguageDataset, by_length, microbatches, trim_padding
from dpjax.models import CausalLM, measure_tokens


def token_statistics(
    model: CausalLM, records: LanguageDataset, *, batch_size: int = 16
) -> TokenStatistics:
    """Computes what a language model says of every target token, in one forward pass.

    Log-probabilities, their mean and their variance over the vocabulary are computed in float32
    whatever the model computes in. Records of similar length go through the model together, in
    batches of few static shapes.

    Args:
        model: the tuned model; or its base, for LoRA `dpjax.models.base_model(model)`, which costs
            no memory.
        records: N encoded records; their `loss_mask` says which tokens are targets.
        batch_size: records at a time.

    Raises:
        TypeError: the model is no language model.
        ValueError: there is no record, a target is padding or has no token before it, an id is not
            in the vocabulary, a record is longer than the model's positions, or a result is not
            finite.
    """
    at_target, mean, variance, is_argmax = measure_records(
        model, records, _measure_statistics, batch_size=batch_size
    )
    return TokenStatistics(
        log_probs=at_target,
        vocab_mean=mean,
        vocab_variance=variance,
        is_argmax=is_argmax,
        is_target=records.loss_mask,
    )


def mean_log_probs(
    model: CausalLM, records: LanguageDataset, *, batch_size: int = 16
) -> NDArray[np.float64]:
    """Computes each record's mean log-probability of its target tokens, (N,), in nats.

    Args:
        model: a language model.
        records: N encoded records.
        batch_size: records at a time.

    Raises:
        TypeError, ValueError: as for `token_statistics`; ValueError for a record without a target.
    """
    (log_probs,) = measure_records(model, records, _measure_log_probs, batch_size=batch_size)
    return mean_over_targets(log_probs, records.loss_mask)


def probable_tokens(
    model: CausalLM, records: LanguageDataset, *, number: int, batch_size: int = 16
) -> NDArray[np.int32]:
    """Finds the most probable tokens at every position, given the record's tokens before it.

    Args:
        model: a language model.
        records: N encoded records.
        number: k, how many tokens, from 1 to the size of the vocabulary.
        batch_size: records at a time.

    Returns:
        (N, T, k) int32, the most probable first; zeros in column 0 and without meaning at padding.

    Raises:
        TypeError, ValueError: as for `token_statistics`; ValueError for an impossible number.
    """
    if not 1 <= number <= model.config.vocab_size:
        raise ValueError(
            f"number must be from 1 to {model.config.vocab_size}, the size of the vocabulary, got"
            f" {number}."
        )
    (tokens,) = measure_records(model, records, _MeasureTop(number), batch_size=batch_size)
    return tokens


def measure_records(
    model: CausalLM,
    records: LanguageDataset,
    measure: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]],
    *,
    batch_size: int,
    tokens: NDArray[np.int32] | None = None,
) -> list[NDArray[Any]]:
    """Computes what `measure` makes of the logits of every token, as arrays (N, T, ...).

    Args:
        model: a language model.
        records: N encoded records.
        measure: as for `dpjax.models.measure_tokens`; returns a tuple.
        batch_size: records at a time.
        tokens: `(N, T)` that `measure` is given in the place of the records' own.

    Raises:
        TypeError, ValueError: as for `token_statistics`.
    """
    if not len(records):
        raise ValueError("records must hold at least 1 record, got 0.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    _check_targets(records)
    results: list[NDArray[Any]] = []
    ordered = by_length(records, np.arange(len(records)))
    for rows, is_real in microbatches(ordered, min(batch_size, len(records))):
        batch = trim_padding(records.take(rows))
        width = batch.input_ids.shape[1]
        asked = None if tokens is None else tokens[rows, :width]
        parts = measure_tokens(model, batch.input_ids, batch.attention_mask, measure, tokens=asked)
        parts = [np.asarray(part) for part in parts]
        if not results:
            shape = records.input_ids.shape
            results = [np.zeros((*shape, *part.shape[2:]), part.dtype) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[rows[is_real], : part.shape[1]] = part[is_real]
    return results


def _check_targets(records: LanguageDataset) -> None:
    """Raises ValueError for a target that nothing predicts, whose statistics would be made up."""
    is_token = records.attention_mask
    has_token_before = np.pad(is_token[:, :-1], ((0, 0), (1, 0)))
    places = np.argwhere(records.loss_mask & ~(is_token & has_token_before))
    if len(places):
        row, column = places[0].tolist()
        raise ValueError(
            "loss_mask must be True only at tokens that have a token before them, got a target at"
            f" record {row}, column {column}; {len(places)} such places."
        )


def _measure_statistics(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, ...]:
    log_probs = jax.nn.log_softmax(logits)
    probs = jnp.exp(log_probs)
    # A token without probability adds nothing, and its log-probability may be -inf.
    log_probs_of_possible = jnp.where(probs > 0, log_probs, 0.0)
    mean = jnp.sum(probs * log_probs_of_possible, axis=-1)
    # Around the mean: the difference of two large numbers would lose digits.
    variance = jnp.sum(probs * (log_probs_of_possible - mean[:, None]) ** 2, axis=-1)
    is_argmax = jnp.argmax(logits, axis=-1) == tokens
    return _at_tokens(log_probs, tokens), mean, variance, is_argmax


def _measure_log_probs(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array]:
    return (_at_tokens(jax.nn.log_softmax(logits), tokens),)


@dataclasses.dataclass(frozen=True)
class _MeasureTop:
    """Finds the `number` tokens with the largest logits."""

    number: int

    def __call__(self, logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.top_k(logits, self.number)[1],)


def _at_tokens(values: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, tokens[:, None], axis=-1)[:, 0]
