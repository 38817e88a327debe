"""The moment generating function of a composed privacy loss, and the tails that it bounds.

K(t) = Σ countᵢ · log E_Pᵢ[exp(t · lossᵢ)] over the releases. By Markov's inequality the loss
exceeds b with probability at most exp(K(t) − t·b) for every t > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.releases import Blend

_GRID_SIZE = 400
# The largest orders bound tails only: tilting by them would leave none above to bound them with.
_RESERVED = 60


def log_moment(blend: Blend, order: float) -> float:
    """Returns log E_P[exp(order · loss)] of one release, for `order` of at least 0.

    The value is that of the Rényi divergence of order 1 + `order`, times `order`.
    """
    parts = []
    for weight, pair in blend:
        log_weights, losses, _ = pair.nodes(order)
        parts.append(math.log(weight) + _logsumexp(log_weights + order * losses))
    return max(0.0, float(np.logaddexp.reduce(parts)))


def _logsumexp(values: Array) -> float:
    peak = values.max()
    return float(peak + math.log(np.exp(values - peak).sum()))


class Moments:
    """K of a composition at a fixed set of orders, and what follows from it.

    Losses above `top`, or outside a pair's range of outputs, are left out: that is of no account
    for where to look, and whoever computes a bound adds their probability.

    Args:
        runs: every release with how often it takes place.
        top: the largest loss of one release that is kept.
    """

    def __init__(self, runs: Sequence[tuple[Blend, int]], top: float = math.inf) -> None:
        nodes = [(count, *_nodes(blend, top)) for blend, count in runs]
        steps = sum(count for count, *_ in nodes)
        # In the bulk: the rare large losses must not make the grid coarse.
        variances = [np.exp(w[near]) @ losses[near] ** 2 for _, w, losses, near in nodes]
        self.step_deviation = math.sqrt(
            sum(count * v for (count, *_), v in zip(nodes, variances, strict=True)) / steps
        )
        scale = 1e3 / max(self.step_deviation * math.sqrt(steps), 1e-12)
        # From nearly no tilt to one that reaches the largest deviations.
        self.orders = np.geomspace(1e-3, max(1e4, scale), _GRID_SIZE)
        self._nodes = nodes
        # With losses that hardly reach `top`, or not at all, that is the largest one.
        self.top = min(top, max(losses.max() for _, _, losses, _ in nodes))
        self.values = np.array([self.at(order) for order in self.orders])

    def at(self, order: float) -> float:
        """Returns K(order), also for negative orders."""
        return sum(count * _logsumexp(w + order * losses) for count, w, losses, _ in self._nodes)

    def mean_and_deviation(self, order: float) -> tuple[float, float]:
        """Returns the mean and standard deviation of the loss tilted by exp(order · loss)."""
        mean = variance = 0.0
        for count, w, losses, _ in self._nodes:
            tilted = w + order * losses
            p = np.exp(tilted - tilted.max())
            p /= p.sum()
            step_mean = p @ losses
            mean += count * step_mean
            variance += count * (p @ (losses - step_mean) ** 2)
        return float(mean), math.sqrt(variance)

    def upper_end(self, log_probability: float, order: float = 0.0) -> float:
        """Returns b such that the loss tilted by `order` exceeds b at most so probably."""
        above = self.orders > order
        if not above.any():
            return math.inf
        growth = self.values[above] - (self.at(order) if order else 0.0)
        return float(((growth - log_probability) / (self.orders[above] - order)).min())

    def lower_end(self, log_probability: float, order: float) -> float:
        """Returns a: the loss tilted by `order` is below a with at most this probability."""
        shifts = self.orders[:: _GRID_SIZE // 40]
        base = self.at(order)
        ends = [(base - self.at(order - t) + log_probability) / t for t in shifts]
        return float(max(ends))

    def order_for_epsilon(self, epsilon: float) -> float:
        """Returns the order of the least Chernoff bound on P[loss > epsilon]."""
        usable = slice(0, -_RESERVED)
        return float(self.orders[(self.values - self.orders * epsilon)[usable].argmin()])

    def log_probability_above(self, epsilon: float, order: float = 0.0) -> float:
        """Returns the least Chernoff bound on log P[loss > epsilon], the loss tilted by `order`."""
        above = self.orders > order
        if not above.any():
            return 0.0
        growth = self.values[above] - (self.at(order) if order else 0.0)
        return float((growth - (self.orders[above] - order) * epsilon).min())

    def log_delta(self, order: float) -> float:
        """Returns an estimate of log δ where the loss tilted by `order` has its mean.

        It is the leading term of the saddle point expansion, rounded where `order` is small.
        """
        mean, deviation = self.mean_and_deviation(order)
        width = math.log1p(order * (1 + order) * deviation * math.sqrt(2 * math.pi))
        return self.at(order) - order * mean - width

    def order_for_delta(self, log_delta: float) -> float:
        """Returns the order at whose mean δ comes nearest to exp(log_delta)."""
        low, high = 0, len(self.orders) - 1 - _RESERVED
        while high - low > 1:
            middle = (low + high) // 2
            below = self.log_delta(float(self.orders[middle])) < log_delta
            low, high = (low, middle) if below else (middle, high)
        return float(self.orders[low])


def _nodes(blend: Blend, top: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Returns log-weights, losses up to `top`, and which of them lie in the bulk."""
    log_weights, losses, near = [], [], []
    for weight, pair in blend:
        w, loss, bulk = pair.nodes(0.0)
        log_weights.append(w + math.log(weight))
        losses.append(loss)
        near.append(bulk)
    w, loss = np.concatenate(log_weights), np.concatenate(losses)
    w -= _logsumexp(w)
    kept = loss <= top
    return w[kept], loss[kept], np.concatenate(near)[kept]
