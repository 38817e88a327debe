"""Llama and its relatives: RMSNorm, gated perceptrons, rotary positions, shared key heads."""

from __future__ import annotations

from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.family import Family, Head, Task
from dpjax.models.families.read import activation, require, rope, sizes

_NAMES = {
    "embed_tokens": "model.embed_tokens",
    "layers.attention_norm": "model.layers.{}.input_layernorm",
    "layers.self_attn.q_proj": "model.layers.{}.self_attn.q_proj",
    "layers.self_attn.k_proj": "model.layers.{}.self_attn.k_proj",
    "layers.self_attn.v_proj": "model.layers.{}.self_attn.v_proj",
    "layers.self_attn.qkv_proj": "model.layers.{}.self_attn.qkv_proj",
    "layers.self_attn.o_proj": "model.layers.{}.self_attn.o_proj",
    "layers.self_attn.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.self_attn.k_norm": "model.layers.{}.self_attn.k_norm",
    "layers.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp.gate_proj": "model.layers.{}.mlp.gate_proj",
    "layers.mlp.up_proj": "model.layers.{}.mlp.up_proj",
    "layers.mlp.gate_up_proj": "model.layers.{}.mlp.gate_up_proj",
    "layers.mlp.down_proj": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
}
_SANDWICH_NAMES = _NAMES | {
    "layers.attention_out_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.mlp_out_norm": "model.layers.{}.post_feedforward_layernorm",
}
_BRANCH_NAMES = _NAMES | {
    "layers.attention_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp_norm": "model.layers.{}.post_feedforward_layernorm",
}


def _fields(hf: Any) -> dict[str, Any]:
    """What all of them have, under the names that all of them use."""
    bias = getattr(hf, "attention_bias", False)
    return sizes(hf) | {
        "intermediate_size": hf.intermediate_size,
        "max_positions": hf.max_position_embeddings,
        "causal": True,
        "activation": activation(hf.hidden_act if hasattr(hf, "hidden_act") else "silu"),
        "gated": True,
        "norm": "rms",
        "norm_placement": "pre",
        "norm_eps": hf.rms_norm_eps,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": getattr(hf, "mlp_bias", False),
        "tied_head": hf.tie_word_embeddings,
        "initializer_range": hf.initializer_range,
    }


def _windows(hf: Any) -> dict[str, Any]:
    """Which layers see a window only."""
    names = {"full_attention": "full", "sliding_attention": "sliding"}
    unknown = sorted(set(hf.layer_types) - names.keys())
    if unknown:
        raise ValueError(f"config.json: layer type {unknown[0]!r} is not supported")
    types = tuple(names[kind] for kind in hf.layer_types)
    if "sliding" not in types:
        return {}
    return {"layer_types": types, "sliding_window": hf.sliding_window}


def _one_window(hf: Any) -> dict[str, Any]:
    """Every layer sees the same window, if there is one."""
    if hf.sliding_window is None:
        return {}
    types = ("sliding",) * hf.num_hidden_layers
    return {"layer_types": types, "sliding_window": hf.sliding_window}


def _read_llama(hf: Any) -> TransformerConfig:
    fields = _fields(hf)
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_mistral(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _one_window(hf)
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_qwen2(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _windows(hf) | {"qkv_bias": True}
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_qwen3(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _windows(hf) | {"qk_norm": "head"}
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_phi3(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _one_window(hf)
    fields |= {"fused_qkv": "blocks", "fused_gate_up": True}
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_olmo2(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | {"norm_placement": "branch", "qk_norm": "projection"}
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_smollm3(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | (_windows(hf) if hf.use_sliding_window else {})
    rotated = tuple(bool(flag) for flag in hf.no_rope_layers[: hf.num_hidden_layers])
    return TransformerConfig(
        **fields, rope_layers=rotated, rope=rope(hf.rope_parameters, fields["head_size"])
    )


def _gemma_fields(hf: Any) -> dict[str, Any]:
    require(hf, use_bidirectional_attention=False)
    return _fields(hf) | {"norm": "rms_plus_one", "embedding_scale": hf.hidden_size**0.5}


def _read_gemma(hf: Any) -> TransformerConfig:
    fields = _gemma_fields(hf)
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _sandwich_fields(hf: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    return (
        _gemma_fields(hf)
        | _windows(hf)
        | {
            "activation": activation(hf.hidden_activation),
            "norm_placement": "sandwich",
            "attention_scale": hf.query_pre_attn_scalar**-0.5,
            "attention_softcap": hf.attn_logit_softcapping,
            "logit_softcap": hf.final_logit_softcapping,
        }
    )


def _read_gemma2(hf: Any) -> TransformerConfig:
    fields = _sandwich_fields(hf)
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_gemma3(hf: Any) -> TransformerConfig:
    fields = _sandwich_fields(hf) | {"qk_norm": "head"}
    of_types = {
        kind: rope(parameters, fields["head_size"])
        for kind, parameters in hf.rope_parameters.items()
    }
    return TransformerConfig(
        **fields, rope=of_types["full_attention"], sliding_rope=of_types["sliding_attention"]
    )


def _heads(name: str, *tasks: Task, sequence: str | None = None) -> dict[Task, Head]:
    """Heads as most decoders have them, for the given tasks."""
    every: dict[Task, Head] = {
        "causal_lm": Head(f"{name}ForCausalLM", (("lm_head", "lm_head", False),)),
        "sequence_classification": Head(
            sequence or f"{name}ForSequenceClassification", (("classifier", "score", False),)
        ),
        "token_classification": Head(
            f"{name}ForTokenClassification", (("classifier", "score", True),)
        ),
    }
    return {task: every[task] for task in tasks or every}


def _family(read_config: Any, names: dict[str, str], heads: dict[Task, Head]) -> Family:
    return Family(
        read_config=read_config,
        names=names,
        heads=heads,
        base_prefix="model.",
        ignored=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rotary_emb\.inv_freq",
    )


_LM_AND_SEQUENCE: tuple[Task, ...] = ("causal_lm", "sequence_classification")

LLAMA = _family(_read_llama, _NAMES, _heads("Llama"))
MISTRAL = _family(_read_mistral, _NAMES, _heads("Mistral"))
QWEN2 = _family(_read_qwen2, _NAMES, _heads("Qwen2"))
QWEN3 = _family(_read_qwen3, _NAMES, _heads("Qwen3"))
PHI3 = _family(_read_phi3, _NAMES, _heads("Phi3"))
SMOLLM3 = _family(_read_smollm3, _NAMES, _heads("SmolLM3"))
OLMO2 = _family(_read_olmo2, _BRANCH_NAMES, _heads("Olmo2", *_LM_AND_SEQUENCE))
GEMMA = _family(_read_gemma, _NAMES, _heads("Gemma"))
GEMMA2 = _family(_read_gemma2, _SANDWICH_NAMES, _heads("Gemma2"))
GEMMA3 = _family(
    _read_gemma3,
    _SANDWICH_NAMES,
    _heads("Gemma3", *_LM_AND_SEQUENCE, sequence="Gemma3TextForSequenceClassification"),
)
