"""Mean pooling as one more encoder layer, so that transformers' classifiers can read it.

A sentence encoder puts what it knows about a text into the mean of its token vectors, while a BERT
classifier looks at the first token only. One more layer of the same kind, with weights chosen by
hand, moves the mean there. It is never trained: nothing in it depends on any data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from dpjax.models.config import TransformerConfig
from dpjax.models.net.heads import SequenceClassifier

Pooling = Literal["auto", "first", "mean"]

# How much larger than the residual the mean is made: LayerNorm then sees the mean alone, to 1e-3.
_GAIN = 1000.0
# Keeps tanh close to linear. The gradient of the head grows with it, and shares one clip norm with
# that of the layers below; 0.1 did best in a few trials, it is not the outcome of a search.
_POOLER_SCALE = 0.1


def append_mean_pooling(model: SequenceClassifier) -> SequenceClassifier:
    """The model with one more layer, whose first token is the normalised mean of all tokens.

    Queries and keys are zero, so that the attention is uniform over the tokens that are not
    padding; values are passed on; the two-layer perceptron adds zero. The pooler scales by 0.1.
    With μ the mean over tokens `(hidden_size,)`, the pooled text is tanh(0.1 · LayerNorm(μ)).

    Raises:
        ValueError: for a model other than a BERT with unrolled layers, or a quantised one that has
            this layer already.
    """
    if model.config.averaging_layer and model.config.quantise != "none":
        raise ValueError(
            "the checkpoint has a layer for mean pooling already: use pooling='first' or 'auto'"
        )
    if model.config.model_type != "bert" or model.config.scan_layers:
        stacked = " with scan_layers" if model.config.scan_layers else ""
        raise ValueError(
            "mean pooling is for BERT models with unrolled layers, not for "
            f"{model.config.model_type}{stacked}; use pooling='first'"
        )
    config = dataclasses.replace(
        model.config, num_layers=model.config.num_layers + 1, averaging_layer=True
    )
    longer = nnx.eval_shape(
        lambda: SequenceClassifier(config, num_labels=model.num_labels, rngs=nnx.Rngs(0))
    )
    parameters = nnx.to_pure_dict(nnx.split(model)[1])
    parameters["transformer"]["layers"][config.num_layers - 1] = _averaging_layer(
        config.hidden_size, config.intermediate_size
    )
    parameters["pooler"] = _scaled_identity(config.hidden_size, _POOLER_SCALE)
    return nnx.merge(nnx.graphdef(longer), parameters)


def is_fixed(config: TransformerConfig, path: Sequence[str | int]) -> bool:
    """Whether what is at `path` is never trained: an appended layer, or the centre of features.

    An adapter in that layer, in particular on the pooler with its small weights, would add more
    noise than signal.
    """
    if path[0] == "features":
        return True
    last = ("transformer", "layers", config.num_layers - 1)
    return config.averaging_layer and (tuple(path[:3]) == last or path[0] == "pooler")


def _averaging_layer(size: int, inner: int) -> dict[str, Any]:
    return {
        "self_attn": {
            "q_proj": _zeros(size, size),
            "k_proj": _zeros(size, size),
            "v_proj": _scaled_identity(size, 1.0),
            "o_proj": _scaled_identity(size, _GAIN),
        },
        "attention_norm": _unit_norm(size),
        "mlp": {"up_proj": _zeros(size, inner), "down_proj": _zeros(inner, size)},
        "mlp_norm": _unit_norm(size),
    }


def _scaled_identity(size: int, scale: float) -> dict[str, Any]:
    return {"kernel": scale * jnp.eye(size), "bias": jnp.zeros(size)}


def _zeros(inputs: int, outputs: int) -> dict[str, Any]:
    return {"kernel": jnp.zeros((inputs, outputs)), "bias": jnp.zeros(outputs)}


def _unit_norm(size: int) -> dict[str, Any]:
    return {"scale": jnp.ones(size), "bias": jnp.zeros(size)}
