"""privacy.json: what was promised, by which mechanism, under which assumptions.

What follows from the mechanism is `dpjax_accounting.claim`'s; here is what only the run knows.
"""

from __future__ import annotations

import datetime
from typing import Any

from dpjax_accounting import (
    NON_PRIVATE_WARNING,
    SCHEMA_VERSION,
    BandedDPSGD,
    LaplaceDPSGD,
    Ledger,
    Stepwise,
    dataset_total,
)

from dpjax.finetuning.reports import statements
from dpjax.finetuning.setup.model.clipping_rule import (
    adaptive_rule,
    clip_norms,
    clipping_in_words,
)
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.steps import zeroth_order_of
from dpjax.models import revision_of
from dpjax.privatize import RunKey, describe_sampling
from dpjax.training import (
    DIFFERENCES,
    GRADIENTS,
    NEIGHBOURS,
    TOTAL_UNKNOWN,
    Summed,
    common_assumptions,
    describe_claim,
    describe_environment,
    describe_gradients,
    describe_implementation,
    describe_randomness,
    describe_versions,
    first_warnings,
    secret_draws,
    tell_of_users,
)


def build(
    plan: Plan,
    run_key: RunKey,
    run_id: str,
    steps_completed: int,
    ledger: Ledger | None = None,
    *,
    total_is_unknown: bool = False,
) -> dict[str, Any]:
    """Builds the report after `steps_completed` steps, ready for JSON.

    It has the schema of dpjax_accounting. ε is that of the steps completed. Without privacy there
    is no claim: guarantee, mechanism, accountant and implementation are null.

    Args:
        plan: of the run.
        run_key: for whether a seed is fixed; nothing of it is written.
        run_id: names the run.
        steps_completed: how many steps are done.
        ledger: gives the total of all runs on the data set; None without one.
        total_is_unknown: whether the run keeps a ledger that could not be read any more.
    """
    privacy = plan.config.privacy
    private = plan.mechanism is not None
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "private": private,
        "run": {
            "id": run_id,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "base_model": plan.config.model,
            "base_model_revision": revision_of(plan.checkpoint),
            "trained": _trained(plan),
        },
        **describe_claim(
            plan.mechanism, plan.delta, num_steps=plan.num_steps, steps_completed=steps_completed
        ),
        "implementation": describe_implementation(
            plan.mechanism,
            clip_norms(plan),
            target_epsilon=privacy.target_epsilon,
            delta_is_default=plan.delta_is_default,
            noise_strategy=plan.noise_strategy,
            summed=_summed(plan),
            adaptive=adaptive_rule(plan),
        ),
        "randomness": describe_randomness(
            run_key, is_discrete=_summed(plan).is_discrete, mechanism=plan.mechanism
        ),
        "trust": _trust(plan),
        "data_uses": _data_uses(plan),
        "dataset_total": None if ledger is None else dataset_total(ledger, plan.delta),
        "assumptions": _assumptions(plan),
        "not_covered": list(statements.NOT_COVERED) if private else [],
        "warnings": first_warnings(plan.mechanism, run_key),
        "versions": describe_versions(),
        "environment": describe_environment(),
    }
    if total_is_unknown:
        report["warnings"].append(TOTAL_UNKNOWN)
    training = plan.owner_training
    who = statements.who_is_a_user(plan.config) if training is None else training.who_is_a_user()
    return tell_of_users(report, plan.mechanism, who)


def in_words(plan: Plan, steps: int) -> str:
    """One sentence: the guarantee after `steps` steps, or that there is none."""
    mechanism = plan.mechanism
    if mechanism is None:
        return NON_PRIVATE_WARNING
    epsilon = mechanism.after(steps).epsilon(plan.delta)
    sampling, noise = describe_sampling(mechanism).brief, plan.noise.noise_multiplier
    algorithm = "DP-SGD" if plan.owner_training is None else plan.owner_training.algorithm
    return (
        f"({epsilon:.4g}, {plan.delta:.3g})-differential privacy per {mechanism.unit}, "
        f"{mechanism.neighboring.replace('_', ' ')}: {algorithm} with {sampling}, noise multiplier "
        f"{noise:.4g}{_kind_of_noise(mechanism)}, {clipping_in_words(plan)}, {steps} steps"
        f"{_zeroth_order(plan)}"
        f"{_first_steps(plan)}."
    )


def _first_steps(plan: Plan) -> str:
    if plan.first_step == 0:
        return ""
    head, _ = plan.stages
    return f", the first {head.num_steps} of the head alone with {clipping_in_words(head)}"


def _zeroth_order(plan: Plan) -> str:
    estimated = zeroth_order_of(plan)
    if estimated is None:
        return ""
    several = "s" if estimated.num_directions > 1 else ""
    return f" of zeroth-order gradients with {estimated.num_directions} direction{several} each"


def _kind_of_noise(mechanism: Stepwise) -> str:
    if isinstance(mechanism, LaplaceDPSGD):
        return " (scale of Laplace noise over clip norm)"
    if not isinstance(mechanism, BandedDPSGD):
        return ""
    return f" (noise correlated over steps, {mechanism.bands} bands)"


def _assumptions(plan: Plan) -> list[str]:
    if plan.mechanism is None:
        return []
    lines = (*statements.ASSUMPTIONS, NEIGHBOURS[plan.mechanism.neighboring])
    lines += common_assumptions(
        plan.mechanism, plan.config.privacy.generator, is_discrete=_summed(plan).is_discrete
    )
    if plan.task.labels:
        lines += statements.LABEL_ASSUMPTIONS
    lines += plan.task.assumptions
    if plan.config.audit.hold_out:
        lines += (statements.HOLD_OUT_ASSUMPTION,)
    return list(lines)


def _trust(plan: Plan) -> dict[str, Any]:
    draws = secret_draws(plan.mechanism)
    secrets = [statements.SECRET_KEY, *draws, *statements.SECRET_FILES]
    if plan.config.audit.hold_out:
        secrets.append(statements.HOLD_OUT_SECRET)
    if plan.owner_training is not None:
        secrets.append(statements.CLIENTS_SECRET)
    if plan.config.tracking.tensorboard is not None:
        secrets.append(statements.TENSORBOARD_SECRET)
    return statements.TRUST | {"kept_secret": secrets}


def _data_uses(plan: Plan) -> list[dict[str, str]]:
    if plan.mechanism is None:
        return []
    uses = statements.DATA_USES
    if plan.task.labels:
        uses += statements.LABEL_USES
    if plan.config.audit.hold_out:
        uses += statements.HOLD_OUT_USES
    if plan.owner_training is not None:
        uses += statements.CLIENTS_USES
    if plan.config.tracking.wandb_private_metrics:
        uses += statements.SENT_METRICS_USES
    if plan.config.compute.quantise != "none":
        uses += statements.QUANTISED_USES
    others = [
        {"use": use, "status": status, "explanation": explanation}
        for use, status, explanation in uses
    ]
    return [describe_gradients(plan.mechanism, _summed(plan)), *_count_uses(plan), *others]


def _count_uses(plan: Plan) -> list[dict[str, str]]:
    if plan.config.privacy.target_quantile is None:
        return []
    return [
        {
            "use": "The number that was not clipped in each step",
            "status": "budgeted",
            "explanation": "It is released with noise, together with the sum, and moves the clip "
            "norm of the steps after it. ε counts both releases.",
        }
    ]


def _summed(plan: Plan) -> Summed:
    """What a step adds up."""
    if plan.owner_training is not None:
        return plan.owner_training.summed
    return GRADIENTS if zeroth_order_of(plan) is None else DIFFERENCES


def _trained(plan: Plan) -> str:
    first = f", after {plan.first_step} steps of the head alone" if plan.first_step else ""
    return f"{_tuned(plan)}{first}{_quantised(plan)}"


def _quantised(plan: Plan) -> str:
    quantise = plan.config.compute.quantise
    return "" if quantise == "none" else f"; its frozen linear layers were held as {quantise}"


def _tuned(plan: Plan) -> str:
    config = plan.config
    head = " and the head" if plan.task.labels and plan.task.makes_head else ""
    if config.tuning == "lora":
        lora = config.lora
        kind = "DoRA" if lora.use_dora else "LoRA"
        ranks = f" ({', '.join(lora.rank_pattern)})" if lora.rank_pattern else ""
        biases = {"none": (), "lora_only": ("biases of their layers",), "all": ("all biases",)}
        parts = [*biases[lora.bias], *lora.modules_to_save]
        if lora.trainable_token_indices:
            parts.append(f"{len(lora.trainable_token_indices)} rows of the token embedding")
        further = "".join(f", {part}" for part in parts)
        return f"{kind} adapters of rank {lora.rank}{ranks}, merged afterwards{further}{head}"
    return {
        "full": "all parameters",
        "bias": f"all biases{head}",
        "head": "the head" if plan.task.makes_head else "the layers of the language head",
        "last_layers": f"the last {config.num_trained_layers} layers{head}",
    }[config.tuning]
