"""What certified steps promise, under which conditions, and which runs they fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dpjax.unlearning.certified.noisy_steps import NoisySteps
from dpjax.unlearning.tuned_run import TunedRun

CONDITIONS = (
    "It is of the weights in adapter/ alone: nothing else of this folder may be published. "
    "unlearning.json and report.md were computed from the forget set without noise, and retrained/ "
    "is another run, which has no certificate. The decision to publish must not come from them.",
    "The base must not depend on the forget set. dpjax cannot know what a base was trained on; it "
    "has refused one that dpjax has tuned on the same training file.",
    "All options in certified, the method, and the number of tries must be chosen without looking "
    "at the forget set or at what a model says of it. A second adapter that is published from the "
    "same tuned adapter adds to the first: the squares of mu add up.",
    "The noise was drawn from a key of the operating system, which was deleted with all states "
    "before the last. It is float32: docs/limits.md says what that leaves open.",
    "Copies of the original adapter keep what they have learnt. Delete them.",
    "Nothing is promised for the retained records, which the steps have read without privacy: the "
    "adapter has no differential privacy. Nor is it hidden that something was to be forgotten.",
)


def check_can_certify(run: TunedRun) -> None:
    """Refuses a run whose adapter cannot be clipped around zero, or whose base has seen its data.

    Args:
        run: whose model is to forget.

    Raises:
        ValueError: what does not fit, and what to do.
    """
    lora = run.config.lora
    for option, is_set in (
        ("use_dora", lora.use_dora),
        ("trainable_token_indices", bool(lora.trainable_token_indices)),
    ):
        if is_set:
            raise ValueError(
                f"{run.folder} has lora.{option}, which trains parameters whose zero is not the "
                "base: noisy_descent clips all of them around zero, which would destroy the "
                "model. Take another method, or a run without it"
            )
    tuned_on = _training_file_of(run.plan.checkpoint)
    if tuned_on is not None and tuned_on == Path(run.config.train_data.path).resolve():
        raise ValueError(
            f"the base {run.config.model} was itself tuned on {run.config.train_data.path}: it "
            "holds what is to be forgotten, and noisy_descent changes adapters alone. Take a run "
            "on a base that has not seen these records"
        )


def describe_certificate(steps: NoisySteps, delta: float) -> dict[str, Any]:
    """Returns the certificate, ready for JSON; nothing in it comes from a record.

    Args:
        steps: that were done.
        delta: δ.
    """
    epsilon = steps.epsilon(delta)
    statement = (
        f"The weights in adapter/ are ({epsilon:.4g}, {delta:.3g})-indistinguishable, in both "
        "directions, from those that the same steps make of an adapter which the forget set has "
        "not touched, such as one that was trained without it. This holds whatever the forget set "
        "and the loss are (docs/unlearning.md has the theorem and its proof), under the conditions "
        "below."
    )
    return {
        "epsilon": epsilon,
        "delta": delta,
        "mu": steps.mu,
        "steps": dataclasses.asdict(steps),
        "certifies": "adapter",
        "statement": statement,
        "conditions": list(CONDITIONS),
    }


def _training_file_of(checkpoint: Path) -> Path | None:
    """The training file of the dpjax run whose model/ a checkpoint is; None for another one."""
    config = checkpoint.resolve().parent / "config.json"
    if checkpoint.resolve().name != "model" or not config.is_file():
        return None
    try:
        return Path(json.loads(config.read_bytes())["train_data"]["path"]).resolve()
    except (ValueError, KeyError, TypeError):
        # A file of that name is no record of a run.
        return None
