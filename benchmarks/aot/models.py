"""The models that `tpu_aot` compiles: published configurations, and no weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from dpjax.models import Loading, LoraConfig, SplitModel, Trainable, abstract_model, split_trainable
from dpjax.option_checks import check_choice

Tuning = Literal["full", "lora"]

_GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
}
# Sizes as in the config.json that each family's authors published.
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "gpt2",
        "vocab_size": 512,
        "n_positions": 64,
        "n_embd": 128,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt2": _GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "llama-3.2-1b": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama-3-8b": _LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
}


def abstract_split(name: str, *, tuning: Tuning, rank: int, loading: Loading) -> SplitModel:
    """Makes a model of shapes alone, split by what is trained, as `dpjax plan` makes its own.

    Args:
        name: among `CONFIGS`.
        tuning: everything, or adapters on all linear layers.
        rank: of the adapters.
        loading: dtypes, loops over layers, rematerialisation.

    Raises:
        ValueError: there is no such model; the message names the nearest.

    Example:
        >>> split = abstract_split("tiny", tuning="lora", rank=4, loading=Loading())
        >>> split.describe_share()
        '15,360 of 485,888 parameters trained (3.16 %)'
    """
    check_choice("model", name, tuple(CONFIGS))
    lora = LoraConfig(rank=rank) if tuning == "lora" else None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
        model = abstract_model(folder, "causal_lm", lora=lora, loading=loading)
    return split_trainable(model, Trainable(tuning))
