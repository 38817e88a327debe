"""Gradient canaries: one coordinate each, added to a clipped sum before the noise.

They test a training loop from inside: whoever sees the noisy sums, or their total, looks at one
coordinate for each canary. The coordinates differ, so canaries disturb neither each other nor,
where the gradient is always zero, anything else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpjax.basics.typing import PyTree


def unused_coordinates(gradient: PyTree, num_canaries: int) -> np.ndarray:
    """Finds coordinates where a gradient is exactly zero, one for each canary.

    Safest is a leaf that no loss reads: train `{"model": params, "canaries": zeros(m)}` and take
    the coordinates of that leaf. Rows of an embedding that no record uses serve too.

    Args:
        gradient: pytree of float32 arrays: a clipped sum over records that touch every coordinate
            that training touches, such as all records.
        num_canaries: m.

    Returns:
        `(m,)` int32, ascending positions among all numbers of the tree, leaf after leaf in the
        order of `jax.tree.leaves`.

    Raises:
        ValueError: fewer than `num_canaries` coordinates are zero, or it is below 1.

    Example:
        >>> gradient = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([[0.0, 2.0], [0.0, 0.0]])}
        >>> unused_coordinates(gradient, 3).tolist()
        [1, 2, 4]
    """
    if num_canaries < 1:
        raise ValueError(f"num_canaries must be at least 1, got {num_canaries}")
    leaves = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(gradient)]
    zeros = np.flatnonzero(np.concatenate(leaves) == 0)
    if len(zeros) < num_canaries:
        raise ValueError(
            f"{num_canaries} canaries need as many coordinates without a gradient, got "
            f"{len(zeros)}. Add a leaf of zeros to the parameters that no loss reads"
        )
    return zeros[:num_canaries].astype(np.int32)


def add_gradient_canaries(
    clipped_sum: PyTree,
    included: ArrayLike,
    *,
    coordinates: ArrayLike,
    clip_norm: ArrayLike,
) -> PyTree:
    """Adds C·e_j to a clipped sum for each canary j that takes part in the step.

    A canary contributes a gradient of norm C, the most that clipping lets a record contribute. Add
    canaries once a step, to the sum over all microbatches, before the noise. A canary must pass the
    same Poisson sampling as a record: it takes part if its coin says "in" *and* the step draws it;
    the mechanism counts canaries among its units.

    Works inside `jax.jit`.

    Args:
        clipped_sum: pytree of float32 arrays, `ClippedGrad.grads` summed over the step.
        included: `(m,)` bool, which canaries take part in this step.
        coordinates: `(m,)` integers, different from each other, as `unused_coordinates` gives them.
        clip_norm: C, the norm that the sum was clipped with.

    Returns:
        the structure of `clipped_sum`.

    Raises:
        TypeError: a leaf is not float32.
        ValueError: shapes do not fit; concrete coordinates repeat or lie outside the tree.

    Example:
        >>> total = {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}
        >>> included = jnp.array([True, False, True])
        >>> new = add_gradient_canaries(
        ...     total, included, coordinates=jnp.array([1, 2, 5]), clip_norm=0.5
        ... )
        >>> new["a"].tolist(), new["b"].tolist()
        ([0.0, 0.5], [[0.0, 0.0], [0.0, 0.5]])
    """
    _check_coordinates(clipped_sum, coordinates)
    if jnp.shape(included) != jnp.shape(coordinates):
        raise ValueError(
            f"included must be {jnp.shape(coordinates)} like coordinates, got {jnp.shape(included)}"
        )
    heights = jnp.asarray(clip_norm, jnp.float32) * jnp.asarray(included, jnp.float32)
    places = jnp.asarray(coordinates, jnp.int32)
    leaves, treedef = jax.tree.flatten(clipped_sum)
    added, start = [], 0
    for leaf in leaves:
        inside = (places >= start) & (places < start + leaf.size)
        # One past the end: dropped. A negative index would count from the end.
        local = jnp.where(inside, places - start, leaf.size)
        flat = leaf.reshape(-1).at[local].add(heights, mode="drop")
        added.append(flat.reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(treedef, added)


def canary_coordinates(noisy: PyTree, *, coordinates: ArrayLike, clip_norm: ArrayLike) -> jax.Array:
    """Reads ⟨C·e_j, u⟩/C², the share of each canary in a noisy sum u, or in a total of them.

    Of one step it is x ~ N(b, σ²), with b = 1 if the canary took part and 0 if not, σ the noise
    multiplier. Of the sum over T steps it is the score of the canary for an attacker who sees the
    total alone, such as the final weights of plain SGD: N(k, Tσ²) after k steps with the canary.

    Works inside `jax.jit`.

    Args:
        noisy: pytree of float32 arrays: noisy *sums*. Multiply a noisy mean by the expected batch
            size first.
        coordinates: `(m,)` integers.
        clip_norm: C.

    Returns:
        `(m,)` float32, in units of C; higher is more like a member.

    Raises:
        TypeError: a leaf is not float32.
        ValueError: as for `add_gradient_canaries`.

    Example:
        >>> noisy = {"a": jnp.array([0.1, 0.6]), "b": jnp.array([-0.2])}
        >>> scores = canary_coordinates(noisy, coordinates=jnp.array([1, 2]), clip_norm=0.5)
        >>> [round(x, 3) for x in scores.tolist()]
        [1.2, -0.4]
    """
    _check_coordinates(noisy, coordinates)
    places = jnp.asarray(coordinates, jnp.int32)
    total, start = jnp.zeros(places.shape, jnp.float32), 0
    for leaf in jax.tree.leaves(noisy):
        if leaf.size:
            inside = (places >= start) & (places < start + leaf.size)
            local = jnp.clip(places - start, 0, leaf.size - 1)
            total = jnp.where(inside, leaf.reshape(-1)[local], total)
        start += leaf.size
    return total / jnp.asarray(clip_norm, jnp.float32)


def log_likelihood_ratio(
    iterates: ArrayLike, *, noise_multiplier: float, sampling_probability: float
) -> jax.Array:
    """Scores canaries by all iterates: Σ_t log(1 − q + q·exp((2x_t − 1) / (2σ²))).

    In every step a canary that is in takes part with probability q, so x_t has the density
    (1 − q)·N(0, σ²) + q·N(1, σ²); for a canary that is out it has N(0, σ²). The densities of
    N(1, σ²) and N(0, σ²) have the ratio exp((x² − (x − 1)²) / (2σ²)) = exp((2x − 1) / (2σ²)), and
    steps are independent. By the lemma of Neyman and Pearson no test of the iterates is more
    powerful.

    Works inside `jax.jit`. Scores of parts of the steps add up.

    Args:
        iterates: `(T, m)` float32, x_t of each canary, as `canary_coordinates` reads it at step t.
        noise_multiplier: σ.
        sampling_probability: q, above 0 and at most 1.

    Returns:
        `(m,)` float32, in nats; higher is more like a member.

    Raises:
        ValueError: σ is not a positive finite number, q is not in (0, 1], or `iterates` has not two
            axes.

    Example:
        With q = 1 it is Σ(2x − 1)/(2σ²).

        >>> x = jnp.array([[1.0, 0.0], [0.5, 0.25]])
        >>> log_likelihood_ratio(x, noise_multiplier=1.0, sampling_probability=1.0).tolist()
        [0.5, -0.75]
    """
    if not (np.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ValueError(f"noise_multiplier must be positive and finite, got {noise_multiplier}")
    if not 0 < sampling_probability <= 1:
        raise ValueError(
            f"sampling_probability must be above 0 and at most 1, got {sampling_probability}"
        )
    x = jnp.asarray(iterates, jnp.float32)
    if x.ndim != 2:
        raise ValueError(f"iterates must be (steps, canaries), got shape {x.shape}")
    ratios = (2 * x - 1) / (2 * noise_multiplier**2)
    if sampling_probability == 1:
        return ratios.sum(axis=0)
    absent = np.float32(np.log1p(-sampling_probability))
    present = np.float32(np.log(sampling_probability))
    return jnp.logaddexp(absent, present + ratios).sum(axis=0)


def _check_coordinates(tree: PyTree, coordinates: ArrayLike) -> None:
    size = 0
    for leaf in jax.tree.leaves(tree):
        if leaf.dtype != jnp.float32:
            raise TypeError(f"gradient canaries need float32 sums, got a leaf of {leaf.dtype}")
        size += leaf.size
    if size >= 2**31:
        raise ValueError(f"the tree must have fewer than 2**31 numbers, got {size}")
    array = jnp.asarray(coordinates)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError("coordinates must be integers of shape (m,)")
    if isinstance(coordinates, jax.core.Tracer):
        return
    places = np.asarray(coordinates)
    if len(np.unique(places)) < len(places):
        raise ValueError("coordinates must differ: canaries at one place cannot be told apart")
    if len(places) and (places.min() < 0 or places.max() >= size):
        raise ValueError(
            f"coordinates must lie between 0 and {size - 1}, got {places.min()} to {places.max()}"
        )
