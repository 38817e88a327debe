"""Which tokens of a record an attacker is to find, and which he is given."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suffix:
    """Which tokens of a record are to be found, given all before them.

    Attributes:
        prefix_tokens: how many tokens of the record are given; None: all before the first target
            token, such as the prompt.
        suffix_tokens: how many tokens are to be found; None: all that follow up to the last target.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> mask = np.array([[False, False, True, True]])
        >>> Suffix(prefix_tokens=None, suffix_tokens=None).select(mask).tolist()
        [[False, False, True, True]]
    """

    prefix_tokens: int | None = 50
    suffix_tokens: int | None = 50

    def __post_init__(self) -> None:
        for name in ("prefix_tokens", "suffix_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}.")

    def select(self, is_target: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the tokens to be found, (N, T) bool.

        A record whose tokens there are not all targets, as one that is too short, has none: it does
        not fit.

        Args:
            is_target: (N, T) bool, which tokens carry loss.
        """
        columns = np.arange(is_target.shape[1])
        has_target = is_target.any(axis=1)
        first = is_target.argmax(axis=1)
        end = is_target.shape[1] - is_target[:, ::-1].argmax(axis=1)
        if self.prefix_tokens is not None:
            first = np.full(len(is_target), self.prefix_tokens)
        if self.suffix_tokens is not None:
            end = first + self.suffix_tokens
        wanted = (columns >= first[:, None]) & (columns < end[:, None])
        length = np.maximum(end - first, 0)
        fits = has_target & (length > 0) & ((wanted & is_target).sum(axis=1) == length)
        return np.asarray(wanted & fits[:, None])


def require_fitting(name: str, suffix: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which records fit, (N,) bool; ValueError if none does."""
    fits = np.asarray(suffix.any(axis=1))
    if not fits.any():
        raise ValueError(
            f"{name} must hold a record that has all tokens of the suffix as targets, got none of"
            f" {len(suffix)}. Make prefix or suffix shorter."
        )
    return fits
