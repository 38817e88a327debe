"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.models.config import RopeConfig

Rotation = tuple[jax.Array, jax.Array]


def frequencies(rope: RopeConfig, *, is_long: bool = False) -> np.ndarray:
    """Angle per position of each pair of numbers, `(rotary_size / 2,)` float32, scaled as asked.

    Args:
        rope: the configuration.
        is_long: whether LongRoPE's divisors for long texts count.
    """
    size = rope.rotary_size
    plain = 1.0 / np.float32(rope.theta) ** (np.arange(0, size, 2, dtype=np.float32) / size)
    plain = plain.astype(np.float32) / np.float32(rope.linear_factor)
    if rope.longrope is not None:
        return plain / np.array(rope.longrope[is_long], np.float32)
    if rope.yarn is not None:
        factor, low, high = rope.yarn
        ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0.0, 1.0)
        return (ramp * plain / factor + (1 - ramp) * plain).astype(np.float32)
    if rope.llama3 is None:
        return plain
    factor, low, high, original = rope.llama3
    # Long wavelengths are divided by the factor, short ones kept, those between interpolated.
    wavelength = 2 * np.pi / plain
    share = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - share) * plain / factor + share * plain).astype(np.float32)


def _frequencies_of_texts(rope: RopeConfig, positions: jax.Array) -> jax.Array | np.ndarray:
    """Those of each text, `(..., 1, rotary_size / 2)`; some go by its own length."""
    lead = (1,) * positions.ndim
    plain = frequencies(rope).reshape(*lead, -1)
    if rope.longest_alike == math.inf:
        return plain
    # Padding has no positions of its own: another text in the batch changes nothing.
    length = jnp.max(positions, axis=-1)[..., None, None] + 1
    if rope.longrope is not None:
        long = frequencies(rope, is_long=True).reshape(*lead, -1)
        return jnp.where(length > rope.longest_alike, long, plain)
    factor, longest = rope.dynamic
    size = rope.rotary_size
    growth = factor * jnp.maximum(length, longest).astype(jnp.float32) / longest - (factor - 1)
    base = rope.theta * growth ** (size / (size - 2))
    powers = np.arange(0, size, 2, dtype=np.float32) / size
    return 1.0 / base ** powers.reshape(*lead, -1)


def rotation(rope: RopeConfig, positions: jax.Array) -> Rotation:
    """Cosines and sines `(..., T, rotary_size / 2)` float32 for positions `(..., T)` int32.

    Each row of positions must be those of one whole text where its length decides.
    """
    per_position = _frequencies_of_texts(rope, positions)
    angles = positions[..., None].astype(jnp.float32) * per_position
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if rope.amplitude == 1 else (rope.amplitude * cos, rope.amplitude * sin)


def query_scale(rope: RopeConfig, positions: jax.Array) -> jax.Array | None:
    """Factors `(..., T, 1, 1)` float32 of the queries at positions `(..., T)`, None for all 1."""
    if rope.query_growth is None:
        return None
    beta, original = rope.query_growth
    windows = jnp.floor(positions.astype(jnp.float32) / original)
    return 1.0 + beta * jnp.log(1.0 + windows)[..., None, None]


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates the first numbers of every head: `(..., T, H, D)` to the same shape and dtype.

    Number i forms a pair with number i + rotary_size / 2, as in transformers.
    """
    cos, sin = (part[..., None, :] for part in by)
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([*(part.astype(x.dtype) for part in rotated), rest], axis=-1)
