"""Rényi differential privacy: a second and looser upper bound on ε, without a grid.

It is there for comparison, where no privacy loss distribution exists, and to start searches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from dpjax_accounting.engine.moments import log_moment
from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.releases import Blend, Release

# Orders above 1: dense where ε is least for realistic runs, far out for little noise and much.
# Whole ones too, because some bounds are known for these and interpolated between them.
ORDERS: Array = np.unique(
    np.concatenate(
        [1 + np.geomspace(0.02, 63.0, 200), np.arange(2.0, 65.0), [97.0, 129.0, 257.0, 513.0]]
    )
)
_HUGE_ORDERS: Array = 1 + np.geomspace(2048.0, 1e5, 9)


def orders_for(releases: Sequence[tuple[Release, int]]) -> Array:
    """Returns the orders worth trying: with much noise and few steps the best one is large."""
    distance = max(pair.distance for r, _ in releases for _, pair in r.removed)
    return np.append(ORDERS, _HUGE_ORDERS) if distance < 0.1 else ORDERS


def rdp_of_releases(releases: Sequence[tuple[Release, int]], orders: Array) -> Array:
    """Returns the Rényi divergence of a composition at each order, the larger of both directions.

    For a unit that is added, removed or zeroed under Poisson sampling the reduction to one
    dimension is theorem 4 of Mironov, Talwar and Zhang 2019, "Rényi Differential Privacy of the
    Sampled Gaussian Mechanism"; instead of their series a trapezoidal rule integrates both
    directions. For all other releases it is the divergence of the dominating pairs, which bounds
    that of the outputs because it is a mixture of hockey-stick divergences. Composition is addition
    (Mironov 2017, proposition 1).
    """
    totals = np.zeros((2, len(orders)))
    for release, count in releases:
        removed = _divergences(release.removed, orders)
        symmetric = release.removed == release.added
        added = removed if symmetric else _divergences(release.added, orders)
        totals += count * np.array([removed, added])
    larger: Array = totals.max(axis=0)
    return larger


def epsilon_of_rdp(orders: Array, rdp: Array, delta: float) -> float:
    """Returns the least ε that Rényi divergences `rdp` at `orders` give at `delta`.

    Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy",
    proposition 12.
    """
    less = orders - 1
    epsilons = rdp + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / less
    return max(0.0, float(epsilons.min()))


def delta_of_rdp(orders: Array, rdp: Array, epsilon: float) -> float:
    """Returns the least δ at `epsilon`; source as for :func:`epsilon_of_rdp`."""
    less = orders - 1
    logs = less * (rdp - epsilon + np.log1p(-1 / orders)) - np.log(orders)
    return min(1.0, math.exp(min(0.0, float(logs.min()))))


def _divergences(blend: Blend, orders: Array) -> Array:
    return np.array(_divergences_at(blend, tuple(orders.tolist())))


# Every δ and every number of steps asks for the same ones.
@functools.lru_cache(maxsize=16)
def _divergences_at(blend: Blend, orders: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(log_moment(blend, order - 1) / (order - 1) for order in orders)
