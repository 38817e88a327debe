"""What the strongest test of membership can achieve against a mechanism."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax_accounting.mechanism import Mechanism
from dpjax_accounting.tradeoff import tpr_ceiling

_NUM_POINTS = 48


def largest_tpr(mechanism: Mechanism, delta: float, fpr: ArrayLike) -> NDArray[np.float64]:
    """Return an upper bound on the true positive rate of any test at false positive rates `fpr`.

    Each (ε, δ) of the privacy profile bounds every test (see :func:`tpr_ceiling`). The least bound
    of 48 points of it is returned, from ε = 0 up to the ε at `delta`, so that it lies below the
    bound of that last point alone; all points together would give the trade-off function (Dong,
    Roth and Su 2022, proposition 2.12).

    Args:
        mechanism: whose output the test sees.
        delta: of the last point of the profile.
        fpr: any shape, each value in [0, 1].

    Raises:
        TypeError: if `delta` is not a number.
        ValueError: if a value lies outside its range.
    """
    epsilon = mechanism.epsilon(delta)
    bound = tpr_ceiling(fpr, epsilon, delta)
    for smaller in np.linspace(0.0, epsilon, _NUM_POINTS, endpoint=False):
        at = float(smaller)
        bound = np.minimum(bound, tpr_ceiling(fpr, at, mechanism.delta(at)))
    return bound
