"""Records as arrays of token ids, ready for a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.records import Records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST_MAX_LENGTH = 8
# Bounds the memory of the tokenizer's Python objects, which is far above that of the arrays.
TEXTS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset:
    """N encoded records, padded on the right to T = max_length tokens."""

    input_ids: np.ndarray
    """(N, T) int32."""
    attention_mask: np.ndarray
    """(N, T) bool, False at padding."""
    labels: np.ndarray
    """(N,) int32, positions in the label names."""
    truncated: np.ndarray
    """(N,) bool, True where the text was longer than T tokens."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_truncated(self) -> int:
        """How many texts were cut."""
        return int(self.truncated.sum())

    def take(self, indices: np.ndarray) -> TextDataset:
        """The records at `indices` (any order, repeats allowed), copied."""
        rows = np.asarray(indices, dtype=np.int64)
        return TextDataset(
            self.input_ids[rows],
            self.attention_mask[rows],
            self.labels[rows],
            self.truncated[rows],
        )


def encode(
    records: Records,
    tokenizer: PreTrainedTokenizerBase,
    label_names: tuple[str, ...],
    max_length: int,
) -> TextDataset:
    """Tokenises every text with its special tokens, cuts it to `max_length` tokens and pads it.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes, the
            tokenizer has no padding token, or a label is not in `label_names`.
    """
    _check_tokenizer(tokenizer)
    _check_max_length(max_length, tokenizer.model_max_length)
    labels = _label_ids(records.labels, label_names)
    input_ids = np.empty((len(records), max_length), np.int32)
    attention_mask = np.empty((len(records), max_length), np.bool_)
    truncated = np.empty(len(records), np.bool_)
    for start in range(0, len(records), TEXTS_AT_ONCE):
        rows = slice(start, start + TEXTS_AT_ONCE)
        encoded = tokenizer(
            records.texts[rows],
            truncation=True,
            max_length=max_length,
            padding="max_length",
            padding_side="right",
            return_attention_mask=True,
        )
        input_ids[rows] = encoded["input_ids"]
        attention_mask[rows] = encoded["attention_mask"]
        truncated[rows] = [bool(encoding.overflowing) for encoding in encoded.encodings]
    return TextDataset(input_ids, attention_mask, labels, truncated)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"a fast tokenizer (tokenizer.json) is needed, got {name}")
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{name} has no padding token; set one, for instance "
            "tokenizer.pad_token = tokenizer.eos_token"
        )


def _check_max_length(max_length: int, model_max_length: float) -> None:
    if max_length < SHORTEST_MAX_LENGTH:
        raise ValueError(
            f"max_length={max_length} leaves almost no text between the special tokens; use at "
            f"least {SHORTEST_MAX_LENGTH}"
        )
    # A tokenizer that does not know its limit says something like 1e30.
    if max_length > model_max_length:
        raise ValueError(
            f"max_length={max_length} is more than the {model_max_length} tokens that the "
            "tokenizer says its model takes"
        )


def _label_ids(labels: list[str], label_names: tuple[str, ...]) -> np.ndarray:
    ids = {name: position for position, name in enumerate(label_names)}
    unknown = sorted(set(labels) - ids.keys())
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of {label_names}")
    return np.array([ids[label] for label in labels], np.int32)
