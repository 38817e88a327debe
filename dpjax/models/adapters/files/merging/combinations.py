"""Several pairs of A and B of one module, made into one pair.

The formulas are those of `add_weighted_adapter` of peft 0.21.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dpjax.basics.lora_config import Combination

Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class WeightedPair:
    """What one adapter adds to the weight of a module: factor · B A.

    Attributes:
        a: `(r, in)`.
        b: `(out, r)`.
        factor: the weight of the adapter, times its scaling.
    """

    a: np.ndarray
    b: np.ndarray
    factor: float


def combine(pairs: Sequence[WeightedPair], combination: Combination, rank: int) -> Pair:
    """Makes one pair, A `(rank, in)` and B `(out, rank)` float32, whose scaling is 1.

    With f the factors, `cat` and `svd` want Σ f B A: `cat` has it exactly, `svd` its best
    approximation of this rank. `linear` is (Σ √|f| B) (Σ sign(f) √|f| A), which has products of one
    adapter's B with another's A too.

    Args:
        pairs: of one module, of equal ranks with `linear`.
        combination: how they are combined.
        rank: of the result; ranks that are not needed are zeros.
    """
    exact = [
        WeightedPair(pair.a.astype(np.float64), pair.b.astype(np.float64), pair.factor)
        for pair in pairs
    ]
    a, b = _COMBINATIONS[combination](exact)
    a, b = a[:rank], b[:, :rank]
    missing = rank - len(a)
    return (
        np.pad(a, ((0, missing), (0, 0))).astype(np.float32),
        np.pad(b, ((0, 0), (0, missing))).astype(np.float32),
    )


def _linear(pairs: Sequence[WeightedPair]) -> Pair:
    roots = [abs(pair.factor) ** 0.5 for pair in pairs]
    # The sign is on one side only: on both it would be lost.
    signed = [np.copysign(root, pair.factor) for root, pair in zip(roots, pairs, strict=True)]
    a = sum(root * pair.a for root, pair in zip(signed, pairs, strict=True))
    b = sum(root * pair.b for root, pair in zip(roots, pairs, strict=True))
    return np.asarray(a), np.asarray(b)


def _cat(pairs: Sequence[WeightedPair]) -> Pair:
    a = np.concatenate([pair.factor * pair.a for pair in pairs], axis=0)
    return a, np.concatenate([pair.b for pair in pairs], axis=1)


def _svd(pairs: Sequence[WeightedPair]) -> Pair:
    """The singular vectors of B A in falling order, without the product `(out, in)` itself."""
    a, b = _cat(pairs)
    left, left_rest = np.linalg.qr(b)
    right, right_rest = np.linalg.qr(a.T)
    inner_left, values, inner_right = np.linalg.svd(left_rest @ right_rest.T, full_matrices=False)
    return inner_right @ right.T, left @ inner_left * values


_COMBINATIONS: Mapping[Combination, Callable[[Sequence[WeightedPair]], Pair]] = {
    "svd": _svd,
    "cat": _cat,
    "linear": _linear,
}
