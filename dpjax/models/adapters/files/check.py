"""Whether an adapter that was written is the one that was trained."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dpjax.models.adapters.files.load import load_adapter
from dpjax.models.adapters.layers.embedding import LoraEmbedding
from dpjax.models.adapters.layers.linear import LoraLinear
from dpjax.models.adapters.lora import without_adapters
from dpjax.models.adapters.split_model import SplitModel


def check_adapter(tuned: SplitModel, folder: str | Path) -> None:
    """Reads an adapter back, and checks that it makes the same model of the same base, bit by bit.

    Equal parameters in an equal structure give equal logits: no forward pass is needed, and the
    base is in memory once.

    Args:
        tuned: the model with adapters that `save_adapter` wrote, split by what was trained.
        folder: what it wrote.

    Raises:
        FileNotFoundError, ValueError: a parameter comes back otherwise than it was trained, or the
            folder cannot be read.

    Example:
        >>> from transformers import GPT2Config
        >>> GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained("base")
        >>> from dpjax.models import CausalLM, LoraConfig, Trainable, add_lora, read_config
        >>> from dpjax.models import save_adapter, split_trainable
        >>> model = CausalLM(read_config("base"), rngs=nnx.Rngs(0))
        >>> add_lora(model, LoraConfig(rank=2), key=jax.random.key(0))
        >>> save_adapter(model, "adapter", base="base")
        >>> check_adapter(split_trainable(model, Trainable("lora")), "adapter")
    """
    trained = tuned.merge()
    # What the folder lacks must not come from the model that it is compared with.
    unknown = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tuned.trainable)
    again = without_adapters(tuned.replace(trainable=unknown).merge())
    load_adapter(again, folder)
    scalings = _scalings(again)
    for name, scaling in _scalings(trained).items():
        if scalings.get(name, scaling) != scaling:
            raise ValueError(
                f"{folder} must scale the adapter of {name} by {scaling:g} as in training, got "
                f"{scalings[name]:g}"
            )
    was, now = _parameters(trained), _parameters(again)
    for name in {**was, **now}:
        if name not in was or name not in now:
            raise ValueError(f"{folder} makes another model: only one of them has {name}")
        # On the host: what was trained may be spread over devices, what is read is on one.
        if was[name] is not now[name] and not np.array_equal(was[name], now[name]):
            raise ValueError(
                f"{folder} must hold what was trained, got other values for {name}: do not use it"
            )


def _scalings(model: nnx.Module) -> dict[str, float]:
    """Returns what each adapter is scaled by, by the dotted name of its layer."""
    return {
        ".".join(map(str, path)): node.scaling
        for path, node in nnx.iter_graph(model)
        if isinstance(node, (LoraLinear, LoraEmbedding))
    }


def _parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """Returns the arrays by their dotted names."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.split(model)[1]))
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}
