"""What a model gives back of the canaries of an audit, read from token statistics alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.extraction.exposure import exposure_by_rank, exposure_by_sampling
from dpjax.audit.extraction.figure import ExtractionFigure
from dpjax.audit.extraction.greedy import (
    discoverable_extraction,
    exact_memorisation,
    extraction_strength,
)
from dpjax.audit.extraction.sampled import sampled_extraction
from dpjax.audit.extraction.suffixes import Suffix
from dpjax.audit.scores.token_statistics import TokenStatistics

_SECRET = Suffix(prefix_tokens=None, suffix_tokens=None)
_FEWEST_REFERENCES = 20
_NUM_SAMPLES, _PROBABILITY = 1000, 0.5


def extract_canaries(
    tuned: TokenStatistics, included: NDArray[np.bool_]
) -> tuple[ExtractionFigure, ...]:
    """Measures exposure and extraction of the canaries in training, beside those left out.

    A canary's secret is its target tokens; all tokens before the first of them are given. Exposure
    compares log-perplexities. Every other left-out canary is a reference of exposure; the rest of
    them are its held-out secrets. Sampling means 1,000 samples at temperature 1 that contain the
    secret with probability 0.5 or more.

    Args:
        tuned: statistics of m canaries under the tuned model.
        included: (m,) bool, which of them training saw.

    Returns:
        Exposure by rank and by sampling, discoverable and (n, p)-discoverable extraction,
        extraction strength and exact memorisation. None of them if there are fewer than 2 canaries
        left out, or none included; no exposure by sampling if the references are fewer than 20 or
        all alike.

    Raises:
        ValueError: `included` has another length, or a canary has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits = np.log([[[9.0, 1.0]], [[1.0, 1.0]], [[1.0, 2.0]]])
        >>> tokens, every = np.zeros((3, 1), np.int64), np.full((3, 1), True)
        >>> statistics = statistics_from_logits(logits, tokens, every)
        >>> figures = extract_canaries(statistics, np.array([True, False, False]))
        >>> [(figure.name, figure.value, figure.held_out_value) for figure in figures][-1]
        ('exact_memorisation', 1.0, 0.5)
    """
    if np.shape(included) != (len(tuned),):
        raise ValueError(f"included must be ({len(tuned)},), got {np.shape(included)}.")
    if included.sum() < 1 or (~included).sum() < 2:
        return ()
    inside, outside = tuned.take(included), tuned.take(~included)
    log_probs = np.where(tuned.is_target, tuned.log_probs, 0.0).sum(axis=1, dtype=np.float64)
    secrets, left_out = -log_probs[included], -log_probs[~included]
    held_out, references = left_out[1::2], left_out[::2]
    exposures = [exposure_by_rank(secrets, held_out, references)]
    if len(references) >= _FEWEST_REFERENCES and np.ptp(references) > 0:
        exposures.append(exposure_by_sampling(secrets, held_out, references))
    return (
        *exposures,
        discoverable_extraction(inside, outside, suffix=_SECRET),
        sampled_extraction(-secrets, -left_out, num_samples=_NUM_SAMPLES, probability=_PROBABILITY),
        extraction_strength(inside, outside),
        exact_memorisation(inside, outside),
    )
