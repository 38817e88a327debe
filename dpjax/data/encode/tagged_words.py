"""Texts with a tag for each word, as arrays of token ids."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dpjax.data.encode.base import EncodedRecords, HasTargets
from dpjax.data.encode.labelled import label_ids
from dpjax.data.encode.tokenizing import check_max_length, tokenize_padded
from dpjax.data.records.tagged_words import TaggedWords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class TaggedDataset(HasTargets, EncodedRecords):
    """N texts with tagged words, padded on the right to T = max_length tokens.

    Example:
        >>> ids = np.array([[5, 6, 7]], np.int32)
        >>> counts = np.array([[False, True, True]])
        >>> tags = np.array([[0, 2, 1]], np.int32)
        >>> len(TaggedDataset(ids, ids != 0, np.zeros(1, bool), labels=tags, loss_mask=counts))
        1
    """

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

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))))
        >>> data = encode_tagged_words(
        ...     TaggedWords(words=[["a", "fine", "film"]], tags=[["O", "PRAISE", "O"]]),
        ...     tokenizer,
        ...     label_names=("O", "PRAISE"),
        ...     max_length=8,
        ... )
        >>> data.labels[0, :5].tolist(), data.loss_mask[0, :5].tolist()
        ([0, 0, 1, 0, 0], [False, True, True, True, False])
    """
    # Before arrays of that length are made.
    check_max_length(max_length, tokenizer)
    shape = (len(records), max_length)
    labels, loss_mask = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)

    def place_tags(row: int, encoding: Any) -> None:
        tokens, words = _first_tokens(encoding, records.words[row])
        labels[row, tokens] = label_ids(records.tags[row], label_names)[words]
        loss_mask[row, tokens] = True

    texts = [" ".join(words) for words in records.words]
    padded = tokenize_padded(texts, tokenizer, max_length, place_tags)
    return TaggedDataset(*padded, labels, loss_mask)


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
