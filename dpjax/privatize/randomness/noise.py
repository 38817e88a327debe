"""Gaussian noise in float32, and the noisy mean that an optimizer consumes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from dpjax_accounting import Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.explicit_axes import explicit_mesh, with_automatic_axes
from dpjax.privatize.randomness.step_noise import step_noise
from dpjax.privatize.untrained_leaves import split, with_zeros

# `jax.random.normal` maps 23 random bits through the inverse CDF: a float32 draw never leaves
# [-5.42, 5.22]. The sum of four independent draws, halved, is again standard normal and reaches
# beyond 10 standard deviations (Holohan & Braghin 2021, "Secure Random Sampling in Differential
# Privacy", section 4).
NUM_DRAWS = 4

NOISE_VERSION = 3
"""Is raised whenever the same keys give other noise. A run that goes on with other noise than it
began with could release one step twice, with two draws."""

# Fewer entries would be drawn faster together than one such array after the other.
_SMALLEST_IN_A_LOOP = 2**14


@jax.named_scope("noise")
def gaussian_noise(keys: jax.Array, like: PyTree, stddev: float | jax.Array) -> PyTree:
    """Independent N(0, stddev²) noise for every coordinate of `like`, float32.

    Under a mesh, inside `jax.jit`, it is the same noise as on one device, drawn once for the whole
    array. Each device draws the part that it holds, where devices share the longest axis.

    Args:
        keys: `(4,)` typed JAX keys, used for nothing else; `RunKey.noise_keys` makes them.
        like: pytree of float32 arrays, which give the shapes.
        stddev: standard deviation per coordinate, ≥ 0.

    Raises:
        TypeError: a leaf is not float32. A bfloat16 draw has 128 distinct values and hides nothing.
        ValueError: `keys` has another shape, or a concrete `stddev` is negative or not finite.

    Example:
        >>> from dpjax import RunKey
        >>> keys = RunKey.from_os_entropy().noise_keys(step=0)
        >>> noise = gaussian_noise(keys, {"w": jnp.zeros((300, 200))}, stddev=2.0)
        >>> noise["w"].shape, noise["w"].dtype, round(float(noise["w"].std()), 1)
        ((300, 200), dtype('float32'), 2.0)
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != (NUM_DRAWS,):
        raise ValueError(f"keys must be {NUM_DRAWS} typed JAX keys, got {keys.shape} {keys.dtype}")
    if isinstance(stddev, (int, float)) and not (math.isfinite(stddev) and stddev >= 0):
        raise ValueError(f"stddev must be finite and not negative, got {stddev}")
    for leaf in jax.tree.leaves(like):
        if leaf.dtype != jnp.float32:
            raise TypeError(
                f"noise is drawn in float32 only, got a leaf of dtype {leaf.dtype}: add noise to "
                "the float32 sum, and convert afterwards"
            )
    mesh = explicit_mesh(like)
    if mesh is not None:
        draw = lambda like, keys: (_draw(like, keys, stddev),)  # noqa: E731
        return with_automatic_axes(draw, mesh, like, keys)[0]
    return _draw(like, keys, stddev)


def _draw(like: PyTree, keys: jax.Array, stddev: float | jax.Array) -> PyTree:
    # One draw for all leaves of a shape: a generator per leaf takes the compiler twice the time,
    # and one for all leaves together would be cut across the devices that the leaves are spread on.
    leaves, treedef = jax.tree.flatten(like)
    of_shape: dict[tuple[int, ...], list[int]] = {}
    for index, leaf in enumerate(leaves):
        of_shape.setdefault(leaf.shape, []).append(index)
    noise: list[Any] = [None] * len(leaves)
    for number, (shape, members) in enumerate(of_shape.items()):
        own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        drawn = stddev * _stacked(own_keys, (len(members), *shape))
        for row, index in enumerate(members):
            noise[index] = drawn[row]
    return jax.tree.unflatten(treedef, noise)


def _stacked(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal draws, those of large matrices one matrix after the other.

    The compiler for TPUs takes far longer for a generator of three axes than for one of two. No
    loop goes along the longest axis, which devices share as a rule. Where they share an axis that a
    loop goes along, each of them draws all of it.
    """
    count, *rest = shape
    if len(rest) < 2 or count >= max(rest) or math.prod(rest) < _SMALLEST_IN_A_LOOP:
        return _standard_normal(keys, shape)

    def draw_next(_: None, number: jax.Array) -> tuple[None, jax.Array]:
        own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        return None, _stacked(own_keys, tuple(rest))

    _, drawn = jax.lax.scan(draw_next, None, jnp.arange(count, dtype=jnp.uint32))
    return drawn


def _standard_normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.random.normal(key, shape, jnp.float32), None

    # A loop, for the compiler's sake.
    total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), keys)
    return total / math.sqrt(NUM_DRAWS)


def noisy_mean(
    clipped_sum: PyTree,
    noise_keys: jax.Array,
    *,
    mechanism: Mechanism,
    clip_norm: float | jax.Array,
) -> PyTree:
    """(Σᵢ cᵢ gᵢ + N(0, σ²C²)) / B: the private gradient of one step (Abadi et al. 2016, Alg. 1).

    σ and B are the noise multiplier and the expected batch size of `mechanism`, the description
    that the accountant reads too. B is a public constant, never the realised batch size. σ counts
    in clip norms whatever the neighbouring relation.

    Args:
        clipped_sum: `ClippedGrad.grads` summed over all microbatches and devices of the step.
        noise_keys: `RunKey.noise_keys(step)`, each step's own.
        mechanism: of the run; each of its steps has the same noise, independent of the others.
        clip_norm: C, the one the sum was clipped with: `ClippedGradFn.clip_norm`, whatever the
            clipping rule.

    Returns:
        float32, the structure of `clipped_sum`; zeros for integer and boolean leaves, which are not
        trained, whatever they hold.

    Raises:
        TypeError: the mechanism describes other noise, or as for `gaussian_noise`.
        ValueError: the mechanism does not say how large a batch is.

    Example:
        The noise of every coordinate has standard deviation σC/B = 1.5 × 2 / 10.

        >>> from dpjax import RunKey
        >>> from dpjax_accounting import DPSGD
        >>> mechanism = DPSGD(
        ...     num_units=100, expected_batch_size=10, noise_multiplier=1.5, num_steps=20
        ... )
        >>> keys = RunKey.from_os_entropy().noise_keys(step=0)
        >>> mean = noisy_mean(jnp.zeros(50_000), keys, mechanism=mechanism, clip_norm=2.0)
        >>> round(float(mean.std()), 2)
        0.3
    """
    noise_multiplier, batch_size = step_noise(mechanism)
    return mean_with_noise(clipped_sum, noise_keys, noise_multiplier * clip_norm, batch_size)


def mean_with_noise(
    clipped_sum: PyTree,
    noise_keys: jax.Array,
    stddev: float | jax.Array,
    batch_size: float | jax.Array,
) -> PyTree:
    """Returns (`clipped_sum` + N(0, stddev²)) / batch_size, as `noisy_mean`.

    Args:
        clipped_sum: pytree; its float leaves are float32.
        noise_keys: `(4,)` typed JAX keys.
        stddev: of the noise per coordinate, σC.
        batch_size: B, a public number, in units.
    """
    trained, fixed = split(clipped_sum)
    noise = gaussian_noise(noise_keys, trained, stddev)
    mean = jax.tree.map(lambda g, z: (g + z) / batch_size, trained, noise)
    return with_zeros(mean, fixed)
