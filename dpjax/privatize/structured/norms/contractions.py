"""‖Σ_t a_t ⊗ g_t‖ of one example, from products of tokens (Gram) or by forming it, in blocks.

There are two ways (Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679, section 4):
‖aᵀg‖² = Σ_{t,s} (a_t·a_s)(g_t·g_s), or forming aᵀg. Operands may be as large as the logits of a
language model, so that no copy of a whole one is made: they are read in slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpjax.privatize.devices.varying import axes_of, vary
from dpjax.privatize.float32.products import product
from dpjax.privatize.float32.scaling import dense_norm, enlarged, hypot, power_of_two, root
from dpjax.privatize.structured.costs.methods import Budget, gram_block, use_gram
from dpjax.privatize.structured.terms.pieces import ContractionArrays

# A Gram form is a sum of large products that may cancel; a norm that comes out too small would let
# an example contribute more than the clip norm. Rounding of T² products of size xₜ·xₛ, with
# xₜ = ‖aₜ‖‖gₜ‖, adds up to about 2⁻²⁴·√(Σ xₜ²xₛ²) = 2⁻²⁴·Σ xₜ²; eight times that is added to the
# square. Norms are thus rather too large, by 2.4e-7·Σ xₜ²/‖aᵀg‖² of themselves, which matters only
# where the gradients of tokens nearly cancel.
GRAM_MARGIN = 2.0**-21


def contraction_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """‖Σ_t a[..., t, :] ⊗ g[..., t, :]‖ over all groups together, float32 scalar.

    A Gram form is rather too large than too small: by `GRAM_MARGIN`, and by what squares below
    the range of float32 may lose (visible where gradients are below about 1e-14). It is inf or NaN
    where squares leave that range, for gradients above about 1e18: such an example counts as
    broken.
    """
    length, inputs = arrays.a.shape[-2:]
    outputs = arrays.g.shape[-1]
    if use_gram(length, inputs, outputs):
        # Products of tokens add up `inputs` and `outputs` values, their squares two axes of tokens.
        return enlarged(_gram_norm(arrays, budget), 2 * length + (inputs + outputs) / 2)
    return enlarged(_formed_norm(arrays, budget), length)


@jax.named_scope("gram")
def _gram_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """√(Σ_{t,s} (a_t·a_s)(g_t·g_s) + margin), with nothing of it scaled.

    Scaling would take longer to compile, for one parameter of many, than all the rest.
    """
    length, inputs = arrays.a.shape[-2:]
    outputs = arrays.g.shape[-1]
    block = gram_block(length, arrays.num_groups, budget)

    def sum_pair(first: int | jax.Array, second: int | jax.Array) -> jax.Array:
        """The square with its margin, and `lost`, for t in one block and s in another; `(2,)`."""
        a, g = (
            product("...td,...sd->...ts", _rows(x, first, block), _rows(x, second, block))
            for x in arrays
        )
        new = jnp.outer(_new(first, block, length), _new(second, block, length))
        same = first == second
        diagonal = jnp.where(same, jnp.eye(block, dtype=jnp.float32), 0.0) * new
        # The Gram matrices are symmetric: a pair of different blocks counts twice.
        square = a * g * (jnp.where(same, 1.0, 2.0) * new + GRAM_MARGIN * diagonal)
        # `root` has a derivative at zero; a value without any would break that of the reduction.
        lengths = math.sqrt(outputs) * root(jnp.abs(a)) + math.sqrt(inputs) * root(jnp.abs(g))
        return jnp.stack(_two_sums(square, (1 + lengths) * diagonal))

    pairs = np.array([(i, j) for i in range(-(-length // block)) for j in range(i + 1)], np.int32)
    if len(pairs) == 1:
        sums = sum_pair(0, 0)
    else:
        sums, _ = jax.lax.scan(
            lambda total, pair: (total + sum_pair(pair[0], pair[1]), None),
            vary(jnp.zeros(2, jnp.float32), axes_of(arrays)),
            jnp.asarray(pairs),
        )
    square, lost = sums
    # Squares of entries below 2⁻⁶³ vanish: those of g take at most 2⁻⁶³·√p·‖a_t‖ of every token's
    # share of the norm, those of a likewise; and products of two Gram entries that vanish, at most
    # 2⁻⁶³. Twice the sum is allowed for.
    return root(square) + 2.0**-62 * lost


def _two_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums over all axes, together: compilers take long over many small reductions.

    One axis of tokens after the other: fewer additions in a row round less.
    """
    zero = jnp.zeros((), jnp.float32)
    for axes in ((x.ndim - 2,), tuple(range(x.ndim - 1))):
        x, y = jax.lax.reduce((x, y), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), axes)
    return x, y


def rounding_slack(arrays: ContractionArrays) -> jax.Array | float:
    """By how much aᵀg may grow when a bfloat16 operand is scaled and rounded to bfloat16 again.

    u·Σ_t ‖a_t‖‖g_t‖ with the unit round-off u = 2⁻⁸. Nothing for other formats, which are scaled in
    float32: the margin on the clip factor is for that.
    """
    if all(x.dtype != jnp.bfloat16 for x in arrays):
        return 0.0
    unit = float(jnp.finfo(jnp.bfloat16).eps) / 2
    lengths: jax.Array | float = 1.0
    scale: jax.Array | float = 1.0
    for x in jax.lax.stop_gradient(arrays):
        power = power_of_two(x)
        lengths *= jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32) / power), axis=-1))
        scale *= power
    return unit * scale * jnp.sqrt(jnp.sum(jnp.square(jnp.sum(lengths, axis=-1))))


def formed(arrays: ContractionArrays) -> jax.Array:
    """Σ_t a[..., t, :] ⊗ g[..., t, :], `(..., d, p)` float32."""
    return product("...td,...tp->...dp", arrays.a, arrays.g)


def in_slices(
    length: int,
    block: int,
    function: Callable[[Any, jax.Array], jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add,
    axes: frozenset[str] = frozenset(),
) -> jax.Array:
    """Combines `function(start, counts)` over slices; `counts` is 0 for what came before.

    The last slice starts early enough to be whole. The results vary over the `axes` of a mesh.
    """
    if block >= length:
        return function(0, jnp.ones(length, jnp.float32))

    def step(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.minimum(index * block, length - block)
        return combine(total, function(start, _new(index, block, length))), None

    count = -(-length // block)
    start = vary(jnp.zeros((), jnp.float32), axes)
    total, _ = jax.lax.scan(step, start, jnp.arange(count, dtype=jnp.int32))
    return total


def _formed_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """By forming aᵀg, a slice of columns at a time where the whole would be over the budget."""
    inputs, outputs = arrays.a.shape[-1], arrays.g.shape[-1]
    if inputs > outputs:
        return _formed_norm(ContractionArrays(arrays.g, arrays.a), budget)
    block = budget.portion(outputs, arrays.num_groups * inputs)
    if block >= outputs:
        return dense_norm(formed(arrays))

    def measure_slice(start: Any, counts: jax.Array) -> jax.Array:
        g = jax.lax.dynamic_slice_in_dim(arrays.g, start, block, axis=-1)
        columns = formed(ContractionArrays(arrays.a, g))
        return dense_norm(columns * counts.reshape(*[1] * (columns.ndim - 1), block))

    return in_slices(outputs, block, measure_slice, _both, axes_of(arrays))


def _both(first: jax.Array, second: jax.Array) -> jax.Array:
    return hypot([first, second])


def norm_if_orthogonal(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """√Σ_t ‖a_t‖²‖g_t‖², what rounding errors of sums over pairs of tokens are about."""
    length = arrays.a.shape[-2]
    block = budget.portion(length, arrays.num_groups * max(x.shape[-1] for x in arrays))
    arrays = jax.lax.stop_gradient(arrays)
    scales = [power_of_two(x) for x in arrays]

    def sum_slice(start: Any, counts: jax.Array) -> jax.Array:
        squares = counts
        for x, scale in zip(arrays, scales, strict=True):
            part = jax.lax.dynamic_slice_in_dim(x, start, block, axis=-2)
            squares *= jnp.sum(jnp.square(part.astype(jnp.float32) / scale), axis=-1)
        return jnp.sum(squares)

    square = in_slices(length, block, sum_slice, axes=axes_of(arrays))
    return scales[0] * scales[1] * jnp.sqrt(square)


def _rows(x: jax.Array, index: int | jax.Array, block: int) -> jax.Array:
    length = x.shape[-2]
    if block >= length:
        return x
    return jax.lax.dynamic_slice_in_dim(x, jnp.minimum(index * block, length - block), block, -2)


def _new(index: int | jax.Array, block: int, length: int) -> jax.Array:
    """1 for what belongs to a slice, 0 for what belongs to the one before; `(block,)` float32."""
    positions = jnp.minimum(index * block, length - block) + jnp.arange(block)
    return (positions >= index * block).astype(jnp.float32)
