"""The audit of one run, whose coins were sealed before it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dpjax_accounting import Mechanism
from numpy.typing import ArrayLike

from dpjax.audit.canaries.coins import Audited, Coins
from dpjax.audit.canaries.manifest import Manifest
from dpjax.audit.extraction.figure import ExtractionFigure
from dpjax.audit.reports.audit_report import CanaryScores, build_audit_report

# What every report on real records says first.
PRIVATE_RECORDS = (
    "These are records of the training data. This report tells which of them were left out, and how"
    " well the model knows each. The guarantee does not cover it: do not publish it."
)
_KNOWN_COINS = (
    "The coins come from a seed that somebody chose: whoever chose the seed chose them, and no"
    " bound holds against that."
)


def build_run_audit(
    coins: Coins,
    manifest: Manifest,
    scores: ArrayLike,
    *,
    score: str,
    kind: str,
    audited: Audited,
    num_training_records: int,
    delta: float,
    claimed_epsilon: float | None,
    mechanism: Mechanism | None,
    confidence: float,
    other_scores: Mapping[str, ArrayLike] | None = None,
    extraction: Sequence[ExtractionFigure] = (),
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the report of a finished run's audit, as `build_audit_report` does.

    Args:
        coins: those that training used, opened now.
        manifest: that was written before training, and fixes the coins.
        scores: `(m,)` numbers in the order of the coins, higher for members.
        score: the name of the score, chosen before training.
        kind: of the canaries, or what records the coins were flipped for.
        audited: whether the coins were flipped for canaries or training records.
        num_training_records: how many records there are beside canaries.
        delta: that the claim is made at.
        claimed_epsilon: of the run's report; None without privacy.
        mechanism: of the run; None without privacy.
        confidence: of the verdict.
        other_scores: as for `build_audit_report`.
        extraction: as for `build_audit_report`.
        notes: sentences without which the report must not be read.
        details: what else is known of the audit, ready for JSON.

    Raises:
        TypeError: as for `judge`.
        ValueError: the manifest fixes other coins; or as for `judge`.

    Example:
        >>> from dpjax.audit import flip_coins, number_ids
        >>> from dpjax.privatize import RunKey
        >>> coins = flip_coins(number_ids("own", 40), run_key=RunKey.from_os_entropy())
        >>> manifest = Manifest(
        ...     kind="own",
        ...     ids=coins.ids,
        ...     probability_out=0.5,
        ...     fixed_seed=False,
        ...     coins_commitment=coins.commitment(),
        ...     records_commitment=None,
        ... )
        >>> report = build_run_audit(
        ...     coins,
        ...     manifest,
        ...     1.0 * coins.included,
        ...     score="loss",
        ...     kind="own",
        ...     audited="canaries",
        ...     num_training_records=1000,
        ...     delta=1e-5,
        ...     claimed_epsilon=1.0,
        ...     mechanism=None,
        ...     confidence=0.95,
        ... )
        >>> report["verdict"]["conclusion"]
        'violation'
    """
    if manifest.coins_commitment != coins.commitment():
        raise ValueError("the manifest is not the one that training began with")
    return build_audit_report(
        CanaryScores(
            ids=coins.ids,
            included=coins.included,
            scores=np.asarray(scores, np.float64),
            score=score,
        ),
        delta=delta,
        claimed_epsilon=claimed_epsilon,
        mechanism=_with_known_curve(mechanism),
        confidence=confidence,
        other_scores=other_scores,
        extraction=extraction,
        audited=audited,
        notes=[*notes, _KNOWN_COINS] if coins.fixed_seed else notes,
        details={
            "kind": kind,
            "manifest_sha256": manifest.sha256,
            "salt_of_coins": coins.salt.hex(),
            "training_records": num_training_records,
            **(details or {}),
        },
    )


def _with_known_curve(mechanism: Mechanism | None) -> Mechanism | None:
    """Returns the mechanism; None where its trade-off function cannot be tested.

    The audit then judges the claimed ε alone. Every point of random allocation takes seconds; a
    schedule has no one noise multiplier to vary.
    """
    if mechanism is None or mechanism.releases() is None:
        return None
    return mechanism if hasattr(mechanism, "noise_multiplier") else None
