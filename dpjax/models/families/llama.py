"""Llama and its relatives: RMSNorm, gated perceptrons, rotary positions, shared key heads."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import number, require, whole
from dpjax.models.families.decoder_fields import (
    BRANCH_NAMES,
    LM_AND_SEQUENCE,
    NAMES,
    bias_fields,
    decoder_family,
    one_window_fields,
    shared_fields,
    text_tower,
    window_fields,
    with_rope,
    with_ropes,
)
from dpjax.models.families.heads import decoder_heads
from dpjax.models.families.rope_fields import rope


def _read_llama(hf: Any) -> TransformerConfig:
    return with_rope(hf, shared_fields(hf) | bias_fields(hf) | {"mlp_bias": hf.mlp_bias})


def _read_mistral(hf: Any) -> TransformerConfig:
    # With layer_types in config.json transformers makes a Ministral of it.
    windows = window_fields(hf) if hf.model_type == "ministral" else one_window_fields(hf)
    return with_rope(hf, shared_fields(hf) | windows | {"model_type": "mistral"})


def _read_ministral3(hf: Any) -> TransformerConfig:
    fields = shared_fields(hf) | one_window_fields(hf)
    turned = rope(hf, hf.rope_parameters, fields["head_size"], grows_queries=True)
    return TransformerConfig(**fields, rope=turned)


def _read_mistral3(hf: Any) -> TransformerConfig:
    """The text model inside; whether its head is tied is said outside."""
    require(hf, is_encoder_decoder=False)
    text = hf.text_config
    if text.model_type == "mistral":
        # Alone it would be read as a Ministral, which it is not in here.
        require(text, layer_types=None)
    inner = _read_mistral(text) if text.model_type == "mistral" else _read_ministral3(text)
    return dataclasses.replace(inner, model_type="mistral3", tied_head=hf.tie_word_embeddings)


def _read_qwen2(hf: Any) -> TransformerConfig:
    return with_rope(hf, shared_fields(hf) | window_fields(hf) | {"qkv_bias": True})


def _read_qwen3(hf: Any) -> TransformerConfig:
    fields = shared_fields(hf) | window_fields(hf) | bias_fields(hf)
    return with_rope(hf, fields | {"qk_norm": "head"})


def _read_phi3(hf: Any) -> TransformerConfig:
    fields = shared_fields(hf) | one_window_fields(hf)
    fields |= {"fused_qkv": "blocks", "fused_gate_up": True}
    turned = rope(hf, hf.rope_parameters, fields["head_size"], is_partial=True)
    return TransformerConfig(**fields, rope=turned)


def _read_olmo2(hf: Any) -> TransformerConfig:
    fields = shared_fields(hf) | bias_fields(hf)
    return with_rope(hf, fields | {"norm_placement": "branch", "qk_norm": "projection"})


def _read_olmo3(hf: Any) -> TransformerConfig:
    fields = shared_fields(hf) | bias_fields(hf) | window_fields(hf)
    return with_ropes(hf, fields | {"norm_placement": "branch", "qk_norm": "projection"})


def _read_granite(hf: Any) -> TransformerConfig:
    multipliers = {
        "embedding_scale": number(hf, "embedding_multiplier"),
        "attention_scale": number(hf, "attention_multiplier"),
        "residual_scale": number(hf, "residual_multiplier"),
        "logit_scale": 1 / number(hf, "logits_scaling"),
    }
    fields = shared_fields(hf) | bias_fields(hf) | multipliers
    return with_rope(hf, fields | {"mlp_bias": hf.mlp_bias})


def _num_experts(hf: Any) -> int:
    # Files may have either name.
    number = hf.num_experts
    if type(number) is not int or number < 1:
        raise ValueError(
            "config.json: num_experts (num_local_experts) must be a positive whole number, got "
            f"{number!r}"
        )
    return number


def _read_mixtral(hf: Any) -> TransformerConfig:
    experts = {
        "num_experts": _num_experts(hf),
        "experts_per_token": whole(hf, "num_experts_per_tok"),
        "normalised_experts": True,
    }
    return with_rope(hf, shared_fields(hf) | one_window_fields(hf) | experts)


def _read_qwen3_moe(hf: Any) -> TransformerConfig:
    # Layers are stacked: all have experts.
    require(hf, mlp_only_layers=[], decoder_sparse_step=1)
    experts = {
        "num_experts": _num_experts(hf),
        "experts_per_token": whole(hf, "num_experts_per_tok"),
        "normalised_experts": hf.norm_topk_prob,
        "intermediate_size": whole(hf, "moe_intermediate_size"),
        "qk_norm": "head",
    }
    return with_rope(hf, shared_fields(hf) | one_window_fields(hf) | bias_fields(hf) | experts)


def _read_smollm3(hf: Any) -> TransformerConfig:
    if len(hf.no_rope_layers) != hf.num_hidden_layers:
        raise ValueError(
            f"config.json: no_rope_layers names {len(hf.no_rope_layers)} layers, there are "
            f"{hf.num_hidden_layers}"
        )
    fields = shared_fields(hf) | window_fields(hf) | bias_fields(hf)
    rotated = tuple(bool(flag) for flag in hf.no_rope_layers)
    return with_rope(hf, fields | {"mlp_bias": hf.mlp_bias, "rope_layers": rotated})


_MIXTRAL_NAMES = {
    "layers.mlp.router": "model.layers.{}.block_sparse_moe.gate",
    "layers.mlp.experts.gate_proj": "model.layers.{}.block_sparse_moe.experts.{}.w1",
    "layers.mlp.experts.down_proj": "model.layers.{}.block_sparse_moe.experts.{}.w2",
    "layers.mlp.experts.up_proj": "model.layers.{}.block_sparse_moe.experts.{}.w3",
}
_QWEN3_MOE_NAMES = {
    "layers.mlp.router": "model.layers.{}.mlp.gate",
    **{
        f"layers.mlp.experts.{name}": f"model.layers.{{}}.mlp.experts.{{}}.{name}"
        for name in ("gate_proj", "up_proj", "down_proj")
    },
}

LLAMA = decoder_family(_read_llama, NAMES, decoder_heads("Llama"))
MISTRAL = decoder_family(_read_mistral, NAMES, decoder_heads("Mistral"))
MINISTRAL3 = decoder_family(_read_ministral3, NAMES, decoder_heads("Ministral3"))
# With a classifier transformers has the text models alone.
MISTRAL3 = text_tower(
    _read_mistral3,
    decoder_family(_read_mistral3, NAMES, decoder_heads("Mistral", "causal_lm")),
    "mistral",
    "ministral3",
)
MIXTRAL = decoder_family(_read_mixtral, NAMES | _MIXTRAL_NAMES, decoder_heads("Mixtral"))
GRANITE = decoder_family(_read_granite, NAMES, decoder_heads("Granite", "causal_lm"))
QWEN2 = decoder_family(_read_qwen2, NAMES, decoder_heads("Qwen2"))
QWEN3 = decoder_family(_read_qwen3, NAMES, decoder_heads("Qwen3"))
QWEN3_MOE = decoder_family(_read_qwen3_moe, NAMES | _QWEN3_MOE_NAMES, decoder_heads("Qwen3Moe"))
PHI3 = decoder_family(_read_phi3, NAMES, decoder_heads("Phi3"))
SMOLLM3 = decoder_family(_read_smollm3, NAMES, decoder_heads("SmolLM3"))
OLMO2 = decoder_family(_read_olmo2, BRANCH_NAMES, decoder_heads("Olmo2", *LM_AND_SEQUENCE))
OLMO3 = decoder_family(_read_olmo3, BRANCH_NAMES, decoder_heads("Olmo3", *LM_AND_SEQUENCE))
