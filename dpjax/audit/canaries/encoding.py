"""Canaries as token arrays, and training records with canaries among them."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dpjax.audit.canaries.makers.base import Canaries
from dpjax.audit.canaries.makers.unused_tokens import canary_tokenizer, rows_of_tokens
from dpjax.data import (
    Completions,
    EncodedRecords,
    LanguageDataset,
    Preferences,
    Records,
    TaggedDataset,
    TaggedWords,
    TextDataset,
    encode_labelled,
    encode_language,
    encode_preferences,
    encode_tagged_words,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encoded = TypeVar("Encoded", bound=EncodedRecords)


def encode_canaries(
    canaries: Canaries,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    label_names: Sequence[str] = (),
    separator: str = "",
    today: datetime.datetime | None = None,
) -> LanguageDataset | TextDataset | TaggedDataset:
    """Tokenises canaries as training records are, with the tokens that they alone have.

    Of canaries with new tokens these are the only targets: not the end-of-sequence token.

    Args:
        canaries: N of them.
        tokenizer: the checkpoint's; it is not changed.
        max_length: as in training.
        label_names: of a classifier, as in training.
        separator: as in training; used between prompts and completions that are texts.
        today: as for `dpjax.data.encode_language`.

    Returns:
        N rows, in the order of the canaries.

    Raises:
        TypeError, ValueError: as for `dpjax.data.encode_language`, `encode_preferences`,
            `encode_labelled` and `encode_tagged_words`.
    """
    known = canary_tokenizer(tokenizer, canaries.new_tokens)
    records = canaries.records
    if isinstance(records, Preferences):
        separator = separator if isinstance(records.prompts[0], str) else ""
        return encode_preferences(records, known, max_length, separator=separator, today=today)
    if isinstance(records, Records):
        return encode_labelled(records, known, tuple(label_names), max_length)
    if isinstance(records, TaggedWords):
        return encode_tagged_words(records, known, tuple(label_names), max_length)
    has_boundary = isinstance(records, Completions) and records.are_texts
    encoded = encode_language(
        records, known, max_length, separator=separator if has_boundary else "", today=today
    )
    if not canaries.new_tokens:
        return encoded
    rows = rows_of_tokens(known, canaries.new_tokens)
    only_new = encoded.loss_mask & np.isin(encoded.input_ids, rows)
    return dataclasses.replace(encoded, loss_mask=only_new)


def append_canaries(training: Encoded, canaries: Encoded, included: np.ndarray) -> Encoded:
    """Returns the training records followed by the canaries that their coins include.

    Included canaries are records like others: they count in the number of units, and the sampler
    draws them with the same probability.

    Args:
        training: `(N, T)` encoded records, padded on the right.
        canaries: `(m, S)` encoded canaries of the same type.
        included: `(m,)` bool, as the coins say.

    Returns:
        N + Σ included rows of max(T, S) tokens, if a canary is included.

    Raises:
        TypeError: the two are of different types.
        ValueError: `included` has another length than `canaries`.
    """
    if type(training) is not type(canaries):
        raise TypeError(
            f"canaries must be encoded as {type(training).__name__}, got {type(canaries).__name__}"
        )
    if np.shape(included) != (len(canaries),):
        raise ValueError(f"included must be ({len(canaries)},), got {np.shape(included)}")
    chosen = canaries.take(np.flatnonzero(included))
    if not len(chosen):
        return training
    width = max(training.input_ids.shape[1], chosen.input_ids.shape[1])
    arrays = {}
    for field in dataclasses.fields(training):
        parts = [getattr(training, field.name), getattr(chosen, field.name)]
        # Any token will do at padding, which the masks leave out.
        arrays[field.name] = np.concatenate([_widen(part, width) for part in parts])
    return type(training)(**arrays)


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    """Columns of zeros up to `width`; what has no columns stays."""
    if array.ndim == 1:
        return array
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))
