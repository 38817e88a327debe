"""audit.json: what an audit saw and concluded, with a hash, computed again by its verification."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dpjax_accounting import Mechanism, mechanism_from_dict
from numpy.typing import ArrayLike, NDArray

from dpjax.audit.bounds.guesses import DEFAULT_PLAN, GuessPlan
from dpjax.audit.canaries.coins import Audited
from dpjax.audit.extraction.figure import ExtractionFigure
from dpjax.audit.membership.attack import AttackResult, score_attack
from dpjax.audit.verdicts.verdict import Verdict, judge

AUDIT_SCHEMA_VERSION = 1
_FIELDS = (
    "schema",
    "score",
    "audited",
    "canaries",
    "delta",
    "claimed_epsilon",
    "mechanism",
    "confidence",
    "plan",
    "verdict",
    "certified",
    "model_based",
    "power",
    "attack",
    "other_scores",
    "extraction",
    "notes",
    "details",
    "sha256",
)
# Relative: another machine or library rounds differently.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CanaryScores:
    """The canaries of an audit: who they are, whether training saw them, and their scores.

    Attributes:
        ids: (m,) names, each once.
        included: (m,) truth values: the coins.
        scores: (m,) numbers, higher for members.
        score: the name of the score, chosen before training.
    """

    ids: Sequence[str]
    included: NDArray[np.bool_]
    scores: NDArray[np.float64]
    score: str

    def __post_init__(self) -> None:
        """Checks that every id is there once, and has a score and a coin."""
        if len(set(self.ids)) != len(self.ids):
            repeated = sorted({name for name in self.ids if list(self.ids).count(name) > 1})
            raise ValueError(f"canary ids must be unique; repeated: {', '.join(repeated[:5])}.")
        if not len(self.ids) == len(self.included) == len(self.scores):
            raise ValueError(
                f"every canary needs a coin and a score; got {len(self.ids)} ids,"
                f" {len(self.included)} coins and {len(self.scores)} scores."
            )


def build_audit_report(
    canaries: CanaryScores,
    *,
    delta: float,
    claimed_epsilon: float | None,
    mechanism: Mechanism | None = None,
    confidence: float = 0.95,
    plan: GuessPlan = DEFAULT_PLAN,
    other_scores: Mapping[str, ArrayLike] | None = None,
    extraction: Sequence[ExtractionFigure] = (),
    audited: Audited = "canaries",
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the report of an audit, ready for strict JSON.

    Args:
        canaries: with the one score that the verdict rests on.
        delta: in (0, 1), the one that the claim is made at.
        claimed_epsilon: of the accountant; None if no privacy is claimed.
        mechanism: that training is claimed to be, if known.
        confidence: of the verdict.
        plan: how many guesses are made.
        other_scores: (m,) numbers by name: described, and not part of the verdict.
        extraction: of the canaries, as `extract_canaries` measures it: described too.
        audited: what the coins were flipped for: canaries, or training records.
        notes: sentences without which the report must not be read.
        details: what else is known of the audit, ready for JSON.

    Raises:
        TypeError: as for :func:`dpjax.audit.judge`.
        ValueError: as for :func:`dpjax.audit.judge`.
    """
    verdict = judge(
        canaries.scores,
        canaries.included,
        delta=delta,
        claimed_epsilon=claimed_epsilon,
        mechanism=mechanism,
        confidence=confidence,
        plan=plan,
    )
    report = {
        "schema": {"name": "dpjax-audit", "version": AUDIT_SCHEMA_VERSION},
        "audited": audited,
        "score": canaries.score,
        "canaries": [
            {"id": name, "included": bool(coin), "score": _to_json(score)}
            for name, coin, score in zip(
                canaries.ids, canaries.included, canaries.scores, strict=True
            )
        ],
        "delta": delta,
        "claimed_epsilon": claimed_epsilon,
        "mechanism": None if mechanism is None else mechanism.to_dict(),
        "confidence": confidence,
        "plan": [list(shares) for shares in plan.shares],
        **_conclusions(verdict),
        "attack": _attack(canaries.score, canaries.scores, canaries.included),
        "other_scores": {
            name: _attack(name, scores, canaries.included)
            for name, scores in (other_scores or {}).items()
        },
        "extraction": [figure.to_dict() for figure in extraction],
        "notes": list(notes),
        "details": dict(details or {}),
    }
    return report | {"sha256": audit_hash(report)}


def audit_hash(report: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a report without its own hash, as canonical JSON."""
    content = {name: value for name, value in report.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_audit_report(path: str | Path) -> dict[str, Any]:
    """Returns the report in a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON, or not an audit report of this version.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    expected = {"name": "dpjax-audit", "version": AUDIT_SCHEMA_VERSION}
    if schema != expected:
        raise ValueError(f"{path} is not an audit report: its schema is {schema}, not {expected}.")
    missing = [name for name in _FIELDS if name not in report]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    return report


def verify_audit_report(report: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a report, nothing if it holds: every number is computed again.

    The canaries, their coins and their scores are taken as they stand: whoever writes the report
    can invent them. A run's manifest, with the hash of the coins, is older than its training.
    Scores beside the first and extraction are not computed again: the report does not hold what
    they were read from.

    Args:
        report: as :func:`read_audit_report` returns it.
    """
    problems = []
    if audit_hash(report) != report["sha256"]:
        problems.append("the hash does not fit the content: the file was changed")
    try:
        canaries, arguments = inputs_of(report)
        again = build_audit_report(canaries, **arguments)
    except (KeyError, TypeError, ValueError) as error:
        return [*problems, f"the audit cannot be computed again: {error}"]
    for name in ("verdict", "certified", "model_based", "power", "attack"):
        problems += _differences(report[name], again[name], name)
    return problems


def inputs_of(report: Mapping[str, Any]) -> tuple[CanaryScores, dict[str, Any]]:
    """Returns what :func:`build_audit_report` was given, but for what is only described.

    Raises:
        KeyError: if something is missing.
        TypeError: if something has another type.
        ValueError: if something lies outside its range.
    """
    rows = report["canaries"]
    canaries = CanaryScores(
        ids=[str(row["id"]) for row in rows],
        included=np.array([row["included"] for row in rows]),
        scores=np.array([float(row["score"]) for row in rows]),
        score=report["score"],
    )
    mechanism = report["mechanism"]
    return canaries, {
        "delta": report["delta"],
        "claimed_epsilon": report["claimed_epsilon"],
        "mechanism": None if mechanism is None else mechanism_from_dict(mechanism),
        "confidence": report["confidence"],
        "plan": GuessPlan(tuple((float(top), float(low)) for top, low in report["plan"])),
        "audited": report["audited"],
        "notes": report["notes"],
        "details": report["details"],
    }


def attack_of(report: Mapping[str, Any]) -> AttackResult:
    """Returns the attack with the score of the verdict, its ROC curve whole."""
    canaries, _ = inputs_of(report)
    return _attack_result(canaries.score, canaries.scores, canaries.included)


def _conclusions(verdict: Verdict) -> dict[str, Any]:
    fields = verdict.to_dict()
    return {
        "verdict": {name: fields[name] for name in ("conclusion", "sentence")},
        "certified": fields["certified"],
        "model_based": fields["model_based"],
        "power": fields["power"],
    }


def _attack(name: str, scores: ArrayLike, included: NDArray[np.bool_]) -> dict[str, Any]:
    return _attack_result(name, np.asarray(scores, dtype=np.float64), included).to_dict()


def _attack_result(
    name: str, scores: NDArray[np.float64], included: NDArray[np.bool_]
) -> AttackResult:
    return score_attack(scores[included], scores[~included], attack=name)


def _to_json(score: float) -> float | str:
    return float(score) if math.isfinite(score) else str(float(score))


def _differences(given: Any, computed: Any, where: str) -> list[str]:
    if isinstance(given, dict) and isinstance(computed, dict):
        if given.keys() != computed.keys():
            return [f"{where} has other fields than it should"]
        return [
            line
            for name in computed
            for line in _differences(given[name], computed[name], f"{where}.{name}")
        ]
    if isinstance(given, list) and isinstance(computed, list) and len(given) == len(computed):
        return [
            line
            for index, (one, other) in enumerate(zip(given, computed, strict=True))
            for line in _differences(one, other, f"{where}[{index}]")
        ]
    if isinstance(computed, float) and isinstance(given, (int, float)):
        if math.isclose(given, computed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            return []
    elif given == computed:
        return []
    return [f"{where} is {given!r}; computed again it is {computed!r}"]
