"""All scores by name, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpjax.audit.scores.base_calibrated import ez_score, ratio_score, wbc_score
from dpjax.audit.scores.class_scores import class_loss_score, confidence_score, margin_score
from dpjax.audit.scores.evidence import Evidence
from dpjax.audit.scores.gradient_scores import gradient_norm_score, gradient_update_score
from dpjax.audit.scores.reference_free import (
    loss_score,
    lowercase_score,
    min_k_plus_score,
    min_k_score,
    neighbourhood_score,
    zlib_score,
)
from dpjax.basics.option_checks import did_you_mean


class Score(NamedTuple):
    """A way to score records, higher for members.

    Attributes:
        needs: the fields of `Evidence` that it reads.
        compute: from these fields, in their order, to (N,) float64.
        summary: what a record scores high for.
    """

    needs: tuple[str, ...]
    compute: Callable[..., NDArray[np.float64]]
    summary: str


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "loss": Score(("tuned",), loss_score, "it is probable"),
        "ratio": Score(("tuned", "base"), ratio_score, "tuning has made it more probable"),
        "zlib": Score(("tuned", "texts"), zlib_score, "it is probable for its information content"),
        "lowercase": Score(
            ("tuned", "lowercase"), lowercase_score, "lower case makes it less probable"
        ),
        "min_k": Score(("tuned",), min_k_score, "its least probable tokens are probable"),
        "min_k_plus": Score(
            ("tuned",), min_k_plus_score, "its least probable tokens stand out in the vocabulary"
        ),
        "ez": Score(("tuned", "base"), ez_score, "wrongly predicted tokens have risen"),
        "wbc": Score(("tuned", "base"), wbc_score, "most of its windows have risen"),
        "neighbourhood": Score(
            ("tuned", "neighbours"), neighbourhood_score, "it is more probable than its neighbours"
        ),
        "class_loss": Score(("logits", "labels"), class_loss_score, "its label is probable"),
        "margin": Score(("logits", "labels"), margin_score, "its label is ahead of the next"),
        "confidence": Score(
            ("logits", "labels"), confidence_score, "its label is probable, on the logit scale"
        ),
        "gradient_norm": Score(("gradients",), gradient_norm_score, "its gradient is small"),
        "gradient_update": Score(
            ("gradients",), gradient_update_score, "training went down its gradient"
        ),
    }
)


def compute_scores(names: Sequence[str], evidence: Evidence) -> dict[str, NDArray[np.float64]]:
    """Computes scores of all records by name; no model runs.

    Args:
        names: keys of `SCORES`, each once.
        evidence: of N records, with what the scores need; `collect_evidence` makes it.

    Returns:
        For every name, in the order given, (N,) float64, finite, higher for members.

    Raises:
        ValueError: a name is unknown (the nearest valid one is given) or given twice, none is
            given, the evidence lacks what a score needs, or a score's own check fails.

    Example:
        >>> evidence = Evidence(logits=np.array([[2.0, 0.0]]), labels=np.array([0]))
        >>> compute_scores(["margin"], evidence)["margin"].tolist()
        [2.0]
    """
    needed = needs_of(names)
    lacking = [need for need in sorted(needed) if getattr(evidence, need) is None]
    if lacking:
        name = next(name for name in names if set(SCORES[name].needs) & set(lacking))
        raise ValueError(
            f"evidence must hold {' and '.join(lacking)}, got None. Score {name!r} needs"
            f" {' and '.join(SCORES[name].needs)}."
        )
    return {
        name: SCORES[name].compute(*(getattr(evidence, need) for need in SCORES[name].needs))
        for name in names
    }


def needs_of(names: Sequence[str]) -> frozenset[str]:
    """Returns the fields of `Evidence` that some scores need together.

    Args:
        names: keys of `SCORES`, each once.

    Raises:
        ValueError: a name is unknown or given twice, or none is given.

    Example:
        >>> sorted(needs_of(["loss", "ratio"]))
        ['base', 'tuned']
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"names must be a list of at least 1 score, got {names!r}.")
    for name in names:
        if name not in SCORES:
            raise ValueError(
                f"names must be among {', '.join(SCORES)}, got {name!r}."
                + did_you_mean(name, SCORES)
            )
    if len(set(names)) < len(names):
        raise ValueError(f"names must be different, got {list(names)}.")
    return frozenset(need for name in names for need in SCORES[name].needs)
