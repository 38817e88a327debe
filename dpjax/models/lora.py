"""Low-rank adapters on linear layers (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dpjax.models.heads import Model
from dpjax.models.layers import Linear
from dpjax.models.lora_config import LoraConfig
from dpjax.models.targets import (
    adaptable_modules,
    get_module,
    own_path,
    own_paths,
    select_saved,
    select_targets,
    set_module,
)


class LoraParam(nnx.Param):
    """A parameter of a low-rank adapter that is trained."""


class FrozenLoraParam(nnx.Param):
    """A parameter of a low-rank adapter that stays as it is."""


class LoraLinear(nnx.Module):
    """`y = base(x) + scaling * (x A) B`, with A `(in, r)` and B `(r, out)`, both float32.

    A starts uniform in ±1/√in (the initialisation of peft: Kaiming uniform with a = √5), B at zero:
    a fresh adapter changes nothing. With `freeze_a` only B is trained. On stacked layers A and B
    have the leading axis of the base's kernel. A fused projection has one A and one B.
    """

    def __init__(
        self,
        base: Linear,
        *,
        rank: int,
        scaling: float,
        key: jax.Array,
        freeze_a: bool = False,
    ):
        *layers, inputs, outputs = base.kernel.shape
        bound = inputs**-0.5
        self.base = base
        self.scaling = scaling
        a = jax.random.uniform(key, (*layers, inputs, rank), jnp.float32, -bound, bound)
        self.lora_a = FrozenLoraParam(a) if freeze_a else LoraParam(a)
        self.lora_b = LoraParam(jnp.zeros((*layers, rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., in)` to `(..., out)`."""
        a, b = (part[...].astype(x.dtype) for part in (self.lora_a, self.lora_b))
        return self.base(x) + self.scaling * (x @ a @ b)

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
        key: a JAX key for A.

    Raises:
        ValueError: for a model that has adapters already, a layer that does not exist or cannot be
            adapted, and a name that matches no linear layer (a classification head is trained as it
            is: no adapter) or, in modules_to_save, no module.
    """
    if has_lora(model):
        raise ValueError("the model has LoRA adapters already; call merge_lora first")
    paths = own_paths(model, select_targets(model, config))
    own_paths(model, select_saved(model, config.modules_to_save))
    for path, module_key in zip(paths, jax.random.split(key, len(paths)), strict=True):
        lora = LoraLinear(
            get_module(model, path),
            rank=config.rank,
            scaling=config.scaling,
            key=module_key,
            freeze_a=config.freeze_a,
        )
        set_module(model, path, lora)
    model.lora = config


def merge_lora(model: Model) -> None:
    """Fold every adapter into its base layer, W + scaling · A B, in place."""
    for path in dict.fromkeys(own_path(model, m.path) for m in adaptable_modules(model)):
        layer = get_module(model, path)
        if isinstance(layer, LoraLinear):
            set_module(model, path, layer.merged())
    model.lora = None


def has_lora(model: Model) -> bool:
    """Whether the model carries adapters."""
    return model.lora is not None
