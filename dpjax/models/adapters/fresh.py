"""Adapters as they were before training."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.models.adapters.layers.embedding import draw_embedding_b, rows_of
from dpjax.models.adapters.layers.linear import column_lengths, draw_a
from dpjax.models.net.weight_codes import kernel_in


def fresh_lora(trainable: PyTree, frozen: PyTree, *, key: jax.Array) -> PyTree:
    """Returns trained parameters with their adapters as before training.

    As in a fresh `LoraLinear`: A is drawn, B is zero; of an embedding the other way round.
    Magnitudes and rows of tokens are those of the base. Other parameters stay as they are. A frozen
    A is not among the trained parameters: only B is reset then.

    Args:
        trainable: nested dict, as `SplitModel.trainable`.
        frozen: nested dict, as `SplitModel.frozen`, for magnitudes and rows.
        key: a JAX key for A; every adapter draws from one of its own.

    Example:
        >>> trained = {"q_proj": {"lora_a": jnp.ones((6, 2)), "lora_b": jnp.ones((2, 4))}}
        >>> fresh = fresh_lora(trained, {}, key=jax.random.key(0))["q_proj"]
        >>> bool((abs(fresh["lora_a"]) < 6**-0.5).all()), float(fresh["lora_b"].max())
        (True, 0.0)
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(trainable)
    fresh = []
    for number, (path, leaf) in enumerate(leaves):
        *modules, name = (part.key for part in path)
        if name == "lora_a":
            leaf = draw_a(jax.random.fold_in(key, number), leaf.shape)
        elif name == "lora_b":
            leaf = jnp.zeros_like(leaf)
        elif name == "lora_magnitude":
            layer = _inside(frozen, modules)
            leaf = column_lengths(kernel_in(layer["base"]))
        elif name == "lora_embedding_a":
            leaf = jnp.zeros_like(leaf)
        elif name == "lora_embedding_b":
            leaf = draw_embedding_b(jax.random.fold_in(key, number), leaf.shape)
        elif name == "token_rows":
            layer = _inside(frozen, modules)
            leaf = rows_of(layer["base"]["embedding"], layer["token_numbers"])
        fresh.append(leaf)
    return jax.tree.unflatten(treedef, fresh)


def _inside(tree: PyTree, path: Sequence[str | int]) -> PyTree:
    for part in path:
        tree = tree[part]
    return tree
