"""Prompts with two answers as arrays: both texts of a record in one row."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dpjax.data.encode.chat_template import RecordError
from dpjax.data.encode.language import LanguageDataset, encode_language
from dpjax.data.preferences.records import Preferences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUMBERS_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class PreferenceDataset(LanguageDataset):
    """N pairs of answers, each after its prompt, padded on the right to T tokens.

    `input_ids`, `attention_mask` and `loss_mask` are of the prompt with the chosen answer, the
    other three of the prompt with the rejected one. Targets are the tokens of answers.

    Example:
        >>> ids = np.array([[5, 6, 0], [5, 7, 0]], np.int32)
        >>> counts = np.array([[False, True, False]] * 2)
        >>> data = PreferenceDataset(
        ...     ids,
        ...     ids != 0,
        ...     truncated=np.zeros(2, bool),
        ...     loss_mask=counts,
        ...     rejected_ids=np.array([[5, 8, 9], [5, 7, 0]], np.int32),
        ...     rejected_mask=np.array([[True, True, True], [True, True, False]]),
        ...     rejected_loss_mask=np.array([[False, True, True], [False, True, False]]),
        ... )
        >>> data.lengths.tolist(), data.num_tokens, data.num_without_targets
        ([3, 2], 9, 1)
    """

    rejected_ids: np.ndarray
    """(N, T) int32."""
    rejected_mask: np.ndarray
    """(N, T) bool, False at padding."""
    rejected_loss_mask: np.ndarray
    """(N, T) bool, True at the tokens of the answer."""

    @property
    def lengths(self) -> np.ndarray:
        """(N,) integers, how many columns each record needs: those of its longer text."""
        lengths: np.ndarray = np.maximum(super().lengths, self.rejected_mask.sum(axis=1))
        return lengths

    @property
    def num_tokens(self) -> int:
        """How many tokens all records have together, in both texts."""
        return super().num_tokens + int(self.rejected_mask.sum())

    @property
    def without_targets(self) -> np.ndarray:
        """(N,) bool, True where both texts are the same: they were cut before they differ.

        The gradient of such a record is zero, yet it counts in the privacy guarantee.
        """
        is_same = np.where(self.attention_mask, self.input_ids, -1) == np.where(
            self.rejected_mask, self.rejected_ids, -1
        )
        without: np.ndarray = np.all(is_same, axis=1)
        return without

    def contents(self) -> Iterator[bytes]:
        """Yields the tokens of each record as bytes that equal records share.

        A pair the other way round is another record.
        """
        rejected = zip(self.rejected_ids, self.rejected_mask, strict=True)
        for chosen, (ids, mask) in zip(super().contents(), rejected, strict=True):
            # With its length before it, no other texts give the same bytes.
            yield len(chosen).to_bytes(8) + chosen + ids[mask].astype("<i4").tobytes()


def encode_preferences(
    records: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    separator: str = "",
    today: datetime.datetime | None = None,
) -> PreferenceDataset:
    """Tokenises every prompt with both of its answers, as `encode_language` does with one.

    Each text is cut after `max_length` tokens; a record counts as cut if one of its texts was.

    Args:
        records: prompts with two answers.
        tokenizer: a fast one.
        max_length: the most tokens of a prompt with an answer that are kept.
        separator: as for `encode_language`.
        today: as for `encode_language`.

    Raises:
        TypeError: as for `encode_language`.
        ValueError: as for `encode_language`, or a prompt leaves no token of an answer.

    Example:
        >>> from transformers import BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
        >>> tokenizer = BertTokenizer(dict(zip(words, range(8))), eos_token="[SEP]")
        >>> records = Preferences(["a"], ["fine film"], ["film"])
        >>> data = encode_preferences(records, tokenizer, max_length=8, separator=" ")
        >>> data.input_ids.tolist(), data.rejected_ids.tolist()
        ([[2, 5, 6, 7, 3]], [[2, 5, 7, 3, 0]])
    """
    chosen, rejected = (
        encode_language(
            records.answers(side), tokenizer, max_length, separator=separator, today=today
        )
        for side in ("chosen", "rejected")
    )
    _check_answers(chosen, rejected, max_length)
    length = max(chosen.input_ids.shape[1], rejected.input_ids.shape[1])
    return PreferenceDataset(
        input_ids=_widened(chosen.input_ids, length),
        attention_mask=_widened(chosen.attention_mask, length),
        truncated=chosen.truncated | rejected.truncated,
        loss_mask=_widened(chosen.loss_mask, length),
        rejected_ids=_widened(rejected.input_ids, length),
        rejected_mask=_widened(rejected.attention_mask, length),
        rejected_loss_mask=_widened(rejected.loss_mask, length),
    )


def _check_answers(chosen: LanguageDataset, rejected: LanguageDataset, max_length: int) -> None:
    rows = np.flatnonzero(chosen.without_targets | rejected.without_targets)
    if len(rows):
        numbers = ", ".join(str(row + 1) for row in rows[:_NUMBERS_SHOWN])
        more = ", …" if len(rows) > _NUMBERS_SHOWN else ""
        raise RecordError(
            f"{len(rows)} of {len(chosen)} records have a prompt so long that max_length="
            f"{max_length} leaves no token of an answer (records {numbers}{more}); use a larger "
            "max_length, or leave these records out"
        )


def _widened(array: np.ndarray, length: int) -> np.ndarray:
    """Columns of zeros up to `length`: any token will do at padding, which the masks leave out."""
    return np.pad(array, ((0, 0), (0, length - array.shape[1])))
