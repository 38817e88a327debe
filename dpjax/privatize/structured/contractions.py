"""‖Σ_t a_t ⊗ g_t‖ of one example, from products of tokens (Gram) or by forming it, in blocks.

There are two ways (Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679, section 4):
‖aᵀg‖² = Σ_{t,s} (a_t·a_s)(g_t·g_s), or forming aᵀg. Operands may be as large as the logits of a
language model, so that no copy of a whole one is made: they are read in slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.privatize.structured.methods import Budget, gram_block, use_gram
from dpjax.privatize.structured.pieces import ContractionArrays
from dpjax.privatize.structured.products import product
from dpjax.privatize.structured.scaling import (
    dense_norm,
    is_moderate,
    normalised,
    power_of_two,
    root,
)

# A Gram form is a sum of large products that may cancel; a norm that comes out too small would let
# an example contribute more than the clip norm. Rounding of T² products of size xₜ·xₛ, with
# xₜ = ‖aₜ‖‖gₜ‖, adds up to about 2⁻²⁴·√(Σ xₜ²xₛ²) = 2⁻²⁴·Σ xₜ²; eight times that is added to the
# square. Norms are thus rather too large, by 2.4e-7·Σ xₜ²/‖aᵀg‖² of themselves, which matters only
# where the gradients of tokens nearly cancel.
GRAM_MARGIN = 2.0**-21


def contraction_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """‖Σ_t a[..., t, :] ⊗ g[..., t, :]‖ over all groups together, float32 scalar.

    Never too small, but rather too large: by `GRAM_MARGIN`, by what squares below the range of
    float32 may lose (visible where all entries are below about 1e-14), and up to ‖a‖‖g‖ where
    entries are above 1e15.
    """
    return norm_and_apart(arrays, budget)[0]


def norm_and_apart(arrays: ContractionArrays, budget: Budget) -> tuple[jax.Array, jax.Array]:
    """`contraction_norm`, and what it would be if the gradients of all tokens were orthogonal.

    The latter, √Σ_t ‖a_t‖²‖g_t‖², is what rounding errors of sums over pairs of tokens are about.
    """
    length, inputs = arrays.a.shape[-2:]
    if use_gram(length, inputs, arrays.g.shape[-1]):
        return _gram_norm(arrays, budget)
    return _formed_norm(arrays, budget), _tokens_apart(arrays, budget)


class GramSums(NamedTuple):
    """Sums over tokens, in units of `scale` and of its square.

    Attributes:
        square: Σ_{t,s} (a_t·a_s)(g_t·g_s) = ‖aᵀg‖².
        apart: Σ_t ‖a_t‖²‖g_t‖², the square if the tokens' gradients were orthogonal.
        lost: at most what entries of g, whose squares may have vanished, add to the norm.
        scale: a power of two.
    """

    square: jax.Array
    apart: jax.Array
    lost: jax.Array
    scale: jax.Array


def gram_sums(arrays: ContractionArrays, budget: Budget) -> GramSums:
    """The sums for g with entries below 1e15, where g is the larger operand.

    Products of g are taken before they are scaled, so that no scaled copy of it is made.
    """
    length = arrays.a.shape[-2]
    block = gram_block(length, arrays.num_groups, budget)
    a, a_scale = normalised(arrays.a)
    g_scale = power_of_two(arrays.g)

    def of_pair(first: int | jax.Array, second: int | jax.Array) -> jax.Array:
        """Sums over t in one block and s in another: of all pairs, of t = s, and of ‖a_t‖."""
        a_gram = product("...td,...sd->...ts", _rows(a, first, block), _rows(a, second, block))
        g_gram = product(
            "...td,...sd->...ts", _rows(arrays.g, first, block), _rows(arrays.g, second, block)
        )
        counts = _new(first, block, length)
        together = a_gram * (g_gram / g_scale / g_scale)
        together = together * (counts[:, None] * _new(second, block, length))
        a_lengths = jnp.sqrt(jnp.diagonal(a_gram, axis1=-2, axis2=-1)) * counts
        sums = [jnp.sum(jnp.diagonal(together, axis1=-2, axis2=-1)), jnp.sum(a_lengths)]
        # The Gram matrices are symmetric: a pair of different blocks counts twice.
        same = first == second
        return jnp.stack(
            [jnp.where(same, 1.0, 2.0) * jnp.sum(together)]
            + [jnp.where(same, x, 0.0) for x in sums]
        )

    pairs = np.array([(i, j) for i in range(-(-length // block)) for j in range(i + 1)], np.int32)
    if len(pairs) == 1:
        sums = of_pair(0, 0)
    else:
        sums, _ = jax.lax.scan(
            lambda total, pair: (total + of_pair(pair[0], pair[1]), None),
            jnp.zeros(3, jnp.float32),
            jnp.asarray(pairs),
        )
    square, apart, a_lengths = sums
    vanished = math.sqrt(arrays.g.shape[-1]) * 2.0**-62 / g_scale
    return GramSums(square, apart, vanished * a_lengths, a_scale * g_scale)


def _gram_norm(arrays: ContractionArrays, budget: Budget) -> tuple[jax.Array, jax.Array]:
    if arrays.a.shape[-1] > arrays.g.shape[-1]:
        arrays = ContractionArrays(arrays.g, arrays.a)
    sums = gram_sums(arrays, budget)
    own = sums.scale * (root(sums.square + GRAM_MARGIN * sums.apart) + sums.lost)
    bound = norm_bound(arrays)
    inside = is_moderate(arrays.g)
    apart = sums.scale * (jnp.sqrt(sums.apart) + sums.lost)
    return jnp.where(inside, own, bound), jnp.where(inside, apart, bound)


def norm_bound(arrays: ContractionArrays) -> jax.Array:
    """‖a‖‖g‖ ≥ ‖aᵀg‖ (Cauchy-Schwarz), whatever the range of the entries."""
    return dense_norm(arrays.a) * dense_norm(arrays.g)


def rounding_slack(arrays: ContractionArrays) -> jax.Array | float:
    """By how much aᵀg may grow when one operand is scaled and rounded to its own precision again.

    u·Σ_t ‖a_t‖‖g_t‖ with the unit round-off u of the shorter format, 2⁻⁸ for bfloat16. Nothing for
    float32, where it is covered by the margin on the clip factor.
    """
    short = [x.dtype for x in arrays if x.dtype != jnp.float32]
    if not short:
        return 0.0
    unit = max(float(jnp.finfo(dtype).eps) / 2 for dtype in short)
    lengths, scale = 1.0, 1.0
    for x in arrays:
        own = power_of_two(x)
        lengths *= jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32) / own), axis=-1))
        scale *= own
    return unit * scale * jnp.sqrt(jnp.sum(jnp.square(jnp.sum(lengths, axis=-1))))


def formed(arrays: ContractionArrays) -> jax.Array:
    """Σ_t a[..., t, :] ⊗ g[..., t, :], `(..., d, p)` float32."""
    return product("...td,...tp->...dp", arrays.a, arrays.g)


def in_slices(
    length: int,
    block: int,
    function: Callable[[Any, jax.Array], jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add,
) -> jax.Array:
    """Combines `function(start, counts)` over slices; `counts` is 0 for what came before.

    The last slice starts early enough to be whole.
    """
    if block >= length:
        return function(0, jnp.ones(length, jnp.float32))

    def step(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.minimum(index * block, length - block)
        return combine(total, function(start, _new(index, block, length))), None

    count = -(-length // block)
    total, _ = jax.lax.scan(step, jnp.zeros((), jnp.float32), jnp.arange(count, dtype=jnp.int32))
    return total


def _formed_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """By forming aᵀg, a slice of columns at a time where the whole would be over the budget."""
    inputs, outputs = arrays.a.shape[-1], arrays.g.shape[-1]
    if inputs > outputs:
        return _formed_norm(ContractionArrays(arrays.g, arrays.a), budget)
    block = budget.portion(outputs, arrays.num_groups * inputs)
    if block >= outputs:
        return dense_norm(formed(arrays))

    def of_slice(start: Any, counts: jax.Array) -> jax.Array:
        g = jax.lax.dynamic_slice_in_dim(arrays.g, start, block, axis=-1)
        return dense_norm(formed(ContractionArrays(arrays.a, g)) * counts)

    return in_slices(outputs, block, of_slice, jnp.hypot)


def _tokens_apart(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    length = arrays.a.shape[-2]
    block = budget.portion(length, arrays.num_groups * max(x.shape[-1] for x in arrays))
    scales = [power_of_two(x) for x in arrays]

    def of_slice(start: Any, counts: jax.Array) -> jax.Array:
        squares = counts
        for x, scale in zip(arrays, scales, strict=True):
            part = jax.lax.dynamic_slice_in_dim(x, start, block, axis=-2)
            squares *= jnp.sum(jnp.square(part.astype(jnp.float32) / scale), axis=-1)
        return jnp.sum(squares)

    return scales[0] * scales[1] * jnp.sqrt(in_slices(length, block, of_slice))


def _rows(x: jax.Array, index: int | jax.Array, block: int) -> jax.Array:
    length = x.shape[-2]
    if block >= length:
        return x
    return jax.lax.dynamic_slice_in_dim(x, jnp.minimum(index * block, length - block), block, -2)


def _new(index: int | jax.Array, block: int, length: int) -> jax.Array:
    """1 for what belongs to a slice, 0 for what belongs to the one before; `(block,)` float32."""
    positions = jnp.minimum(index * block, length - block) + jnp.arange(block)
    return (positions >= index * block).astype(jnp.float32)
