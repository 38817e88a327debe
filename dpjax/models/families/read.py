"""What the readers of config.json share: checks, activations, rotary positions."""

from __future__ import annotations

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


def require(hf: Any, **supported: Any) -> None:
    """Refuse switches of config.json whose other values would change the computation."""
    for switch, wanted in supported.items():
        value = getattr(hf, switch, wanted)
        if value != wanted and not (value is None and wanted is False):
            raise ValueError(
                f"config.json: {switch} = {value!r} is not supported for this family, only "
                f"{wanted!r} is"
            )


def activation(name: str) -> str:
    """Our name of an activation; ValueError for one that is not supported."""
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"config.json: activation {name!r} is not supported; supported: "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def head_size(hf: Any) -> int:
    """Size of an attention head; ValueError if it is not given and the heads do not divide."""
    if getattr(hf, "head_dim", None):
        return hf.head_dim
    if hf.hidden_size % hf.num_attention_heads:
        raise ValueError(
            f"config.json: {hf.num_attention_heads} attention heads do not divide the hidden size "
            f"{hf.hidden_size}"
        )
    return hf.hidden_size // hf.num_attention_heads


def sizes(hf: Any) -> dict[str, Any]:
    """The fields that every family has under the same names."""
    size = head_size(hf)
    return {
        "model_type": hf.model_type,
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "num_layers": hf.num_hidden_layers,
        "num_heads": hf.num_attention_heads,
        "num_kv_heads": getattr(hf, "num_key_value_heads", hf.num_attention_heads),
        "head_size": size,
        "attention_scale": size**-0.5,
    }


def rope(parameters: Mapping[str, Any], size: int) -> RopeConfig:
    """Rotary positions from the `rope_parameters` of one type of layer, heads of `size` numbers.

    Raises:
        ValueError: for a scaling that is not supported (yarn, dynamic, longrope, ...).
    """
    kind = parameters.get("rope_type", "default")
    rotary_size = int(size * parameters.get("partial_rotary_factor", 1.0))
    theta = float(parameters["rope_theta"])
    if kind == "default":
        return RopeConfig(theta, rotary_size)
    if kind == "linear":
        return RopeConfig(theta, rotary_size, linear_factor=float(parameters["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        scaling = (float(parameters[name]) for name in names)
        original = int(parameters["original_max_position_embeddings"])
        return RopeConfig(theta, rotary_size, llama3=(*scaling, original))
    raise ValueError(
        f"config.json: RoPE of type {kind!r} is not supported; supported: default, linear, llama3"
    )
