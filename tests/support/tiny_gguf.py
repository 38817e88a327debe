"""GGUF files of a tiny Llama, as llama.cpp's converter writes them."""

from __future__ import annotations

import json

import gguf
import numpy as np

from tests.support.tiny_tokenizers import END, PLAIN_TEMPLATE, TURNS, make_tokenizer

TOKENIZER = make_tokenizer()
HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 16
HIDDEN, INNER, LAYERS = HEADS * HEAD_SIZE, 96, 2
# Kinds that the package gguf can write too.
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
_PLAIN = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def metadata(**changes):
    """What the file of the tiny Llama says; `changes` by key, None leaves one out."""
    backend = json.loads(TOKENIZER.backend_tokenizer.to_str())
    ids = backend["model"]["vocab"] | {one["content"]: one["id"] for one in backend["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    special = {one["content"] for one in backend["added_tokens"]}
    entries = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 64,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD_SIZE,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in backend["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": ids["<s>"],
        "tokenizer.ggml.eos_token_id": ids[TURNS[1]],
        "tokenizer.ggml.padding_token_id": ids[END],
        "tokenizer.chat_template": PLAIN_TEMPLATE,
    }
    return {key: value for key, value in (entries | changes).items() if value is not None}


def weights(*, tied=True, biased=False, vocab=None, hidden=HIDDEN, inner=INNER):
    """Random weights under the names and in the layout of transformers."""
    rng = np.random.default_rng(0)
    vocab = len(metadata()["tokenizer.ggml.tokens"]) if vocab is None else vocab
    queries, keys = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    sizes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}.weight": (hidden,) for name in _PLAIN}
        shapes |= {f"{prefix}.{name}.weight": shape for name, shape in sizes.items()}
        if biased:
            shapes |= {f"{prefix}.{name}.bias": shape[:1] for name, shape in sizes.items()}
    return {
        name: rng.normal("norm" in name, 0.2, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def gguf_name(name):
    """What llama.cpp calls a tensor of transformers."""
    module, kind = name.rsplit(".", 1)
    if module in _OUTER:
        return f"{_OUTER[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{(_PLAIN | _LINEAR)[inner]}.{kind}"


def permuted(name, values):
    """As llama.cpp stores it: what it rotates together stands together in a head's rows."""
    heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else None
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def write_llama(path, *, kind="F32", tied=True, biased=False, extra=None, **changes):
    """Writes the tiny Llama and returns its weights, rounded to what `kind` can say.

    Args:
        path: of the file.
        kind: how matrices are stored; vectors are in float32.
        tied: without a head of its own.
        biased: with biases in every linear layer.
        extra: further tensors by name, in float32.
        changes: of the metadata, by key.
    """
    tensors, rounded = {}, {}
    for name, values in weights(tied=tied, biased=biased).items():
        its = kind if values.ndim == 2 else "F32"
        type_ = gguf.GGMLQuantizationType[its]
        stored = gguf.quantize(permuted(name, values), type_)
        tensors[gguf_name(name)] = (stored, its)
        rounded[name] = gguf.dequantize(gguf.quantize(values, type_), type_)
    tensors |= {name: (values, "F32") for name, values in (extra or {}).items()}
    write_gguf(path, metadata(**changes), tensors)
    return rounded


def write_gguf(path, entries, tensors):
    """Writes a file of any metadata and of any tensors, `(bytes or numbers, kind)` by name."""
    entries = dict(entries)
    writer = gguf.GGUFWriter(path, entries.pop("general.architecture"))
    kinds = {
        bool: gguf.GGUFValueType.BOOL,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
        str: gguf.GGUFValueType.STRING,
    }
    for key, value in entries.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kinds[type(value)])
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
