"""Which runs certified steps fit."""

from __future__ import annotations

import json
from pathlib import Path

from dpjax.unlearning.setup.tuned_run import TunedRun


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
