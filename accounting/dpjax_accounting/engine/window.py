"""Bounds on δ at many ε from one composition of a privacy loss.

δ(ε) = E[max(0, 1 − e^{ε − loss})] takes the same composed probabilities at every ε. So one
composition answers for all ε at which what it left out is a negligible share of δ.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from dpjax_accounting.engine.pairs import Array

# What the ends of the range of losses may leave out of the tilted mass.
LOG_WRAPPED = math.log(1e-8)
# Of a number that float64 still holds when it is multiplied by what there is; beyond it, ε is not.
LARGEST_EXPONENT = 600.0
# The share of δ up to which what was left out does not count. The grid adds more.
TIGHT = 5e-5


class Window:
    """Upper bounds on δ at every ε, from composed probabilities that are accurate near one ε.

    With l₀ the centre, log_scale = K(θ) − θ·l₀ and `weights` = P(loss) / exp(log_scale), δ at grid
    point ε is exp(log_scale) · (Σ_{l > ε} (1 − e^{ε − l}) weights(l)) plus what was left out.

    Why every value is an upper bound, for any ε and not only near l₀: (1) a weight is at least the
    probability less its round-off, because what wraps around only adds to it; (2) `slack` at a grid
    point holds the round-off of all points above it, and the probability of what was cut off, which
    raises δ by at most that much; (3) where an exponent would be cut, the subtracted sum counts as
    0, or the bound as infinite; (4) δ falls in ε, so a bound at a smaller ε holds; (5) between two
    grid points there is no loss, so δ is linear in e^ε there, and below the chord of two bounds.

    Far from l₀ slack and wrapped mass outweigh δ; where they do not, the bound is *tight*.

    Args:
        losses: (N,) grid points, rising.
        weights: (N,) as above.
        slack: (N,) bounds on what was left out above each point, relative to exp(log_scale).
        order: θ.
        centre: l₀.
        scale: log_scale.
        wrapped: tilted probability that may have come round to the lower end.
    """

    def __init__(
        self,
        losses: Array,
        weights: Array,
        slack: Array,
        order: float,
        centre: float,
        scale: float,
        wrapped: float,
    ) -> None:
        self.losses = losses
        self.log_scale = scale
        self._order, self._centre = order, centre
        self._slack, self._wrapped = slack, wrapped
        # Σ_{l > ε} w and Σ_{l > ε} w e^{ε − l}, for ε at every grid point; both from the far end.
        falling = np.exp(np.clip(centre - losses, -LARGEST_EXPONENT, LARGEST_EXPONENT))
        subtracted = weights * falling
        # Where the exponent is cut, the second sum counts as 0, which can only make δ larger.
        below, above = np.searchsorted(
            losses, (centre - LARGEST_EXPONENT, centre + LARGEST_EXPONENT)
        )
        subtracted[above:] = 0.0
        self._discounted = sums_beyond(subtracted) / falling
        self._discounted[:below] = 0.0
        self.relative = sums_beyond(weights) - self._discounted + slack
        if order > 0:
            cut = np.searchsorted(losses, centre - LARGEST_EXPONENT / order)
            self.relative[:cut] = math.inf
        # δ falls in ε: a bound at a smaller one holds too.
        np.minimum.accumulate(self.relative, out=self.relative)

    @property
    def interval(self) -> float:
        """The distance of grid points."""
        return self._width(0)

    def part(self, lowest: float, log_delta: float) -> Window:
        """Returns a smaller window that answers for ε from `lowest` on.

        It lacks the points that no such ε needs, and most of those where δ is below
        exp(`log_delta`). At ε from `lowest` on, where δ is larger, its bounds are those of the
        whole window.
        """
        first = min(self._left(lowest), len(self.losses) - 2)
        small = math.exp(min(log_delta - self.log_scale, LARGEST_EXPONENT))
        last = len(self.losses) - int(np.searchsorted(self.relative[::-1], small, "right"))
        kept = slice(first, max(last, first + 1) + 1)
        part = copy.copy(self)
        for name in ("losses", "relative", "_slack", "_discounted"):
            setattr(part, name, getattr(self, name)[kept].copy())
        return part

    def is_tight(self, epsilon: float) -> bool:
        """Whether what was left out, or came round, is at most the share `TIGHT` of δ."""
        if not self.losses[0] <= epsilon <= self.losses[-1]:
            return False
        left = self._left(epsilon)
        near = slice(left, left + 2)
        distances = self._centre - self.losses[near]
        untilting = self._order * distances
        if max(np.abs(distances).max(), untilting.max()) > LARGEST_EXPONENT:
            return False
        excess = self._slack[near] + self._wrapped * np.exp(untilting)
        return bool(np.all(excess <= TIGHT * self.relative[near]))

    def log_delta(self, epsilon: float) -> float:
        """Returns log δ at `epsilon`; between grid points δ is linear in e^ε."""
        if epsilon < self.losses[0]:
            # The losses of the window lie above: δ = mass − e^ε Σ w e^{−l}.
            shrunk = -math.expm1(epsilon - self.losses[0]) * self._discounted[0]
            # Those between ε and the window have little mass when tilted, but perhaps not as such.
            untilted = LOG_WRAPPED + self._order * (self._centre - epsilon)
            value = self.relative[0] + shrunk + math.exp(min(untilted, LARGEST_EXPONENT))
        else:
            last = len(self.losses) - 1
            left = min(self._left(epsilon), last - 1)
            share = math.expm1(epsilon - self.losses[left]) / math.expm1(self._width(left))
            left_value, right_value = self.relative[left : left + 2]
            if not math.isfinite(left_value):
                return 0.0
            value = left_value + min(share, 1.0) * (right_value - left_value)
        return self.log_scale + math.log(value) if value > 0 else -math.inf

    def epsilon(self, log_delta: float) -> float:
        """Returns the ε at which δ falls to exp(`log_delta`); −inf or inf where that is outside."""
        wanted = math.exp(min(log_delta - self.log_scale, LARGEST_EXPONENT))
        reached = self.relative <= wanted
        if not reached.any():
            return math.inf
        last = int(reached.argmax())
        if last == 0:
            return -math.inf
        left, right = self.relative[last - 1], self.relative[last]
        if not math.isfinite(left):
            return float(self.losses[last])
        share = (left - wanted) / (left - right)
        return float(self.losses[last - 1]) + math.log1p(share * math.expm1(self._width(last - 1)))

    def _left(self, epsilon: float) -> int:
        """Returns the last grid point that is not above `epsilon`, or the first one."""
        return max(0, int(np.searchsorted(self.losses, epsilon, "right")) - 1)

    def _width(self, left: int) -> float:
        return float(self.losses[left + 1] - self.losses[left])


def sums_beyond(values: Array) -> Array:
    """Returns, for each of `values`, the sum of those after it."""
    sums = np.zeros(len(values))
    np.cumsum(values[:0:-1], out=sums[-2::-1])
    return sums
