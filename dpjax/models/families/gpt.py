"""GPT-2, GPT-NeoX (Pythia) and OPT: LayerNorm, plain perceptrons, biases everywhere."""

from __future__ import annotations

from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import activation, epsilon, number, require, sizes
from dpjax.models.families.family import Family
from dpjax.models.families.heads import decoder_heads
from dpjax.models.families.rope_fields import rope


def _fields(hf: Any, *, inner: str, act: str) -> dict[str, Any]:
    """What all of them have; `inner` and `act` name attributes of the configuration."""
    require(hf, is_causal=True, is_encoder_decoder=False, add_cross_attention=False)
    return sizes(hf, inner=inner) | {
        "causal": True,
        "activation": activation(hf, act),
        "norm": "layer",
        "norm_placement": "pre",
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "tied_head": hf.tie_word_embeddings,
    }


def _read_gpt2(hf: Any) -> TransformerConfig:
    require(hf, scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False)
    inner = "hidden_size" if hf.n_inner is None else "n_inner"
    fields = _fields(hf, inner=inner, act="activation_function") | {
        "norm_eps": epsilon(hf, "layer_norm_epsilon"),
        "fused_qkv": "blocks",
        "initializer_range": number(hf, "initializer_range"),
    }
    if hf.n_inner is None:
        fields["intermediate_size"] = 4 * fields["hidden_size"]
    if not hf.scale_attn_weights:
        fields["attention_scale"] = 1.0
    return TransformerConfig(**fields)


def _read_gpt_neox(hf: Any) -> TransformerConfig:
    # Of this family transformers takes head_dim for the rotation only.
    require(hf, is_decoder=False, head_dim=None)
    fields = _fields(hf, inner="intermediate_size", act="hidden_act") | {
        "norm_eps": epsilon(hf, "layer_norm_eps"),
        "parallel_residual": hf.use_parallel_residual,
        "qkv_bias": hf.attention_bias,
        "output_bias": hf.attention_bias,
        "fused_qkv": "heads",
        "initializer_range": number(hf, "initializer_range"),
    }
    turned = rope(hf, hf.rope_parameters, fields["head_size"], is_partial=True)
    return TransformerConfig(**fields, rope=turned)


def _read_opt(hf: Any) -> TransformerConfig:
    require(hf, word_embed_proj_dim=hf.hidden_size, layer_norm_elementwise_affine=True)
    before = hf.do_layer_norm_before
    fields = _fields(hf, inner="ffn_dim", act="activation_function") | {
        "norm_placement": "pre" if before else "post",
        "norm_eps": 1e-5,
        "final_norm": before and not hf._remove_final_layer_norm,
        "qkv_bias": hf.enable_bias,
        "output_bias": hf.enable_bias,
        "mlp_bias": hf.enable_bias,
        "position_offset": 2,
        "initializer_range": number(hf, "init_std"),
    }
    return TransformerConfig(**fields)


GPT2 = Family(
    read_config=_read_gpt2,
    names={
        "embed_tokens": "transformer.wte",
        "embed_positions": "transformer.wpe",
        "layers.attention_norm": "transformer.h.{}.ln_1",
        "layers.self_attn.qkv_proj": "transformer.h.{}.attn.c_attn",
        "layers.self_attn.o_proj": "transformer.h.{}.attn.c_proj",
        "layers.mlp_norm": "transformer.h.{}.ln_2",
        "layers.mlp.up_proj": "transformer.h.{}.mlp.c_fc",
        "layers.mlp.down_proj": "transformer.h.{}.mlp.c_proj",
        "norm": "transformer.ln_f",
    },
    heads=decoder_heads(
        "GPT2", token_layer="classifier", architectures={"causal_lm": "GPT2LMHeadModel"}
    ),
    base_prefix="transformer.",
    conv1d=True,
    ignored=r"h\.\d+\.attn\.(bias|masked_bias)",
)

GPT_NEOX = Family(
    read_config=_read_gpt_neox,
    names={
        "embed_tokens": "gpt_neox.embed_in",
        "layers.attention_norm": "gpt_neox.layers.{}.input_layernorm",
        "layers.self_attn.qkv_proj": "gpt_neox.layers.{}.attention.query_key_value",
        "layers.self_attn.o_proj": "gpt_neox.layers.{}.attention.dense",
        "layers.mlp_norm": "gpt_neox.layers.{}.post_attention_layernorm",
        "layers.mlp.up_proj": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "layers.mlp.down_proj": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
        "norm": "gpt_neox.final_layer_norm",
    },
    heads=decoder_heads("GPTNeoX", lm_head="embed_out", token_layer="classifier"),
    base_prefix="gpt_neox.",
    ignored=r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
)

OPT = Family(
    read_config=_read_opt,
    names={
        "embed_tokens": "model.decoder.embed_tokens",
        "embed_positions": "model.decoder.embed_positions",
        "layers.attention_norm": "model.decoder.layers.{}.self_attn_layer_norm",
        "layers.self_attn.q_proj": "model.decoder.layers.{}.self_attn.q_proj",
        "layers.self_attn.k_proj": "model.decoder.layers.{}.self_attn.k_proj",
        "layers.self_attn.v_proj": "model.decoder.layers.{}.self_attn.v_proj",
        "layers.self_attn.o_proj": "model.decoder.layers.{}.self_attn.out_proj",
        "layers.mlp_norm": "model.decoder.layers.{}.final_layer_norm",
        "layers.mlp.up_proj": "model.decoder.layers.{}.fc1",
        "layers.mlp.down_proj": "model.decoder.layers.{}.fc2",
        "norm": "model.decoder.final_layer_norm",
    },
    heads=decoder_heads("OPT", "causal_lm", "sequence_classification"),
    base_prefix="model.",
)
