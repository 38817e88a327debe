"""The rotary positions of config.json: how they are scaled, of one type of layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dpjax.models.config import RopeConfig
from dpjax.models.families.config_fields import is_number, whole

# What the entries of rope_parameters were called in some families' older files.
_OLD_NAMES = {
    "rope_theta": "rope_theta (rope_local_base_freq, rotary_emb_base)",
    "partial_rotary_factor": "partial_rotary_factor (rotary_pct)",
}
_WHERE = "in rope_parameters; rope_scaling in older files"


def rope(
    hf: Any,
    parameters: Any,
    size: int,
    *,
    is_partial: bool = False,
    is_of_type: bool = False,
    grows_queries: bool = False,
) -> RopeConfig:
    """Rotary positions from the `rope_parameters` of one type of layer, heads of `size` numbers.

    Args:
        hf: the configuration; some scalings depend on `max_position_embeddings`.
        parameters: the contents of `rope_parameters`, or its part for a type of layer.
        size: how many numbers a head has.
        is_partial: whether the family rotates a part of each head, if asked to.
        is_of_type: whether the parameters are those of a type of layer.
        grows_queries: whether the family's queries grow with their positions.

    Raises:
        ValueError: for a scaling that is not supported, or a number missing or wrong.
    """
    if not isinstance(parameters, Mapping) or any(
        isinstance(v, Mapping) for v in parameters.values()
    ):
        raise ValueError(
            f"config.json: rope_parameters (rope_scaling in older files) = {parameters!r} is not "
            "supported for this family, only one set of parameters for all layers is"
        )
    kind = parameters.get("rope_type", "default")
    if kind not in _SCALINGS:
        raise ValueError(
            f"config.json: RoPE of type {kind!r} (rope_parameters, rope_scaling in older files) is "
            f"not supported; supported: {', '.join(_SCALINGS)}"
        )
    if is_of_type and parameters.get("truncate") is not None:
        # transformers looks for it beside the types of layers, where it is not.
        raise ValueError(
            f"config.json: truncate = {parameters['truncate']!r} (in rope_parameters) is not "
            "supported for this family: leave it out"
        )
    theta = _number(parameters, "rope_theta")
    rotary_size = size
    if is_partial:
        rotary_size = int(size * _number(parameters, "partial_rotary_factor", 1.0))
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
    scaling = _SCALINGS[kind](hf, parameters, theta, rotary_size)
    if grows_queries:
        beta = _number(parameters, "llama_4_scaling_beta")
        scaling["query_growth"] = beta, _original(parameters)
    return RopeConfig(theta, rotary_size, **scaling)


def _default(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    return {}


def _linear(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    return {"linear_factor": _number(parameters, "factor")}


def _llama3(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (_number(parameters, name) for name in names)
    if not low < high:
        raise ValueError(
            f"config.json: high_freq_factor = {high} (in rope_parameters, once rope_scaling) "
            f"must be more than low_freq_factor = {low}"
        )
    return {"llama3": (factor, low, high, _original(parameters))}


def _yarn(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    """Equations 17 and 18 of arXiv:2309.00071, and its factor for scores, section 3.4."""
    factor, original = _number(parameters, "factor"), _original(parameters)
    bounds = []
    for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        turns = default if parameters.get(name) is None else _number(parameters, name)
        bounds.append(size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta)))
    low, high = bounds
    if _flag(parameters, "truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)

    def growth(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    amplitude = growth(1.0)
    if parameters.get("attention_factor") is not None:
        amplitude = _number(parameters, "attention_factor")
    elif parameters.get("mscale") and parameters.get("mscale_all_dim"):
        scale, all_dim = (_number(parameters, name) for name in ("mscale", "mscale_all_dim"))
        amplitude = growth(scale) / growth(all_dim)
    # As transformers avoids a division by zero.
    high = high + 0.001 if low == high else high
    return {"yarn": (factor, float(low), float(high)), "amplitude": amplitude}


def _dynamic(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    if size < 4:
        raise ValueError(
            f"config.json: RoPE of type 'dynamic' (rope_parameters) needs heads of at least 4 "
            f"numbers (head_dim), got {size}"
        )
    return {"dynamic": (_number(parameters, "factor"), whole(hf, "max_position_embeddings"))}


def _longrope(hf: Any, parameters: Mapping[str, Any], theta: float, size: int) -> dict[str, Any]:
    original = _original(parameters)
    short, long = (_factors(parameters, name, size) for name in ("short_factor", "long_factor"))
    factor = whole(hf, "max_position_embeddings") / original
    if parameters.get("factor") is not None:
        factor = _number(parameters, "factor")
    amplitude = 1.0
    if parameters.get("attention_factor") is not None:
        amplitude = _number(parameters, "attention_factor")
    elif factor > 1:
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original))
    return {"longrope": (short, long, original), "amplitude": amplitude}


_SCALINGS: Mapping[str, Callable[..., dict[str, Any]]] = MappingProxyType(
    {
        "default": _default,
        "linear": _linear,
        "dynamic": _dynamic,
        "yarn": _yarn,
        "longrope": _longrope,
        "llama3": _llama3,
    }
)


def _original(parameters: Mapping[str, Any]) -> float:
    return _number(parameters, "original_max_position_embeddings")


def _factors(parameters: Mapping[str, Any], name: str, size: int) -> tuple[float, ...]:
    values = parameters.get(name)
    is_list = isinstance(values, list) and all(is_number(v) and v > 0 for v in values)
    if not isinstance(values, list) or not is_list or len(values) != size // 2:
        raise ValueError(
            f"config.json: {name} ({_WHERE}) must be a list of {size // 2} positive numbers, got "
            f"{values!r}"
        )
    return tuple(float(value) for value in values)


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"config.json: {name} ({_WHERE}) must be true or false, got {value!r}")
    return value


def _number(parameters: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = parameters.get(name, default)
    if not is_number(value) or value <= 0:
        raise ValueError(
            f"config.json: {_OLD_NAMES.get(name, name)} ({_WHERE}) must be a positive number, got "
            f"{value!r}"
        )
    return float(value)
