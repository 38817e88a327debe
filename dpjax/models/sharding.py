"""How the parameters of a model are split over several devices: which axis of each."""

from __future__ import annotations

_LAYERS = "transformer.layers."
# Modules whose kernel is split by its outputs, and those that read what such a module returned and
# are split by their inputs (Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053, section 3).
_BY_OUTPUTS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
_BY_INPUTS = ("o_proj", "down_proj")
_TENSOR_AXES: dict[tuple[str, str], int] = {
    **{(module, "kernel"): -1 for module in _BY_OUTPUTS},
    **{(module, "bias"): -1 for module in _BY_OUTPUTS},
    **{(module, "lora_b"): -1 for module in _BY_OUTPUTS},
    **{(module, "lora_magnitude"): -1 for module in _BY_OUTPUTS},
    **{(module, "kernel"): -2 for module in _BY_INPUTS},
    **{(module, "lora_a"): -2 for module in _BY_INPUTS},
    ("embed_tokens", "embedding"): -2,
    ("lm_head", "kernel"): -1,
    ("decoder", "kernel"): -1,
}


def tensor_axis(path: str) -> int | None:
    """Returns the axis of a parameter that tensor parallelism splits, counted from the end.

    The families share the names of their modules, and this table. The result is the same wherever
    parameters lie; a projection that is fused is split across its parts, which costs exchanges.

    Args:
        path: dotted, such as "transformer.layers.0.mlp.up_proj.kernel".

    Returns:
        -1 for the last axis, -2 for the one before; None for a parameter that is not split.

    Example:
        >>> tensor_axis("transformer.layers.0.self_attn.o_proj.base.kernel")
        -2
        >>> tensor_axis("transformer.norm.scale") is None
        True
    """
    *modules, name = path.removesuffix(".value").split(".")
    module = next((part for part in reversed(modules) if part != "base"), "")
    return _TENSOR_AXES.get((module, name))


def num_stacked_axes(path: str) -> int:
    """Returns 1 for a parameter of stacked layers, whose first axis counts them, else 0.

    Example:
        >>> num_stacked_axes("transformer.layers.mlp.up_proj.kernel")
        1
    """
    inside = path.removeprefix(_LAYERS)
    return int(inside != path and not inside.split(".")[0].isdigit())
