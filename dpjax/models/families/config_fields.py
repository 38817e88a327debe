"""What the readers of config.json share: checks, activations, rotary positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpjax.models.config import RopeConfig

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# What the entries of rope_parameters were called in some families' older files.
_OLD_NAMES = {
    "rope_theta": "rope_theta (rope_local_base_freq, rotary_emb_base)",
    "partial_rotary_factor": "partial_rotary_factor (rotary_pct)",
}


def require(hf: Any, **supported: Any) -> None:
    """Refuse switches of config.json whose other values would change the computation."""
    for switch, wanted in supported.items():
        value = getattr(hf, switch, wanted)
        if value != wanted and not (value is None and wanted is False):
            raise ValueError(
                f"config.json: {switch} = {value!r} is not supported for this family, only "
                f"{wanted!r} is"
            )


def whole(hf: Any, name: str) -> int:
    """A positive whole number of config.json; ValueError for anything else."""
    value = getattr(hf, name)
    if type(value) is not int or value < 1:
        raise ValueError(f"config.json: {name} must be a positive whole number, got {value!r}")
    return value


def number(hf: Any, name: str) -> float:
    """A positive number of config.json; ValueError for anything else."""
    value = getattr(hf, name)
    if not _is_number(value) or value <= 0:
        raise ValueError(f"config.json: {name} must be a positive number, got {value!r}")
    return value


def epsilon(hf: Any, name: str) -> float:
    """A number of config.json that norms add to a variance; ValueError for anything else."""
    value = getattr(hf, name)
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"config.json: {name} must be at least 0 and below 1, got {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def activation(hf: Any, name: str) -> str:
    """Our name of the activation that a field names; ValueError for one that is not supported."""
    value = getattr(hf, name)
    if value not in _ACTIVATIONS:
        raise ValueError(
            f"config.json: {name} = {value!r} is not supported, only {', '.join(_ACTIVATIONS)} are"
        )
    return _ACTIVATIONS[value]


def sizes(hf: Any, *, inner: str = "intermediate_size") -> dict[str, Any]:
    """What every family has; heads divide the hidden size. `inner` names a perceptron's width."""
    hidden, heads = whole(hf, "hidden_size"), whole(hf, "num_attention_heads")
    if hidden % heads:
        raise ValueError(
            f"config.json: {heads} attention heads do not divide the hidden size {hidden}"
        )
    return {
        "model_type": hf.model_type,
        "vocab_size": whole(hf, "vocab_size"),
        "hidden_size": hidden,
        "num_layers": whole(hf, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_size": hidden // heads,
        "intermediate_size": whole(hf, inner),
        "max_positions": whole(hf, "max_position_embeddings"),
        "attention_scale": (hidden // heads) ** -0.5,
    }


def rope(parameters: Any, size: int, *, is_partial: bool = False) -> RopeConfig:
    """Rotary positions from the `rope_parameters` of one type of layer, heads of `size` numbers.

    Args:
        parameters: the contents of `rope_parameters`.
        size: how many numbers a head has.
        is_partial: whether the family rotates a part of each head, if asked to.

    Raises:
        ValueError: for a scaling that is not supported (yarn, dynamic, longrope, ...), or a number
            missing or wrong.
    """
    if not isinstance(parameters, Mapping) or any(
        isinstance(v, Mapping) for v in parameters.values()
    ):
        raise ValueError(
            f"config.json: rope_parameters (rope_scaling in older files) = {parameters!r} is not "
            "supported for this family, only one set of parameters for all layers is"
        )
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(
            f"config.json: RoPE of type {kind!r} (rope_parameters, rope_scaling in older files) is "
            "not supported; supported: default, linear, llama3"
        )
    theta = _rope_number(parameters, "rope_theta")
    rotary_size = size
    if is_partial:
        rotary_size = int(size * _rope_number(parameters, "partial_rotary_factor", 1.0))
    elif kind != "default" and parameters.get("partial_rotary_factor", 1.0) != 1.0:
        # transformers looks at it where positions are scaled only, and fails.
        raise ValueError(
            f"config.json: partial_rotary_factor = {parameters['partial_rotary_factor']!r} is not "
            "supported for this family, only 1.0 is"
        )
    if rotary_size > size or rotary_size < 2 or rotary_size % 2:
        raise ValueError(
            f"config.json: heads of {size} numbers (head_dim, or hidden_size / "
            f"num_attention_heads), of which {rotary_size} are rotated (partial_rotary_factor, "
            "rotary_pct): an even number, at most all, must be"
        )
    if kind == "linear":
        return RopeConfig(theta, rotary_size, linear_factor=_rope_number(parameters, "factor"))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        factor, low, high = (_rope_number(parameters, name) for name in names)
        original = _rope_number(parameters, "original_max_position_embeddings")
        if not low < high:
            raise ValueError(
                f"config.json: high_freq_factor = {high} (in rope_parameters, once rope_scaling) "
                f"must be more than low_freq_factor = {low}"
            )
        return RopeConfig(theta, rotary_size, llama3=(factor, low, high, original))
    return RopeConfig(theta, rotary_size)


def _rope_number(parameters: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = parameters.get(name, default)
    if not _is_number(value) or value <= 0:
        raise ValueError(
            f"config.json: {_OLD_NAMES.get(name, name)} (in rope_parameters; rope_scaling in older "
            f"files) must be a positive number, got {value!r}"
        )
    return float(value)
