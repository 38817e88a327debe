"""Texts as words, and what two collections of them share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

_WORD = re.compile(r"\w+")
NGRAMS = (1, 2, 3)

Words = tuple[str, ...]


def split_words(text: str) -> Words:
    """Returns the words of a text, without case and punctuation."""
    return tuple(_WORD.findall(text.casefold()))


def ngrams(words: Words, length: int) -> list[Words]:
    """Returns every run of `length` words, in their order."""
    return [words[start : start + length] for start in range(len(words) - length + 1)]


def describe_lengths(texts: Sequence[Words]) -> dict[str, Any]:
    """Returns mean and quantiles of the lengths in words."""
    lengths = np.array([len(words) for words in texts])
    return {"records": len(texts), "mean": float(lengths.mean()), **quantiles(lengths)}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Returns the least and largest value, the median, and what 5 % and 95 % lie below."""
    names = ("least", "p05", "median", "p95", "largest")
    found = np.quantile(values, (0.0, 0.05, 0.5, 0.95, 1.0))
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def compare_ngrams(synthetic: Sequence[Words], real: Sequence[Words]) -> list[dict[str, Any]]:
    """Returns for n = 1, 2, 3 which share of the n-grams of each side the other side has.

    Every occurrence counts; null where a side has no n-gram. `distinct` is the number of different
    n-grams over that of all (Li et al. 2016, arXiv:1510.03055).
    """
    rows = []
    for length in NGRAMS:
        ours, theirs = (
            Counter(gram for words in side for gram in ngrams(words, length))
            for side in (synthetic, real)
        )
        rows.append(
            {
                "n": length,
                "synthetic_found_in_real": _share_found(ours, theirs),
                "real_found_in_synthetic": _share_found(theirs, ours),
                "distinct_in_synthetic": _distinct(ours),
                "distinct_in_real": _distinct(theirs),
            }
        )
    return rows


def _share_found(counts: Counter[Words], others: Counter[Words]) -> float | None:
    total = counts.total()
    found = sum(count for gram, count in counts.items() if gram in others)
    return found / total if total else None


def _distinct(counts: Counter[Words]) -> float | None:
    return len(counts) / counts.total() if counts else None
