"""One step's privacy loss on a grid, rounded so that no divergence becomes smaller.

"Connect the dots" (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022): what lies between two
grid points is moved to these two so that its mass under P and under Q stay the same, which is the
least pessimistic choice among those that are supported on the grid.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dpjax_accounting.engine.pairs import Array
from dpjax_accounting.engine.releases import Blend, Pair

_CHUNK = 2**17
# Where losses are larger, all mass is rounded up.
_LARGEST_EXPONENT = 600.0


@dataclasses.dataclass(frozen=True)
class DiscreteLoss:
    """A privacy loss supported on multiples of a grid interval, and on infinity.

    Attributes:
        first: index of the first grid point; its loss is `first` × the interval.
        probabilities: of the grid points from the first on.
        infinity: probability of an infinite loss.
    """

    first: int
    probabilities: Array
    infinity: float


@functools.lru_cache(maxsize=4)
def discretise(blend: Blend, interval: float, bottom: int, top: int) -> DiscreteLoss:
    """Returns the loss of `blend` on multiples of `interval`, rounded up to them.

    Below `bottom` times the interval it counts as that much, and above `top` times as infinite.
    """
    parts = [(weight, _discretise_pair(pair, interval, bottom, top)) for weight, pair in blend]
    first = min(part.first for _, part in parts)
    last = max(part.first + len(part.probabilities) for _, part in parts)
    probabilities = np.zeros(last - first)
    for weight, part in parts:
        start = part.first - first
        probabilities[start : start + len(part.probabilities)] += weight * part.probabilities
    return DiscreteLoss(first, probabilities, sum(w * part.infinity for w, part in parts))


def _discretise_pair(pair: Pair, interval: float, bottom: int, top: int) -> DiscreteLoss:
    low, high = pair.outputs
    lowest, highest = (float(pair.loss(np.array([z]))[0]) for z in (low, high))
    if highest > top * interval:
        high = float(pair.inverse(np.array([top * interval]))[0])
        highest = top * interval
    if lowest < bottom * interval < highest:
        low = float(pair.inverse(np.array([bottom * interval]))[0])
        lowest = bottom * interval
    # The grid points strictly inside, with a point below and one above them.
    first = int(np.floor(lowest / interval))
    last = max(int(np.ceil(highest / interval)), first + 1)
    probabilities = np.zeros(last - first + 1)
    for start in range(first, last, _CHUNK):
        stop = min(start + _CHUNK, last)
        points = np.arange(start, stop + 1) * interval
        edges = pair.inverse(np.clip(points, lowest, highest))
        if start == first:
            edges[0] = low
        if stop == last:
            edges[-1] = high
        p, q = pair.masses(edges)
        up = np.clip(
            (p - np.exp(np.minimum(points[:-1], _LARGEST_EXPONENT)) * q) / -np.expm1(-interval),
            0.0,
            p,
        )
        place = slice(start - first, stop - first)
        probabilities[place] += p - up
        probabilities[place.start + 1 : place.stop + 1] += up
    # What lies below the range counts as lying at its lower end.
    below = 1.0 - probabilities.sum() - pair.beyond(high)
    probabilities[1] += max(0.0, below)
    return DiscreteLoss(first, probabilities, pair.beyond(high))
