"""A tiny configuration of every decoder family, as transformers takes it.

Weights are large, so that logits are far apart; windows are shorter than the texts of the tests,
and layers differ wherever the family lets them.
"""

import jax
from flax import nnx

from dpjax.models import CausalLM, parse_config

VOCAB = 61
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GATED = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA = _GATED | {"head_dim": 12}
_MIXED = {
    "sliding_window": 5,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

DECODERS = {
    "gpt2": _COMMON,
    "gpt_neox": _COMMON | {"intermediate_size": 48},
    "opt": _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
    "llama": _GATED | {"rope_parameters": _LLAMA3},
    "mistral": _GATED | {"sliding_window": 5},
    "qwen2": _GATED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": _GEMMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA | _MIXED | {"tie_word_embeddings": False},
    "gemma3_text": _GEMMA | _MIXED | {"tie_word_embeddings": False},
    "olmo2": _GATED,
    "phi3": _GATED | {"sliding_window": 5},
    "smollm3": _GATED | {"no_rope_layers": [1, 0], "use_sliding_window": False},
}


def random_decoder(model_type, **changes):
    """A `CausalLM` of a family with random weights, made without transformers' own model."""
    raw = {"model_type": model_type} | DECODERS[model_type]
    config = parse_config(raw)
    return CausalLM(type(config)(**{**vars(config), **changes}), rngs=nnx.Rngs(jax.random.key(0)))
