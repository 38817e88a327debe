"""The pretrained model of a run, split by what is trained, and where its parameters lie."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dpjax.finetuning.setup.plan import Plan
from dpjax.models import (
    SplitModel,
    Trainable,
    add_lora,
    num_stacked_axes,
    split_trainable,
    tensor_axis,
)
from dpjax.privatize import RunKey
from dpjax.training import Layout, spread


def model_layout(mesh: jax.sharding.Mesh) -> Layout:
    """Returns where the parameters of a model lie: tensor by its table, fsdp by their shapes."""
    sizes = dict(mesh.shape)

    def rule(path: str, shape: tuple[int, ...]) -> jax.sharding.PartitionSpec:
        split, stacked = tensor_axis(path), num_stacked_axes(path)
        return spread(shape, sizes, tensor_axis=split, first_axis=stacked)

    return Layout.make(mesh, rule)


def load_model(plan: Plan, run_key: RunKey, layout: Layout | None) -> SplitModel:
    """Loads the checkpoint, adds adapters, and splits it by what is trained.

    Without a layout it is loaded onto the first device of this process.
    """
    config = plan.config
    loading = config.compute.loading(None if layout is None else layout.sharding)
    model = plan.task.load(plan.checkpoint, config, run_key.model_key("head"), loading)
    if config.tuning == "lora":
        add_lora(model, config.lora, key=run_key.model_key("lora"))
    trainable = Trainable(config.tuning, num_layers=config.num_trained_layers)
    split = split_trainable(model, trainable)
    _check_finite(split.trainable, config.model)
    return split if layout is None else on_devices(split, layout)


def on_devices(split: SplitModel, layout: Layout) -> SplitModel:
    """Returns the model with every parameter where it belongs."""
    return split._replace(
        trainable=layout.place(split.trainable), frozen=layout.place(split.frozen)
    )


def _check_finite(trained: Any, model: str) -> None:
    """A step would be paid for before a run noticed what was in the checkpoint from the start."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        # Where several processes share an array, each looks at what it has of it.
        is_here = leaf.is_fully_addressable
        parts = [leaf] if is_here else [part.data for part in leaf.addressable_shards]
        if not all(bool(jnp.all(jnp.isfinite(part))) for part in parts):
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
            raise ValueError(
                f"{model}: the parameter {name} has infinite entries, or some that are not "
                "numbers, and tuning would train it; repair the checkpoint, or leave the parameter "
                "frozen (--tuning lora)"
            )
