"""The model that a run trains: the checkpoint with its adapters, split by what is trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dpjax.finetuning.setup.plan import Plan
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
    trainable = Trainable(config.tuning, num_layers=config.num_trained_layers)
    graphdef, trained, frozen = split_trainable(model, trainable)
    _check_finite(trained, config.model)
    return graphdef, trained, frozen


def _check_finite(trained: Any, model: str) -> None:
    """A step would be paid for before a run noticed what was in the checkpoint from the start."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            raise ValueError(
                f"{model}: the parameter {name} has infinite entries, or some that are not "
                "numbers, and tuning would train it; repair the checkpoint, or leave the parameter "
                "frozen (--tuning lora)"
            )


def _target_modules(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return "all-linear" if names == ("all-linear",) else names
