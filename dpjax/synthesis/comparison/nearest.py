"""How far each synthetic record is from the nearest training record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from dpjax.synthesis.comparison.words import Words, ngrams, quantiles

_MOST_PAIRS_AT_ONCE = 20_000_000
_MOST_REFERENCES = 1000


def describe_distances(synthetic: Sequence[Words], real: Sequence[Words]) -> dict[str, Any]:
    """Returns quantiles of the distances from each record to the nearest training record.

    The distance of two texts is 1 − |A ∩ B| / |A ∪ B| (Jaccard) of their sets of words and pairs of
    words: 0 for equal sets, 1 for texts without a word in common.

    Returns:
        `synthetic_to_training`; and `training_to_training`, of at most 1,000 training records to
        the nearest other one, null where there is one alone: what distances in the data are like.
    """
    table, others = _tables(real, synthetic)
    rows = np.linspace(0, len(real) - 1, min(len(real), _MOST_REFERENCES)).astype(int)
    return {
        "synthetic_to_training": quantiles(nearest_distances(others, table)),
        "training_to_training": (
            quantiles(nearest_distances(table[rows], table, without=rows))
            if len(real) > 1
            else None
        ),
    }


def nearest_distances(
    texts: sparse.csr_matrix, records: sparse.csr_matrix, without: np.ndarray | None = None
) -> np.ndarray:
    """Returns the Jaccard distance of each text to the nearest record.

    Args:
        texts: `(N, F)`, 1 where a text has a feature.
        records: `(M, F)`, likewise.
        without: `(N,)` the record that each text is not compared with, itself; None for none.
    """
    sizes = np.asarray(records.sum(axis=1)).ravel()
    distances = np.empty(texts.shape[0])
    size = max(1, _MOST_PAIRS_AT_ONCE // records.shape[0])
    for start in range(0, texts.shape[0], size):
        part = texts[start : start + size]
        shared = (part @ records.T).toarray()
        union = np.asarray(part.sum(axis=1)).reshape(-1, 1) + sizes - shared
        # Two texts without a word are equal.
        similarity = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
        if without is not None:
            similarity[np.arange(len(similarity)), without[start : start + size]] = -1.0
        distances[start : start + size] = 1.0 - similarity.max(axis=1)
    return distances


def _tables(*sides: Sequence[Words]) -> list[sparse.csr_matrix]:
    """Returns for each side which features its texts have, `(N, F)` float32."""
    numbers: dict[Words, int] = {}
    features = [
        [
            sorted({numbers.setdefault(gram, len(numbers)) for gram in _features(words)})
            for words in side
        ]
        for side in sides
    ]
    tables = []
    for side in features:
        ends = np.cumsum([0, *map(len, side)])
        columns = np.array([number for each in side for number in each], np.int64)
        values = np.ones(len(columns), np.float32)
        # At least one column: a matrix without any cannot be multiplied.
        shape = (len(side), max(1, len(numbers)))
        tables.append(sparse.csr_matrix((values, columns, ends), shape=shape))
    return tables


def _features(words: Words) -> list[Words]:
    return [gram for length in (1, 2) for gram in ngrams(words, length)]
