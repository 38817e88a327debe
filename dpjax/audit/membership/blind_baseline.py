"""Whether two sets of texts can be told apart without any model: then no attack on one counts."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.membership.roc import auc

_NUM_BUCKETS = 2**14
_NUM_FOLDS = 5
_RIDGE = 1.0
_MOST_TEXTS = 2000
# One of a hundred random splits is called one that is not.
_NUM_PERMUTATIONS, _SIGNIFICANCE = 199, 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindBaseline:
    """How well a bag of words tells members from non-members.

    Attributes:
        auc: 0.5 if it cannot.
        p_value: how often a random split of the same texts is separated as well: of 199 splits and
            this one, the share with no smaller AUC.
        separates: whether `p_value` is at most 0.01: then the sets differ in more than membership,
            and no attack on the model may be interpreted.
    """

    auc: float
    p_value: float
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
    split = np.repeat([1.0, -1.0], [len(members), len(nonmembers)])
    labels = np.stack([split, *(rng.permutation(split) for _ in range(_NUM_PERMUTATIONS))], axis=1)
    scores = _held_out_scores(
        [*members, *nonmembers], labels, rng.permutation(len(split)) % _NUM_FOLDS
    )
    # The scores of one text depend on the labels of the others, so no interval for independent
    # scores holds; labels of random splits are exchangeable.
    areas = np.array(
        [
            auc(column[is_member], column[~is_member])
            for column, is_member in zip(scores.T, labels.T > 0, strict=True)
        ]
    )
    p_value = float((areas >= areas[0] - 1e-12).mean())
    return BlindBaseline(auc=float(areas[0]), p_value=p_value, separates=p_value <= _SIGNIFICANCE)


def _held_out_scores(
    texts: Sequence[str], labels: NDArray[np.float64], folds: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Returns the scores (n, k) of n texts by classifiers of k labellings (n, k), of ±1 each."""
    similarities = _similarities(texts)
    scores = np.zeros_like(labels)
    for fold in range(_NUM_FOLDS):
        inside, outside = folds == fold, folds != fold
        # Each fold's score is measured from its training part's mean, or the folds, whose shares of
        # members differ by chance, would be ordered against their labels.
        balanced = labels[outside] - labels[outside].mean(axis=0)
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
