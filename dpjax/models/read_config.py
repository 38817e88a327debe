"""The config.json of a checkpoint as a `TransformerConfig`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families import AVERAGING_LAYER, family_of
from dpjax.models.files import read_config_json

# Without them a configuration would silently become that of the family's first model.
_SIZES = (
    ("vocab_size",),
    ("hidden_size", "n_embd", "dim"),
    ("num_hidden_layers", "n_layer", "n_layers"),
    ("num_attention_heads", "n_head", "n_heads"),
)


def read_config(folder: str | Path) -> TransformerConfig:
    """The model described by the config.json of a checkpoint folder.

    Raises:
        FileNotFoundError: without config.json.
        ValueError: for a family or a switch that is not supported.
    """
    return parse_config(read_config_json(Path(folder)))


def parse_config(raw: Mapping[str, Any]) -> TransformerConfig:
    """The model described by the contents of a config.json, in old or new spelling.

    transformers' own configuration classes fill in defaults and translate what was spelled
    differently in the past.

    Raises:
        ValueError: for a family or a switch that is not supported, or a size missing or wrong.
    """
    family = family_of(raw["model_type"])
    if raw.get("quantization_config") is not None:
        raise ValueError(
            "config.json: quantization_config is given; quantised checkpoints are not supported"
        )
    _check_sizes(raw)
    return family.read_config(_normalised(raw))


def _check_sizes(raw: Mapping[str, Any]) -> None:
    for names in _SIZES:
        given = [name for name in names if name in raw]
        if not given:
            raise ValueError(f"config.json: {names[0]} must be a whole number, but it is missing")
        if type(raw[given[0]]) is not int or raw[given[0]] < 1:
            raise ValueError(
                f"config.json: {given[0]} must be a positive whole number, got {raw[given[0]]!r}"
            )


def _normalised(raw: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {name: copy.deepcopy(value) for name, value in raw.items() if name != "model_type"}
    averaging = fields.pop(AVERAGING_LAYER, False)
    try:
        config = AutoConfig.for_model(raw["model_type"], **fields)
    except Exception as error:
        # transformers raises errors of many types for values that it cannot use.
        raise ValueError(f"config.json cannot be used: {error}") from error
    setattr(config, AVERAGING_LAYER, averaging)
    return config
