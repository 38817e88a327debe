"""Extraction by repeated sampling, computed without a sample."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.extraction.figure import ExtractionFigure
from dpjax.audit.extraction.suffixes import Suffix, require_fitting
from dpjax.audit.scores.token_passes import measure_records
from dpjax.data import LanguageDataset
from dpjax.models import CausalLM

_DEFAULT_SUFFIX = Suffix()


def suffix_log_probs(
    model: CausalLM,
    records: LanguageDataset,
    *,
    suffix: Suffix = _DEFAULT_SUFFIX,
    temperature: float = 1.0,
    top_k: int | None = None,
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Computes the log-probability that one sample given the prefix is the suffix.

    log p_z = Σ log q(token), q being the distribution that tokens are drawn from: softmax of
    logits / temperature over the k most probable tokens, as `dpjax.models.generate` draws.

    Args:
        model: a language model.
        records: N encoded records.
        suffix: what is to be found.
        temperature: above 0.
        top_k: tokens are drawn among the k most probable; of equals the lower numbers count as more
            probable. None: among all.
        batch_size: records at a time.

    Returns:
        (N,) float64, in nats; −inf if a token cannot be drawn, NaN for a record that the suffix
        does not fit.

    Raises:
        TypeError: the model is no language model.
        ValueError: an option is outside its range, or no record fits the suffix.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1 or None for all, got {top_k}.")
    wanted = suffix.select(records.loss_mask)
    fits = require_fitting("records", wanted)
    measure = _SamplingLogProbs(float(temperature), top_k)
    (log_probs,) = measure_records(model, records, measure, batch_size=batch_size)
    total = np.where(wanted, log_probs.astype(np.float64), 0.0).sum(axis=1)
    return np.where(fits, total, np.nan)


def sampled_extraction(
    tuned: ArrayLike, held_out: ArrayLike, *, num_samples: int, probability: float
) -> ExtractionFigure:
    """Measures which records are (n, p)-discoverable.

    1 if n samples contain the suffix with probability at least p, 1 − (1 − p_z)^n ≥ p, else 0
    (Hayes et al. 2024, arXiv:2410.19482).

    Args:
        tuned: (N,) log p_z under the tuned model, as `suffix_log_probs` returns them; records that
            the suffix does not fit, NaN there, are left out and counted.
        held_out: (M,) log p_z of records that the tuned model has not seen.
        num_samples: n, at least 1.
        probability: p, between 0 and 1.

    Returns:
        Values 0 or 1; the mean is the rate of extraction.

    Raises:
        ValueError: a number is outside its range, a log-probability is positive, or no record is
            left.

    Example:
        >>> log_probs = np.log([0.01, 0.001])
        >>> figure = sampled_extraction(log_probs, log_probs[1:], num_samples=100, probability=0.5)
        >>> figure.value, figure.held_out_value
        (0.5, 0.0)
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    sides = [_checked_log_probs(name, v) for name, v in (("tuned", tuned), ("held_out", held_out))]
    kept = [side[~np.isnan(side)] for side in sides]
    found = [samples_needed(side, probability=probability) <= num_samples for side in kept]
    return ExtractionFigure(
        name="sampled_extraction",
        unit="share of records",
        values=found[0].astype(np.float64),
        held_out_values=found[1].astype(np.float64),
        num_left_out=(len(sides[0]) - len(kept[0]), len(sides[1]) - len(kept[1])),
    )


def samples_needed(log_probs: ArrayLike, *, probability: float) -> NDArray[np.float64]:
    """Computes how many samples contain the suffix with a probability of at least p.

    n = ⌈log(1 − p) / log(1 − p_z)⌉ (Hayes et al. 2024, arXiv:2410.19482).

    Args:
        log_probs: any shape, log p_z, at most 0.
        probability: p, between 0 and 1.

    Returns:
        Whole numbers in float64, at least 1, of the same shape; +inf where p_z is 0 or so small
        that floating point does not hold the number.

    Raises:
        ValueError: p is outside its range, or a log-probability is positive or NaN.

    Example:
        >>> samples_needed(np.log([0.001, 0.3]), probability=0.5).tolist()
        [693.0, 2.0]
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}.")
    values = np.asarray(log_probs, np.float64)
    if not (values <= 0).all():
        raise ValueError("log_probs must be at most 0, got a positive number or NaN.")
    with np.errstate(divide="ignore", over="ignore"):
        exact = np.log1p(-probability) / _log_of_missing(values)
    # A quotient that rounding has put just above a whole number is that number.
    return np.maximum(1.0, np.ceil(exact * (1 - 1e-12)))


def extraction_probability(log_probs: ArrayLike, *, num_samples: int) -> NDArray[np.float64]:
    """Computes the probability that n samples contain the suffix, 1 − (1 − p_z)^n.

    Args:
        log_probs: any shape, log p_z, at most 0.
        num_samples: n, at least 1.

    Raises:
        ValueError: n is below 1, or a log-probability is positive or NaN.

    Example:
        >>> extraction_probability(np.log([0.001, 0.01]), num_samples=100).round(6).tolist()
        [0.095208, 0.633968]
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    values = np.asarray(log_probs, np.float64)
    if not (values <= 0).all():
        raise ValueError("log_probs must be at most 0, got a positive number or NaN.")
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(num_samples * _log_of_missing(values)))


@dataclasses.dataclass(frozen=True)
class _SamplingLogProbs:
    """Computes log q(token) under temperature and top-k."""

    temperature: float
    top_k: int | None

    def __call__(self, logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array]:
        scaled = logits / self.temperature
        at_token = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return (at_token - jax.nn.logsumexp(scaled, axis=-1),)
        kept, kept_tokens = jax.lax.top_k(scaled, self.top_k)
        can_be_drawn = jnp.any(kept_tokens == tokens[:, None], axis=-1)
        return (jnp.where(can_be_drawn, at_token - jax.nn.logsumexp(kept, axis=-1), -jnp.inf),)


def _log_of_missing(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(1 − p_z) from log p_z, with full precision at both ends."""
    return np.where(log_probs > -0.5, np.log(-np.expm1(log_probs)), np.log1p(-np.exp(log_probs)))


def _checked_log_probs(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or np.isnan(array).all():
        raise ValueError(f"{name} must hold the log-probability of at least 1 record, got none.")
    return array
