"""Square roots of sums of squares that neither overflow nor vanish; float32.

Where a root is zero, its derivative is taken as zero, so that clipped gradients can be
differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree


def hypot(norms: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """√Σ nᵢ² without overflow; NaN and inf pass through."""
    norms = jnp.stack(norms) if isinstance(norms, Sequence) else norms.reshape(-1)
    return dense_norm(norms)


def dense_norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ over all axes, enlarged by what rounding may take from it."""
    x = x.astype(jnp.float32)
    if x.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = power_of_two(x)
    square, additions = sum_in_blocks(jnp.square(x / scale))
    # Of k equal numbers the j-th addition rounds by up to j/k of 2⁻²⁴ of the sum: (k + 1)/2 in all,
    # and half of that in the root.
    return enlarged(scale * root(square), (additions + 1) / 4)


def global_norm(tree: PyTree) -> jax.Array:
    """‖x‖₂ of all arrays of a pytree as one vector, enlarged by what rounding may take from it.

    Without overflow, and without underflow of squares; NaN and inf pass through.
    """
    return hypot([dense_norm(leaf) for leaf in jax.tree.leaves(tree)])


# How many numbers may be added one after the other.
_LONGEST = 32
# How many neighbours in memory, for which compilers make fast code: that costs 2⁻¹⁴ of a norm.
_LONGEST_ROW = 4096


def sum_in_blocks(x: jax.Array) -> tuple[jax.Array, int]:
    """The sum of numbers that are not negative, few at a time, and how many follow each other.

    A compiler may add up all entries one after the other. Of n equal ones, each addition may round
    the same way, and the sum is off by up to n·2⁻²⁵ of itself. Here the last axis is added up
    first, 4,096 numbers at most, then every other axis by blocks, 32 numbers at most, then blocks
    of blocks. Axes stay apart, since devices may hold parts of them.
    """
    additions = 0
    if x.ndim > 1:
        row = next(n for n in range(min(x.shape[-1], _LONGEST_ROW), 0, -1) if x.shape[-1] % n == 0)
        additions += row
        x = _added_up(x.reshape(*x.shape[:-1], -1, row), -1)
    while x.ndim:
        while (length := x.shape[0]) > _LONGEST:
            block = _block(length)
            additions += _LONGEST if block is None else block
            if block is not None:
                x = _added_up(x.reshape(length // block, block, *x.shape[1:]), 1)
                continue
            whole = length // _LONGEST * _LONGEST
            blocks = x[:whole].reshape(-1, _LONGEST, *x.shape[1:])
            x = jnp.concatenate([_added_up(blocks, 1), x[whole:]])
        additions += x.shape[0]
        x = _added_up(x, 0)
    return x, additions


def _block(length: int) -> int | None:
    """A divisor to add up at a time; None if there is no small one.

    Of neighbours, so that a device adds up what it holds: if possible, eight devices can share the
    blocks.
    """
    for block in (32, 16, 8):
        if length % (8 * block) == 0:
            return block
    return next((block for block in (*range(8, 1, -1), *range(9, 33)) if length % block == 0), None)


def _added_up(x: jax.Array, axis: int) -> jax.Array:
    # The maximum changes nothing. Without it a compiler would merge one sum with the next.
    return jnp.maximum(jnp.sum(x, axis=axis), 0.0)


def enlarged(norm: jax.Array, additions: float) -> jax.Array:
    """A norm and what rounding can do in so many additions that all round the same way.

    (1 + n·2⁻²⁴)·norm. Of n equal terms, a sum over tokens can come out that much too large, and a
    norm that much too small.
    """
    return norm * (1.0 + additions * 2.0**-24)


def power_of_two(x: jax.Array) -> jax.Array:
    """The power of two at the largest entry, within [2⁻¹²⁵, 2¹²⁶]: dividing is exact."""
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), initial=0.0)
    # The exponent bits alone: `frexp` and `ldexp` are dozens of operations, for every parameter.
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return jax.lax.clamp(jnp.float32(2.0**-125), power, jnp.float32(2.0**126))


def normalised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divides x by the power of two at its largest entry; returns both, exact.

    float32, or bfloat16, whose range is the same. In a shorter range the power may be zero.
    """
    x = x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)
    scale = power_of_two(x)
    return x / scale.astype(x.dtype), scale


def root(square: jax.Array) -> jax.Array:
    """√x; 0 where rounding left a sum of products that cancel slightly below zero. NaN passes."""
    vanishes = square <= 0
    return jnp.where(vanishes, 0.0, jnp.sqrt(jnp.where(vanishes, 1.0, square)))
