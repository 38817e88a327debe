"""Kernels as integers of 8 bits or codes of 4 bits, and the kernels that these stand for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.models.config import Quantise

GROUP = 64
"""Entries along the input axis that share a scale with nf4."""
_LARGEST = 127
_HALF = GROUP // 2


def normal_float_values() -> tuple[float, ...]:
    """Returns the 16 values of 4-bit NormalFloat, from −1 to 1, 0 among them.

    Quantiles of the normal distribution, 8 below zero with zero and 9 above with zero, scaled to
    [−1, 1] (QLoRA: Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E, whose numbers
    these are to 2e-7).

    Example:
        >>> values = normal_float_values()
        >>> len(values), values[0], values[7], round(values[8], 4), values[15]
        (16, -1.0, 0.0, 0.0796, 1.0)
    """
    # The outermost probability: between those of 2 · 16 and 2 · 15 equal parts.
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(0.5 + (outermost - 0.5) * part / 8) for part in range(1, 9)]
    below = [quantile(0.5 - (outermost - 0.5) * part / 7) for part in range(7, 0, -1)]
    return tuple(value / above[-1] for value in (*below, 0.0, *above))


_VALUES = normal_float_values()


def encode(kernel: jax.Array, quantise: Quantise) -> tuple[jax.Array, jax.Array]:
    """Returns the codes of a kernel and their scales. Each entry gets the nearest code.

    Args:
        kernel: `(in, out)`, floating-point.
        quantise: int8 or nf4.

    Returns:
        With int8: `(in, out)` int8 from −127 to 127, and `(1, out)` float32, one scale for each
        output. With nf4, for G groups of 64 inputs, the last filled up with zeros:
        `(32 G, out)` uint8, two codes in each, and `(G, out)` bfloat16. bfloat16 makes a weight
        4.25 bits; what it rounds is a scale, before the codes are chosen.

    Example:
        >>> codes, scales = encode(jnp.array([[0.5, -1.0], [0.25, 0.5]]), "int8")
        >>> codes.tolist(), (127 * scales).tolist()
        ([[127, -127], [64, 64]], [[0.5, 1.0]])
    """
    kernel = kernel.astype(jnp.float32)
    if quantise == "int8":
        scales = jnp.max(jnp.abs(kernel), axis=0, keepdims=True) / _LARGEST
        steps = jnp.round(kernel / _divisor(scales))
        return jnp.clip(steps, -_LARGEST, _LARGEST).astype(jnp.int8), scales
    inputs, outputs = kernel.shape
    padded = jnp.pad(kernel, ((0, -inputs % GROUP), (0, 0)))
    groups = padded.reshape(-1, GROUP, outputs)
    scales = jnp.max(jnp.abs(groups), axis=1).astype(jnp.bfloat16)
    shares = groups / _divisor(scales.astype(jnp.float32))[:, None]
    # Halfway between neighbours: how many borders lie below an entry is its nearest code.
    codes = jnp.zeros(shares.shape, jnp.uint8)
    for low, high in pairwise(_VALUES):
        codes += (shares > (low + high) / 2).astype(jnp.uint8)
    packed = codes[:, :_HALF] | codes[:, _HALF:] << 4
    return packed.reshape(-1, outputs), scales


def decode(codes: jax.Array, scales: jax.Array, inputs: int) -> jax.Array:
    """Returns the kernel that codes stand for, float32.

    Args:
        codes: as `encode` makes them, perhaps with leading axes; their dtype says which they are.
        scales: with the same leading axes.
        inputs: how many the kernel has, without those that fill up a group.

    Returns:
        `(..., in, out)`.

    Example:
        >>> kernel = jnp.array([[0.5, -1.0], [0.25, 0.0]])
        >>> bool(abs(decode(*encode(kernel, "nf4"), 2) - kernel).max() < 0.04)
        True
    """
    if codes.dtype == jnp.int8:
        return codes.astype(jnp.float32) * scales
    *lead, rows, outputs = codes.shape
    packed = codes.reshape(*lead, rows // _HALF, _HALF, outputs)
    shares = _chosen(jnp.concatenate([packed & 15, packed >> 4], axis=-2))
    kernel = shares * scales.astype(jnp.float32)[..., :, None, :]
    kernel = kernel.reshape(*lead, 2 * rows, outputs)
    return kernel if inputs == 2 * rows else kernel[..., :inputs, :]


def kernel_in(parameters: Mapping[str, Any]) -> jax.Array:
    """Returns the kernel of a linear layer, float32 where it is held as codes.

    Args:
        parameters: of the layer, by name. Inputs that fill up a group stay, as zeros.
    """
    if "kernel" in parameters:
        kernel: jax.Array = parameters["kernel"]
        return kernel
    codes = parameters["codes"]
    return decode(codes, parameters["scales"], codes.shape[-2] * (1 if _is_int8(codes) else 2))


def _is_int8(codes: jax.Array) -> bool:
    return bool(codes.dtype == jnp.int8)


def _divisor(scales: jax.Array) -> jax.Array:
    """The scales, 1 in the place of 0: entries that are all zero stay so."""
    return jnp.where(scales == 0, 1.0, scales)


def _chosen(codes: jax.Array) -> jax.Array:
    """The value of each code, float32: 15 selections, which are faster than a look-up."""
    values: list[Any] = [jnp.float32(value) for value in _VALUES]
    for bit in range(4):
        is_set = (codes >> bit) & 1 != 0
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(is_set, high, low) for low, high in pairs]
    chosen: jax.Array = values[0]
    return chosen
