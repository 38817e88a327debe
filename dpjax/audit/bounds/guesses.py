"""How many guesses an attack makes: a plan that is fixed before any score is seen."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dpjax.audit.membership.roc import checked_scores

# A fair coin is less even than this once in a million audits.
_LEAST_P_VALUE = 1e-6
# Of the order of equal scores; fixed, so that one array has one answer.
_TIE_SEED = 20240229


@dataclasses.dataclass(frozen=True)
class GuessPlan:
    """Shares of the canaries that are guessed, in steps that each contain the one before.

    A plan must not depend on the scores or the coins. Each step costs some of the confidence.

    Attributes:
        shares: pairs: of all canaries, this share with the highest scores is guessed in, and this
            share with the lowest is guessed out.

    Raises:
        ValueError: if a share lies outside its range, a step does not contain the one before, or
            both shares add up to more than 1.

    Example:
        >>> GuessPlan(((0.1, 0.0), (0.2, 0.2))).counts(50)
        [(5, 0), (10, 10)]
    """

    shares: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Checks the shares."""
        before = (0.0, 0.0)
        for share in self.shares:
            if not (before[0] <= share[0] and before[1] <= share[1] and 0 < sum(share) <= 1):
                raise ValueError(
                    f"each pair of shares must contain the one before and add up to at most 1; got"
                    f" {share} after {before}."
                )
            before = share
        if not self.shares:
            raise ValueError("a guess plan needs at least one pair of shares.")

    def counts(self, num_canaries: int) -> list[tuple[int, int]]:
        """Returns how many canaries each step guesses in and out, without steps of no guess.

        Args:
            num_canaries: m, at least 1.
        """
        # Rounded down, no two guesses meet in the middle and every step contains the one before.
        steps = [
            (int(share_in * num_canaries + 1e-9), int(share_out * num_canaries + 1e-9))
            for share_in, share_out in self.shares
        ]
        distinct = sorted({step for step in steps if sum(step) > 0})
        return distinct or [(1, 0)]


# For scores whose members stand out at the top alone, and for those of both kinds.
DEFAULT_PLAN = GuessPlan(((0.02, 0.0), (0.08, 0.0), (0.08, 0.08), (0.2, 0.2), (0.4, 0.4)))
# For scores that say as much of non-members as of members, as those of gradient canaries do.
SYMMETRIC_PLAN = GuessPlan(((0.075, 0.075), (0.2, 0.2), (0.4, 0.4)))


class Guesses(NamedTuple):
    """One step of a plan, carried out.

    Attributes:
        num_guesses: r.
        num_correct: v.
    """

    num_guesses: int
    num_correct: int


def count_correct(
    scores: ArrayLike, included: ArrayLike, plan: GuessPlan = DEFAULT_PLAN
) -> list[Guesses]:
    """Returns the guesses of each step of a plan, and how many were right.

    Equal scores are ordered at random, with a fixed seed. Their positions would not do: arrays that
    list members first give the coins away.

    Args:
        scores: (m,) numbers, higher for members; infinities are allowed.
        included: (m,) truth values: the coins.
        plan: fixed before the scores were seen.

    Raises:
        TypeError: if the scores are not numbers or the coins not truth values.
        ValueError: if the scores hold NaN, the lengths differ, or the coins cannot be fair ones.

    Example:
        >>> plan = GuessPlan(((0.25, 0.25),))
        >>> count_correct([3.0, 0.1, 1.0, 0.2], [True, False, False, True], plan)
        [Guesses(num_guesses=2, num_correct=2)]
    """
    values = checked_scores("scores", scores)
    coins = checked_coins(included, len(values))
    tie_breaks = np.random.default_rng(_TIE_SEED).permutation(len(values))
    order = np.lexsort((tie_breaks, -values))
    is_in = np.concatenate([[0], np.cumsum(coins[order])])
    is_out = np.concatenate([[0], np.cumsum(~coins[order][::-1])])
    return [
        Guesses(num_in + num_out, int(is_in[num_in] + is_out[num_out]))
        for num_in, num_out in plan.counts(len(values))
    ]


def checked_coins(included: ArrayLike, num_canaries: int) -> NDArray[np.bool_]:
    """Returns (m,) truth values if fair coins may have given them, or raises.

    Raises:
        TypeError: if they are not truth values.
        ValueError: if the number differs from that of the scores, or if fair coins would be so
            uneven less than once in a million times.
    """
    coins = np.asarray(included)
    if coins.dtype != np.bool_:
        raise TypeError(f"included must hold truth values, one per canary; got {coins.dtype}.")
    if coins.shape != (num_canaries,):
        raise ValueError(
            f"included must have one truth value per score; got shape {coins.shape} for"
            f" {num_canaries} scores."
        )
    num_in = int(coins.sum())
    if stats.binomtest(num_in, num_canaries).pvalue < _LEAST_P_VALUE:
        raise ValueError(
            f"{num_in} of {num_canaries} canaries were included: these are not fair coins, and no"
            " bound of one run holds for them. Flip one fair coin for each canary before training."
        )
    return coins
