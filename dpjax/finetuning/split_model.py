"""The model that a run trains: the checkpoint with its adapters, split by what is trained."""

from __future__ import annotations

from typing import Any

from dpjax.finetuning.prepare import Plan
from dpjax.models import LoraConfig, Trainable, add_lora, split_trainable
from dpjax.privatize import RunKey


def split_model(plan: Plan, run_key: RunKey) -> tuple[Any, Any, Any]:
    """Loads the checkpoint; returns graphdef, trainable and frozen, as `nnx.merge` takes them.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is damaged, or does not fit what is asked for.
    """
    config = plan.config
    model = plan.task.load(plan.checkpoint, config, run_key.model_key("head"))
    if config.tuning == "lora":
        settings = config.lora
        add_lora(
            model,
            LoraConfig(
                rank=settings.rank,
                alpha=settings.alpha,
                use_rslora=settings.use_rslora,
                target_modules=_target_modules(settings.target_modules),
                modules_to_save=settings.modules_to_save,
                layers_to_transform=settings.layers_to_transform,
                freeze_a=settings.freeze_a,
                dropout=settings.dropout,
            ),
            key=run_key.model_key("lora"),
        )
    return split_trainable(model, Trainable(config.tuning, num_layers=config.num_trained_layers))


def _target_modules(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return "all-linear" if names == ("all-linear",) else names
