"""The privacy report of `fit`."""

from __future__ import annotations

import datetime
from typing import Any

from dpjax_accounting import SCHEMA_VERSION, Mechanism, UserLevelDPSGD

from dpjax.privatize import ClippingRule, NoiseStrategy, RunKey
from dpjax.training.environment import describe_environment
from dpjax.training.reports.report import (
    NEIGHBOURS,
    common_assumptions,
    describe_claim,
    describe_gradients,
    describe_implementation,
    describe_randomness,
    describe_versions,
    first_warnings,
    secret_draws,
)
from dpjax.training.reports.user_sentences import tell_of_users

_ASSUMPTIONS = (
    "One record is one entry of the data that training was given. A person with several entries is "
    "protected for each entry, not for all of them together.",
    "The loss of a record reads no other record.",
)
_USER = (
    "One user is one entry of the data that training was given. The entry has all records of that "
    "user which any step reads, and nobody else's."
)
_OWNER = (
    "One user is one of the names that training was given, with all records that have it. A user "
    "has at most {} records in training; others were left out, by a choice that reads only how "
    "many records that user has. Each record is drawn and clipped by itself, and ε counts that all "
    "records of a user may be drawn together."
)
_NOT_COVERED = (
    "The metrics of the steps. They are computed from the private records without noise.",
    "Choosing hyper-parameters, or one of several runs, by looking at results on private data.",
    "Other trainings on the same records. All of them together spend more than this ε.",
)
_TRUST = {
    "model": "central",
    "trusted_with_records": ["Whoever runs the training, and the machine that it runs on."],
    "released": ["The trained parameters, and every intermediate state of them."],
}
_STOPPING = {"use": "Choice of a checkpoint, early stopping"}


def report_fit(
    mechanism: Mechanism | None,
    delta: float | None,
    rule: ClippingRule | None,
    *,
    noise_strategy: NoiseStrategy | None,
    num_steps: int,
    steps_completed: int,
    run_key: RunKey,
    run_id: str,
    delta_is_default: bool,
) -> dict[str, Any]:
    """Returns the report of the steps completed, with the schema of dpjax_accounting.

    Args:
        mechanism: as planned; None without privacy.
        delta: of the guarantee; None without privacy.
        rule: of clipping; None without privacy.
        noise_strategy: of correlated noise; None of other noise.
        num_steps: how many were planned.
        steps_completed: how many are done.
        run_key: for whether a seed is fixed; nothing of it is written.
        run_id: names the run.
        delta_is_default: whether δ was left to dpjax.
    """
    clip_norm = 0.0 if rule is None else float(rule.clip_norm)
    is_private = mechanism is not None
    report = {
        "schema_version": SCHEMA_VERSION,
        "private": is_private,
        "run": {
            "id": run_id,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "base_model": "parameters given by the caller",
            "base_model_revision": None,
            "trained": "all parameters given",
        },
        **describe_claim(mechanism, delta, num_steps=num_steps, steps_completed=steps_completed),
        "implementation": describe_implementation(
            mechanism,
            (clip_norm,),
            target_epsilon=None,
            delta_is_default=delta_is_default,
            noise_strategy=noise_strategy,
        ),
        "randomness": describe_randomness(run_key),
        "trust": _TRUST
        | {
            "kept_secret": [
                "The run key. The noise can be computed from it.",
                *secret_draws(mechanism),
                "The metrics of the steps.",
            ]
        },
        "data_uses": _data_uses(mechanism, delta, num_steps, steps_completed),
        "dataset_total": None,
        "assumptions": _assumptions(mechanism, run_key),
        "not_covered": list(_NOT_COVERED) if is_private else [],
        "warnings": first_warnings(mechanism, run_key),
        "versions": describe_versions(),
        "environment": describe_environment(),
    }
    if isinstance(mechanism, UserLevelDPSGD):
        return tell_of_users(report, mechanism, _OWNER.format(mechanism.records_per_user))
    return tell_of_users(report, mechanism, _USER)


def _assumptions(mechanism: Mechanism | None, run_key: RunKey) -> list[str]:
    if mechanism is None:
        return []
    common = common_assumptions(mechanism, run_key.generator)
    return [NEIGHBOURS[mechanism.neighboring], *_ASSUMPTIONS, *common]


def _data_uses(
    mechanism: Mechanism | None, delta: float | None, num_steps: int, steps_completed: int
) -> list[dict[str, str]]:
    if mechanism is None or delta is None:
        return []
    if steps_completed == num_steps:
        stopping = {
            "status": "not done",
            "explanation": "The run keeps the parameters after the last step that was planned.",
        }
    else:
        stopping = {
            "status": "not covered",
            "explanation": f"{steps_completed} of {num_steps} steps were done. If what "
            "the steps showed has decided that, the guarantee is that of all steps planned, "
            f"ε = {mechanism.epsilon(delta):.4g}.",
        }
    return [describe_gradients(mechanism), _STOPPING | stopping]
