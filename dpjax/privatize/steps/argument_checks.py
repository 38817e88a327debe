"""Checks of what a function of a batch is given: parameters, batch, mask and loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.untrained_leaves import is_fixed


def checked_batch_size(batch: PyTree) -> int:
    """Returns the number of examples; ValueError where leaves have no such axis or disagree."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError("batch has no arrays: it must be a pytree with a leading example axis")
    sizes = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path) or "batch"
        if not jnp.ndim(leaf):
            raise ValueError(f"batch{name} is a scalar: every leaf needs a leading example axis")
        sizes[name] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the leaves of batch disagree about the number of examples: {sizes}")
    return next(iter(sizes.values()))


def checked_mask(mask: jax.Array | None, batch_size: int) -> jax.Array:
    """Returns the `(B,)` bool mask, all True for None; TypeError or ValueError for another one."""
    if mask is None:
        return jnp.ones(batch_size, bool)
    if jnp.result_type(mask) != jnp.bool_:
        raise TypeError(f"mask must be boolean (True counts), got dtype {jnp.result_type(mask)}")
    if jnp.shape(mask) != (batch_size,):
        raise ValueError(f"mask must have shape ({batch_size},), got {jnp.shape(mask)}")
    return jnp.asarray(mask)


def check_params(params: PyTree) -> None:
    """Raises TypeError where a parameter can neither be trained nor left alone."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        if not (jnp.issubdtype(jnp.result_type(leaf), jnp.floating) or is_fixed(leaf)):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}: parameters "
                "are floating-point, or integer or boolean and not trained; let loss_fn close over "
                "the others"
            )
    if leaves and all(is_fixed(leaf) for _, leaf in leaves):
        raise TypeError("params has integers and truth values only: there is nothing to train")


def check_scalar(loss: Any) -> None:
    """Raises ValueError where the loss of one example, an abstract value, is not one scalar."""
    if getattr(loss, "shape", None) != ():
        seen = getattr(loss, "shape", type(loss).__name__)
        raise ValueError(
            f"loss_fn must return one scalar for one example, got {seen}; it is called without a "
            "batch axis (a loss that returns a tuple needs has_aux=True)"
        )
