"""privacy.json: what was promised, by which mechanism, under which assumptions.

What follows from the mechanism is `dpjax_accounting.claim`'s; here is what only the run knows.
"""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from typing import Any

from dpjax_accounting import (
    NON_PRIVATE_WARNING,
    SCHEMA_VERSION,
    SEED_WARNING,
    Ledger,
    claim,
    dataset_total,
)

from dpjax.finetuning.setup.environment import environment
from dpjax.finetuning.setup.plan import Plan
from dpjax.models import revision_of
from dpjax.privatize import RunKey

_PACKAGES = ("dpjax", "dp-accounting", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
_RUN_KEY_BITS = 256

ASSUMPTIONS = (
    "One record is one row of the training file; a person with several rows is protected for each "
    "row, not for all of them together.",
    "Neighbouring data sets differ by one record added or removed. The sampling probability, the "
    "number of steps, the clip norm and the expected batch size are public{labels}.",
    "The model at the end, and every intermediate one, may be seen by the adversary; which records "
    "were drawn in which step may not.",
    "Noise is Gaussian in float32 arithmetic, drawn from Threefry generators with fresh 64-bit "
    "keys per step; attacks on floating-point rounding of the noise are not covered.",
)
NOT_COVERED = (
    "metrics.jsonl, attack.json, report.md and anything else in the run directory beside model/, "
    "adapter/ and this report: they are computed from the private records without noise.",
    "Choosing hyper-parameters, or one of several runs, by looking at results on private data.",
    "That a run stopped because it diverged: whoever sees this learns that its losses were not "
    "finite.",
    "The evaluation records, and the data the pretrained checkpoint was made from.",
    "Other trainings on the same records, unless a ledger has them: their ε compose.",
)
TRUST = {
    "model": "central",
    "trusted_with_records": [
        "Whoever runs the training, and the machine it runs on: both see the records."
    ],
    "released": [
        "model/, and adapter/ where there is one: the tuned weights, and every intermediate state "
        "of them."
    ],
    "kept_secret": [
        "The run key and the checkpoints of an unfinished run, from which noise can be computed; "
        "both are deleted when the run ends.",
        "Which records were drawn in which step.",
        "metrics.jsonl, attack.json, report.md and their pictures.",
        "The ledger of the data set: it holds a hash of the records.",
    ],
}
_DATA_USES = (
    (
        "Gradients of the training records",
        "budgeted",
        "Clipped and with noise; ε is that of all steps completed.",
    ),
    (
        "Hyper-parameter tuning",
        "not covered",
        "Nobody here knows how the settings were found. If by results on these records, the runs "
        "that were tried belong into the ledger, and the choice among them costs more.",
    ),
    (
        "Choice of a checkpoint, early stopping",
        "not done",
        "The model after the last step is taken.",
    ),
    (
        "Stopping a run that diverged",
        "not covered",
        "A run stops when no loss is finite for a whole batch. This depends on the records, and "
        "no noise is added to it.",
    ),
    (
        "Evaluation",
        "not covered",
        "Accuracy is measured on the evaluation records without noise; nothing is trained on them.",
    ),
    (
        "Logged metrics and the attack",
        "not covered",
        "Computed from the training records without noise, and not to be published.",
    ),
    (
        "Vocabulary and tokenizer",
        "public data",
        "They come with the pretrained checkpoint, whose own data no guarantee covers.",
    ),
)
_LABEL_USES = (("Set of labels", "not covered", "Read from the data and treated as public."),)


def build(
    plan: Plan, run_key: RunKey, run_id: str, steps_completed: int, ledger: Ledger | None = None
) -> dict[str, Any]:
    """The report after `steps_completed` steps; JSON-ready, in the schema of dpjax_accounting.

    ε is that of the steps completed. Without privacy there is no claim: guarantee, mechanism,
    accountant and implementation are null.
    """
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
        **_claim(plan, steps_completed),
        "implementation": _implementation(plan),
        "randomness": _randomness(run_key),
        "trust": TRUST,
        "data_uses": [
            {"use": use, "status": status, "explanation": explanation}
            for use, status, explanation in (_DATA_USES + _LABEL_USES * bool(plan.task.labels))
            * private
        ],
        "dataset_total": None if ledger is None else dataset_total(ledger, plan.delta),
        "assumptions": _assumptions(plan) * private,
        "not_covered": list(NOT_COVERED) * private,
        "warnings": [],
        "versions": {name: version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "environment": environment(),
    }
    if not private:
        report["warnings"] = [NON_PRIVATE_WARNING]
    elif run_key.fixed_seed is not None:
        report["warnings"] = [SEED_WARNING]
    return report


def in_words(plan: Plan, steps: int) -> str:
    """One sentence: the guarantee after `steps` steps, or that there is none."""
    mechanism = plan.mechanism
    if mechanism is None:
        return NON_PRIVATE_WARNING
    epsilon = mechanism.after(steps).epsilon(plan.delta)
    return (
        f"({epsilon:.4g}, {plan.delta:.3g})-differential privacy per {mechanism.unit}, "
        f"{mechanism.neighboring.replace('_', ' ')}: DP-SGD with Poisson sampling "
        f"probability {mechanism.sampling_probability:.4g}, noise multiplier "
        f"{mechanism.noise_multiplier:.4g}, clip norm {plan.config.privacy.clip_norm:g}, "
        f"{steps} steps."
    )


def _assumptions(plan: Plan) -> list[str]:
    labels = ", and so is the set of labels" if plan.task.labels else ""
    return [line.format(labels=labels) for line in ASSUMPTIONS]


def _claim(plan: Plan, steps_completed: int) -> dict[str, Any]:
    if plan.mechanism is not None:
        return claim(plan.mechanism, plan.delta, steps_completed=steps_completed)
    return {
        "status": "complete" if steps_completed == plan.num_steps else "unfinished",
        "steps_planned": plan.num_steps,
        "steps_completed": steps_completed,
        "guarantee": None,
        "mechanism": None,
        "accountant": None,
    }


def _implementation(plan: Plan) -> dict[str, Any] | None:
    mechanism, privacy = plan.mechanism, plan.config.privacy
    if mechanism is None:
        return None
    return {
        "target_epsilon": privacy.target_epsilon,
        "delta_is_default": plan.delta_is_default,
        "clip_norm": privacy.clip_norm,
        "noise_standard_deviation": mechanism.noise_multiplier * privacy.clip_norm,
        "gradient_divided_by": "expected_batch_size",
        "sampling": "Poisson: every record is drawn independently in every step, by a Philox "
        "generator with a 128-bit key derived from the run key; no batch is truncated.",
        "gradient_accumulation": "One step is one draw of records; it is computed in microbatches "
        "whose clipped gradients are added up, and noise is added once to the sum.",
    }


def _randomness(run_key: RunKey) -> dict[str, Any]:
    fixed = run_key.fixed_seed is not None
    return {
        "seed_fixed": fixed,
        "run_key_bits": None if fixed else _RUN_KEY_BITS,
        "generators": "Keyed BLAKE2b hashes of the run key seed Philox for sampling, and four "
        "Threefry-2x32 generators per step for the noise.",
        "noise_distribution": "Continuous Gaussian: the halved sum of four draws per coordinate.",
        "noise_dtype": "float32",
    }


def _trained(plan: Plan) -> str:
    config = plan.config
    head = " and the head" if plan.task.labels else ""
    if config.tuning == "lora":
        further = "".join(f", {name}" for name in config.lora.modules_to_save)
        return f"LoRA adapters of rank {config.lora.rank}, merged afterwards{further}{head}"
    return {
        "full": "all parameters",
        "bias": f"all biases{head}",
        "head": "the head",
        "last_layers": f"the last {config.num_trained_layers} layers{head}",
    }[config.tuning]
