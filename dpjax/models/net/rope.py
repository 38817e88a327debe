"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.config import RopeConfig

Rotation = tuple[jax.Array, jax.Array]


def frequencies(rope: RopeConfig) -> np.ndarray:
    """Angle per position of each pair of numbers, `(rotary_size / 2,)` float32, scaled as asked."""
    size = rope.rotary_size
    plain = 1.0 / np.float32(rope.theta) ** (np.arange(0, size, 2, dtype=np.float32) / size)
    plain = plain.astype(np.float32) / np.float32(rope.linear_factor)
    if rope.llama3 is None:
        return plain
    factor, low, high, original = rope.llama3
    # Long wavelengths are divided by the factor, short ones kept, those between interpolated.
    wavelength = 2 * np.pi / plain
    share = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - share) * plain / factor + share * plain).astype(np.float32)


def rotation(rope: RopeConfig, positions: jax.Array) -> Rotation:
    """Cosines and sines `(..., T, rotary_size / 2)` float32 for positions `(..., T)` int32."""
    per_position = frequencies(rope).reshape((1,) * positions.ndim + (-1,))
    angles = positions[..., None].astype(jnp.float32) * per_position
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates the first numbers of every head: `(..., T, H, D)` to the same shape and dtype.

    Number i forms a pair with number i + rotary_size / 2, as in transformers.
    """
    cos, sin = (part[..., None, :] for part in by)
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([*(part.astype(x.dtype) for part in rotated), rest], axis=-1)
