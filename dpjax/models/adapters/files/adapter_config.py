"""adapter_config.json in the layout of peft: written, read, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from dpjax.basics.lora_config import Bias, LoraConfig, pattern_fits
from dpjax.models.adapters.files.layout import tied_embedding, tied_head_name, token_embedding
from dpjax.models.checkpoint.files import ADAPTER_CONFIG, read_json_object
from dpjax.models.families import ModuleName, Task, family_of
from dpjax.models.net.heads import Model, task_of

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
        "alpha_pattern",
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
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    ]
)
# These start values leave the base as it is, and those are taken away from it by load_adapter.
_STARTS_BESIDE = ("gaussian", "orthogonal", "eva")
STARTS_INSIDE = ("pissa", "olora")
# What finetune calls the folder of an adapter in the folder of a run.
ADAPTER_OF_RUN = "adapter"
# How the base was held in training; peft ignores it, with a warning.
QUANTISE = "dpjax_quantise"
_UNSUPPORTED = {
    "lora_bias": "biases of B",
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

    Where the base was quantised in training, it says so under a name of its own.

    Args:
        model: with adapters.
        base_model_name_or_path: the checkpoint that the adapters belong to.
        revision: its commit on the hub; None for a local folder.
        targets: the adapted modules, written under their whole names.
        saved: the modules stored in full.
    """
    quantise = model.config.quantise
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
        "rank_pattern": model.lora.ranks(),
        "alpha_pattern": model.lora.alphas(),
        "use_dora": model.lora.use_dora,
        "bias": model.lora.bias,
        "trainable_token_indices": _token_indices(model),
        "lora_dropout": model.lora.dropout,
        "fan_in_fan_out": family_of(model.config.model_type).conv1d,
        "inference_mode": True,
        **({} if quantise == "none" else {QUANTISE: quantise}),
    }


def _token_indices(model: Model) -> dict[str, list[int]] | None:
    """The numbers of the tokens by the last part of the embedding's name."""
    if not model.lora.trainable_token_indices:
        return None
    name = token_embedding(model).hf_name.rpartition(".")[2]
    return {name: list(model.lora.trainable_token_indices)}


def read_token_indices(path: Path, contents: Mapping[str, Any], model: Model) -> list[int]:
    """The numbers of the tokens whose rows the adapter brings; ValueError for other rows."""
    field = "trainable_token_indices"
    given = contents.get(field)
    by_name = given if isinstance(given, dict) else {token_embedding(model).hf_name: given or []}
    name, tied = token_embedding(model).hf_name, tied_embedding(model)
    names = [name] if tied is None else [name, tied_head_name(model)]
    rows = list(by_name.values())
    for layer, tokens in by_name.items():
        if not any(f".{name}".endswith(f".{layer}") for name in names) or tokens != rows[0]:
            raise ValueError(
                f"{path}: {field} = {given!r} is not supported: only rows of the token embedding "
                f"{name} are, and the same of a head that is tied to it; train the others in full "
                "(modules_to_save)"
            )
        if not (isinstance(tokens, list) and all(type(token) is int for token in tokens)):
            raise ValueError(f"{path}: {field} must be numbers of tokens, got {given!r}")
    return rows[0] if rows else []


def read_adapter_config(folder: Path, model: Model) -> dict[str, Any]:
    """The contents of adapter_config.json, checked for what this model can take.

    Raises:
        FileNotFoundError, NotADirectoryError: without adapter_config.json.
        ValueError: for another kind of adapter, another task, or an option that is not supported.
    """
    contents = read_without_model(folder)
    task_type = _TASK_TYPES[task_of(model)]
    if contents.get("task_type") not in (None, task_type):
        raise ValueError(
            f"{folder / ADAPTER_CONFIG}: the adapter is for task_type {contents['task_type']!r}, "
            f"but the model is a {type(model).__name__}, which is {task_type!r}: load the base for "
            "the adapter's task"
        )
    return contents


def read_without_model(folder: Path) -> dict[str, Any]:
    """The contents of adapter_config.json, checked for what dpjax supports on any model.

    Raises:
        FileNotFoundError, NotADirectoryError: without adapter_config.json.
        ValueError: for another kind of adapter, or an option that is not supported.
    """
    path = folder / ADAPTER_CONFIG
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; give the folder that holds {ADAPTER_CONFIG}")
    if not path.is_file():
        of_run = folder / ADAPTER_OF_RUN
        if (of_run / ADAPTER_CONFIG).is_file():
            raise FileNotFoundError(
                f"{folder} has no {ADAPTER_CONFIG}: the adapter of a run is in {of_run}; give that"
            )
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
        if name not in (*_KNOWN, QUANTISE) and value not in (None, False, {}, []):
            what = f": {_UNSUPPORTED[name]}" if name in _UNSUPPORTED else ""
            raise ValueError(f"{path}: {name} = {value!r} is not supported{what}")
    _check_values(path, contents)
    return contents


def _check_values(path: Path, contents: Mapping[str, Any]) -> None:
    if contents.get("bias", "none") not in get_args(Bias):
        raise ValueError(
            f"{path}: bias = {contents['bias']!r} must be one of {', '.join(get_args(Bias))}"
        )
    start = contents.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in (*_STARTS_BESIDE, *STARTS_INSIDE):
        raise ValueError(
            f"{path}: init_lora_weights = {start!r} is not supported: it may change the base "
            "weights by what the file does not keep; let peft convert the adapter "
            "(save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if not contents.get("target_modules"):
        raise ValueError(f"{path}: target_modules is missing, so that nothing is adapted")
    for name in ("target_modules", "exclude_modules"):
        _check_names(path, name, contents.get(name), is_pattern_allowed=True)
    _check_names(path, "modules_to_save", contents.get("modules_to_save"))
    patterns = contents.get("layers_pattern")
    if isinstance(patterns, list) and patterns:
        patterns = "|".join(map(str, patterns))
    _check_names(path, "layers_pattern", patterns, is_pattern_allowed=True)
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(contents.get(name) or {}, dict):
            raise ValueError(f"{path}: {name} must be an object, got {contents[name]!r}")
        for key in contents.get(name) or {}:
            _check_names(path, name, key, is_pattern_allowed=True)
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
    targets: Sequence[str],
    saved: Sequence[str],
    bias: Bias,
    tokens: Sequence[int],
    freeze_a: bool,
) -> LoraConfig:
    """The options of adapters that were read; ValueError for impossible values.

    Args:
        path: of adapter_config.json, for messages.
        contents: what it holds.
        targets: whole names of the adapted modules.
        saved: whole names of the modules stored in full.
        bias: which biases are trained.
        tokens: numbers of the tokens whose rows are trained.
        freeze_a: whether further tuning leaves A as it is.
    """
    try:
        config = LoraConfig(
            rank=contents["r"],
            alpha=contents["lora_alpha"],
            rank_pattern=_pattern(contents.get("rank_pattern"), targets),
            alpha_pattern=_pattern(contents.get("alpha_pattern"), targets),
            use_rslora=bool(contents.get("use_rslora", False)),
            use_dora=bool(contents.get("use_dora", False)),
            target_modules=tuple(targets),
            modules_to_save=tuple(saved),
            bias=bias,
            trainable_token_indices=tuple(tokens),
            freeze_a=freeze_a,
            dropout=contents.get("lora_dropout", 0.0),
        )
        for name in targets:
            if not math.isfinite(config.scaling_of(name)):
                raise ValueError(f"the scaling of {name} is not finite")
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _pattern(entries: Mapping[str, Any] | None, targets: Collection[str]) -> tuple[str, ...]:
    """A pattern of ranks or alphas, as an option, without names that mean nothing here."""
    return tuple(
        f"{name}={value}"
        for name, value in (entries or {}).items()
        if any(pattern_fits(name, target) for target in targets)
    )
