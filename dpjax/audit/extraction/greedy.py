"""Extraction by greedy decoding, read from token statistics: no text is generated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.extraction.figure import ExtractionFigure
from dpjax.audit.extraction.suffixes import Suffix, require_fitting
from dpjax.audit.scores.token_statistics import TokenStatistics, require_targets

_DEFAULT_SUFFIX = Suffix()


def discoverable_extraction(
    tuned: TokenStatistics, held_out: TokenStatistics, *, suffix: Suffix = _DEFAULT_SUFFIX
) -> ExtractionFigure:
    """Measures which records a greedy decoder completes word for word.

    1 if, given the prefix, greedy decoding writes the suffix exactly, else 0 (Carlini et al. 2023,
    arXiv:2202.07646, definition 3.1). Greedy decoding does so if and only if every token of the
    suffix is the most probable one given the record's own tokens before it.

    Args:
        tuned: statistics of N records under the tuned model.
        held_out: statistics of M records that it has not seen.
        suffix: what is to be found; records that it does not fit are left out and counted.

    Returns:
        Values 0 or 1; the mean is the rate of extraction.

    Raises:
        ValueError: no record fits the suffix, on either side.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits, every = np.log([[[1.0, 1.0], [3.0, 1.0], [3.0, 1.0]]]), np.full((1, 3), True)
        >>> learnt = statistics_from_logits(logits, np.array([[1, 0, 0]]), every)
        >>> other = statistics_from_logits(logits, np.array([[1, 0, 1]]), every)
        >>> suffix = Suffix(prefix_tokens=1, suffix_tokens=2)
        >>> figure = discoverable_extraction(learnt, other, suffix=suffix)
        >>> figure.value, figure.held_out_value
        (1.0, 0.0)
    """

    def measure(name: str, statistics: TokenStatistics) -> tuple[NDArray[np.float64], int]:
        wanted = suffix.select(statistics.is_target)
        fits = require_fitting(name, wanted)
        is_found = np.asarray((statistics.is_argmax | ~wanted).all(axis=1))
        return is_found[fits].astype(np.float64), int((~fits).sum())

    return _figure("discoverable_extraction", "share of records", measure, tuned, held_out)


def extraction_strength(tuned: TokenStatistics, held_out: TokenStatistics) -> ExtractionFigure:
    """Measures how short a prefix suffices for greedy decoding to write the rest.

    1 − k* / n for a record of n target tokens, with k* the smallest number of them after which
    every further one is the most probable given the record's own tokens before it (Carlini et al.
    2021, arXiv:2012.07805). Prompts are given in any case.

    Args:
        tuned: statistics of N records under the tuned model.
        held_out: statistics of M records that it has not seen.

    Returns:
        Values between 0, where the last token is not found, and 1, where the first is enough.

    Raises:
        ValueError: a record has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits, every = np.log([[[3.0, 1.0], [3.0, 1.0]]]), np.full((1, 2), True)
        >>> half = statistics_from_logits(logits, np.array([[1, 0]]), every)
        >>> extraction_strength(half, half).value
        0.5
    """

    def measure(name: str, statistics: TokenStatistics) -> tuple[NDArray[np.float64], int]:
        del name
        require_targets(statistics.is_target)
        is_wrong = statistics.is_target & ~statistics.is_argmax
        # Right of the last wrong token: no wrong one from there to the end.
        is_after = ~is_wrong[:, ::-1].cumsum(axis=1).astype(bool)[:, ::-1]
        found = (statistics.is_target & is_after).sum(axis=1)
        return found / statistics.num_targets, 0

    return _figure("extraction_strength", "share of tokens", measure, tuned, held_out)


def exact_memorisation(tuned: TokenStatistics, held_out: TokenStatistics) -> ExtractionFigure:
    """Measures the share of target tokens that are the most probable given those before them.

    (1/n) Σ [argmax = y_t] (Tirumala et al. 2022, arXiv:2205.10770).

    Args:
        tuned: statistics of N records under the tuned model.
        held_out: statistics of M records that it has not seen.

    Returns:
        Values between 0 and 1.

    Raises:
        ValueError: a record has no target token.

    Example:
        >>> from dpjax.audit import statistics_from_logits
        >>> logits, every = np.log([[[3.0, 1.0], [3.0, 1.0]]]), np.full((1, 2), True)
        >>> half = statistics_from_logits(logits, np.array([[1, 0]]), every)
        >>> exact_memorisation(half, half).value
        0.5
    """

    def measure(name: str, statistics: TokenStatistics) -> tuple[NDArray[np.float64], int]:
        del name
        require_targets(statistics.is_target)
        right = (statistics.is_target & statistics.is_argmax).sum(axis=1)
        return right / statistics.num_targets, 0

    return _figure("exact_memorisation", "share of tokens", measure, tuned, held_out)


def _figure(
    name: str,
    unit: str,
    measure: Callable[[str, TokenStatistics], tuple[NDArray[np.float64], int]],
    tuned: TokenStatistics,
    held_out: TokenStatistics,
) -> ExtractionFigure:
    values, left_out = measure("tuned", tuned)
    held_out_values, held_out_left_out = measure("held_out", held_out)
    return ExtractionFigure(
        name=name,
        unit=unit,
        values=values,
        held_out_values=held_out_values,
        num_left_out=(left_out, held_out_left_out),
    )
