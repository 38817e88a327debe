"""Exposure of inserted secrets: how far ahead they are of secrets that were not inserted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special, stats

from dpjax.audit.extraction.figure import ExtractionFigure

# Below it a distribution function is not accurate in floating point.
_LEAST_PROBABILITY = 1e-8
_FITTED = (
    "Exposure beyond log2 of the number of references rests on a skew-normal distribution that was"
    " fitted to their log-perplexities."
)


def exposure_by_rank(
    secrets: ArrayLike, held_out: ArrayLike, references: ArrayLike
) -> ExtractionFigure:
    """Measures exposure by the rank of a secret among references of the same form.

    log2 |R| − log2 rank (Carlini et al. 2019, arXiv:1802.08232, section 4.2), with rank 1 + the
    number of references that are less perplexing + half of the number of equal ones. Between
    log2(|R| / (|R| + 1)), just below 0, and log2 |R|: nothing beyond is seen.

    Args:
        secrets: (N,) perplexities of inserted secrets, or any other numbers that are lower the
            better the model knows a secret; +inf is allowed.
        held_out: (M,) of secrets that were drawn like these and not inserted.
        references: (R,) of further secrets that were not inserted.

    Returns:
        Values in bits.

    Raises:
        ValueError: an array is empty, not one-dimensional, or holds NaN or −inf.

    Example:
        >>> exposure_by_rank([0.0, 3.5], [20.0], np.arange(1.0, 17.0)).values.tolist()
        [4.0, 2.0]
    """
    rising = np.sort(_checked("references", references))

    def measure(values: NDArray[np.float64]) -> NDArray[np.float64]:
        better = np.searchsorted(rising, values, side="left")
        not_worse = np.searchsorted(rising, values, side="right")
        rank = 1 + (better + not_worse) / 2
        return np.asarray(np.log2(len(rising)) - np.log2(rank))

    return ExtractionFigure(
        name="exposure_by_rank",
        unit="bits",
        values=measure(_checked("secrets", secrets)),
        held_out_values=measure(_checked("held_out", held_out)),
    )


def exposure_by_sampling(
    secrets: ArrayLike, held_out: ArrayLike, references: ArrayLike
) -> ExtractionFigure:
    """Measures exposure by a distribution that is fitted to the references.

    −log2 P[X ≤ x], x the log-perplexity of the secret and X skew-normal with the mean, deviation
    and skewness of the references' (Carlini et al. 2019, arXiv:1802.08232, section 4.3, who fit by
    maximum likelihood). A skewness that no such distribution has counts as ±0.99. It sees beyond
    log2 |R| bits, as far as the fit can be trusted.

    Args:
        secrets: (N,) log-perplexities of inserted secrets, in any unit of information.
        held_out: (M,) of secrets that were drawn like these and not inserted.
        references: (R,) of further secrets that were not inserted, R ≥ 20, not all equal.

    Returns:
        Values in bits, at least 0.

    Raises:
        ValueError: an array is empty, not one-dimensional or not finite, or the references are too
            few or all equal.

    Example:
        >>> references = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
        >>> exposure_by_sampling([0.0], [1.0], references).values.round(3).tolist()
        [1.0]
    """
    sample = _checked("references", references, finite=True)
    if len(sample) < 20:
        raise ValueError(f"references must be at least 20 for a fit, got {len(sample)}.")
    shape, location, scale = _fit_skew_normal(sample)

    def measure(values: NDArray[np.float64]) -> NDArray[np.float64]:
        logs = [_log_cdf((value - location) / scale, shape) for value in values]
        return np.maximum(0.0, -np.array(logs) / math.log(2))

    figure = ExtractionFigure(
        name="exposure_by_sampling",
        unit="bits",
        values=measure(_checked("secrets", secrets, finite=True)),
        held_out_values=measure(_checked("held_out", held_out, finite=True)),
        notes=(_FITTED,),
    )
    return figure


def _fit_skew_normal(sample: NDArray[np.float64]) -> tuple[float, float, float]:
    """Shape, location and scale with the sample's first three moments (Azzalini 1985)."""
    mean, deviation = float(sample.mean()), float(sample.std())
    if not deviation > 1e-12 * max(1.0, abs(mean)):
        raise ValueError("references must not all be equal: no distribution can be fitted.")
    skewness = float(np.clip(stats.skew(sample), -0.99, 0.99))
    power = abs(skewness) ** (2 / 3)
    ratio = power / (power + ((4 - math.pi) / 2) ** (2 / 3))
    delta = math.copysign(math.sqrt(math.pi / 2 * ratio), skewness)
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    location = mean - scale * delta * math.sqrt(2 / math.pi)
    return delta / math.sqrt(1 - delta**2), location, scale


def _log_cdf(x: float, shape: float) -> float:
    """Log of the standard skew-normal distribution function, accurate far in the left tail."""
    probability = float(stats.skewnorm.cdf(x, shape))
    if probability > _LEAST_PROBABILITY:
        return math.log(probability)

    def log_density(t: float) -> float:
        return float(-t * t / 2 + special.log_ndtr(shape * t)) + math.log(2 / math.pi) / 2

    # The density is log-concave: left of x it falls at least as fast as exp(slope · (t − x)).
    ratio = math.exp(-((shape * x) ** 2) / 2 - float(special.log_ndtr(shape * x)))
    slope = -x + shape * ratio / math.sqrt(2 * math.pi)
    top = log_density(x)
    area, _ = integrate.quad(lambda u: math.exp(log_density(x - u / slope) - top), 0, 40)
    return top + math.log(area / slope)


def _checked(name: str, values: ArrayLike, *, finite: bool = False) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must have shape (N,) with N ≥ 1, got {array.shape}.")
    if np.isnan(array).any() or np.isneginf(array).any() or (finite and np.isinf(array).any()):
        wanted = "finite" if finite else "neither NaN nor -inf"
        raise ValueError(f"{name} must be {wanted}, got another value.")
    return array
