"""The loss of a privacy unit that is several examples, such as all the texts of one person."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dpjax.basics.option_checks import did_you_mean
from dpjax.basics.typing import PyTree

_REDUCTIONS = ("sum", "mean")


def unit_loss(
    loss_fn: Callable[[PyTree, PyTree], jax.Array], *, reduction: str = "sum"
) -> Callable[[PyTree, PyTree], jax.Array]:
    """Turns a loss of one example into the loss of one unit of several examples.

    `clipped_grad` of it clips the gradient of a whole unit, whatever it holds, to one C: then the
    unit is what the guarantee protects, provided that units are what is sampled and counted
    (`DPSGD.num_units`, `expected_batch_size`). McMahan et al. 2018, "Learning Differentially
    Private Recurrent Language Models", arXiv:1710.06963.

    A unit is a dict: `examples`, a pytree whose leaves have a leading axis `(E, ...)`, as `loss_fn`
    sees without it; and `mask`, `(E,)` bool, True where there is an example. E is the same for all
    units, a limit set beforehand. A masked example contributes zero, whatever it holds: it is
    replaced by the unit's first example before the loss is computed, and the loss is then dropped.
    A unit without any example contributes zero; should the loss of a zero example not be finite, it
    is left out and counted in `num_nonfinite`.

    Args:
        loss_fn: `(params, example) -> scalar`.
        reduction: "sum" of the losses of the unit's examples, or "mean" over them.

    Returns:
        `(params, unit) -> float32 scalar`, for `clipped_grad`.

    Raises:
        ValueError: the reduction is unknown. When called: the unit lacks a part, or the leading
            axes differ.
        TypeError: when called: the mask is not boolean.

    Example:
        >>> from dpjax import clipped_grad
        >>> clipped = clipped_grad(unit_loss(lambda w, x: w * x), clip_norm=1.0)
        >>> people = {
        ...     "examples": jnp.array([[0.25, 0.5], [2.0, 0.0]]),
        ...     "mask": jnp.array([[True, True], [True, False]]),
        ... }
        >>> [f"{norm:.2f}" for norm in clipped(jnp.float32(0), people).norms]
        ['0.75', '2.00']
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {_REDUCTIONS}, got {reduction!r}."
            + did_you_mean(reduction, _REDUCTIONS)
        )

    def loss(params: PyTree, unit: PyTree) -> jax.Array:
        examples, mask = _checked(unit)
        if not mask.shape[0]:
            return jnp.zeros((), jnp.float32)
        safe = jax.tree.map(lambda leaf: _without_masked(leaf, mask), examples)
        losses = jax.vmap(loss_fn, in_axes=(None, 0))(params, safe)
        total = jnp.sum(jnp.where(mask, losses.astype(jnp.float32), 0.0))
        return total / jnp.maximum(1, jnp.sum(mask)) if reduction == "mean" else total

    return loss


def _without_masked(leaf: jax.Array, mask: jax.Array) -> jax.Array:
    """The leaf with a real example, finite as far as the unit is, in place of masked ones."""
    # A loss that is only multiplied by zero afterwards has a gradient 0 × NaN where it is NaN. No
    # constant is safe for every loss, but an example that counts is: were it not finite, the unit
    # would be left out anyway.
    leaf = jnp.asarray(leaf)
    first = leaf[jnp.argmax(mask)]
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        first = jnp.where(jnp.any(mask), first, jnp.zeros((), leaf.dtype))
    return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, first)


def _checked(unit: PyTree) -> tuple[PyTree, jax.Array]:
    if not (isinstance(unit, dict) and set(unit) == {"examples", "mask"}):
        seen = sorted(map(str, unit)) if isinstance(unit, dict) else type(unit).__name__
        raise ValueError(f"a unit is a dict of 'examples' and 'mask', got {seen}")
    examples, mask = unit["examples"], jnp.asarray(unit["mask"])
    if mask.dtype != jnp.bool_:
        raise TypeError(f"a unit's mask must be boolean (True counts), got dtype {mask.dtype}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(examples):
        if jnp.ndim(leaf) < 1 or mask.shape != jnp.shape(leaf)[:1]:
            raise ValueError(
                f"examples{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} in one unit, "
                f"its mask {mask.shape}: both need the same leading example axis"
            )
    return examples, mask
