"""Gemma 1 to 3: norms around each branch, capped scores, a scaled embedding."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import number, require
from dpjax.models.families.decoder_fields import (
    LM_AND_SEQUENCE,
    NAMES,
    SANDWICH_NAMES,
    bias_fields,
    decoder_family,
    shared_fields,
    text_tower,
    window_fields,
    with_rope,
    with_ropes,
)
from dpjax.models.families.heads import decoder_heads


def _gemma_fields(hf: Any, *, act: str) -> dict[str, Any]:
    require(hf, use_bidirectional_attention=False)
    particular = {"norm": "rms_plus_one", "embedding_scale": hf.hidden_size**0.5}
    return shared_fields(hf, act=act) | bias_fields(hf) | particular


def _read_gemma(hf: Any) -> TransformerConfig:
    return with_rope(hf, _gemma_fields(hf, act="hidden_act"))


def _sandwich_fields(hf: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    caps = {
        "attention_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
    }
    return (
        _gemma_fields(hf, act="hidden_activation")
        | window_fields(hf)
        | {
            "norm_placement": "sandwich",
            "attention_scale": number(hf, "query_pre_attn_scalar") ** -0.5,
        }
        | {ours: number(hf, name) for ours, name in caps.items() if getattr(hf, name) is not None}
    )


def _read_gemma2(hf: Any) -> TransformerConfig:
    return with_rope(hf, _sandwich_fields(hf))


def _read_gemma3_text(hf: Any) -> TransformerConfig:
    return with_ropes(hf, _sandwich_fields(hf) | {"qk_norm": "head"})


def _read_gemma3(hf: Any) -> TransformerConfig:
    """The text model inside; transformers takes two of its fields from outside, or not at all."""
    require(hf, is_encoder_decoder=False)
    require(hf.text_config, final_logit_softcapping=None)
    text = _read_gemma3_text(hf.text_config)
    return dataclasses.replace(text, model_type="gemma3", tied_head=hf.tie_word_embeddings)


GEMMA = decoder_family(_read_gemma, NAMES, decoder_heads("Gemma"))
GEMMA2 = decoder_family(_read_gemma2, SANDWICH_NAMES, decoder_heads("Gemma2"))
GEMMA3_TEXT = decoder_family(
    _read_gemma3_text,
    SANDWICH_NAMES,
    decoder_heads(
        "Gemma3",
        *LM_AND_SEQUENCE,
        architectures={"sequence_classification": "Gemma3TextForSequenceClassification"},
    ),
)
GEMMA3 = text_tower(_read_gemma3, GEMMA3_TEXT, "gemma3_text")
