"""The tensors of a classification head: the checkpoint's, or new ones."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.checkpoint.label_rows import label_order
from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Family, ModuleName, Task

_log = logging.getLogger(__name__)


def with_head(
    tensors: Tensors,
    raw: dict[str, Any],
    family: Family,
    task: Task,
    config: TransformerConfig,
    label_names: Sequence[str],
    key: jax.Array,
) -> Tensors:
    """Returns the tensors with those of the head reordered, or new where there are none that fit.

    Args:
        tensors: of the checkpoint, under the names of the family's table.
        raw: its config.json.
        family: its family.
        task: which head there is to be.
        config: of the model that is made.
        label_names: in the order of the logits.
        key: a JAX key for a new head.
    """
    *below, last = family.head_modules(config, task)
    dense = [module for module in below if module.kind == "linear"]
    shape_of_last = (len(label_names), config.num_features)
    names = [weight.hf_name for weight in last.weights()]
    present = tensors.keys() & set(names)
    shape = tensors[min(present)].shape if present else ()
    num_labels = shape[0] if shape else 0
    if num_labels == len(label_names):
        _log.info("using the checkpoint's classification head (%d labels)", num_labels)
        order = label_order(raw, label_names)
        tensors = tensors | {name: _rows(tensors[name], order) for name in present}
    else:
        if num_labels:
            _log.warning(
                "the checkpoint's classification head has %d labels, the data %d: starting a new "
                "one",
                num_labels,
                len(label_names),
            )
        else:
            _log.info("the checkpoint has no classification head: starting a new one")
        tensors = tensors | _new_dense(last, shape_of_last, config, key)
    for index, module in enumerate(dense):
        if not tensors.keys() & {weight.hf_name for weight in module.weights()}:
            _log.info("the checkpoint has no %s: starting a new one", module.hf_name)
            own_key = jax.random.fold_in(key, 1 + index)
            tensors = tensors | _new_dense(module, (config.hidden_size,) * 2, config, own_key)
    for module in (module for module in below if module.kind == "centre"):
        tensors = _new_centre(module, config) | tensors
    return tensors


def _rows(tensor: Tensor, order: list[int]) -> Tensor:
    return dataclasses.replace(tensor, read=lambda: tensor.read()[order])


def _new_dense(
    module: ModuleName, shape: tuple[int, int], config: TransformerConfig, key: jax.Array
) -> Tensors:
    def normal() -> np.ndarray:
        return np.asarray(config.initializer_range * jax.random.normal(key, shape, jnp.float32))

    tensors = {f"{module.hf_name}.weight": Tensor(shape, "F32", normal)}
    if module.has_bias:
        bias = Tensor(shape[:1], "F32", lambda: np.zeros(shape[:1], np.float32))
        tensors[f"{module.hf_name}.bias"] = bias
    return tensors


def _new_centre(module: ModuleName, config: TransformerConfig) -> Tensors:
    shape = (len(config.feature_layers), config.hidden_size)
    return {f"{module.hf_name}.centre": Tensor(shape, "F32", lambda: np.zeros(shape, np.float32))}
