"""What (ε, δ) allows a membership test to achieve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax_accounting.checks import checked_real


def tpr_ceiling(fpr: ArrayLike, *, epsilon: float, delta: float) -> NDArray[np.float64]:
    """Returns the largest true positive rate of any test at false positive rates `fpr`.

    An (ε, δ)-differentially private mechanism bounds every test of whether one unit took part by

        TPR ≤ min(1,  e^ε FPR + δ,  1 − e^−ε (1 − δ − FPR))

    (Kairouz, Oh and Viswanath 2015, "The Composition Theorem for Differential Privacy", the
    hypothesis-testing region; Wasserman and Zhou 2010).

    Args:
        fpr: any shape, each value in [0, 1].
        epsilon: finite, at least 0.
        delta: in [0, 1].

    Returns:
        float64 of the shape of `fpr`, non-decreasing in each argument.

    Raises:
        TypeError: if `epsilon` or `delta` is not a number.
        ValueError: if a value lies outside its range.

    Example:
        >>> tpr_ceiling([0.0, 0.01, 0.1], epsilon=1.0, delta=1e-5).round(4).tolist()
        [0.0, 0.0272, 0.2718]
    """
    rates = checked_rates(fpr)
    epsilon = checked_real("epsilon", epsilon)
    if epsilon < 0:
        raise ValueError(f"epsilon must be at least 0; got {epsilon:g}.")
    delta = checked_real("delta", delta)
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must lie between 0 and 1; got {delta:g}.")
    # In logarithms, because e^ε × 0 is NaN once e^ε overflows.
    with np.errstate(divide="ignore"):
        steep = np.exp(np.minimum(0.0, epsilon + np.log(rates))) + delta
    flat = np.exp(-epsilon) * (delta + rates) - np.expm1(-epsilon)
    bound: NDArray[np.float64] = np.minimum(1.0, np.minimum(steep, flat))
    return bound


def checked_rates(fpr: ArrayLike) -> NDArray[np.float64]:
    """Returns false positive rates as float64 if each lies between 0 and 1, or raises."""
    rates = np.asarray(fpr, dtype=np.float64)
    if not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError("fpr must lie between 0 and 1; got a value outside that range or NaN.")
    return rates
