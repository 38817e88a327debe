"""Adapters put on a model, folded into it, and taken off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.basics.lora_config import LoraConfig
from dpjax.basics.typing import PyTree
from dpjax.models.adapters.layers.embedding import LoraEmbedding, TokenRows
from dpjax.models.adapters.layers.linear import DropoutKey, LoraLinear
from dpjax.models.adapters.lora_checks import (
    check_biases,
    check_saved,
    check_tables,
    ranks_and_scalings,
)
from dpjax.models.adapters.targets import (
    all_modules,
    paths_in_model,
    select_saved,
    select_targets,
)
from dpjax.models.families import Path
from dpjax.models.net.heads import CausalLM, Model
from dpjax.models.net.layers import Embedding, Linear
from dpjax.models.net.module_paths import get_module, path_in_model, set_module
from dpjax.models.net.quantised import QuantisedLinear


def add_lora(model: Model, config: LoraConfig, *, key: jax.Array) -> None:
    """Put an adapter on the chosen linear layers, in place.

    The options are kept as `model.lora`: they say what `Trainable.lora` trains and what
    `save_adapter` writes.

    Args:
        model: without adapters; it is changed.
        config: which adapters, and where.
        key: a JAX key for A.

    Raises:
        ValueError: for a model that has adapters already, a layer that does not exist or cannot be
            adapted, a name that matches no linear layer (a classification head is trained as it is:
            no adapter) or, in modules_to_save, no module; for a name of a pattern, or biases, that
            no adapted layer has, ranks that differ between stacked layers, and modules_to_save
            that are quantised.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> model.lora.rank, type(model.transformer.layers[0].self_attn.o_proj).__name__
        (2, 'LoraLinear')
    """
    if has_lora(model):
        raise ValueError("the model has LoRA adapters already; call merge_lora first")
    targets = select_targets(model, config)
    paths = paths_in_model(model, targets)
    saved = select_saved(model, config.modules_to_save)
    paths_in_model(model, saved)
    check_saved(model, saved)
    check_biases(model, config, targets)
    check_tables(model, config, targets)
    shapes = ranks_and_scalings(model, config, targets)
    for path, module_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        rank, scaling = shapes[path]
        base = get_module(model, path)
        if isinstance(base, Embedding):
            lora = LoraEmbedding(base, rank=rank, scaling=scaling, key=module_key)
        else:
            lora = LoraLinear(
                base,
                rank=rank,
                scaling=scaling,
                key=module_key,
                freeze_a=config.freeze_a,
                dropout=config.dropout,
                use_dora=config.use_dora,
                gauge=config.gauge,
            )
        set_module(model, path, lora)
    if config.trainable_token_indices:
        rows = TokenRows(model.transformer.embed_tokens, config.trainable_token_indices)
        model.transformer.embed_tokens = rows
    model.lora = config


def merge_lora(model: Model) -> None:
    """Fold every adapter into its base layer, W + scaling · A B, in place.

    A layer whose W was quantised then holds it in full, in the dtype of the token embedding.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> merge_lora(model)
        >>> has_lora(model)
        False
    """
    for path, layer in _adapters(model).items():
        is_quantised = isinstance(layer, LoraLinear) and isinstance(layer.base, QuantisedLinear)
        dtype = model.transformer.embed_tokens.embedding.dtype
        set_module(model, path, _in_full(layer, dtype) if is_quantised else layer.merged())
    model.lora = None


def merged_copy(model: Model) -> Model:
    """A model with every adapter folded into its base layer; the given one keeps its adapters.

    Of a quantised model it is in the host's memory: a device need not have room for it.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> has_lora(merged_copy(model)), has_lora(model)
        (False, True)
    """
    is_quantised = model.config.quantise != "none"
    copy = _unmerged_copy(model, _host() if is_quantised else None)
    merge_lora(copy)
    return copy


def base_model(model: CausalLM) -> CausalLM:
    """Return the language model that the adapters were put on: every adapter is taken off.

    Both models share the arrays of the base weights, which therefore cost no memory a second time.
    The given model keeps its adapters.

    Args:
        model: a language model with adapters.

    Raises:
        TypeError: the model is a classifier: its head was made for tuning, so no model was there
            before.
        ValueError: the model has no adapters, or modules were trained in full: their weights from
            before are in the checkpoint only.

    Example:
        >>> from dpjax.models import parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> has_lora(base_model(model)), has_lora(model)
        (False, True)
    """
    if not isinstance(model, CausalLM):
        raise TypeError(
            f"model must be a CausalLM, got a {type(model).__name__}. Its head was made for tuning:"
            " there is no model without it."
        )
    if not has_lora(model):
        raise ValueError(
            "model must have adapters, got one without: its weights themselves were trained. Load"
            " the base from its checkpoint with load_causal_lm."
        )
    if model.lora.trains_weights:
        biases = [] if model.lora.bias == "none" else ["biases"]
        names = ", ".join([*model.lora.modules_to_save, *biases])
        raise ValueError(
            f"model must be trained in its adapters alone, got one whose {names} were trained in"
            " full. Load the base from its checkpoint with load_causal_lm."
        )
    return without_adapters(model)


def without_adapters(model: Model) -> Model:
    """Returns a model of the same arrays with every adapter taken off; the given one keeps them."""
    bare = _unmerged_copy(model)
    for path, layer in _adapters(bare).items():
        set_module(bare, path, layer.base)
    bare.lora = None
    return bare


def drop_inputs(model: Model, *, key: jax.Array) -> None:
    """Turn the adapters' dropout on, in place, with what is dropped fixed by `key`.

    Meant for the model that a loss merges from its parts, which is thrown away afterwards: a model
    whose adapters hold no key drops nothing. Every adapter, in every layer, draws of its own. To
    keep one example's gradient free of the others', give each a key of its own.

    Args:
        model: with adapters; it is changed.
        key: a JAX key (threefry2x32).

    Raises:
        ValueError: for a model without adapters.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2, dropout=0.5), key=jax.random.key(0))
        >>> drop_inputs(model, key=jax.random.key(1))
        >>> model.transformer.layers[0].self_attn.o_proj.dropout_key is None
        False
    """
    adapters = {p: node for p, node in _adapters(model).items() if isinstance(node, LoraLinear)}
    if not adapters:
        raise ValueError("the model has no adapters that could drop anything: call add_lora first")
    keys = jax.random.split(key, len(adapters))
    for layer, layer_key in zip(adapters.values(), keys, strict=True):
        stacked = layer.base.kernel_shape[:-2]
        layer_key = jax.random.split(layer_key, stacked) if stacked else layer_key
        layer.dropout_key = nnx.data(DropoutKey(jax.random.key_data(layer_key)))


def has_lora(model: Model) -> bool:
    """Whether the model carries adapters.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> has_lora(model)
        False
    """
    return model.lora is not None


def _unmerged_copy(model: Model, device: jax.Device | None = None) -> Model:
    """The model with variables of its own, which hold the same arrays, perhaps on a device."""
    graphdef, state = nnx.split(model)
    arrays = nnx.to_pure_dict(state)
    # Merging a dict of plain arrays makes new variables.
    return nnx.merge(graphdef, arrays if device is None else jax.device_put(arrays, device))


def _host() -> jax.Device | None:
    """The host as a device; None where JAX was told not to use it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _in_full(layer: LoraLinear, dtype: jnp.dtype) -> Linear:
    """The quantised base of an adapter with a kernel that includes it, one layer at a time."""
    graphdef, state = nnx.split(layer)

    def merge(arrays: PyTree) -> jax.Array:
        kernel: jax.Array = nnx.merge(graphdef, arrays).merged().kernel[...]
        return kernel.astype(dtype)

    arrays, is_stacked = nnx.to_pure_dict(state), len(layer.base.kernel_shape) > 2
    return layer.base.with_kernel(jax.lax.map(merge, arrays) if is_stacked else merge(arrays))


def _adapters(model: Model) -> dict[Path, LoraLinear | LoraEmbedding | TokenRows]:
    """The adapted layers and where they are in this model."""
    paths = dict.fromkeys(path_in_model(model.config, m.path) for m in all_modules(model))
    # The bias of a vocabulary is no module.
    layers = {path: get_module(model, path) for path in paths}
    kinds = (LoraLinear, LoraEmbedding, TokenRows)
    return {path: layer for path, layer in layers.items() if isinstance(layer, kinds)}
