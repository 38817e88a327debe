"""Which tokens of a text lie in marked spans of its characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpjax.data.encode.chat_template import Span


def tokens_in_spans(text: str, spans: Sequence[Span], offsets: Sequence[Span]) -> np.ndarray:
    """For each token, as bool, whether it is part of a span and of nothing outside but blanks.

    A token that holds somebody else's words beside those in a span is not part of it. Blanks make
    no difference: tokenizers that join a space to the word after it may or may not count it among
    the characters of the token.

    Args:
        text: what was tokenised.
        spans: of characters of `text`; they may touch, overlap and be empty.
        offsets: the characters of each token, in order. A token of none stands for the characters
            since the token before it: tokenizers that do not count blanks write those so.
    """
    inside = np.zeros(len(text), np.bool_)
    for start, end in spans:
        inside[start:end] = True
    blank = np.fromiter(map(str.isspace, text), np.bool_, len(text))
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    starts = np.where(starts == ends, np.minimum(before, starts), starts)
    is_answer: np.ndarray = _count(inside, starts, ends) > 0
    is_answer &= _count(~inside & ~blank, starts, ends) == 0
    return is_answer


def _count(characters: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many of `characters`, a mask, each token has."""
    up_to: np.ndarray = np.concatenate([[0], np.cumsum(characters)])
    count: np.ndarray = up_to[ends] - up_to[starts]
    return count
