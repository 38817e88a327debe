"""Square roots of sums of squares that neither overflow nor vanish; float32.

Where a root is zero, its derivative is taken as zero, so that clipped gradients can be
differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def hypot(norms: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """√Σ nᵢ² without overflow; NaN and inf pass through."""
    norms = jnp.stack(norms) if isinstance(norms, Sequence) else norms.reshape(-1)
    if norms.size == 0:
        return jnp.zeros((), jnp.float32)
    return dense_norm(norms)


def dense_norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ over all axes."""
    x = x.astype(jnp.float32)
    if x.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = power_of_two(x)
    return scale * root(sum_in_blocks(jnp.square(x / scale)))


# How many numbers may be added one after the other.
_BLOCK = 32


def sum_in_blocks(x: jax.Array) -> jax.Array:
    """The sum of numbers that are not negative, by blocks of 32, then blocks of blocks.

    A compiler may add up all entries one after the other. Of n equal ones, each addition may round
    the same way, and the sum is off by up to n·2⁻²⁵ of itself. In blocks it is off by up to 2⁻²⁰
    for each level of blocks. A norm of 2³⁰ entries is then off by 6·2⁻²¹ of itself, which is less
    than half of the clip factor's `ROUNDING_MARGIN`.
    """
    x = x.reshape(-1)
    while (length := x.shape[0] // _BLOCK) > 0:
        whole, rest = x[: _BLOCK * length], x[_BLOCK * length :]
        # The maximum changes nothing. Without it a compiler would merge the sums into one.
        sums = jnp.maximum(jnp.sum(whole.reshape(_BLOCK, length), axis=0), 0.0)
        x = jnp.concatenate([sums, rest]) if rest.shape[0] else sums
    return jnp.sum(x)


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
    """x over the power of two at its largest entry, and that power; exact.

    float32, or bfloat16, whose range is the same. In a shorter range the power may be zero.
    """
    x = x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)
    scale = power_of_two(x)
    return x / scale.astype(x.dtype), scale


def root(square: jax.Array) -> jax.Array:
    """√x; 0 where rounding left a sum of products that cancel slightly below zero. NaN passes."""
    vanishes = square <= 0
    return jnp.where(vanishes, 0.0, jnp.sqrt(jnp.where(vanishes, 1.0, square)))
