"""Whether two sets of texts can be told apart without any model: then no attack on one counts."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.membership.intervals import auc_interval
from dpjax.audit.membership.roc import auc

_NUM_BUCKETS = 2**14
_NUM_FOLDS = 5
_RIDGE = 1.0
_MOST_TEXTS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindBaseline:
    """How well a bag of words tells members from non-members.

    Attributes:
        auc: 0.5 if it cannot.
        auc_interval: at 99 %: one of a hundred random splits is called one that is not.
        separates: whether the interval lies above 0.5: then the sets differ in more than
            membership, and no attack on the model may be interpreted.
    """

    auc: float
    auc_interval: tuple[float, float]
    separates: bool


def blind_baseline(
    member_texts: Sequence[str], nonmember_texts: Sequence[str], *, seed: int = 0
) -> BlindBaseline:
    """Returns how well a classifier that sees no model separates two sets of texts.

    Ridge regression on hashed counts of words and of pairs of words, each text scored by a
    classifier that was fitted without its fold (the blind attacks of Das, Zhang and Tramèr 2024,
    "Blind Baselines Beat Membership Inference Attacks for Foundation Models"). At most 2,000 texts
    of each set are used.

    Args:
        member_texts: texts of training records, at least 10.
        nonmember_texts: texts of held-out records, at least 10.
        seed: of the folds.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if a set has fewer than 10 texts.

    Example:
        >>> old = [f"written in 2019, number {i}" for i in range(40)]
        >>> new = [f"written in 2024, number {i}" for i in range(40)]
        >>> blind_baseline(old, new).separates
        True
    """
    rng = np.random.default_rng(seed)
    sets = []
    for name, texts in (("member_texts", member_texts), ("nonmember_texts", nonmember_texts)):
        if any(not isinstance(text, str) for text in texts):
            raise TypeError(f"{name} must hold strings.")
        if len(texts) < 10:
            raise ValueError(f"{name} must hold at least 10 texts; got {len(texts)}.")
        chosen = rng.permutation(len(texts))[:_MOST_TEXTS]
        sets.append([texts[index] for index in chosen])
    members, nonmembers = sets
    scores = _held_out_scores(
        [*members, *nonmembers],
        np.repeat([1.0, -1.0], [len(members), len(nonmembers)]),
        rng.permutation(len(members) + len(nonmembers)) % _NUM_FOLDS,
    )
    low, high = auc_interval(scores[: len(members)], scores[len(members) :], confidence=0.99)
    return BlindBaseline(
        auc=auc(scores[: len(members)], scores[len(members) :]),
        auc_interval=(low, high),
        separates=low > 0.5,
    )


def _held_out_scores(
    texts: Sequence[str], labels: NDArray[np.float64], folds: NDArray[np.int_]
) -> NDArray[np.float64]:
    similarities = _similarities(texts)
    scores = np.zeros(len(texts))
    for fold in range(_NUM_FOLDS):
        inside, outside = folds == fold, folds != fold
        # Each fold's score is measured from its training part's mean, or the folds, whose shares of
        # members differ by chance, would be ordered against their labels.
        balanced = labels[outside] - labels[outside].mean()
        kernel = similarities[np.ix_(outside, outside)]
        weights = np.linalg.solve(kernel + _RIDGE * np.eye(len(kernel)), balanced)
        scores[inside] = similarities[np.ix_(inside, outside)] @ weights
    return scores


def _similarities(texts: Sequence[str]) -> NDArray[np.float64]:
    """Returns the cosines (n, n) between hashed bags of words and pairs of words."""
    from scipy import sparse

    rows, columns = [], []
    for row, text in enumerate(texts):
        words = text.lower().split()
        terms = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]
        columns += [zlib.crc32(term.encode()) % _NUM_BUCKETS for term in terms]
        rows += [row] * len(terms)
    counts = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(texts), _NUM_BUCKETS)
    )
    counts.data = np.log1p(counts.data)
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    cosines: NDArray[np.float64] = (counts @ counts.T).toarray()
    scale = np.where(lengths > 0, lengths, 1.0)
    return cosines / scale[:, None] / scale
