"""What a folder holds an adapter in, in the layout of peft: files, names, adapter_config.json.

Tensors are named `base_model.model.<module>.lora_A.weight`, `(r, in)`, and `lora_B.weight`,
`(out, r)`, also where the base layer is stored as (in, out). Modules stored in full have their
usual names after the same prefix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpjax.lora_config import LoraConfig
from dpjax.models.adapters.targets import all_modules, head_modules
from dpjax.models.checkpoint.files import ADAPTER_CONFIG, read_json_object
from dpjax.models.families import LANGUAGE_TASKS, ModuleName, Task, WeightName, family_of
from dpjax.models.net.heads import Model, task_of

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

# peft has no type for masked tokens: None is a model as it is.
_TASK_TYPES: Mapping[Task, str | None] = {
    "causal_lm": "CAUSAL_LM",
    "masked_lm": None,
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
}
# Entries that do not change what a finished adapter computes, and those read below.
_KNOWN = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)
_UNSUPPORTED = {
    "use_dora": "DoRA (a magnitude beside A and B)",
    "lora_bias": "biases of B",
    "rank_pattern": "ranks that differ between modules",
    "alpha_pattern": "scalings that differ between modules",
    "trainable_token_indices": "single rows of the token embedding",
    "layer_replication": "layers used several times",
    "target_parameters": "adapters on parameters that are not a layer's weight",
}


def adapter_config(
    model: Model,
    base_model_name_or_path: str,
    revision: str | None,
    targets: Sequence[ModuleName],
    saved: Sequence[str],
) -> dict[str, Any]:
    """The contents of adapter_config.json for a model with adapters.

    Args:
        model: with adapters.
        base_model_name_or_path: the checkpoint that the adapters belong to.
        revision: its commit on the hub; None for a local folder.
        targets: the adapted modules, written under their whole names.
        saved: the modules stored in full.
    """
    return {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES[task_of(model)],
        "base_model_name_or_path": base_model_name_or_path,
        "revision": revision,
        "r": model.lora.rank,
        "lora_alpha": model.lora.alpha,
        "use_rslora": model.lora.use_rslora,
        "target_modules": [module.hf_name for module in targets],
        "modules_to_save": list(saved) or None,
        "bias": "none",
        "lora_dropout": model.lora.dropout,
        "fan_in_fan_out": family_of(model.config.model_type).conv1d,
        "inference_mode": True,
    }


def read_adapter_config(folder: Path, model: Model) -> dict[str, Any]:
    """The contents of adapter_config.json, checked for what this model can take.

    Raises:
        FileNotFoundError: without adapter_config.json.
        ValueError: for another kind of adapter, another task, or an option that is not supported.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {ADAPTER_CONFIG}: give the folder of an adapter as peft or "
            "save_adapter writes it"
        )
    contents = read_json_object(path)
    if contents.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type is {contents.get('peft_type')!r}; only 'LORA' is supported"
        )
    for name, value in contents.items():
        if name not in _KNOWN and value not in (None, False, {}, []):
            what = f": {_UNSUPPORTED[name]}" if name in _UNSUPPORTED else ""
            raise ValueError(f"{path}: {name} = {value!r} is not supported{what}")
    _check_values(path, contents)
    task_type = _TASK_TYPES[task_of(model)]
    if contents.get("task_type") not in (None, task_type):
        raise ValueError(
            f"{path}: the adapter is for task_type {contents['task_type']!r}, but the model is a "
            f"{type(model).__name__}, which is {task_type!r}: load the base for the adapter's task"
        )
    return contents


def _check_values(path: Path, contents: Mapping[str, Any]) -> None:
    if contents.get("bias", "none") != "none":
        raise ValueError(
            f"{path}: bias = {contents['bias']!r} is not supported, only 'none' is: biases of the "
            "base would be trained with the adapter"
        )
    start = contents.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "orthogonal", "eva"):
        raise ValueError(
            f"{path}: init_lora_weights = {start!r} changes the base weights and is not supported; "
            "let peft convert the adapter (path_initial_model_for_weight_conversion)"
        )
    if not contents.get("target_modules"):
        raise ValueError(f"{path}: target_modules is missing, so that nothing is adapted")
    for name in ("target_modules", "exclude_modules"):
        _check_names(path, name, contents.get(name), is_pattern_allowed=True)
    _check_names(path, "modules_to_save", contents.get("modules_to_save"))
    layers = contents.get("layers_to_transform")
    for layer in layers if isinstance(layers, list) else [layers]:
        if layer is not None and type(layer) is not int:
            raise ValueError(
                f"{path}: layers_to_transform must be numbers of layers, got {layers!r}"
            )


def _check_names(path: Path, field: str, value: Any, *, is_pattern_allowed: bool = False) -> None:
    if is_pattern_allowed and isinstance(value, str):
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{path}: {field} = {value!r} is not a regular expression: {error}"
            ) from error
    elif value is not None and not (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    ):
        raise ValueError(f"{path}: {field} must be a list of names of modules, got {value!r}")


def lora_config_of(
    path: Path,
    contents: Mapping[str, Any],
    targets: Sequence[ModuleName],
    saved: Sequence[str],
    freeze_a: bool,
) -> LoraConfig:
    """The options of adapters that were read; ValueError for impossible values."""
    try:
        config = LoraConfig(
            rank=contents["r"],
            alpha=contents["lora_alpha"],
            use_rslora=bool(contents.get("use_rslora", False)),
            target_modules=tuple(module.hf_name for module in targets),
            modules_to_save=tuple(saved),
            freeze_a=freeze_a,
            dropout=contents.get("lora_dropout", 0.0),
        )
        if not math.isfinite(config.scaling):
            raise ValueError(f"lora_alpha = {config.alpha} is not finite")
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def lora_weights(module: ModuleName) -> Iterator[WeightName]:
    """A and B of an adapted module, under their names without prefix."""
    yield WeightName((*module.path, "lora_a"), f"{module.hf_name}.lora_A.weight", True)
    yield WeightName((*module.path, "lora_b"), f"{module.hf_name}.lora_B.weight", True)


def classification_head(model: Model) -> tuple[ModuleName, ...]:
    """The head of a classifier, which every adapter brings; none of a language model."""
    return () if task_of(model) in LANGUAGE_TASKS else head_modules(model)


def tied_embedding(model: Model) -> ModuleName | None:
    """The token embedding if it is the head as well."""
    if task_of(model) != "causal_lm" or not model.config.tied_head:
        return None
    return next(m for m in all_modules(model) if m.path == ("transformer", "embed_tokens"))


def tied_head_name(model: Model) -> str:
    """What transformers calls the head that is tied to the token embedding."""
    (_, theirs, _), *_ = family_of(model.config.model_type).head("causal_lm").layers
    return theirs
