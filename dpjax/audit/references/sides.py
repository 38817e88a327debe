"""Scores under shadow models, split for each record into those that trained on it and the rest."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

# How many records an error message names.
_NAMED = 5
# What rounding may add to a log-probability of 0 that was computed in float32.
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """The scores of n records under the shadows that trained on them, or under the others.

    The shadows differ from record to record, and so does their number.

    Attributes:
        scores: (k, n) float64, 0 where `counts_here` is False.
        counts_here: (k, n) bool, which shadows belong to this side of each record.
    """

    scores: NDArray[np.float64]
    counts_here: NDArray[np.bool_]

    @property
    def number(self) -> NDArray[np.int64]:
        """How many shadows each record has on this side, (n,)."""
        return np.sum(self.counts_here, axis=0, dtype=np.int64)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean score of each record, (n,)."""
        return np.sum(self.scores, axis=0) / self.number

    @property
    def median(self) -> NDArray[np.float64]:
        """The median score of each record, (n,)."""
        return np.nanmedian(np.where(self.counts_here, self.scores, np.nan), axis=0)

    @property
    def sum_of_squares(self) -> NDArray[np.float64]:
        """Σ (score − mean)² of each record, (n,); exactly 0 where all scores are equal."""
        deviations = np.where(self.counts_here, self.scores - self.mean, 0.0)
        largest = np.max(np.where(self.counts_here, self.scores, -np.inf), axis=0)
        smallest = np.min(np.where(self.counts_here, self.scores, np.inf), axis=0)
        # The rounded mean of equal numbers may differ from them.
        return np.where(largest == smallest, 0.0, np.sum(deviations**2, axis=0))

    def pooled_variance(self, name: str) -> float:
        """Returns the variance of a record's score between shadows, taken to be that of all.

        s² = Σⱼ SSⱼ / Σⱼ (kⱼ − 1) over the records j, each around its own mean.

        Args:
            name: of the side, for errors: "in" or "out".

        Raises:
            ValueError: no record has two shadows on this side, or no score varies.
        """
        freedom = int(np.sum(self.number - 1))
        if freedom == 0:
            raise ValueError(
                f"membership must give at least one record two {name} shadows, got one for each. "
                "Train more shadows: a variance cannot be told from single scores"
            )
        pooled = float(np.sum(self.sum_of_squares)) / freedom
        if pooled == 0.0:
            raise ValueError(
                f"shadow_scores must vary between the {name} shadows of a record, got the same "
                "number in all of them. Check that shadows were trained from different keys and "
                "batches"
            )
        return pooled


def split_sides(
    target_scores: ArrayLike,
    shadow_scores: ArrayLike,
    membership: ArrayLike,
    *,
    needs_in: bool,
    kind: str = "scores",
) -> tuple[NDArray[np.float64], Side, Side]:
    """Checks the input of an attack, and returns target scores, in side and out side.

    Args:
        target_scores: (n,) scores of the records under the attacked model.
        shadow_scores: (k, n) scores under k shadow models.
        membership: (k, n) bool, True where a shadow was trained on a record.
        needs_in: whether every record needs a shadow that was trained on it.
        kind: of the numbers, for errors: the end of the arguments' names.

    Raises:
        TypeError: scores are not numbers, or membership is not boolean.
        ValueError: shapes do not fit, a score is not finite, or a record has no shadow on a side.
    """
    targets = checked_numbers(f"target_{kind}", target_scores, 1)
    shadows = checked_numbers(f"shadow_{kind}", shadow_scores, 2)
    is_in = checked_membership(membership)
    if shadows.shape[1:] != targets.shape or is_in.shape != shadows.shape:
        raise ValueError(
            f"target_{kind}, shadow_{kind} and membership must have shapes (n,), (k, n) and "
            f"(k, n), got {targets.shape}, {shadows.shape} and {is_in.shape}"
        )
    lonely = np.flatnonzero(np.all(is_in, axis=0))
    if lonely.size:
        raise ValueError(
            f"membership must have a shadow that left out each record, got none for "
            f"{_names(lonely)}. Take a design of balanced_membership"
        )
    if needs_in:
        lonely = np.flatnonzero(~np.any(is_in, axis=0))
        if lonely.size:
            raise ValueError(
                f"membership must have a shadow that trained on each record, got none for "
                f"{_names(lonely)}. Take a design of balanced_membership, or attack offline"
            )
    return (
        targets,
        Side(scores=np.where(is_in, shadows, 0.0), counts_here=is_in),
        Side(scores=np.where(is_in, 0.0, shadows), counts_here=~is_in),
    )


def checked_membership(membership: ArrayLike) -> NDArray[np.bool_]:
    """Returns who trained on what as a (k, n) array with k, n ≥ 1, or raises."""
    is_in = np.asarray(membership)
    if is_in.dtype != np.bool_:
        raise TypeError(f"membership must be boolean, got {is_in.dtype}. Pass it as bool")
    if is_in.ndim != 2 or not is_in.size:
        raise ValueError(
            f"membership must have shape (number of shadows, number of records), got {is_in.shape}"
        )
    return is_in


def checked_numbers(name: str, values: ArrayLike, num_axes: int) -> NDArray[np.float64]:
    """Returns finite numbers as a float64 array with `num_axes` axes, or raises."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers: {error}") from error
    if numbers.ndim != num_axes or not numbers.size:
        raise ValueError(
            f"{name} must be a non-empty array with {num_axes} axes, got shape {numbers.shape}"
        )
    wrong = np.argwhere(~np.isfinite(numbers))
    if wrong.size:
        place = tuple(wrong[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {numbers[place]} at {place} and {len(wrong)} such "
            "entries. Find out which model diverged, and leave it or the record out"
        )
    return numbers


def checked_log_probs(name: str, values: ArrayLike, num_axes: int) -> NDArray[np.float64]:
    """Returns log-probabilities, those that float32 rounded above 0 as 0, or raises."""
    numbers = checked_numbers(name, values, num_axes)
    if numbers.max() > _ROUNDING:
        raise ValueError(
            f"{name} must be at most 0, got {numbers.max()}. Pass log p, minus the loss in nats"
        )
    return np.minimum(numbers, 0.0)


def _names(records: NDArray[np.intp]) -> str:
    named = ", ".join(map(str, records[:_NAMED]))
    more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
    return f"record{'s' if len(records) > 1 else ''} {named}{more}"
