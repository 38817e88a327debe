"""Language models of named shapes, abstract or with random weights; nothing is downloaded."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from dpjax.basics.option_checks import check_choice
from dpjax.models import Loading, LoraConfig, SplitModel, Trainable, abstract_model, split_trainable

Tuning = Literal["full", "lora"]

_GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
}
# Sizes as in the config.json that the authors of each family published; the first five are smaller.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2-1x32": {
        "model_type": "gpt2",
        "vocab_size": 64,
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt2-4x256": {
        "model_type": "gpt2",
        "vocab_size": 8192,
        "n_positions": 512,
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 4,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "llama-1x32": {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    },
    "llama-4x256": {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
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
        loading: dtypes, attention, loops over layers, rematerialisation.

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


def draw_model(name: str, *, tuning: Tuning, rank: int, loading: Loading) -> SplitModel:
    """Returns a model with random weights, split by what is trained.

    The arguments are those of `abstract_split`.
    """
    split = abstract_split(name, tuning=tuning, rank=rank, loading=loading)
    return split._replace(trainable=_draw(split.trainable, 0), frozen=_draw(split.frozen, 1))


def _draw(shapes: Any, seed: int) -> Any:
    """Random numbers of these shapes, a block of them over and over; ones where norms are scaled.

    Nothing is compiled for it, and time and memory of a step do not depend on the numbers.
    """
    block = np.random.default_rng(seed).normal(0, 0.02, 2**20)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        is_scale = "scale" in jax.tree_util.keystr(path)
        numbers = (np.ones(1) if is_scale else block).astype(leaf.dtype)
        return jax.device_put(np.resize(numbers, leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def flops_per_token(name: str, split: SplitModel, *, tuning: Tuning, length: int) -> float:
    """Returns the floating-point operations of one token in a step, forward and backward.

    Per token and layer, attention takes 4 T d forward and 8 T d backward, for T tokens and heads of
    d numbers together. A matrix of n entries takes 2n forward, 2n for the gradient of what entered
    it, and 2n for its own where it is trained (Chowdhery et al. 2022, "PaLM", appendix B). With
    LoRA the matrices beside the adapters are not trained. Norms, look-ups and what is computed
    again are not counted.

    Args:
        name: among `CONFIGS`.
        split: the model.
        tuning: what is trained.
        length: T, tokens of a record.
    """
    config = CONFIGS[name]
    trained, frozen = (_matrix_entries(tree) for tree in (split.trainable, split.frozen))
    if config.get("tie_word_embeddings", True):
        head = config["vocab_size"] * config.get("hidden_size", config.get("n_embd"))
        trained, frozen = (trained + head, frozen) if tuning == "full" else (trained, frozen + head)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("hidden_size", config.get("n_embd"))
    return 6.0 * trained + 4.0 * frozen + 12.0 * layers * length * heads


def _matrix_entries(tree: Any) -> int:
    """Counts the entries of matrices that multiply activations: no embedding, norm or bias."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    kinds = ("kernel", "lora_a", "lora_b")
    return sum(
        math.prod(np.shape(leaf)) for path, leaf in names if any(kind in path for kind in kinds)
    )
