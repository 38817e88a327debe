"""Which parameters are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from dpjax.models.families import family_of
from dpjax.models.heads import Model
from dpjax.models.lora import LoraParam, has_lora, task_of
from dpjax.models.pooling import is_fixed
from dpjax.models.suggest import did_you_mean

TUNINGS = ("full", "lora")


def split_trainable(
    model: Model, tuning: str
) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any]]:
    """Split a model into its structure, the parameters that are trained, and the others.

    `nnx.merge(graphdef, trainable, frozen)` is the model again, also inside jax.jit, vmap and grad.

    Args:
        tuning: "full" trains every parameter, "lora" the adapters (without a frozen A) and the
            classification head; neither trains a layer that was appended for pooling.

    Returns:
        graphdef, trainable and frozen, the latter two nested dicts of float32 arrays (frozen is
        empty under "full" unless a layer was appended).

    Raises:
        ValueError: for an unknown tuning, or one that does not fit the presence of adapters.
    """
    if tuning not in TUNINGS:
        raise ValueError(
            f"tuning must be one of {', '.join(TUNINGS)}, got {tuning!r}."
            + did_you_mean(str(tuning), TUNINGS)
        )
    if (tuning == "lora") != has_lora(model):
        raise ValueError(
            "tuning 'lora' needs adapters: call add_lora first"
            if tuning == "lora"
            else "tuning 'full' trains the weights themselves, but the model has LoRA adapters: "
            "use tuning 'lora' or call merge_lora first"
        )

    def is_trained(path: tuple[str | int, ...], variable: Any) -> bool:
        if tuning == "full":
            return not is_fixed(model.config, path)
        return is_head(model, path) or isinstance(variable, LoraParam)

    graphdef, trainable, frozen = nnx.split(model, is_trained, ...)
    return graphdef, nnx.to_pure_dict(trainable), nnx.to_pure_dict(frozen)


def is_head(model: Model, path: Sequence[str | int]) -> bool:
    """Whether the parameter at `path` belongs to the classification head, which tuning makes."""
    prefix = family_of(model.config.model_type).base_prefix
    modules = family_of(model.config.model_type).head_modules(model.config, task_of(model))
    own = {module.path[0] for module in modules if not module.hf_name.startswith(prefix)}
    return path[0] in own and task_of(model) != "causal_lm"


def count_parameters(tree: Any) -> int:
    """Number of scalars in a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
