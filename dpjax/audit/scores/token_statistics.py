"""What a language model says of every token of some records: the input of all token scores."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import special

_FLOATING = ("log_probs", "vocab_mean", "vocab_variance")
_BOOLEAN = ("is_argmax", "is_target")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TokenStatistics:
    """What a language model says of the tokens of N records, padded to T tokens.

    Column t belongs to the token at position t, given all tokens before it. Only the entries where
    `is_target` is True are ever read.

    Attributes:
        log_probs: (N, T) floating point, log p of the token itself, in nats.
        vocab_mean: (N, T) floating point, Σ p log p over the vocabulary, in nats.
        vocab_variance: (N, T) floating point, Σ p (log p)² − (Σ p log p)², in nats².
        is_argmax: (N, T) bool, whether no token is more probable (the first of equals counts).
        is_target: (N, T) bool, whether the token carries loss. Prompts and padding do not.

    Raises:
        TypeError: an array has the wrong dtype.
        ValueError: shapes differ, there is no record, or a target token has a value that no model
            that works can give: NaN, an infinity, a positive log-probability, a variance below 0.

    Example:
        >>> import numpy as np
        >>> statistics = TokenStatistics(
        ...     log_probs=np.log([[0.5, 0.25]]),
        ...     vocab_mean=np.full((1, 2), np.log(0.5)),
        ...     vocab_variance=np.zeros((1, 2)),
        ...     is_argmax=np.array([[True, False]]),
        ...     is_target=np.array([[True, True]]),
        ... )
        >>> len(statistics), statistics.num_targets.tolist()
        (1, [2])
    """

    log_probs: NDArray[np.floating]
    vocab_mean: NDArray[np.floating]
    vocab_variance: NDArray[np.floating]
    is_argmax: NDArray[np.bool_]
    is_target: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in _BOOLEAN + _FLOATING:
            _check_array(name, getattr(self, name), np.bool_ if name in _BOOLEAN else np.floating)
        shapes = {name: getattr(self, name).shape for name in _BOOLEAN + _FLOATING}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the arrays must have one shape (N, T), got {shapes}.")
        if not len(self):
            raise ValueError("the statistics must be of at least 1 record, got 0.")
        for name in _FLOATING:
            self._check_values(name, ~np.isfinite(getattr(self, name)), "finite")
        self._check_values("log_probs", self.log_probs > 0, "at most 0")
        self._check_values("vocab_variance", self.vocab_variance < 0, "at least 0")

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def num_targets(self) -> NDArray[np.int64]:
        """(N,) int64, how many target tokens each record has."""
        return np.asarray(self.is_target.sum(axis=1))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> TokenStatistics:
        """Returns the statistics of the records at `rows`, numbers or a mask, in that order."""
        return TokenStatistics(
            **{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)}
        )

    def _check_values(self, name: str, is_wrong: NDArray[np.bool_], wanted: str) -> None:
        places = np.argwhere(is_wrong & self.is_target)
        if len(places):
            row, column = places[0].tolist()
            value = getattr(self, name)[row, column]
            raise ValueError(
                f"{name} must be {wanted} at target tokens, got {value} for record {row}, token"
                f" {column}; {len(places)} such places. Find out why before attacking: the"
                " training may have diverged."
            )


def statistics_from_logits(
    logits: NDArray[np.floating], tokens: NDArray[np.integer], is_target: NDArray[np.bool_]
) -> TokenStatistics:
    """Computes the statistics in float64 from logits that some other program has written.

    Args:
        logits: (N, T, V) floating point; those at t predict the token at t from what stands before.
        tokens: (N, T) integers from 0 to V − 1 at target tokens.
        is_target: (N, T) bool, which tokens carry loss.

    Raises:
        TypeError: an array has the wrong dtype.
        ValueError: shapes differ, a target token is out of range, or a result is not finite.

    Example:
        >>> logits = np.log([[[3.0, 1.0], [1.0, 1.0]]])
        >>> statistics = statistics_from_logits(
        ...     logits, np.array([[0, 1]]), np.array([[True, True]])
        ... )
        >>> np.exp(statistics.log_probs).round(6).tolist(), statistics.is_argmax.tolist()
        ([[0.75, 0.5]], [[True, False]])
    """
    if logits.ndim != 3 or tokens.shape != logits.shape[:2]:
        raise ValueError(
            f"logits must have shape (N, T, V) and tokens (N, T), got {logits.shape} and"
            f" {tokens.shape}."
        )
    _check_array("is_target", is_target, np.bool_)
    if is_target.shape != tokens.shape:
        raise ValueError(f"is_target must have shape {tokens.shape}, got {is_target.shape}.")
    targets = tokens[is_target]
    if ((targets < 0) | (targets >= logits.shape[2])).any():
        raise ValueError(f"tokens must be from 0 to {logits.shape[2] - 1}, got others.")
    log_probs = special.log_softmax(logits.astype(np.float64), axis=2)
    probs = np.exp(log_probs)
    of_possible = np.where(probs > 0, log_probs, 0.0)
    mean = (probs * of_possible).sum(axis=2)
    variance = (probs * (of_possible - mean[..., None]) ** 2).sum(axis=2)
    column = np.where(is_target, tokens, 0)[..., None]
    return TokenStatistics(
        log_probs=np.take_along_axis(log_probs, column, axis=2)[..., 0],
        vocab_mean=mean,
        vocab_variance=variance,
        is_argmax=logits.argmax(axis=2) == tokens,
        is_target=is_target,
    )


def mean_over_targets(
    values: NDArray[np.floating], is_target: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns each record's mean over its target tokens, (N,), of values (N, T).

    Raises:
        ValueError: a record has no target token.
    """
    require_targets(is_target)
    total = np.where(is_target, values.astype(np.float64), 0.0).sum(axis=1)
    return np.asarray(total / is_target.sum(axis=1))


def left_aligned(
    values: NDArray[np.floating], is_target: NDArray[np.bool_], fill: float
) -> NDArray[np.float64]:
    """Returns the values (N, T) of target tokens moved to the left, in order; `fill` after them."""
    order = np.argsort(~is_target, axis=1, kind="stable")
    kept = np.where(is_target, values.astype(np.float64), fill)
    return np.take_along_axis(kept, order, axis=1)


def require_targets(is_target: NDArray[np.bool_]) -> None:
    """Raises ValueError if a record has no target token."""
    without = np.flatnonzero(~is_target.any(axis=1))
    if len(without):
        raise ValueError(
            f"every record must have a target token, got {len(without)} without, the first being"
            f" record {without[0]}. Leave them out: nothing was learnt from them."
        )


def require_same_tokens(tuned: TokenStatistics, base: TokenStatistics) -> None:
    """Raises ValueError unless both models were asked about the same tokens."""
    if tuned.is_target.shape != base.is_target.shape or (tuned.is_target != base.is_target).any():
        raise ValueError(
            "tuned and base must be statistics of the same target tokens, got shapes"
            f" {tuned.is_target.shape} and {base.is_target.shape} with {tuned.is_target.sum()} and"
            f" {base.is_target.sum()} targets. Give both models the same encoded records."
        )


def _check_array(name: str, array: object, kind: type[np.generic]) -> None:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, kind):
        dtype = getattr(array, "dtype", type(array).__name__)
        expected = "bool" if kind is np.bool_ else "floating point"
        raise TypeError(f"{name} must be a numpy array of {expected}, got {dtype}.")
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (N, T), got {array.shape}.")
