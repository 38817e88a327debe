"""The layers below everything that is trained: their output is the same for every adapter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from dpjax.models.adapters.split_model import SplitModel
from dpjax.models.net.module_paths import LAYERS

# What the transformer reads before its first layer.
_BEFORE_LAYERS = ("embed_tokens", "embed_positions", "embed_types", "embedding_norm")


def lowest_trained_layer(model: SplitModel) -> int:
    """Returns the lowest layer that is trained, counted from 0; no embedding or layer below is.

    At most the last layer, also where only the head is trained. 0 where an embedding is trained or
    layers are stacked: nothing can be computed beforehand then.

    Example:
        >>> from dpjax.basics.lora_config import LoraConfig
        >>> from dpjax.models import CausalLM, Trainable, add_lora, parse_config, split_trainable
        >>> from transformers import GPT2Config
        >>> small = GPT2Config(n_embd=8, n_layer=3, n_head=2)
        >>> model = CausalLM(parse_config(small.to_dict()), rngs=nnx.Rngs(0))
        >>> lora = LoraConfig(rank=2, layers_to_transform=(2,))
        >>> add_lora(model, lora, key=jax.random.key(0))
        >>> split = split_trainable(model, Trainable.lora())
        >>> lowest_trained_layer(split)
        2
    """
    config = model.merge().config
    if config.scan_layers:
        return 0
    # What enters a layer are the features of the one below it.
    lowest = min((config.num_layers - 1, *config.feature_layers))
    for path, _ in jax.tree_util.tree_leaves_with_path(model.trainable):
        keys = tuple(part.key for part in path)
        if keys[:1] == LAYERS[:1] and keys[1] in _BEFORE_LAYERS:
            return 0
        if keys[:2] == LAYERS:
            lowest = min(lowest, keys[2])
    return lowest


def cut_lower_layers(model: SplitModel, layer: int) -> SplitModel:
    """Returns the model that reads hidden states in place of token ids, and runs from `layer` on.

    Parameters and their paths stay the same; those below `layer` are not used. What was written for
    the whole model works with `lower_hidden_states` where it passed ids.

    Args:
        model: with unrolled layers.
        layer: at least 1, at most `lowest_trained_layer(model)`.

    Raises:
        ValueError: something below `layer` is trained, or nothing lies below.

    Example:
        >>> from dpjax.basics.lora_config import LoraConfig
        >>> from dpjax.models import CausalLM, Trainable, add_lora, parse_config, split_trainable
        >>> from transformers import GPT2Config
        >>> small = GPT2Config(n_embd=8, n_layer=3, n_head=2)
        >>> model = CausalLM(parse_config(small.to_dict()), rngs=nnx.Rngs(0))
        >>> lora = LoraConfig(rank=2, layers_to_transform=(2,))
        >>> add_lora(model, lora, key=jax.random.key(0))
        >>> split = split_trainable(model, Trainable.lora())
        >>> ids, mask = jnp.ones((5, 4), jnp.int32), jnp.ones((5, 4), bool)
        >>> hidden = lower_hidden_states(split, ids, mask, 2)
        >>> cut = cut_lower_layers(split, 2)
        >>> bool(jnp.allclose(cut.merge()(hidden, mask), model(ids, mask), atol=1e-4))
        True
    """
    lowest = lowest_trained_layer(model)
    if not 1 <= layer <= lowest:
        raise ValueError(
            f"layer must be at least 1 and at most {lowest}, the lowest that is trained, got "
            f"{layer}. At 0 nothing can be computed beforehand: use the model as it is"
        )
    whole = model.merge()
    whole.transformer.first_layer = layer
    is_trained = {
        tuple(part.key for part in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(model.trainable)
    }
    graphdef, _, _ = nnx.split(whole, lambda path, _: tuple(path) in is_trained, ...)
    return model._replace(graphdef=graphdef)


def lower_hidden_states(
    model: SplitModel,
    input_ids: ArrayLike,
    attention_mask: ArrayLike,
    layer: int,
    *,
    batch_size: int = 64,
) -> np.ndarray:
    """Computes what enters a layer, for all texts.

    Args:
        model: with unrolled layers, not cut.
        input_ids: `(n, T)` integers.
        attention_mask: `(n, T)` bool, False at padding.
        layer: at least 1, at most `lowest_trained_layer(model)`.
        batch_size: how many texts are processed at a time.

    Returns:
        `(n, T, hidden_size)` in the model's dtype, on the host.

    Raises:
        ValueError: something below `layer` is trained, or nothing lies below.

    Example:
        >>> from dpjax.basics.lora_config import LoraConfig
        >>> from dpjax.models import CausalLM, Trainable, add_lora, parse_config, split_trainable
        >>> from transformers import GPT2Config
        >>> small = GPT2Config(n_embd=8, n_layer=3, n_head=2)
        >>> model = CausalLM(parse_config(small.to_dict()), rngs=nnx.Rngs(0))
        >>> lora = LoraConfig(rank=2, layers_to_transform=(2,))
        >>> add_lora(model, lora, key=jax.random.key(0))
        >>> split = split_trainable(model, Trainable.lora())
        >>> mask = np.ones((5, 4), bool)
        >>> lower_hidden_states(split, np.ones((5, 4), int), mask, 2).shape
        (5, 4, 8)
    """
    cut_lower_layers(model, layer)

    @jax.jit
    def run(trainable: Any, frozen: Any, *texts: jax.Array) -> jax.Array:
        transformer = nnx.merge(model.graphdef, trainable, frozen).transformer

        def compute(text: tuple[jax.Array, jax.Array]) -> jax.Array:
            ids, mask = text
            return transformer.hidden_below(ids, mask, layer)

        return jax.lax.map(compute, texts, batch_size=batch_size)

    texts = jnp.asarray(input_ids, jnp.int32), jnp.asarray(attention_mask)
    return np.asarray(run(model.trainable, model.frozen, *texts))
