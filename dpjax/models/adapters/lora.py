"""Low-rank adapters on linear layers (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.lora_config import Gauge, LoraConfig
from dpjax.models.adapters.tangent.product import tangent_product
from dpjax.models.adapters.targets import (
    adaptable_modules,
    paths_in_model,
    select_saved,
    select_targets,
)
from dpjax.models.families import Path
from dpjax.models.net.heads import CausalLM, Model
from dpjax.models.net.layers import Linear
from dpjax.models.net.module_paths import get_module, path_in_model, set_module
from dpjax.typing import PyTree


class LoraParam(nnx.Param):
    """A parameter of a low-rank adapter that is trained.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2, target_modules=("c_attn",)), key=jax.random.key(0))
        >>> sorted({path[-1] for path, _ in nnx.to_flat_state(nnx.state(model, LoraParam))})
        ['lora_a', 'lora_b']
    """


class FrozenLoraParam(nnx.Param):
    """A parameter of a low-rank adapter that stays as it is."""


class DropoutKey(nnx.Variable):
    """The data of a JAX key, `(2,)` uint32, from which an adapter draws what it drops."""


class LoraLinear(nnx.Module):
    """`y = base(x) + scaling * (x A) B`, with A `(in, r)` and B `(r, out)`, both float32.

    A starts uniform in ±1/√in (the initialisation of peft: Kaiming uniform with a = √5), B at zero:
    a fresh adapter changes nothing. With `freeze_a` only B is trained. On stacked layers A and B
    have the leading axis of the base's kernel. A fused projection has one A and one B. Where
    `drop_inputs` has left a key, the adapter reads x with dropout (Srivastava et al. 2014).
    With `gauge="tangent"` gradients are those of `tangent_product`, and steps those of
    `tangent_lora`.

    Example:
        >>> from dpjax.models.net.layers import Linear
        >>> base = Linear(6, 4, bias=False, stddev=0.02, rngs=nnx.Rngs(0))
        >>> adapted = LoraLinear(base, rank=2, scaling=2.0, key=jax.random.key(0))
        >>> adapted.lora_a.shape, adapted.lora_b.shape
        ((6, 2), (2, 4))
        >>> x = jnp.ones((1, 6))
        >>> bool((adapted(x) == base(x)).all())
        True
    """

    def __init__(
        self,
        base: Linear,
        *,
        rank: int,
        scaling: float,
        key: jax.Array,
        freeze_a: bool = False,
        dropout: float = 0.0,
        gauge: Gauge = "factors",
    ):
        *layers, inputs, outputs = base.kernel.shape
        if gauge == "tangent" and rank > min(inputs, outputs):
            raise ValueError(
                f"lora.rank must be at most {min(inputs, outputs)} with lora.gauge=tangent, got "
                f"{rank}: a layer has {inputs} inputs and {outputs} outputs. Lower the rank, or "
                "leave out lora.gauge"
            )
        self.base = base
        self.scaling = scaling
        self.dropout = dropout
        self.gauge = gauge
        self.dropout_key: DropoutKey | None = None
        a = _draw_a(key, (*layers, inputs, rank))
        self.lora_a = FrozenLoraParam(a) if freeze_a else LoraParam(a)
        self.lora_b = LoraParam(jnp.zeros((*layers, rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        if self.gauge == "tangent":
            update = tangent_product(self._dropped(x), self.lora_a[...], self.lora_b[...])
        else:
            a, b = (part[...].astype(x.dtype) for part in (self.lora_a, self.lora_b))
            update = self._dropped(x) @ a @ b
        return self.base(x) + self.scaling * update

    def _dropped(self, x: jax.Array) -> jax.Array:
        if self.dropout_key is None:
            return x
        key = jax.random.wrap_key_data(self.dropout_key[...], impl="threefry2x32")
        kept = jax.random.bernoulli(key, 1.0 - self.dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.dropout), jnp.zeros((), x.dtype))

    def merged(self) -> Linear:
        """The base layer, its kernel now including the adapter."""
        delta = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest")
        kernel = self.base.kernel[...]
        self.base.kernel[...] = (kernel + self.scaling * delta).astype(kernel.dtype)
        return self.base


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
            adapted, and a name that matches no linear layer (a classification head is trained as it
            is: no adapter) or, in modules_to_save, no module.

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
    paths = paths_in_model(model, select_targets(model, config))
    paths_in_model(model, select_saved(model, config.modules_to_save))
    for path, module_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        lora = LoraLinear(
            get_module(model, path),
            rank=config.rank,
            scaling=config.scaling,
            key=module_key,
            freeze_a=config.freeze_a,
            dropout=config.dropout,
            gauge=config.gauge,
        )
        set_module(model, path, lora)
    model.lora = config


def fresh_lora(trainable: PyTree, *, key: jax.Array) -> PyTree:
    """Returns trained parameters with their adapters as before training.

    As in a fresh `LoraLinear`: A is drawn, B is zero. Other parameters stay as they are. A frozen A
    is not among the trained parameters: only B is reset then.

    Args:
        trainable: nested dict, as `SplitModel.trainable`.
        key: a JAX key for A; every adapter draws from one of its own.

    Example:
        >>> trained = {"q_proj": {"lora_a": jnp.ones((6, 2)), "lora_b": jnp.ones((2, 4))}}
        >>> fresh = fresh_lora(trained, key=jax.random.key(0))["q_proj"]
        >>> bool((abs(fresh["lora_a"]) < 6**-0.5).all()), float(fresh["lora_b"].max())
        (True, 0.0)
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(trainable)
    fresh = []
    for number, (path, leaf) in enumerate(leaves):
        name = path[-1].key
        if name == "lora_a":
            leaf = _draw_a(jax.random.fold_in(key, number), leaf.shape)
        elif name == "lora_b":
            leaf = jnp.zeros_like(leaf)
        fresh.append(leaf)
    return jax.tree.unflatten(treedef, fresh)


def merge_lora(model: Model) -> None:
    """Fold every adapter into its base layer, W + scaling · A B, in place.

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
        set_module(model, path, layer.merged())
    model.lora = None


def merged_copy(model: Model) -> Model:
    """A model with every adapter folded into its base layer; the given one keeps its adapters.

    Example:
        >>> from dpjax.models import CausalLM, parse_config
        >>> from transformers import GPT2Config
        >>> config = parse_config(GPT2Config(n_embd=8, n_layer=1, n_head=2).to_dict())
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> has_lora(merged_copy(model)), has_lora(model)
        (False, True)
    """
    copy = _unmerged_copy(model)
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
    if model.lora.modules_to_save:
        raise ValueError(
            f"model must be trained in its adapters alone, got one whose modules"
            f" {', '.join(model.lora.modules_to_save)} were trained in full. Load the base from its"
            " checkpoint with load_causal_lm."
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
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no adapters that could drop anything: call add_lora first")
    keys = jax.random.split(key, len(adapters))
    for layer, layer_key in zip(adapters.values(), keys, strict=True):
        stacked = layer.base.kernel.shape[:-2]
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


def _unmerged_copy(model: Model) -> Model:
    """The model with variables of its own, which hold the same arrays."""
    graphdef, state = nnx.split(model)
    # Merging a dict of plain arrays makes new variables.
    return nnx.merge(graphdef, nnx.to_pure_dict(state))


def _draw_a(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in ±1/√in, `(..., in, r)` float32."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _adapters(model: Model) -> dict[Path, LoraLinear]:
    """The adapted layers and where they are in this model."""
    paths = dict.fromkeys(
        path_in_model(model.config, module.path) for module in adaptable_modules(model)
    )
    layers = {path: get_module(model, path) for path in paths}
    return {path: layer for path, layer in layers.items() if isinstance(layer, LoraLinear)}
