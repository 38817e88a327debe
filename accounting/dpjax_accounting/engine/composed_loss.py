"""The composed privacy loss of many releases, by an exponentially tilted Fourier transform.

A transform of a composed distribution carries an error of about 1e-16 of its total mass, per step.
Untilted, that decides every δ below about 1e-14 × steps. Here each one-step distribution is first
multiplied by exp(θ·loss) and normalised, with θ such that the losses near the ε in question carry
most of the tilted mass (exponential change of measure, Cramér 1938), then composed, and the tilt is
taken back in the sum over the tail. The error is then a share of δ itself, whatever δ is.

The tilt is that for the smallest δ of three decades, and all δ of these share one composition. An
answer depends on the question alone, not on what was asked before.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from dpjax_accounting.engine.gaussian import gaussian_epsilon, gaussian_log_delta
from dpjax_accounting.engine.moments import Moments
from dpjax_accounting.engine.one_step_grid import discretise
from dpjax_accounting.engine.pairs import Array, MixturePair
from dpjax_accounting.engine.releases import Blend
from dpjax_accounting.engine.window import LARGEST_EXPONENT, LOG_WRAPPED, Window, sums_beyond

LARGEST_INTERVAL = 1e-4
# In standard deviations of one step's loss; its square / 12 is about the relative error of ε.
_INTERVAL_SHARE = 0.03
# Bounds the memory, at about 100 bytes each; where they do not suffice the grid becomes coarser.
_MOST_POINTS = 2**22
# What the upper end of the range of losses may leave out, relative to δ.
_LOG_LEFT_OUT = math.log(1e-5)
# One composition is shared by the δ between two powers of 10 that are so far apart.
_DECADES = 3
# A δ that is not worked out further; what is cut from the tails of the noise stays below it.
HARDLY_ANY = 1e-26
_ATTEMPTS = 6
# Per step and relative to the size of a transform's value.
_ROUND_OFF = 4e-16

Runs = tuple[tuple[Blend, int], ...]


class ComposedLoss:
    """The privacy loss of a composition in one direction (unit removed, or unit added).

    Args:
        runs: every release with how often it takes place, at least one.
        coarser: factor on the grid interval, for values that need not be tight.
    """

    def __init__(self, runs: Runs, coarser: float = 1.0) -> None:
        self._runs = _merged(runs)
        self._coarser = coarser
        self._shared: dict[tuple[int, float | None], Window] = {}
        self._shared_moments: dict[int, Moments] = {}

    @functools.cached_property
    def moments(self) -> Moments:
        """The moments of the loss before it is rounded to the grid."""
        return Moments(self._runs)

    def epsilon(self, delta: float) -> float:
        """Returns an upper bound on ε at `delta`, 0.0 where δ at ε = 0 is already below it."""
        mu = self._gaussian_mu
        if mu is not None:
            return gaussian_epsilon(delta, mu)
        log_delta = math.log(delta)
        window = self._shared_window(_decades(log_delta))
        if window.interval <= 1.01 * self._interval(self.moments):
            epsilon = max(0.0, window.epsilon(log_delta))
            if window.is_tight(epsilon):
                return epsilon
        return self._own_epsilon(log_delta)

    def _own_epsilon(self, log_delta: float) -> float:
        """Returns an upper bound on ε from a composition for this δ alone."""
        kept = self._kept(log_delta)
        order = kept.order_for_delta(log_delta)
        for _ in range(_ATTEMPTS):
            window = self._window(kept, order, log_delta)
            if window.log_delta(0.0) <= log_delta:
                return 0.0
            epsilon = window.epsilon(log_delta)
            if math.isfinite(epsilon):
                return epsilon
            order *= 2.0 if epsilon > 0 else 0.5
        raise ArithmeticError(
            f"epsilon at delta={math.exp(log_delta):g} was not found in the range of losses. Choose"
            " a slightly different delta."
        )

    def delta(self, epsilon: float) -> float:
        """Returns an upper bound on δ at `epsilon`."""
        mu = self._gaussian_mu
        if mu is not None:
            return math.exp(gaussian_log_delta(epsilon, mu))
        log_delta = self.moments.log_probability_above(epsilon)
        if log_delta < math.log(HARDLY_ANY):
            return HARDLY_ANY
        order = self.moments.order_for_epsilon(epsilon)
        log_delta -= math.log1p(order * (1 + order) * self.moments.mean_and_deviation(order)[1])
        least = 0.0
        for _ in range(_ATTEMPTS):
            decades = _decades(log_delta)
            for tilt in (None, _rounded(self._shared_kept(decades).order_for_epsilon(epsilon))):
                window = self._shared_window(decades, tilt)
                least = min(least, window.log_delta(epsilon))
                if window.is_tight(epsilon):
                    return math.exp(least)
            # What was left out above is a share of 10^−decades.
            if least >= -decades * math.log(10) or least < math.log(HARDLY_ANY):
                break
            log_delta = least
        return math.exp(least)

    def _shared_window(self, decades: int, order: float | None = None) -> Window:
        """Returns the composition for δ from 10^−decades on, and all ε from 0.

        Args:
            decades: a value of `_decades`.
            order: of the tilt; None for the one that suits the smallest of these δ.
        """
        key = decades, order
        if key not in self._shared:
            log_delta = -decades * math.log(10)
            kept = self._shared_kept(decades)
            log_wrapped = LOG_WRAPPED
            if order is None:
                order = kept.order_for_delta(log_delta)
                # What comes round to ε = 0 is a share of the smallest δ, even without the tilt.
                log_wrapped = min(LOG_WRAPPED, _LOG_LEFT_OUT + log_delta - kept.at(order))
            window = self._window(kept, order, log_delta, log_wrapped)
            self._shared[key] = window.part(0.0, log_delta - math.log(10))
        return self._shared[key]

    def _shared_kept(self, decades: int) -> Moments:
        if decades not in self._shared_moments:
            self._shared_moments[decades] = self._kept(-decades * math.log(10))
        return self._shared_moments[decades]

    def _kept(self, log_delta: float) -> Moments:
        """Returns the moments without losses so large that they hardly count for δ.

        Tilting would otherwise give these rare losses most of the mass.
        """
        # One step's loss may be larger than the total where the others' are negative.
        typical, deviation = self.moments.mean_and_deviation(0.0)
        high = self.moments.upper_end(log_delta + _LOG_LEFT_OUT)
        return Moments(self._runs, high + max(0.0, 4 * deviation - typical))

    @property
    def _gaussian_mu(self) -> float | None:
        if len(self._runs) > 1 or len(self._runs[0][0]) > 1:
            return None
        (((_, pair),), count) = self._runs[0]
        return pair.distance * math.sqrt(count) if pair.is_gaussian else None

    def _window(
        self, kept: Moments, order: float, log_delta: float, log_wrapped: float = LOG_WRAPPED
    ) -> Window:
        """Returns the composition tilted by `order`.

        Args:
            kept: the moments of the losses that are not cut off.
            order: of the tilt.
            log_delta: of the smallest δ of interest, of which a share is left out at the upper end.
            log_wrapped: of the tilted probability that may lie beyond the upper end.
        """
        centre, _ = kept.mean_and_deviation(order)
        # What lies outside comes back at the other end, where it counts little or nothing.
        high = max(
            centre,
            self.moments.upper_end(log_delta + _LOG_LEFT_OUT),
            kept.upper_end(log_wrapped, order),
        )
        low = min(centre, kept.lower_end(LOG_WRAPPED, order))
        interval = max(self._interval(kept), 1.05 * (high - low) / _MOST_POINTS)
        top = math.ceil(kept.top / interval)
        start = math.floor(low / interval)
        size = _next_size(math.ceil(high / interval) - start + 2)
        # A loss further down takes the total out of the range, even if the others reach its end.
        bottom = -size
        transform, log_normaliser, infinity, error = self._transform(
            order, interval, (bottom, top), size
        )
        tilted = np.fft.irfft(transform, size)
        round_off = error * float(np.abs(transform).mean()) + 2e-16 * float(tilted.max())
        index = np.arange(start, start + size)
        losses = np.asarray(index * interval, dtype=np.float64)
        tilted = np.maximum(tilted[index % size], 0.0)
        log_scale = log_normaliser - order * centre
        with np.errstate(under="ignore"):
            untilt = np.exp(np.minimum(-order * (losses - centre), LARGEST_EXPONENT))
        beyond = math.exp(log_delta + _LOG_LEFT_OUT) + infinity
        slack = sums_beyond(untilt) * round_off + beyond * math.exp(
            min(-log_scale, LARGEST_EXPONENT)
        )
        above = kept.log_probability_above(losses[-1] + interval / 2, order)
        wrapped = math.exp(min(0.0, above))
        return Window(losses, tilted * untilt, slack, order, centre, log_scale, wrapped)

    def _interval(self, moments: Moments) -> float:
        """Returns the interval of a grid that may have as many points as it takes."""
        return min(LARGEST_INTERVAL, _INTERVAL_SHARE * moments.step_deviation) * self._coarser

    def _transform(
        self, order: float, interval: float, ends: tuple[int, int], size: int
    ) -> tuple[Array, float, float, float]:
        """Transforms the tilted composition.

        Returns:
            The transform, the log of what the tilt was divided by, the probability of an infinite
            loss, and the round-off of the transform.
        """
        logs = np.zeros(size // 2 + 1, dtype=np.complex128)
        log_normaliser = infinity = error = 0.0
        for blend, count in self._runs:
            step = discretise(blend, interval, *ends)
            index = np.arange(step.first, step.first + len(step.probabilities))
            exponents = order * interval * index
            with np.errstate(divide="ignore", under="ignore"):
                tilted = np.log(step.probabilities) + exponents
                peak = tilted.max()
                np.exp(tilted - peak, out=tilted)
            total = tilted.sum()
            log_normaliser += count * (peak + math.log(total))
            folded = np.bincount(index % size, tilted / total, minlength=size)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs += count * np.log(np.fft.rfft(folded))
            infinity += count * step.infinity
            error += count * _ROUND_OFF
        with np.errstate(under="ignore", invalid="ignore"):
            transform = np.exp(logs)
        transform[~np.isfinite(transform)] = 0.0
        return transform, log_normaliser, infinity, error * 4


def _decades(log_delta: float) -> int:
    """Returns the multiple of `_DECADES` that δ is nearest to from above, as a power of 1/10."""
    # The allowance is for powers of 10, whose logarithms are rounded.
    return _DECADES * max(1, math.ceil(-log_delta / math.log(10) / _DECADES - 1e-9))


def _rounded(order: float) -> float:
    """Returns the next power of √2 below, which many orders share.

    A tilt that is too strong may move most of the mass to the rare large losses.
    """
    return float(2.0 ** (math.floor(2 * math.log2(order)) / 2))


def _next_size(points: int) -> int:
    from scipy import fft

    return int(fft.next_fast_len(points + points % 2, real=True))


def _merged(runs: Runs) -> Runs:
    """Adds up equal releases, and makes one Gaussian of all that are Gaussian."""
    counts: dict[Blend, int] = {}
    squares = 0.0
    for blend, count in runs:
        if len(blend) == 1 and blend[0][1].is_gaussian:
            squares += count * blend[0][1].distance ** 2
        else:
            counts[blend] = counts.get(blend, 0) + count
    if squares:
        pair = MixturePair(((1.0, math.sqrt(squares)),), ((1.0, 0.0),))
        counts[((1.0, pair),)] = 1
    return tuple(counts.items())
