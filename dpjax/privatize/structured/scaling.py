"""Square roots of sums of squares that neither overflow nor vanish; float32."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def hypot(norms: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """√Σ nᵢ² without overflow; NaN and inf pass through."""
    norms = jnp.stack(norms) if isinstance(norms, Sequence) else norms.reshape(-1)
    if norms.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = power_of_two(norms)
    return scale * jnp.sqrt(jnp.sum(jnp.square(norms / scale)))


def dense_norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ over all axes."""
    x = x.astype(jnp.float32)
    if x.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = power_of_two(x)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def power_of_two(x: jax.Array) -> jax.Array:
    """The power of two at the largest entry, within [2⁻¹²⁵, 2¹²⁶]: dividing is exact."""
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), initial=0.0)
    # The exponent bits alone: `frexp` and `ldexp` are dozens of operations, for every parameter.
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return jax.lax.clamp(jnp.float32(2.0**-125), power, jnp.float32(2.0**126))


def normalised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x over the power of two at its largest entry, and that power."""
    scale = power_of_two(x)
    return x / scale.astype(x.dtype), scale


def root(square: jax.Array) -> jax.Array:
    """√x; 0 where rounding left a sum of products that cancel slightly below zero. NaN passes."""
    return jnp.sqrt(jnp.where(square < 0, 0.0, square))
