"""privacy.json: what was promised, by which mechanism, under which assumptions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from dpjax.finetuning.prepare import Plan
from dpjax.privatize import RunKey

SCHEMA_VERSION = 1
_PACKAGES = ("dpjax", "dp-accounting", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")

ASSUMPTIONS = (
    "One record is one row of the training file; a person with several rows is protected for each "
    "row, not for all of them together.",
    "Neighbouring data sets differ by one record added or removed. The sampling probability, the "
    "number of steps, the clip norm, the expected batch size and the set of labels are public.",
    "The model at the end, and every intermediate one, may be seen by the adversary; which records "
    "were drawn in which step may not.",
    "Noise is Gaussian in float32 arithmetic, drawn from Threefry generators with fresh 64-bit "
    "keys per step; attacks on floating-point rounding of the noise are not covered.",
)
NOT_COVERED = (
    "metrics.jsonl, attack.json, report.md and anything else in the run directory beside model/: "
    "they are computed from the private records without noise.",
    "Choosing hyper-parameters, or one of several runs, by looking at results on private data.",
    "The evaluation records, and the data the pretrained checkpoint was made from.",
    "Other trainings on the same records: their ε add up.",
)
SEED_WARNING = (
    "The seed was fixed: whoever knows or guesses it can compute the noise and subtract it. "
    "Against such a person the guarantee is void. A fixed seed is for tests."
)
NON_PRIVATE_WARNING = "Trained WITHOUT privacy: no clipping, no noise, no guarantee of any kind."


def build(plan: Plan, run_key: RunKey, steps_completed: int) -> dict[str, Any]:
    """The report after `steps_completed` steps; JSON-ready.

    ε is that of the steps completed, an upper bound by privacy loss distributions. Without
    privacy `guarantee` and `mechanism` are null.
    """
    status = "complete" if steps_completed == plan.num_steps else "unfinished"
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "private": plan.mechanism is not None,
        "status": status,
        "steps_planned": plan.num_steps,
        "steps_completed": steps_completed,
        "guarantee": None,
        "mechanism": None,
        "randomness": {
            "seed_fixed": run_key.fixed_seed is not None,
            "run_key_bits": None if run_key.fixed_seed is not None else 256,
            "noise_dtype": "float32",
        },
        "versions": {name: version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "assumptions": list(ASSUMPTIONS),
        "not_covered": list(NOT_COVERED),
        "warnings": [SEED_WARNING] if run_key.fixed_seed is not None else [],
    }
    if plan.mechanism is None:
        report["warnings"] = [NON_PRIVATE_WARNING]
        report["assumptions"] = report["not_covered"] = []
        return report
    mechanism, privacy = plan.mechanism, plan.config.privacy
    report["guarantee"] = {
        "epsilon": mechanism.after(steps_completed).epsilon(plan.delta),
        "epsilon_planned": mechanism.epsilon(plan.delta),
        "epsilon_target": privacy.target_epsilon,
        "delta": plan.delta,
        "delta_is_default": plan.delta_is_default,
        "unit": mechanism.unit,
        "neighboring": mechanism.neighboring,
        "accountant": "dpjax_accounting PLD, pessimistic rounding",
    }
    report["mechanism"] = mechanism.to_dict() | {
        "name": "DP-SGD",
        "sampling_probability": mechanism.sampling_probability,
        "clip_norm": privacy.clip_norm,
        "noise_standard_deviation": mechanism.noise_multiplier * privacy.clip_norm,
        "gradient_divided_by": "expected_batch_size",
    }
    return report


def in_words(report: dict[str, Any]) -> str:
    """One sentence: the guarantee, or that there is none."""
    guarantee, mechanism = report["guarantee"], report["mechanism"]
    if guarantee is None:
        return NON_PRIVATE_WARNING
    return (
        f"({guarantee['epsilon']:.4g}, {guarantee['delta']:.3g})-differential privacy per "
        f"{guarantee['unit']}, {guarantee['neighboring'].replace('_', ' ')}: DP-SGD with Poisson "
        f"sampling probability {mechanism['sampling_probability']:.4g}, noise multiplier "
        f"{mechanism['noise_multiplier']:.4g}, clip norm {mechanism['clip_norm']:g}, "
        f"{report['steps_completed']} steps."
    )
