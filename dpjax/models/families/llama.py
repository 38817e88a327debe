"""Llama and its relatives: RMSNorm, gated perceptrons, rotary positions, shared key heads."""

from __future__ import annotations

from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import (
    activation,
    epsilon,
    number,
    require,
    rope,
    sizes,
    whole,
)
from dpjax.models.families.family import Family, Head, Task
from dpjax.models.families.heads import decoder_heads

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


def _fields(hf: Any, *, act: str = "hidden_act") -> dict[str, Any]:
    """What all of them have, under the names that all of them use; `act` names the activation's."""
    require(hf, is_causal=True, is_encoder_decoder=False)
    fields = sizes(hf)
    if getattr(hf, "head_dim", None) is not None:
        fields["head_size"] = whole(hf, "head_dim")
    shared = whole(hf, "num_key_value_heads")
    if fields["num_heads"] % shared:
        raise ValueError(
            f"config.json: num_key_value_heads = {shared} does not divide num_attention_heads = "
            f"{fields['num_heads']}"
        )
    return fields | {
        "num_kv_heads": shared,
        "attention_scale": fields["head_size"] ** -0.5,
        "causal": True,
        "activation": activation(hf, act),
        "gated": True,
        "norm": "rms",
        "norm_placement": "pre",
        "norm_eps": epsilon(hf, "rms_norm_eps"),
        "tied_head": hf.tie_word_embeddings,
        "initializer_range": number(hf, "initializer_range"),
    }


def _attention_bias(hf: Any) -> dict[str, Any]:
    """Of the families that let config.json decide."""
    return {"qkv_bias": hf.attention_bias, "output_bias": hf.attention_bias}


def _windows(hf: Any) -> dict[str, Any]:
    """Which layers see a window only."""
    names = {"full_attention": "full", "sliding_attention": "sliding"}
    unknown = sorted(set(hf.layer_types) - names.keys())
    if unknown:
        raise ValueError(f"config.json: layer_types: {unknown[0]!r} is not supported")
    types = tuple(names[kind] for kind in hf.layer_types)
    if "sliding" not in types:
        return {}
    return {"layer_types": types, "sliding_window": whole(hf, "sliding_window")}


def _one_window(hf: Any) -> dict[str, Any]:
    """Every layer sees the same window, if there is one."""
    if hf.sliding_window is None:
        return {}
    types = ("sliding",) * hf.num_hidden_layers
    return {"layer_types": types, "sliding_window": whole(hf, "sliding_window")}


def _with_rope(hf: Any, fields: dict[str, Any]) -> TransformerConfig:
    return TransformerConfig(**fields, rope=rope(hf.rope_parameters, fields["head_size"]))


def _read_llama(hf: Any) -> TransformerConfig:
    return _with_rope(hf, _fields(hf) | _attention_bias(hf) | {"mlp_bias": hf.mlp_bias})


def _read_mistral(hf: Any) -> TransformerConfig:
    # With layer_types in config.json transformers makes a Ministral of it.
    windows = _windows(hf) if hf.model_type == "ministral" else _one_window(hf)
    return _with_rope(hf, _fields(hf) | windows | {"model_type": "mistral"})


def _read_qwen2(hf: Any) -> TransformerConfig:
    return _with_rope(hf, _fields(hf) | _windows(hf) | {"qkv_bias": True})


def _read_qwen3(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _windows(hf) | _attention_bias(hf)
    return _with_rope(hf, fields | {"qk_norm": "head"})


def _read_phi3(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _one_window(hf)
    fields |= {"fused_qkv": "blocks", "fused_gate_up": True}
    turned = rope(hf.rope_parameters, fields["head_size"], is_partial=True)
    return TransformerConfig(**fields, rope=turned)


def _read_olmo2(hf: Any) -> TransformerConfig:
    fields = _fields(hf) | _attention_bias(hf)
    return _with_rope(hf, fields | {"norm_placement": "branch", "qk_norm": "projection"})


def _read_smollm3(hf: Any) -> TransformerConfig:
    if len(hf.no_rope_layers) != hf.num_hidden_layers:
        raise ValueError(
            f"config.json: no_rope_layers names {len(hf.no_rope_layers)} layers, there are "
            f"{hf.num_hidden_layers}"
        )
    fields = _fields(hf) | _windows(hf) | _attention_bias(hf)
    rotated = tuple(bool(flag) for flag in hf.no_rope_layers)
    return _with_rope(hf, fields | {"mlp_bias": hf.mlp_bias, "rope_layers": rotated})


def _gemma_fields(hf: Any, *, act: str) -> dict[str, Any]:
    require(hf, use_bidirectional_attention=False)
    particular = {"norm": "rms_plus_one", "embedding_scale": hf.hidden_size**0.5}
    return _fields(hf, act=act) | _attention_bias(hf) | particular


def _read_gemma(hf: Any) -> TransformerConfig:
    return _with_rope(hf, _gemma_fields(hf, act="hidden_act"))


def _sandwich_fields(hf: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    caps = {
        "attention_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
    }
    return (
        _gemma_fields(hf, act="hidden_activation")
        | _windows(hf)
        | {
            "norm_placement": "sandwich",
            "attention_scale": number(hf, "query_pre_attn_scalar") ** -0.5,
        }
        | {ours: number(hf, name) for ours, name in caps.items() if getattr(hf, name) is not None}
    )


def _read_gemma2(hf: Any) -> TransformerConfig:
    return _with_rope(hf, _sandwich_fields(hf))


def _read_gemma3(hf: Any) -> TransformerConfig:
    fields = _sandwich_fields(hf) | {"qk_norm": "head"}
    of_types = {
        kind: rope(hf.rope_parameters[kind], fields["head_size"])
        for kind in ("full_attention", "sliding_attention")
    }
    return TransformerConfig(
        **fields, rope=of_types["full_attention"], sliding_rope=of_types["sliding_attention"]
    )


def _family(read_config: Any, names: dict[str, str], heads: dict[Task, Head]) -> Family:
    return Family(
        read_config=read_config,
        names=names,
        heads=heads,
        base_prefix="model.",
        ignored=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rotary_emb\.inv_freq",
    )


_LM_AND_SEQUENCE: tuple[Task, ...] = ("causal_lm", "sequence_classification")

LLAMA = _family(_read_llama, _NAMES, decoder_heads("Llama"))
MISTRAL = _family(_read_mistral, _NAMES, decoder_heads("Mistral"))
QWEN2 = _family(_read_qwen2, _NAMES, decoder_heads("Qwen2"))
QWEN3 = _family(_read_qwen3, _NAMES, decoder_heads("Qwen3"))
PHI3 = _family(_read_phi3, _NAMES, decoder_heads("Phi3"))
SMOLLM3 = _family(_read_smollm3, _NAMES, decoder_heads("SmolLM3"))
OLMO2 = _family(_read_olmo2, _BRANCH_NAMES, decoder_heads("Olmo2", *_LM_AND_SEQUENCE))
GEMMA = _family(_read_gemma, _NAMES, decoder_heads("Gemma"))
GEMMA2 = _family(_read_gemma2, _SANDWICH_NAMES, decoder_heads("Gemma2"))
GEMMA3 = _family(
    _read_gemma3,
    _SANDWICH_NAMES,
    decoder_heads(
        "Gemma3",
        *_LM_AND_SEQUENCE,
        architectures={"sequence_classification": "Gemma3TextForSequenceClassification"},
    ),
)
