"""What the strongest test of membership can achieve against a mechanism."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax_accounting.mechanism import Mechanism
from dpjax_accounting.tradeoff import tpr_ceiling

_NUM_POINTS = 32


def largest_tpr(mechanism: Mechanism, delta: float, fpr: ArrayLike) -> NDArray[np.float64]:
    """Return an upper bound on the true positive rate of any test at false positive rates `fpr`.

    Each (ε, δ) of the privacy profile bounds every test (see :func:`tpr_ceiling`). The least bound
    of 32 points of it is returned, from the one at `delta` to the one at ε = 0, so that it does not
    exceed that of the first alone; all points together would give the trade-off function (Dong,
    Roth and Su 2022, proposition 2.12).

    Args:
        mechanism: whose output the test sees.
        delta: of the first point of the profile.
        fpr: any shape, each value in [0, 1].

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: if a value lies outside its range.
    """
    bound = tpr_ceiling(fpr, mechanism.epsilon(delta), delta)
    largest = mechanism.delta(0.0)
    bound = np.minimum(bound, tpr_ceiling(fpr, 0.0, min(largest, 1.0)))
    if largest <= delta:
        return bound
    # The steps are even in log δ, and finer where δ is large.
    spread = np.geomspace(delta, largest, _NUM_POINTS // 2, endpoint=False)[1:]
    near = np.geomspace(max(delta, largest / 30), largest, _NUM_POINTS // 2, endpoint=False)
    for at in (*spread, *near):
        bound = np.minimum(bound, tpr_ceiling(fpr, mechanism.epsilon(float(at)), float(at)))
    return bound
