"""What Llama and its relatives share: names of tensors, and the fields of config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import (
    activation,
    epsilon,
    number,
    require,
    sizes,
    whole,
)
from dpjax.models.families.family import Family, Head, Task
from dpjax.models.families.rope_fields import rope

LM_AND_SEQUENCE: tuple[Task, ...] = ("causal_lm", "sequence_classification")
NAMES = {
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
SANDWICH_NAMES = NAMES | {
    "layers.attention_out_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.mlp_out_norm": "model.layers.{}.post_feedforward_layernorm",
}
_BUFFERS = r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rotary_emb\.inv_freq"
BRANCH_NAMES = NAMES | {
    "layers.attention_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp_norm": "model.layers.{}.post_feedforward_layernorm",
}


def shared_fields(hf: Any, *, act: str = "hidden_act") -> dict[str, Any]:
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


def bias_fields(hf: Any) -> dict[str, Any]:
    """Of the families that let config.json decide."""
    return {"qkv_bias": hf.attention_bias, "output_bias": hf.attention_bias}


def window_fields(hf: Any) -> dict[str, Any]:
    """Which layers see a window only."""
    names = {"full_attention": "full", "sliding_attention": "sliding"}
    unknown = sorted(set(hf.layer_types) - names.keys())
    if unknown:
        raise ValueError(f"config.json: layer_types: {unknown[0]!r} is not supported")
    types = tuple(names[kind] for kind in hf.layer_types)
    if "sliding" not in types:
        return {}
    return {"layer_types": types, "sliding_window": whole(hf, "sliding_window")}


def one_window_fields(hf: Any) -> dict[str, Any]:
    """Every layer sees the same window, if there is one."""
    if hf.sliding_window is None:
        return {}
    types = ("sliding",) * hf.num_hidden_layers
    return {"layer_types": types, "sliding_window": whole(hf, "sliding_window")}


def with_rope(hf: Any, fields: dict[str, Any]) -> TransformerConfig:
    """The model with the same rotary positions in every layer."""
    return TransformerConfig(**fields, rope=rope(hf, hf.rope_parameters, fields["head_size"]))


def with_ropes(hf: Any, fields: dict[str, Any]) -> TransformerConfig:
    """The model with rotary positions of their own for layers that see a window only."""
    kinds = ("full_attention", "sliding_attention")
    beside = sorted(set(hf.rope_parameters) - set(kinds))
    if beside:
        # transformers ignores them, but for truncate, which then counts for both types of layers.
        raise ValueError(
            f"config.json: rope_parameters has {', '.join(beside)} beside {' and '.join(kinds)}, "
            "which is not supported for this family: give each of these types its own parameters"
        )
    of_types = {
        kind: rope(hf, hf.rope_parameters[kind], fields["head_size"], is_of_type=True)
        for kind in kinds
    }
    return TransformerConfig(
        **fields, rope=of_types["full_attention"], sliding_rope=of_types["sliding_attention"]
    )


def decoder_family(
    read_config: Any, names: Mapping[str, str], heads: Mapping[Task, Head], **others: Any
) -> Family:
    """A family whose tensors lie below `model.`; `others` are further fields of it."""
    return Family(
        read_config=read_config,
        names=names,
        heads=heads,
        **{"base_prefix": "model.", "ignored": _BUFFERS} | others,
    )


def text_tower(read_config: Any, text: Family, *text_families: str) -> Family:
    """A family with a text model inside, beside one for pictures; `text` has its names."""
    inner, prefix = text.base_prefix, "model.language_model."
    return dataclasses.replace(
        text,
        read_config=read_config,
        names={ours: prefix + name.removeprefix(inner) for ours, name in text.names.items()},
        base_prefix=prefix,
        moved={"language_model.model.": prefix, "language_model.lm_head.": "lm_head."},
        left_out=r"(model\.)?(vision_tower|multi_modal_projector)\..*",
        text_families=text_families,
    )
