"""The composed privacy loss of many releases, by an exponentially tilted Fourier transform.

A transform of a composed distribution carries an error of about 1e-16 of its total mass, per step.
Untilted, that decides every δ below about 1e-14 × steps. Here each one-step distribution is first
multiplied by exp(θ·loss) and normalised, with θ such that the losses near the ε in question carry
most of the tilted mass (exponential change of measure, Cramér 1938), then composed, and the tilt is
taken back in the sum over the tail. The error is then a share of δ itself, whatever δ is.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from dpjax_accounting.discrete import discretise
from dpjax_accounting.gaussian import gaussian_epsilon, gaussian_log_delta
from dpjax_accounting.moments import Moments
from dpjax_accounting.pairs import Array, MixturePair
from dpjax_accounting.releases import Blend

LARGEST_INTERVAL = 1e-4
# In standard deviations of one step's loss; its square / 12 is about the relative error of ε.
_INTERVAL_SHARE = 0.03
# Bounds the memory, at about 100 bytes each; where they do not suffice the grid becomes coarser.
_MOST_POINTS = 2**22
# What the ends of the range of losses may leave out, relative to δ and to the tilted mass.
_LOG_LEFT_OUT = math.log(1e-5)
_LOG_WRAPPED = math.log(1e-8)
# A δ that is not worked out further; what is cut from the tails of the noise stays below it.
HARDLY_ANY = 1e-26
_ATTEMPTS = 6
# Per step and relative to the size of a transform's value.
_ROUND_OFF = 4e-16
# Of a number that float64 still holds when it is multiplied by what there is; beyond it, ε is not.
_LARGEST_EXPONENT = 600.0

Runs = tuple[tuple[Blend, int], ...]


class Window:
    """Composed probabilities near one ε, and upper bounds on δ from them.

    With l₀ the centre, log_scale = K(θ) − θ·l₀ and `weights` = P(loss) / exp(log_scale), δ at grid
    point ε is exp(log_scale) · (Σ_{l > ε} (1 − e^{ε − l}) weights(l)) plus what was left out.
    """

    def __init__(
        self, losses: Array, weights: Array, slack: Array, order: float, centre: float, scale: float
    ) -> None:
        self.losses = losses
        self.log_scale = scale
        self._order, self._centre = order, centre
        # Σ_{l > ε} w and Σ_{l > ε} w e^{ε − l}, for ε at every grid point; both from the far end.
        falling = np.exp(-np.clip(losses - centre, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        self._mass = _sums_beyond(weights)
        self._discounted = _sums_beyond(weights * falling) / falling
        self.relative = self._mass - self._discounted + slack

    def log_delta(self, epsilon: float) -> float:
        """Return log δ at `epsilon`; between grid points δ is linear in e^ε."""
        if epsilon <= self.losses[0]:
            # The losses of the window lie above: δ = mass − e^ε Σ w e^{−l}.
            shrunk = -math.expm1(epsilon - self.losses[0]) * self._discounted[0]
            # Those between ε and the window have little mass when tilted, but perhaps not as such.
            untilted = _LOG_WRAPPED + self._order * (self._centre - epsilon)
            value = self.relative[0] + shrunk + math.exp(min(untilted, _LARGEST_EXPONENT))
        else:
            last = len(self.losses) - 1
            left = min(int(np.searchsorted(self.losses, epsilon, "right")) - 1, last - 1)
            share = math.expm1(epsilon - self.losses[left]) / math.expm1(self._width(left))
            left_value, right_value = self.relative[left : left + 2]
            value = left_value + min(share, 1.0) * (right_value - left_value)
        return self.log_scale + math.log(value) if value > 0 else -math.inf

    def epsilon(self, log_delta: float) -> float:
        """Return the ε at which δ falls to `delta`; −inf or inf where that is outside."""
        wanted = math.exp(min(log_delta - self.log_scale, _LARGEST_EXPONENT))
        reached = self.relative <= wanted
        if not reached.any():
            return math.inf
        last = int(reached.argmax())
        if last == 0:
            return -math.inf
        left, right = self.relative[last - 1], self.relative[last]
        share = (left - wanted) / (left - right)
        return float(self.losses[last - 1]) + math.log1p(share * math.expm1(self._width(last - 1)))

    def _width(self, left: int) -> float:
        return float(self.losses[left + 1] - self.losses[left])


def _sums_beyond(values: Array) -> Array:
    sums = np.cumsum(values[::-1])[::-1]
    return np.append(sums[1:], 0.0)


class ComposedLoss:
    """The privacy loss of a composition in one direction (unit removed, or unit added).

    Args:
        runs: every release with how often it takes place, at least one.
        coarser: factor on the grid interval, for values that need not be tight.
    """

    def __init__(self, runs: Runs, coarser: float = 1.0) -> None:
        self._runs = _merged(runs)
        self._coarser = coarser

    @functools.cached_property
    def moments(self) -> Moments:
        """The moments of the loss before it is rounded to the grid."""
        return Moments(self._runs)

    def epsilon(self, delta: float) -> float:
        """Return an upper bound on ε at `delta`, 0.0 where δ at ε = 0 is already below it."""
        mu = self._gaussian_mu
        if mu is not None:
            return gaussian_epsilon(delta, mu)
        log_delta = math.log(delta)
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
            f"epsilon at delta={delta:g} was not found in the range of losses. Choose a slightly"
            " different delta."
        )

    def delta(self, epsilon: float) -> float:
        """Return an upper bound on δ at `epsilon`."""
        mu = self._gaussian_mu
        if mu is not None:
            return math.exp(gaussian_log_delta(epsilon, mu))
        log_delta = self.moments.log_probability_above(epsilon)
        if log_delta < math.log(HARDLY_ANY):
            return HARDLY_ANY
        order = self.moments.order_for_epsilon(epsilon)
        log_delta -= math.log1p(order * (1 + order) * self.moments.mean_and_deviation(order)[1])
        for _ in range(_ATTEMPTS):
            kept = self._kept(log_delta)
            window = self._window(kept, kept.order_for_epsilon(epsilon), log_delta)
            estimate, log_delta = log_delta, window.log_delta(epsilon)
            # What was left out is a share of the estimate.
            if log_delta > estimate - math.log(2) or log_delta < math.log(HARDLY_ANY):
                break
        return math.exp(min(0.0, log_delta))

    def _kept(self, log_delta: float) -> Moments:
        """Return the moments without losses so large that they hardly count for δ.

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

    def _window(self, kept: Moments, order: float, log_delta: float) -> Window:
        centre, _ = kept.mean_and_deviation(order)
        # What lies outside comes back at the other end, where it counts little or nothing.
        high = max(
            centre,
            self.moments.upper_end(log_delta + _LOG_LEFT_OUT),
            kept.upper_end(_LOG_WRAPPED, order),
        )
        low = min(centre, kept.lower_end(_LOG_WRAPPED, order))
        interval = min(LARGEST_INTERVAL, _INTERVAL_SHARE * kept.step_deviation) * self._coarser
        interval = max(interval, 1.05 * (high - low) / _MOST_POINTS)
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
        losses = index * interval
        tilted = np.maximum(tilted[index % size], 0.0)
        log_scale = log_normaliser - order * centre
        with np.errstate(under="ignore"):
            untilt = np.exp(np.minimum(-order * (losses - centre), _LARGEST_EXPONENT))
        beyond = math.exp(log_delta + _LOG_LEFT_OUT) + infinity
        slack = _sums_beyond(untilt) * round_off + beyond * math.exp(
            min(-log_scale, _LARGEST_EXPONENT)
        )
        return Window(losses, tilted * untilt, slack, order, centre, log_scale)

    def _transform(
        self, order: float, interval: float, ends: tuple[int, int], size: int
    ) -> tuple[Array, float, float, float]:
        """Return the transform of the tilted composition, log of what the tilt was divided by,
        the probability of an infinite loss, and the round-off of the transform.
        """
        logs = np.zeros(size // 2 + 1, dtype=np.complex128)
        log_normaliser = infinity = error = 0.0
        for blend, count in self._runs:
            one = discretise(blend, interval, *ends)
            index = np.arange(one.first, one.first + len(one.probabilities))
            exponents = order * interval * index
            with np.errstate(divide="ignore", under="ignore"):
                tilted = np.log(one.probabilities) + exponents
                peak = tilted.max()
                np.exp(tilted - peak, out=tilted)
            total = tilted.sum()
            log_normaliser += count * (peak + math.log(total))
            folded = np.bincount(index % size, tilted / total, minlength=size)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs += count * np.log(np.fft.rfft(folded))
            infinity += count * one.infinity
            error += count * _ROUND_OFF
        with np.errstate(under="ignore", invalid="ignore"):
            transform = np.exp(logs)
        transform[~np.isfinite(transform)] = 0.0
        return transform, log_normaliser, infinity, error * 4


def _next_size(points: int) -> int:
    from scipy import fft

    return fft.next_fast_len(points + points % 2, real=True)


def _merged(runs: Runs) -> Runs:
    """Add up equal releases, and make one Gaussian of all that are Gaussian."""
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
