"""A Llama in a GGUF file: the config.json that says the same, and the tensors it implies."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dpjax.models.checkpoint.tensors import Tensor, Tensors
from dpjax.models.config import RopeConfig
from dpjax.models.gguf.file import GgufFile, GgufTensor
from dpjax.models.net.rope import frequencies

_ARCHITECTURE = "llama"
# All keys of a plain Llama. Any other could change what it computes.
_KEYS = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
    *("attention.key_length", "attention.value_length", "expert_count", "expert_used_count"),
    *("rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
}
_ROPE_FACTORS = "rope_freqs.weight"
# What every Llama of version 3.1 and later has; its file holds only what follows from them.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
_PERCEPTRON = ("ffn_gate", "ffn_up", "ffn_down")
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_llama_config(file: GgufFile) -> dict[str, Any]:
    """The contents of the config.json of the model in a file.

    Raises:
        ValueError: for another architecture, or a switch of the metadata that is not supported.
    """
    _check_architecture(file)
    hidden, heads = file.whole("llama.embedding_length"), file.whole("llama.attention.head_count")
    head_size = file.whole("llama.attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if file.whole(f"llama.{key}", head_size) != head_size:
            raise ValueError(
                f"{file.path}: llama.{key} must be the size of a head, {head_size}, got "
                f"{file.metadata[f'llama.{key}']}. No Llama of transformers has another one."
            )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _rows(file),
        "hidden_size": hidden,
        "intermediate_size": file.whole("llama.feed_forward_length"),
        "num_hidden_layers": file.whole("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.whole("llama.attention.head_count_kv", heads),
        "head_dim": head_size,
        "max_position_embeddings": file.whole("llama.context_length"),
        "rms_norm_eps": file.number("llama.attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_theta": file.number("llama.rope.freq_base", 10_000.0),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32",
    }
    scaling = _rope_scaling(file, config["rope_theta"], head_size)
    return config | ({"rope_scaling": scaling} if scaling else {})


def llama_tensors(file: GgufFile, config: dict[str, Any]) -> Tensors:
    """The tensors under the names that transformers uses, in float32, checked but not read.

    Raises:
        ValueError: if one is missing, has another shape than the metadata implies, or no place.
    """
    shapes = _shapes(config)
    missing = [name for name in shapes if name not in file.tensors]
    unknown = sorted(file.tensors.keys() - shapes.keys() - {_ROPE_FACTORS})
    if missing or unknown:
        what = f"lacks the tensor {missing[0]}" if missing else f"holds the tensor {unknown[0]}"
        raise ValueError(
            f"{file.path} must hold the tensors of a Llama of {config['num_hidden_layers']} "
            f"layers, and no others, but it {what}. Only plain Llamas are read."
        )
    tensors: Tensors = {}
    for name, (hf_name, shape) in shapes.items():
        stored = file.tensors[name]
        tensor = Tensor(stored.shape, "F32", partial(_read, stored, _heads(name, config)))
        tensor.check(f"{name} of {file.path}", shape, "its metadata implies")
        tensors[hf_name] = tensor
    return tensors


def _check_architecture(file: GgufFile) -> None:
    architecture = file.metadata.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise ValueError(
            f"{file.path}: general.architecture must be {_ARCHITECTURE!r}, got {architecture!r}. "
            "Download the checkpoint of this model in safetensors instead."
        )
    if file.metadata.get("llama.expert_count", 0) != 0:
        raise ValueError(
            f"{file.path}: llama.expert_count must be 0, got "
            f"{file.metadata['llama.expert_count']}. Mixtures of experts are not supported."
        )
    prefix = f"{_ARCHITECTURE}."
    keys = (key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix))
    unknown = sorted(set(keys) - _KEYS)
    if unknown:
        raise ValueError(
            f"{file.path}: the metadata of a plain Llama must have no {prefix}{unknown[0]}, got "
            f"{file.metadata[prefix + unknown[0]]!r}. What it changes is not supported."
        )


def _rows(file: GgufFile) -> int:
    """Of the embedding; the list of tokens may be shorter."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError(
            f"{file.path} must hold the tensor token_embd.weight, a matrix. Give the file of a "
            "language model."
        )
    return embedding.shape[0]


def _rope_scaling(file: GgufFile, theta: float, head_size: int) -> dict[str, Any] | None:
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ValueError(
            f"{file.path}: llama.rope.scaling.type must be none or linear, got {kind!r}. Give a "
            "model whose positions are not scaled in this way."
        )
    if _ROPE_FACTORS in file.tensors:
        if kind != "none":
            raise ValueError(
                f"{file.path} must scale positions in one way, got {kind} and {_ROPE_FACTORS}. "
                "Download another conversion of the model."
            )
        return _llama3_scaling(file, theta, head_size)
    if kind == "linear":
        return {"rope_type": "linear", "factor": file.number("llama.rope.scaling.factor")}
    return None


def _llama3_scaling(file: GgufFile, theta: float, head_size: int) -> dict[str, Any]:
    """The scaling by wavelength whose divisors of the frequencies the file holds."""
    divisors = file.tensors[_ROPE_FACTORS].read()
    factor = float(divisors.max(initial=1.0))
    plain = RopeConfig(theta, head_size)
    low, high, original = _LLAMA3.values()
    scaled = RopeConfig(theta, head_size, llama3=(factor, low, high, original))
    expected = frequencies(plain) / frequencies(scaled)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4, atol=0):
        raise ValueError(
            f"{file.path}: {_ROPE_FACTORS} must be that of Llama 3.1, got other divisors of the "
            "frequencies. Download the checkpoint of this model in safetensors instead."
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _shapes(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By name in the file: the name that transformers uses, and the shape."""
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    inner, head_size = config["intermediate_size"], config["head_dim"]
    queries = config["num_attention_heads"] * head_size
    keys = config["num_key_value_heads"] * head_size
    linear = {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    biased = _ATTENTION if config["attention_bias"] else ()
    biased += _PERCEPTRON if config["mlp_bias"] else ()
    of_a_layer = {
        **{f"{name}.weight": (hidden,) for name in ("attn_norm", "ffn_norm")},
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": linear[name][:1] for name in biased},
    }
    shapes = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocab, hidden)),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        shapes["output.weight"] = ("lm_head.weight", (vocab, hidden))
    for layer in range(config["num_hidden_layers"]):
        for name, shape in of_a_layer.items():
            module, kind = name.split(".")
            hf_name = f"model.layers.{layer}.{_LAYER_NAMES[module]}.{kind}"
            shapes[f"blk.{layer}.{name}"] = (hf_name, shape)
    return shapes


def _heads(name: str, config: dict[str, Any]) -> int | None:
    """How many heads the rows of a tensor are rotated in; None if they are not."""
    if ".attn_q." in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if ".attn_k." in name else None


def _read(stored: GgufTensor, heads: int | None) -> np.ndarray:
    """The values, with the rows of queries and keys in the order of transformers.

    llama.cpp rotates rows 2i and 2i + 1 of a head together, transformers i and i + size / 2.
    """
    values = stored.read()
    if heads is None:
        return values
    size = values.shape[0] // heads
    pairs = values.reshape(heads, size // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
