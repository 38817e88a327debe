"""A tiny configuration of every family, as a config.json, and random models made from it."""

import functools
import json

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models import (
    FAMILIES,
    CausalLM,
    MaskedLM,
    SequenceClassifier,
    TokenClassifier,
    parse_config,
)

VOCABULARY = 61
LABELS = ("a", "b", "c")
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SHARED_HEADS = _SIZES | {"num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
_ROBERTA = _SIZES | {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

_GEMMA3 = _SHARED_HEADS | {
    "head_dim": 12,
    "sliding_window": 6,
    "query_pre_attn_scalar": 16,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 100.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}
_PICTURES = {
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 4,
    "patch_size": 2,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
_GROWING = _YARN | {"llama_4_scaling_beta": 0.5, "rope_theta": 1e4, "mscale": 1.0}

# Every switch that a family has is on, and sequences of 14 tokens go beyond every window.
CONFIGS = {
    "gpt2": _SPECIAL
    | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "initializer_range": 0.2},
    "gpt_neox": _SIZES | {"rotary_pct": 0.25, "rotary_emb_base": 10000},
    "opt": _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2},
    "llama": _SHARED_HEADS | {"rope_scaling": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "mistral": _SHARED_HEADS | {"sliding_window": 6},
    "mistral3": {
        "text_config": {
            "model_type": "ministral3",
            **_SHARED_HEADS,
            "head_dim": 12,
            "rope_parameters": _GROWING,
        },
        "vision_config": {"model_type": "pixtral", "head_dim": 4, **_PICTURES},
        "image_token_index": 2,
        "tie_word_embeddings": False,
    },
    "ministral3": _SHARED_HEADS | {"head_dim": 12, "rope_parameters": _GROWING},
    "mixtral": _SHARED_HEADS | {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2": _SHARED_HEADS
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": _SHARED_HEADS | {"head_dim": 12},
    "qwen3_moe": _SHARED_HEADS
    | {
        "head_dim": 12,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "norm_topk_prob": False,
    },
    "gemma": _SHARED_HEADS | {"head_dim": 12},
    "gemma2": _SHARED_HEADS | {"head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 16},
    "gemma3_text": _GEMMA3,
    "gemma3": {
        "text_config": {"model_type": "gemma3_text", **_GEMMA3},
        "vision_config": {"model_type": "siglip_vision_model", **_PICTURES},
        "mm_tokens_per_image": 4,
        "image_token_index": VOCABULARY + 3,
    },
    "olmo2": _SHARED_HEADS,
    "olmo3": _SHARED_HEADS
    | {
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": _YARN,
    },
    "granite": _SHARED_HEADS
    | {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 0.5,
    },
    "phi3": _SHARED_HEADS | {"sliding_window": 7},
    "smollm3": _SHARED_HEADS | {"no_rope_layers": [1, 0]},
    "bert": _SIZES | {"type_vocab_size": 2},
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _SPECIAL
    | {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
    },
}
assert CONFIGS.keys() == FAMILIES.keys()

# Other settings of switches, for parity only.
VARIANTS = {
    "gpt_neox": [{"use_parallel_residual": False, "tie_word_embeddings": True}],
    "opt": [{"do_layer_norm_before": False}],
    "llama": [
        {"tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    ],
    "mistral": [{"rope_scaling": _YARN | {"truncate": False, "beta_fast": 4.0}}],
    "mixtral": [{"sliding_window": 6, "num_experts_per_tok": 1}],
    "qwen3_moe": [{"norm_topk_prob": True, "num_experts": 4}],
    "gpt2": [{"n_inner": 20, "activation_function": "relu", "tie_word_embeddings": False}],
    "gemma2": [{"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}],
}

_AUTO = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
FAMILIES_AND_TASKS = [(family, task) for family in CONFIGS for task in FAMILIES[family].heads]
DECODERS = [family for family in CONFIGS if "causal_lm" in FAMILIES[family].heads]


def auto_class(family, task):
    """The name of the class by which transformers opens a checkpoint."""
    # Of this family it has a model for pictures only.
    return "AutoModelForImageTextToText" if family == "mistral3" else _AUTO[task]


def text_changes(family, **changes):
    """Changes to the configuration of a family's text model, wherever it is."""
    if "text_config" not in CONFIGS[family]:
        return changes
    return {"text_config": CONFIGS[family]["text_config"] | changes}


def raw_config(family, **changes):
    """Contents of a config.json."""
    return {"model_type": family, **CONFIGS[family], **changes}


def write_config(folder, family, **changes):
    """Writes a config.json into a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw_config(family, **changes)))
    return folder


def random_model(family, task, **changes):
    """A model with random weights, norms and biases included; `changes` to the configuration."""
    config = _config(family)
    config = type(config)(**(vars(config) | changes))
    make = {
        "causal_lm": lambda: CausalLM(config, rngs=nnx.Rngs(0)),
        "masked_lm": lambda: MaskedLM(config, rngs=nnx.Rngs(0)),
        "sequence_classification": lambda: SequenceClassifier(
            config, num_labels=len(LABELS), rngs=nnx.Rngs(0)
        ),
        "token_classification": lambda: TokenClassifier(
            config, num_labels=len(LABELS), rngs=nnx.Rngs(0)
        ),
    }
    graphdef, state = nnx.split(make[task]())
    leaves, treedef = jax.tree.flatten(nnx.to_pure_dict(state))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [0.1 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    moved = [x + y for x, y in zip(leaves, noise, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(treedef, moved))


@functools.cache
def _config(family):
    return parse_config(raw_config(family))


def ragged_batch():
    """(4, 14) ids and mask: full, padded on the right, padded on the left, one token."""
    mask = jnp.ones((4, 14), bool)
    mask = mask.at[1, 9:].set(False).at[2, :5].set(False).at[3, 1:].set(False)
    return jax.random.randint(jax.random.key(2), (4, 14), 3, VOCABULARY), mask


def run(model, ids, mask):
    """The logits, compiled as one."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, ids, mask: nnx.merge(graphdef, state)(ids, mask))(state, ids, mask)
