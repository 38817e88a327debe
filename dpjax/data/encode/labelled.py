"""Records as arrays of token ids, ready for a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.encode.base import EncodedRecords
from dpjax.data.encode.tokenizing import (
    check_tokenizer,
    leading_special_tokens,
    tokenize_padded,
    tokenize_with_offsets,
)
from dpjax.data.records.labelled import Records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset(EncodedRecords):
    """N labelled texts, padded on the right to T = max_length tokens.

    Example:
        >>> ids = np.array([[5, 6, 7], [5, 0, 0]], np.int32)
        >>> labels = np.array([1, 0], np.int32)
        >>> len(TextDataset(ids, ids != 0, truncated=np.zeros(2, bool), labels=labels))
        2
    """

    labels: np.ndarray
    """(N,) int32, positions in the label names."""


def encode_labelled(
    records: Records,
    tokenizer: PreTrainedTokenizerBase,
    label_names: tuple[str, ...],
    max_length: int,
) -> TextDataset:
    """Tokenises every text with its special tokens, cuts it to `max_length` tokens and pads it.

    A text that is written with the tokens that open a text gets no second ones.

    Raises:
        TypeError: the tokenizer is not a fast one.
        ValueError: `max_length` is below 8 or above what the tokenizer says its model takes, the
            tokenizer has no padding token, or a label is not in `label_names`.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> records = Records(["a fine film", "film"], labels=["1", "0"])
        >>> data = encode_labelled(records, tokenizer, ("0", "1"), max_length=8)
        >>> data.input_ids.tolist(), data.labels.tolist()
        ([[2, 5, 6, 7, 3, 0, 0, 0], [2, 7, 3, 0, 0, 0, 0, 0]], [1, 0])
    """
    # The opening tokens are looked up with it.
    check_tokenizer(tokenizer)
    labels = label_ids(records.labels, label_names)
    opening = leading_special_tokens(tokenizer)
    texts = _without_opening(records.texts, tokenizer, opening)
    return TextDataset(*tokenize_padded(texts, tokenizer, max_length), labels)


def _without_opening(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, opening: list[int]
) -> list[str]:
    """The texts, cut where they begin with the tokens that the tokenizer will put there."""
    written = tokenizer.convert_ids_to_tokens(opening)
    # Few texts hold the first of them at all.
    return [
        text[_opening_end(text, tokenizer, opening) :] if written and written[0] in text else text
        for text in texts
    ]


def _opening_end(text: str, tokenizer: PreTrainedTokenizerBase, opening: list[int]) -> int:
    """How many characters of the text are the opening tokens, written out."""
    ((ids, offsets),) = tokenize_with_offsets(tokenizer, [text])
    return offsets[len(opening) - 1][1] if ids[: len(opening)] == opening else 0


def label_ids(labels: list[str], label_names: tuple[str, ...]) -> np.ndarray:
    """The positions of labels in the label names, int32; ValueError for one that is not there."""
    ids = {name: position for position, name in enumerate(label_names)}
    unknown = sorted(set(labels) - ids.keys())
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of {label_names}")
    return np.array([ids[label] for label in labels], np.int32)
