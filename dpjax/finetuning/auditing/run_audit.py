"""The audit of a finished run: records are scored, coins opened, and the claim is judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpjax.audit import (
    PRIVATE_RECORDS,
    ExtractionFigure,
    blind_baseline,
    build_run_audit,
    collect_evidence,
    compute_scores,
    count_copies,
    extract_canaries,
    read_manifest,
    target_texts,
)
from dpjax.finetuning.setup.audited_records import AuditedRecords
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.models import CausalLM, SplitModel, base_model, has_lora

# Of texts, beside the one that the verdict rests on; each of them reads one forward pass of both
# models, or none.
_DESCRIBED = ("loss", "ratio", "min_k", "min_k_plus")

_OWNERS = (
    "Each canary is the only record of an owner, whom a coin puts into training or leaves out: the"
    " bound is on ε for an owner. More records would move training no further, since all that an"
    " owner has is clipped as one."
)
_LEAST_TEXTS = 10


def audit_run(
    run: Run, audited: AuditedRecords, tuned: SplitModel, *, guarantee: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the report of the audit, ready for JSON.

    Args:
        run: that is finished.
        audited: the records with coins.
        tuned: the model after the last step.
        guarantee: of the privacy report; None without privacy.

    Raises:
        FileNotFoundError, ValueError: the manifest is missing, or was changed since training began.
    """
    plan, coins, audit = run.plan, audited.coins, run.plan.config.audit
    manifest = read_manifest(run.directory.path)
    if manifest.coins_commitment != coins.commitment():
        raise ValueError(f"{run.directory.manifest} is not the one that training began with")
    name = plan.task.audit_scores[0] if audit.score == "auto" else audit.score
    scores, extraction = _scores(run, audited, tuned, name)
    details, notes = _describe_records(audited) if audited.canaries is None else ({}, [])
    if audited.owners is not None:
        notes.append(_OWNERS)
    return build_run_audit(
        coins,
        manifest,
        scores.pop(name),
        score=name,
        kind=audited.kind,
        audited="records" if audited.canaries is None else "canaries",
        num_training_records=len(plan.train),
        delta=plan.audit_delta,
        claimed_epsilon=None if guarantee is None else guarantee["epsilon"],
        mechanism=plan.mechanism,
        confidence=audit.confidence,
        other_scores=scores,
        extraction=extraction,
        notes=notes,
        details=details,
    )


def _describe_records(audited: AuditedRecords) -> tuple[dict[str, Any], list[str]]:
    """Counts what weakens an audit of real records, and what it must not be read without."""
    included = audited.coins.included
    num_left_out = int((~included).sum())
    num_copies = count_copies(audited.encoded, included)
    num_empty = int((~audited.with_targets).sum())
    details: dict[str, Any] = {
        "left_out": num_left_out,
        "left_out_with_a_copy_in_training": num_copies,
        "records_without_a_token_to_learn": num_empty,
    }
    notes = [PRIVATE_RECORDS]
    if num_copies:
        notes.append(
            f"{num_copies} of {num_left_out} records that were left out have the tokens of one that"
            " training saw. The model knows them too: the audit finds less than it could."
        )
    if num_empty:
        notes.append(
            f"{num_empty} records have no token to learn. They get the median of all other scores."
        )
    # Labels are part of what tells records apart.
    texts = [unit.decode() for unit in audited.records.units()]
    sides = [
        [text for text, is_in in zip(texts, included, strict=True) if is_in == side]
        for side in (True, False)
    ]
    if min(map(len, sides)) >= _LEAST_TEXTS:
        blind = blind_baseline(*sides)
        details |= {"auc_without_a_model": blind.auc, "p_value_without_a_model": blind.p_value}
        if blind.separates:
            notes.append(
                f"A bag of words tells the two sets apart without any model (AUC {blind.auc:.3f})."
                " Fair coins allow that in one of a hundred audits. Unless this is the one, nothing"
                " here says anything about the model."
            )
    return details, notes


def _scores(
    run: Run, audited: AuditedRecords, tuned: SplitModel, name: str
) -> tuple[dict[str, np.ndarray], tuple[ExtractionFigure, ...]]:
    """Scores every record, by name. One that nothing was learnt from gets the median."""
    rows = np.flatnonzero(audited.with_targets)
    found, extraction = _scores_of(run, audited, tuned, name, rows)
    scores = {}
    for score, values in found.items():
        scores[score] = np.full(len(audited.coins), np.median(values))
        scores[score][rows] = values
    return scores, extraction


def _scores_of(
    run: Run, audited: AuditedRecords, tuned: SplitModel, name: str, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[ExtractionFigure, ...]]:
    plan, encoded = run.plan, audited.encoded.take(rows)
    model = tuned.merge()
    if plan.task.audit_scores == ("loss",):
        return {
            name: -evaluate(plan.task, tuned, encoded, run.layout).losses.astype(np.float64)
        }, ()
    assert isinstance(model, CausalLM)
    names = [name, *(other for other in _DESCRIBED if other != name)]
    is_beside = has_lora(model) and not model.lora.trains_weights
    base = base_model(model) if is_beside else _untuned(run)
    texts = None
    if name == "zlib":
        all_texts = target_texts(audited.records)
        texts = [all_texts[row] for row in rows]
    evidence = collect_evidence(
        names,
        encoded,
        tuned=model,
        base=base,
        texts=texts,
        batch_size=plan.task.evaluation_batch_size,
    )
    scores = compute_scores(names, evidence)
    if audited.canaries is None:
        return scores, ()
    assert evidence.tuned is not None
    return scores, extract_canaries(evidence.tuned, audited.coins.included)


def _untuned(run: Run) -> CausalLM:
    """Loads the checkpoint again: training has taken over the buffers of what it changed."""
    plan, placement = run.plan, None if run.layout is None else run.layout.sharding
    key = run.run_key.model_key("head")
    loading = plan.config.compute.loading(placement)
    model = plan.task.load(plan.checkpoint, plan.config, key, loading)
    assert isinstance(model, CausalLM)
    return model
