"""The audit of a finished run: canaries are scored, coins opened, and the claim is judged."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpjax.audit import (
    CanaryScores,
    ExtractionFigure,
    build_audit_report,
    collect_evidence,
    compute_scores,
    extract_canaries,
    read_manifest,
    target_texts,
)
from dpjax.finetuning.setup.canaries import RunCanaries
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.models import CausalLM, SplitModel, base_model, has_lora
from dpjax.privatize import RunKey

# Of texts, beside the one that the verdict rests on; each of them reads one forward pass of both
# models, or none.
_DESCRIBED = ("loss", "ratio", "min_k", "min_k_plus")


def audit_run(
    run: Run, canaries: RunCanaries, tuned: SplitModel, *, guarantee: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the report of the audit, ready for JSON.

    Args:
        run: that is finished.
        canaries: that it was trained with.
        tuned: the model after the last step.
        guarantee: of the privacy report; None without privacy.

    Raises:
        FileNotFoundError, ValueError: the manifest is missing, or was changed since training began.
    """
    plan, run_key = run.plan, run.run_key
    manifest = read_manifest(run.directory.path)
    if manifest.coins_commitment != canaries.coins.commitment():
        raise ValueError(f"{run.directory.manifest} is not the one that training began with")
    audit = plan.config.audit
    name = plan.task.audit_scores[0] if audit.score == "auto" else audit.score
    scores, extraction = _scores(plan, canaries, tuned, run_key, name)
    coins = canaries.coins
    notes = []
    if coins.fixed_seed:
        notes.append(
            "The coins come from a seed that somebody chose: whoever chose the seed chose them, and"
            " no bound holds against that."
        )
    return build_audit_report(
        CanaryScores(ids=coins.ids, included=coins.included, scores=scores.pop(name), score=name),
        delta=plan.audit_delta,
        claimed_epsilon=None if guarantee is None else guarantee["epsilon"],
        mechanism=plan.mechanism,
        confidence=audit.confidence,
        other_scores=scores,
        extraction=extraction,
        notes=notes,
        details={
            "kind_of_canaries": canaries.canaries.kind,
            "manifest_sha256": manifest.sha256,
            "salt_of_coins": coins.salt.hex(),
            "training_records": len(plan.train),
        },
    )


def _scores(
    plan: Plan, canaries: RunCanaries, tuned: SplitModel, run_key: RunKey, name: str
) -> tuple[dict[str, np.ndarray], tuple[ExtractionFigure, ...]]:
    model = tuned.merge()
    if not isinstance(model, CausalLM):
        losses = evaluate(plan.task, tuned, canaries.encoded).losses
        return {name: -losses.astype(np.float64)}, ()
    names = [name, *(other for other in _DESCRIBED if other != name)]
    base = base_model(model) if has_lora(model) else _untuned(plan, run_key)
    evidence = collect_evidence(
        names,
        canaries.encoded,
        tuned=model,
        base=base,
        texts=target_texts(canaries.canaries.records) if name == "zlib" else None,
        batch_size=plan.task.evaluation_batch_size,
    )
    assert evidence.tuned is not None
    scores = compute_scores(names, evidence)
    return scores, extract_canaries(evidence.tuned, canaries.coins.included)


def _untuned(plan: Plan, run_key: RunKey) -> CausalLM:
    """Loads the checkpoint again: training has taken over the buffers of what it changed."""
    model = plan.task.load(plan.checkpoint, plan.config, run_key.model_key("head"))
    assert isinstance(model, CausalLM)
    return model
