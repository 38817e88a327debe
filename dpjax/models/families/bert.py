"""BERT (MiniLM), RoBERTa, XLM-RoBERTa and DistilBERT: encoders."""

from __future__ import annotations

from typing import Any

from dpjax.models.config import TransformerConfig
from dpjax.models.families.config_fields import activation, epsilon, number, require, sizes, whole
from dpjax.models.families.family import Family
from dpjax.models.families.heads import encoder_heads

# Our own key in config.json: the last layer was appended for pooling and is not trained.
AVERAGING_LAYER = "dpjax_averaging_layer"


def _read_encoder(hf: Any, *, inner: str, act: str, eps: float, **fields: Any) -> TransformerConfig:
    """An encoder; `inner` and `act` name attributes of the configuration."""
    require(
        hf,
        is_decoder=False,
        is_causal=False,
        is_encoder_decoder=False,
        add_cross_attention=False,
        position_embedding_type="absolute",
    )
    known = sizes(hf, inner=inner) | {
        "causal": False,
        "activation": activation(hf, act),
        "norm": "layer",
        "norm_placement": "post",
        "norm_eps": eps,
        "final_norm": False,
        "embedding_norm": True,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "initializer_range": number(hf, "initializer_range"),
        "tied_head": hf.tie_word_embeddings,
        "mask_head_activation": activation(hf, act),
    }
    return TransformerConfig(**known | fields)


def _read_bert(hf: Any) -> TransformerConfig:
    return _read_encoder(
        hf,
        inner="intermediate_size",
        act="hidden_act",
        eps=epsilon(hf, "layer_norm_eps"),
        type_vocab_size=whole(hf, "type_vocab_size"),
        pooler_activation="tanh",
        averaging_layer=getattr(hf, AVERAGING_LAYER, False) is True,
    )


def _read_roberta(hf: Any) -> TransformerConfig:
    rows, padding = whole(hf, "max_position_embeddings"), hf.pad_token_id
    # Position 0 has the row after the one of the padding token.
    if type(padding) is not int or not 0 <= padding < rows - 1:
        raise ValueError(
            f"config.json: pad_token_id must be below max_position_embeddings - 1 = {rows - 1}, "
            f"since positions are counted from it; got {padding!r}"
        )
    return _read_encoder(
        hf,
        inner="intermediate_size",
        act="hidden_act",
        eps=epsilon(hf, "layer_norm_eps"),
        max_positions=rows - padding - 1,
        position_offset=padding + 1,
        type_vocab_size=whole(hf, "type_vocab_size"),
        pooler_activation="tanh",
        # As transformers computes it, whatever hidden_act says.
        mask_head_activation="gelu",
    )


def _read_distilbert(hf: Any) -> TransformerConfig:
    return _read_encoder(
        hf, inner="hidden_dim", act="activation", eps=1e-12, pooler_activation="relu"
    )


def _bert_names(prefix: str) -> dict[str, str]:
    layer = f"{prefix}.encoder.layer.{{}}"
    return {
        "embed_tokens": f"{prefix}.embeddings.word_embeddings",
        "embed_positions": f"{prefix}.embeddings.position_embeddings",
        "embed_types": f"{prefix}.embeddings.token_type_embeddings",
        "embedding_norm": f"{prefix}.embeddings.LayerNorm",
        "layers.self_attn.q_proj": f"{layer}.attention.self.query",
        "layers.self_attn.k_proj": f"{layer}.attention.self.key",
        "layers.self_attn.v_proj": f"{layer}.attention.self.value",
        "layers.self_attn.o_proj": f"{layer}.attention.output.dense",
        "layers.attention_norm": f"{layer}.attention.output.LayerNorm",
        "layers.mlp.up_proj": f"{layer}.intermediate.dense",
        "layers.mlp.down_proj": f"{layer}.output.dense",
        "layers.mlp_norm": f"{layer}.output.LayerNorm",
    }


_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_BERT_MASKED = (
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.decoder",
    "cls.predictions",
)
_DISTILBERT_MASKED = (
    "vocab_transform",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_projector",
)
_BUFFERS = r"embeddings\.(position_ids|token_type_ids)"


BERT = Family(
    read_config=_read_bert,
    names=_bert_names("bert"),
    heads=encoder_heads("Bert", pooler="bert.pooler.dense", masked=_BERT_MASKED),
    base_prefix="bert.",
    renamed=_OLD_NORMS,
    # "cls." holds the heads of masked-language and next-sentence pretraining.
    ignored=rf"{_BUFFERS}|cls\..*",
)


def _roberta(name: str) -> Family:
    return Family(
        read_config=_read_roberta,
        names=_bert_names("roberta"),
        heads=encoder_heads(
            name,
            pooler="classifier.dense",
            masked=("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head"),
            classifier="classifier.out_proj",
        ),
        base_prefix="roberta.",
        renamed=_OLD_NORMS,
        ignored=rf"{_BUFFERS}|lm_head\..*|pooler\..*",
    )


ROBERTA = _roberta("Roberta")
XLM_ROBERTA = _roberta("XLMRoberta")

DISTILBERT = Family(
    read_config=_read_distilbert,
    names={
        "embed_tokens": "distilbert.embeddings.word_embeddings",
        "embed_positions": "distilbert.embeddings.position_embeddings",
        "embedding_norm": "distilbert.embeddings.LayerNorm",
        "layers.self_attn.q_proj": "distilbert.transformer.layer.{}.attention.q_lin",
        "layers.self_attn.k_proj": "distilbert.transformer.layer.{}.attention.k_lin",
        "layers.self_attn.v_proj": "distilbert.transformer.layer.{}.attention.v_lin",
        "layers.self_attn.o_proj": "distilbert.transformer.layer.{}.attention.out_lin",
        "layers.attention_norm": "distilbert.transformer.layer.{}.sa_layer_norm",
        "layers.mlp.up_proj": "distilbert.transformer.layer.{}.ffn.lin1",
        "layers.mlp.down_proj": "distilbert.transformer.layer.{}.ffn.lin2",
        "layers.mlp_norm": "distilbert.transformer.layer.{}.output_layer_norm",
    },
    heads=encoder_heads("DistilBert", pooler="pre_classifier", masked=_DISTILBERT_MASKED),
    base_prefix="distilbert.",
    renamed=_OLD_NORMS,
    ignored=rf"{_BUFFERS}|vocab_(transform|layer_norm|projector)\..*|qa_outputs\..*",
)
