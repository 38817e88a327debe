"""What the readers of config.json share: checks, sizes, activations."""

from __future__ import annotations

import math
from typing import Any

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


def whole(hf: Any, name: str) -> int:
    """A positive whole number of config.json; ValueError for anything else."""
    value = getattr(hf, name)
    if type(value) is not int or value < 1:
        raise ValueError(f"config.json: {name} must be a positive whole number, got {value!r}")
    return value


def number(hf: Any, name: str) -> float:
    """A positive number of config.json; ValueError for anything else."""
    value = getattr(hf, name)
    if not is_number(value) or value <= 0:
        raise ValueError(f"config.json: {name} must be a positive number, got {value!r}")
    return value


def epsilon(hf: Any, name: str) -> float:
    """A number of config.json that norms add to a variance; ValueError for anything else."""
    value = getattr(hf, name)
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"config.json: {name} must be at least 0 and below 1, got {value!r}")
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
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
