"""Texts with a tag for each word, as arrays of token ids."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dpjax.data.encode.base import EncodedRecords
from dpjax.data.encode.labelled import label_ids
from dpjax.data.encode.tokenizing import (
    TEXTS_AT_ONCE,
    check_max_length,
    check_padding_token,
    check_tokenizer,
)
from dpjax.data.records.tagged_words import TaggedWords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class TaggedDataset(EncodedRecords):
    """N texts with tagged words, padded on the right to T = max_length tokens."""

    labels: np.ndarray
    """(N, T) int32, positions in the label names; 0 where no tag belongs."""
    loss_mask: np.ndarray
    """(N, T) bool, True at the first token of each word: there its tag counts."""


def encode_tagged_words(
    records: TaggedWords,
    tokenizer: PreTrainedTokenizerBase,
    label_names: tuple[str, ...],
    max_length: int,
) -> TaggedDataset:
    """Joins the words of a text by blanks, tokenises it, cuts it to `max_length` and pads it.

    A tag counts at the first token of its word, as in Devlin et al. 2019 (arXiv:1810.04805,
    section 5.3). Words that are cut off do not count.

    Args:
        records: the words and their tags.
        tokenizer: a fast one.
        label_names: all tags, in the order of the logits.
        max_length: T, with the special tokens.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes, the
            tokenizer has no padding token, or a tag is not in `label_names`.
    """
    check_tokenizer(tokenizer)
    check_padding_token(tokenizer)
    check_max_length(max_length, tokenizer)
    shape = (len(records), max_length)
    input_ids, labels = np.empty(shape, np.int32), np.zeros(shape, np.int32)
    attention_mask, loss_mask = np.empty(shape, np.bool_), np.zeros(shape, np.bool_)
    truncated = np.empty(len(records), np.bool_)
    for start in range(0, len(records), TEXTS_AT_ONCE):
        rows = slice(start, start + TEXTS_AT_ONCE)
        encoded = tokenizer(
            [" ".join(words) for words in records.words[rows]],
            truncation=True,
            max_length=max_length,
            padding="max_length",
            padding_side="right",
            return_attention_mask=True,
        )
        input_ids[rows] = encoded["input_ids"]
        attention_mask[rows] = encoded["attention_mask"]
        truncated[rows] = [bool(encoding.overflowing) for encoding in encoded.encodings]
        for row, encoding in enumerate(encoded.encodings, start):
            tokens, words = _first_tokens(encoding, records.words[row])
            labels[row, tokens] = label_ids(records.tags[row], label_names)[words]
            loss_mask[row, tokens] = True
    return TaggedDataset(input_ids, attention_mask, truncated, labels, loss_mask)


def _first_tokens(encoding: Any, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first token of each word: positions of tokens, and the words they belong to."""
    ends = np.array([end for _, end in encoding.offsets])
    starts = np.array([start for start, _ in encoding.offsets])
    is_text = (np.array(encoding.special_tokens_mask) == 0) & (ends > starts)
    (tokens,) = np.nonzero(is_text)
    lengths = np.array([len(word) + 1 for word in words])
    first_characters = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    # By its last character: a token may begin with the blank before its word.
    belongs_to = np.searchsorted(first_characters, ends[tokens] - 1, side="right") - 1
    is_first = np.diff(belongs_to, prepend=-1) > 0
    return tokens[is_first], belongs_to[is_first]
