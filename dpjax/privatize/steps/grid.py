"""Weights on a grid: what moves them in place can be taken back, bit for bit.

In floating point θ + φz - 2φz + φz is not θ. What is left would depend on how many microbatches a
step had, which is private. Here every leaf has a unit u, a power of two. θ and φz are multiples of
u, and no sum exceeds 2²⁴ u. float32 holds these multiples exactly, so all sums are exact, in any
order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.steps.blocks import Blocks, entries_of_block
from dpjax.privatize.untrained_leaves import is_fixed, merged, split

# |z|: a float32 draw of `jax.random.normal` never leaves [-5.42, 5.42]. Draws are clipped to this,
# so that the proof needs nothing of the generator.
LARGEST_DRAW = 6.0
# u and 1/u are then normal numbers, which no device rounds to zero.
_SMALLEST_REACH = 2.0**-100


def check_can_be_on_grid(params: PyTree) -> None:
    """Raises TypeError where a trained leaf is not float32."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not is_fixed(leaf) and leaf.dtype != jnp.float32:
            raise TypeError(
                f"parameters that are moved in place must be float32, got {leaf.dtype} for params"
                f"{jax.tree_util.keystr(path)}: fewer digits leave no room for a grid. Convert "
                "them, or use zeros and add, which move a copy"
            )


def units_of(params: PyTree, smoothing: float) -> tuple[jax.Array, ...]:
    """Returns u of each trained leaf, float32 scalars, from parameters alone.

    With M = max |θ|, u = 2^(e - 23) for the e with M + 8φ in [2^(e - 1), 2^e). Then
    |θ| + |φz| ≤ M + u + 6φ + u ≤ 2 (M + 8φ) < 2^(e + 1) = 2²⁴ u, rounding of both included.

    Args:
        params: θ.
        smoothing: φ > 0.

    Returns:
        0 for a leaf that is not finite, which is not moved.
    """
    return tuple(_unit_of(leaf, smoothing) for leaf in jax.tree.leaves(split(params)[0]))


def _unit_of(leaf: jax.Array, smoothing: float) -> jax.Array:
    largest = jnp.max(jnp.abs(leaf), initial=0.0)
    reach = jnp.maximum(largest + 8 * smoothing, _SMALLEST_REACH)
    # Its bits above the fraction are the exponent: exact, unlike a logarithm.
    bits = jax.lax.bitcast_convert_type(reach, jnp.int32)
    power = jax.lax.bitcast_convert_type((bits >> 23) << 23, jnp.float32)
    # `power` is 2^(e - 1).
    return jnp.where(jnp.isfinite(reach), power * 2.0**-22, 0.0)


def on_grid(params: PyTree, units: tuple[jax.Array, ...], key: jax.Array) -> PyTree:
    """Returns θ with every entry at one of the two multiples of u around it, at random.

    The mean over the key is θ, so that updates far smaller than u are not lost. Multiples of u
    stay. Parameters of a step are public, so this is post-processing.

    Args:
        params: θ.
        units: from `units_of`.
        key: typed JAX key, used for nothing else.
    """
    trained, fixed = split(params)
    leaves, treedef = jax.tree.flatten(trained)
    entries = entries_of_block(sum(leaf.size for leaf in leaves))

    def rounded(number: int, leaf: jax.Array, unit: jax.Array) -> jax.Array:
        def change(block: jax.Array, old: jax.Array) -> jax.Array:
            draw_key = jax.random.fold_in(jax.random.fold_in(key, number), block)
            multiple = old / unit
            below = jnp.floor(multiple)
            goes_up = jax.random.uniform(draw_key, old.shape) < multiple - below
            return jnp.where(unit > 0, (below + goes_up) * unit, old)

        return Blocks.of(leaf.shape, entries).changed(leaf, change)

    numbered = enumerate(zip(leaves, units, strict=True))
    moved = [rounded(number, *pair) for number, pair in numbered]
    return merged(jax.tree.unflatten(treedef, moved), fixed)


def fingerprint(params: PyTree) -> jax.Array:
    """Returns a uint32 that differs for other parameters, but for a chance of 2⁻³²."""

    def weighed(rows: jax.Array, places: jax.Array) -> jax.Array:
        # Odd weights: a single changed entry always shows.
        return jax.lax.bitcast_convert_type(rows, jnp.uint32) * (2 * places + 1)

    leaves = jax.tree.leaves(split(params)[0])
    # In blocks: all products at once would need as much memory as the parameters.
    entries = entries_of_block(sum(leaf.size for leaf in leaves))
    total = jnp.zeros((), jnp.uint32)
    for leaf in leaves:
        blocks = Blocks.of(leaf.shape, entries)
        total = total * 0x01000193 + blocks.summed(leaf, weighed)
    return total
