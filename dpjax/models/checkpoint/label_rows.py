"""Label names, and the rows of a classification head: the checkpoint's, or new ones."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.checkpoint.files import is_writable
from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.config import TransformerConfig
from dpjax.models.families import Family, ModuleName, Task

_log = logging.getLogger(__name__)


def check_label_names(label_names: Sequence[str]) -> None:
    """Raise ValueError unless there are at least two names, all different, that a file can hold.

    Example:
        >>> check_label_names(("no", "yes"))
        >>> check_label_names(("no", "no"))
        Traceback (most recent call last):
            ...
        ValueError: label names repeat: ['no', 'no']
    """
    if isinstance(label_names, str) or len(label_names) < 2:
        raise ValueError(f"a classifier needs at least two label names, got {label_names!r}")
    if len(set(label_names)) != len(label_names):
        raise ValueError(f"label names repeat: {list(label_names)}")
    for name in label_names:
        if not is_writable(name):
            raise ValueError(
                f"the label {name!r} holds half a surrogate pair, which no file can hold; correct "
                "the text"
            )


def label_order(raw_config: Mapping[str, Any], label_names: Sequence[str]) -> list[int]:
    """For each label the row of a checkpoint's head that stands for it.

    Rows are matched by name where config.json (`id2label`) names the same labels; otherwise they
    are taken in the order in which they stand.
    """
    given = raw_config.get("id2label") or {}
    if not isinstance(given, dict) or not all(row.isdecimal() for row in given):
        raise ValueError(
            f"config.json: id2label must map the rows of the head to names, got {given!r:.200}"
        )
    names = {int(row): str(name) for row, name in given.items()}
    rows = {name: row for row, name in names.items()}
    if sorted(rows) == sorted(label_names) and sorted(names) == list(range(len(label_names))):
        return [rows[name] for name in label_names]
    return list(range(len(label_names)))


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
