"""ε without amplification by sampling: against somebody who knows which units were drawn."""

from __future__ import annotations

import math

import numpy as np

from dpjax_accounting.checks import checked_delta
from dpjax_accounting.dpsgd import DPSGD

# Numbers of draws beyond this many standard deviations, and as many more, have a probability below
# 1e-40.
_TAIL = 40.0
_RELATIVE_ERROR = 1e-9


def unamplified_epsilon(mechanism: DPSGD, delta: float) -> float:
    """Return the ε of `mechanism` if it is known in which steps each unit is due to be drawn.

    A unit that is due in K steps takes part in K Gaussian releases, which are one with noise
    multiplier σ / √K. K is binomial with q and the number of steps, so that

        δ(ε) = Σ_k P[K = k] · (Φ(√k/2σ − εσ/√k) − e^ε Φ(−√k/2σ − εσ/√k))

    (each term: Balle and Wang 2018, theorem 8), with σ/2 for σ where a unit is replaced. Sampling
    that is known does not amplify, but not every unit takes part in every step.

    Raises:
        TypeError: if `mechanism` is not a DPSGD or `delta` no number.
        ValueError: if `delta` does not lie strictly between 0 and 1.
    """
    if not isinstance(mechanism, DPSGD):
        raise TypeError(f"mechanism must be a DPSGD; got {type(mechanism).__name__}.")
    delta = checked_delta(delta)
    counts, probabilities = _draws(mechanism)
    sensitivity = 2.0 if mechanism.neighboring == "replace_one" else 1.0
    shifts = sensitivity * np.sqrt(counts) / mechanism.noise_multiplier

    def delta_at(epsilon: float) -> float:
        return float(probabilities @ _gaussian_delta(epsilon, shifts))

    if delta_at(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_at(high) > delta:
        low, high = high, 2 * high
        if high > 1e9:
            raise ValueError(f"delta={delta:g} is too small: no epsilon without sampling meets it.")
    while high - low > _RELATIVE_ERROR * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def _draws(mechanism: DPSGD) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of draws of a unit that matter, and their binomial probabilities."""
    from scipy.special import gammaln, xlog1py, xlogy

    steps, q = mechanism.num_steps, mechanism.sampling_probability
    width = _TAIL * math.sqrt(steps * q * (1 - q)) + _TAIL
    counts = np.arange(max(0, int(steps * q - width)), min(steps, int(steps * q + width)) + 1)
    log_ways = gammaln(steps + 1) - gammaln(counts + 1) - gammaln(steps - counts + 1)
    return counts, np.exp(log_ways + xlogy(counts, q) + xlog1py(steps - counts, -q))


def _gaussian_delta(epsilon: float, shifts: np.ndarray) -> np.ndarray:
    """δ of the Gaussian mechanism with these sensitivities over noise; 0 where that is 0."""
    from scipy.special import log_ndtr, ndtr

    moved = np.where(shifts > 0, shifts, 1.0)
    first = ndtr(moved / 2 - epsilon / moved)
    second = np.exp(epsilon + log_ndtr(-moved / 2 - epsilon / moved))
    return np.where(shifts > 0, np.maximum(0.0, first - second), 0.0)
