"""The config.json of a checkpoint as a `TransformerConfig`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpjax.models.checkpoint.files import CONFIG, FEATURE_LAYERS, read_config_json
from dpjax.models.config import MOST_LAYERS, TransformerConfig
from dpjax.models.families import FAMILIES, Family, family_of

# Without them a configuration would silently become that of the family's first model.
_SIZES = (
    ("vocab_size",),
    ("hidden_size", "n_embd", "dim"),
    ("num_hidden_layers", "n_layer", "n_layers"),
    ("num_attention_heads", "n_head", "n_heads"),
)
# What transformers reads of any configuration, and would make another model of.
_UNSUPPORTED = {
    "quantization_config": "quantised checkpoints",
    "per_layer_config": "settings of single layers",
    "configuration_files": "other files in its place",
    "transformers_weights": "weights under another name",
    "text_config": "a configuration inside",
    "text_encoder": "a configuration inside",
    "decoder": "a configuration inside",
    "generator": "a configuration inside",
    "fusion_config": "fused modules",
}
_INSTEAD = {
    "quantization_config": (
        "; take the checkpoint that this was made from, and compute.quantise to hold it in few bits"
    ),
}
# What a configuration around that of the text model says of texts.
_OF_TEXTS = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "dtype")
# With layer_types, which decides.
_READ_AS = {"mistral": "ministral"}
# Of labels and their number only the head of the checkpoint and the data know.
_LABELS = ("num_labels", "_num_labels", "id2label", "label2id", "problem_type")
_MOST_LABELS = 10**6
_LARGEST = 2**31 - 1


def read_config(folder: str | Path) -> TransformerConfig:
    """The model described by the config.json of a checkpoint folder.

    Raises:
        FileNotFoundError: without config.json.
        ValueError: for a family or a switch that is not supported.

    Example:
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> read_config("base").hidden_size
        8
    """
    return parse_config(read_config_json(Path(folder)))


def parse_config(raw: Mapping[str, Any]) -> TransformerConfig:
    """The model described by the contents of a config.json, in old or new spelling.

    transformers itself reads it: it fills in defaults and translates what was spelled differently
    in the past.

    Raises:
        ValueError: for a family or a switch that is not supported, or a size missing or wrong.

    Example:
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> config.head_size, config.vocab_size
        (4, 50257)
    """
    family = family_of(raw["model_type"])
    hf = _checked(raw, family)
    if hf.model_type not in (raw["model_type"], _READ_AS.get(raw["model_type"])):
        raise ValueError(
            f"config.json: transformers reads {raw['model_type']} with these fields as "
            f"{hf.model_type}, which is not supported"
        )
    try:
        config = family.read_config(hf)
    except (AttributeError, KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"config.json cannot be used ({type(error).__name__}: {error}): a field has a value of "
            "a type that it never has"
        ) from error
    layers = raw.get(FEATURE_LAYERS, [])
    if not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
        raise ValueError(f"config.json: {FEATURE_LAYERS} must be a list of layers, got {layers!r}")
    return dataclasses.replace(config, feature_layers=tuple(layers)) if layers else config


def read_text_config_json(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint's text model, which may be inside that of the checkpoint.

    Raises:
        FileNotFoundError: without config.json.
        ValueError: for a family or a switch that is not supported.
    """
    raw = read_config_json(folder)
    family = FAMILIES.get(raw["model_type"])
    if family is None or not family.text_families:
        return raw
    inner = _checked(raw, family).text_config.to_dict()
    return inner | {name: raw[name] for name in _OF_TEXTS if raw.get(name) is not None}


def _checked(raw: Mapping[str, Any], family: Family) -> Any:
    """Transformers' configuration object, if nothing is asked for that is not supported."""
    if not family.text_families:
        _check_supported(raw, _UNSUPPORTED)
        _check_sizes(raw, needs_all=True)
        return _as_transformers_reads_it(raw)
    text = raw.get("text_config")
    if not isinstance(text, Mapping):
        raise ValueError(
            f"config.json: text_config must hold the configuration of the text model, got {text!r}"
        )
    others = {name: what for name, what in _UNSUPPORTED.items() if name != "text_config"}
    _check_supported(raw, others)
    _check_supported(text, _UNSUPPORTED)
    # Files leave out what is as in the family's first model; the shapes of tensors tell.
    _check_sizes(text, needs_all=False)
    _check_sizes(raw, needs_all=False)
    hf = _as_transformers_reads_it(raw)
    if hf.text_config.model_type not in family.text_families:
        raise ValueError(
            f"config.json: text_config has the model_type {hf.text_config.model_type!r}; supported "
            f"in a {raw['model_type']}: {', '.join(family.text_families)}"
        )
    return hf


def _check_supported(raw: Mapping[str, Any], unsupported: Mapping[str, str]) -> None:
    for name, what in unsupported.items():
        if raw.get(name) is not None:
            raise ValueError(
                f"config.json: {name} is given; {what} are not supported{_INSTEAD.get(name, '')}"
            )


def _check_sizes(raw: Mapping[str, Any], *, needs_all: bool) -> None:
    """Before transformers, which makes a list of the layers, for instance."""
    for names in _SIZES:
        given = [name for name in names if name in raw]
        if not given and needs_all:
            raise ValueError(f"config.json: {names[0]} must be a whole number, but it is missing")
        for name in given:
            if type(raw[name]) is not int or raw[name] < 1:
                raise ValueError(
                    f"config.json: {name} must be a positive whole number, got {raw[name]!r}"
                )
    most = dict.fromkeys(_SIZES[2], MOST_LAYERS) | dict.fromkeys(_LABELS[:2], _MOST_LABELS)
    for name, value in raw.items():
        if type(value) is int and not -_LARGEST <= value <= most.get(name, _LARGEST):
            raise ValueError(
                f"config.json: {name} must be at most {most.get(name, _LARGEST)}, got {value}"
            )


def _as_transformers_reads_it(raw: Mapping[str, Any]) -> Any:
    """Transformers' configuration object, made by the rules by which it opens a checkpoint."""
    from transformers import AutoConfig

    # No code of the checkpoint is run: auto_map names some.
    left_out = (*_LABELS, "auto_map")
    known = {name: value for name, value in raw.items() if name not in left_out}
    with TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(json.dumps(known), encoding="utf-8")
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            for part in (config, getattr(config, "text_config", None)):
                if getattr(part, "rope_parameters", None):
                    # Models do this once more, when fields that are none of the class are known.
                    part.standardize_rope_params()
        except Exception as error:
            # transformers raises errors of many types for values that it cannot use.
            raise ValueError(f"config.json cannot be used: {error}") from error
    return config
