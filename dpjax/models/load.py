"""A Hugging Face checkpoint as a Flax NNX model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.config import EncoderConfig
from dpjax.models.encoder import SequenceClassifier
from dpjax.models.families import Family, WeightName, family_of
from dpjax.models.files import Readers, open_tensors, read_config_json
from dpjax.models.labels import check_label_names, label_order
from dpjax.models.pooling import Pooling, append_mean_pooling, resolve_pooling

_log = logging.getLogger(__name__)


def read_config(folder: str | Path) -> EncoderConfig:
    """The encoder described by the config.json of a checkpoint folder.

    Raises:
        FileNotFoundError: without config.json.
        ValueError: for a family or a switch that is not supported.
    """
    raw = read_config_json(Path(folder))
    return family_of(raw["model_type"]).read_config(raw)


def load_classifier(
    folder: str | Path,
    *,
    label_names: Sequence[str],
    key: jax.Array,
    pooling: Pooling = "first",
    num_layers: int | None = None,
) -> SequenceClassifier:
    """Load a checkpoint folder (config.json and safetensors) as a classifier, in float32.

    The head of the checkpoint is used if it has as many labels as `label_names` (its rows
    reordered if config.json names the same labels in another order). Otherwise the head is new:
    weights normal with the standard deviation `initializer_range` of the config, biases 0. The log
    says which.

    Args:
        label_names: the labels in the order of the logits.
        key: a JAX key for a new head.
        pooling: "first" reads the text from the first token, as transformers does; "mean" appends
            a layer that averages the tokens (see `append_mean_pooling`); "auto" averages if the
            checkpoint is a sentence encoder that does.
        num_layers: keep only this many layers, from the bottom (Sajjad et al. 2020, "Poor Man's
            BERT", top-layer dropping); None keeps all.

    Raises:
        FileNotFoundError: without config.json or safetensors.
        ValueError: for a family or switch that is not supported, fewer than two labels, more layers
            than there are, and for missing, unexpected, damaged or wrongly shaped tensors.
    """
    folder = Path(folder)
    check_label_names(label_names)
    pooling = resolve_pooling(folder, pooling)
    raw = read_config_json(folder)
    family = family_of(raw["model_type"])
    whole = family.read_config(raw)
    config = _shortened(whole, num_layers)
    shapes = nnx.eval_shape(
        lambda: SequenceClassifier(config, num_labels=len(label_names), rngs=nnx.Rngs(0))
    )
    graphdef, state = nnx.split(shapes)
    parameters = nnx.to_pure_dict(state)
    weights = family.weight_names(config)
    with open_tensors(folder) as tensors:
        readers = _by_table_name(folder, family, tensors)
        if _has_head(family, readers, len(label_names)):
            readers |= _reordered_head(family, readers, label_order(raw, label_names))
        else:
            readers |= _new_head(family, config, len(label_names), key)
        expected = {weight.hf_name for weight in family.weight_names(whole)}
        _check_names(folder, expected=expected, found=readers)
        for weight in weights:
            _fill(parameters, weight, readers[weight.hf_name]())
    model = nnx.merge(graphdef, parameters)
    return append_mean_pooling(model) if pooling == "mean" else model


def _shortened(config: EncoderConfig, num_layers: int | None) -> EncoderConfig:
    if num_layers is None or num_layers == config.num_layers:
        return config
    if not 1 <= num_layers < config.num_layers:
        raise ValueError(
            f"num_layers={num_layers}: the checkpoint has {config.num_layers} layers, of which "
            "between 1 and all can be kept"
        )
    if config.averaging_layer:
        raise ValueError(
            f"num_layers={num_layers}: the last layer of this checkpoint was appended to average "
            "the tokens, which dropping it would undo; keep all"
        )
    return dataclasses.replace(config, num_layers=num_layers)


def _by_table_name(folder: Path, family: Family, tensors: Readers) -> Readers:
    """The tensors under the names of the family's table, ignored ones dropped."""
    readers: Readers = {}
    for name, read in tensors.items():
        table_name = family.table_name(name)
        if table_name in readers:
            raise ValueError(f"{folder}: the tensor {table_name} occurs under two names")
        if table_name is not None:
            readers[table_name] = read
    return readers


def _head_names(family: Family) -> tuple[str, str]:
    return f"{family.head_name}.weight", f"{family.head_name}.bias"


def _has_head(family: Family, readers: Readers, num_labels: int) -> bool:
    """Whether the checkpoint has a head of the right number of labels (or part of one)."""
    present = readers.keys() & set(_head_names(family))
    if not present:
        _log.info("the checkpoint has no classification head: starting a new one")
        return False
    found = len(readers[min(present)]())
    if found != num_labels:
        _log.warning(
            "the checkpoint's classification head has %d labels, the data %d: starting a new one",
            found,
            num_labels,
        )
        return False
    _log.info("using the checkpoint's classification head (%d labels)", found)
    return True


def _reordered_head(family: Family, readers: Readers, order: list[int]) -> Readers:
    present = readers.keys() & set(_head_names(family))
    return {name: lambda read=readers[name]: read()[order] for name in present}


def _new_head(family: Family, config: EncoderConfig, num_labels: int, key: jax.Array) -> Readers:
    weight, bias = _head_names(family)
    normal = jax.random.normal(key, (num_labels, config.hidden_size), jnp.float32)
    return {
        weight: lambda: np.asarray(config.initializer_range * normal),
        bias: lambda: np.zeros(num_labels, np.float32),
    }


def _check_names(folder: Path, *, expected: Iterable[str], found: Iterable[str]) -> None:
    missing, unexpected = set(expected) - set(found), set(found) - set(expected)
    problems = [
        f"{kind} {', '.join(sorted(names))}"
        for kind, names in (("missing:", missing), ("unexpected:", unexpected))
        if names
    ]
    if problems:
        raise ValueError(
            f"the tensors in {folder} do not fit its config.json; " + "; ".join(problems)
        )


def _fill(parameters: dict[str, Any], weight: WeightName, value: np.ndarray) -> None:
    """Replace the abstract leaf named by `weight` by the value, in float32."""
    *parents, leaf = weight.path
    for part in parents:
        parameters = parameters[part]
    expected = parameters[leaf].shape[::-1] if weight.transposed else parameters[leaf].shape
    if value.shape != expected:
        raise ValueError(
            f"tensor {weight.hf_name} has shape {value.shape}, but config.json implies {expected}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"tensor {weight.hf_name} is {value.dtype}; only floating-point weights are read, "
            "quantised checkpoints are not supported"
        )
    value = value.astype(np.float32)
    parameters[leaf] = jnp.asarray(value.T if weight.transposed else value)
