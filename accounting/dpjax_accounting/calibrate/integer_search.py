"""The largest whole number at which something that grows stays within a target."""

from __future__ import annotations

import math
from collections.abc import Callable

# How often the middle is tried, so that a bad chord cannot stall the search.
_MIDDLE_EVERY = 4


def largest_within(
    value_of: Callable[[int], float], target: float, start: int, lowest: int, highest: int
) -> int:
    """Returns the largest whole number from `lowest` to `highest` whose value is within `target`.

    The number returned has been tried, and so has the next one, which exceeds the target.

    Args:
        value_of: grows with its argument.
        target: above 0.
        start: tried first; the nearer to the result, the faster.
        lowest: at least 1.
        highest: at least `lowest`.

    Returns:
        `lowest` − 1 if `lowest` exceeds the target already.
    """
    within, beyond = lowest - 1, highest + 1
    value_within, value_beyond = 0.0, math.inf
    guess = float(start)
    tried = 0
    while beyond - within > 1:
        number = min(max(math.floor(guess), within + 1), beyond - 1)
        value = value_of(number)
        tried += 1
        if value <= target:
            within, value_within = number, value
        else:
            beyond, value_beyond = number, value
        if beyond > highest:
            guess = 2.0 * within
        elif within < lowest:
            guess = beyond / 2
        elif tried % _MIDDLE_EVERY == 0:
            guess = math.sqrt(within * beyond)
        else:
            guess = _on_chord((within, value_within), (beyond, value_beyond), target)
    return within


def _on_chord(within: tuple[int, float], beyond: tuple[int, float], target: float) -> float:
    """Returns where the chord meets the target, in logarithms; the middle where there is none."""
    (left, low), (right, high) = within, beyond
    if low <= 0 or not math.isfinite(high):
        return math.sqrt(left * right)
    share = math.log(target / low) / math.log(high / low)
    return float(left * (right / left) ** share)
