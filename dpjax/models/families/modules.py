"""Which modules with parameters the body of a transformer has, in our own names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from dpjax.models.config import TransformerConfig


class Part(NamedTuple):
    """A module's path in `Transformer`, what it is, and whether it has a bias.

    An "expert" is a linear layer of a mixture, or its router.
    """

    path: tuple[str | int, ...]
    kind: Literal["linear", "norm", "embedding", "expert"]
    has_bias: bool


def body_parts(config: TransformerConfig) -> Iterator[Part]:
    """Every module with parameters of `Transformer(config)`, layers as if unrolled."""
    norm_bias = config.norm == "layer"
    yield Part(("embed_tokens",), "embedding", False)
    if config.rope is None:
        yield Part(("embed_positions",), "embedding", False)
    if config.type_vocab_size:
        yield Part(("embed_types",), "embedding", False)
    if config.embedding_norm:
        yield Part(("embedding_norm",), "norm", norm_bias)
    for index in range(config.num_layers):
        for part in _block_parts(config):
            yield part._replace(path=("layers", index, *part.path))
    if config.final_norm:
        yield Part(("norm",), "norm", norm_bias)


def _block_parts(config: TransformerConfig) -> Iterator[Part]:
    for name in ("qkv_proj",) if config.fused_qkv else ("q_proj", "k_proj", "v_proj"):
        yield Part(("self_attn", name), "linear", config.qkv_bias)
    yield Part(("self_attn", "o_proj"), "linear", config.output_bias)
    norms: list[tuple[str, ...]] = []
    if config.qk_norm:
        norms = [("self_attn", "q_norm"), ("self_attn", "k_norm")]
    if config.num_experts:
        yield Part(("mlp", "router"), "expert", False)
        for number in range(config.num_experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield Part(("mlp", "experts", number, name), "expert", False)
    else:
        yield from _perceptron_parts(config)
    norms += [("attention_norm",), ("mlp_norm",)]
    if config.norm_placement == "sandwich":
        norms += [("attention_out_norm",), ("mlp_out_norm",)]
    for path in norms:
        yield Part(path, "norm", config.norm == "layer")


def _perceptron_parts(config: TransformerConfig) -> Iterator[Part]:
    projections = ["gate_proj", "up_proj"] if config.gated else ["up_proj"]
    for name in ["gate_up_proj"] if config.fused_gate_up else projections:
        yield Part(("mlp", name), "linear", config.mlp_bias)
    yield Part(("mlp", "down_proj"), "linear", config.mlp_bias)
