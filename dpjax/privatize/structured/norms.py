"""L2 norms of per-example gradients from their pieces, without forming the gradients.

Every function sees one example and is meant for `jax.vmap`. Arrays are scaled by powers of two
first, so that squares neither overflow nor vanish; everything is float32.

For a contraction with a `(T, d)` and g `(T, p)` there are two ways (Goodfellow 2015,
arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679, section 4): ‖aᵀg‖² = Σ_{t,s} (a_t·a_s)(g_t·g_s),
or forming aᵀg.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.privatize.structured.cost import Budget, use_gram
from dpjax.privatize.structured.layout import Box, box_of, overlap
from dpjax.privatize.structured.moves import apply_moves, factor_of
from dpjax.privatize.structured.pieces import (
    ContractionArrays,
    DenseArray,
    Piece,
    RowsArrays,
)
from dpjax.privatize.structured.products import product

# A Gram form is a sum of large products that may cancel; a norm that comes out too small would let
# an example contribute more than the clip norm. Rounding of T² products of size xₜ·xₛ, with
# xₜ = ‖aₜ‖‖gₜ‖, adds up to about 2⁻²⁴·√(Σ xₜ²xₛ²) = 2⁻²⁴·Σ xₜ²; eight times that is added to the
# square. Norms are thus rather too large, by 2.4e-7·Σ xₜ²/‖aᵀg‖² of themselves, which matters only
# where the gradients of tokens nearly cancel.
_GRAM_MARGIN = 2.0**-21


def norm(pieces: Sequence[Piece], budget: Budget) -> jax.Array:
    """‖Σ pieces‖₂, float32 scalar; NaN or inf where an entry is not finite."""
    if not pieces:
        return jnp.zeros((), jnp.float32)
    if len(pieces) == 1:
        return factor_of(pieces[0].form.moves) * _norm_of_one(pieces[0], budget)
    boxes = [box_of(piece.form) for piece in pieces]
    clusters = _clusters(boxes)
    if clusters is None:
        return dense_norm(sum(form(piece) for piece in pieces))
    return hypot(
        [
            _norm_of_cluster([pieces[i] for i in cluster], [boxes[i] for i in cluster], budget)
            for cluster in clusters
        ]
    )


def hypot(norms: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """√Σ nᵢ² without overflow; NaN and inf pass through."""
    norms = jnp.stack(norms) if isinstance(norms, Sequence) else norms.reshape(-1)
    if norms.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = _power_of_two(norms)
    return scale * jnp.sqrt(jnp.sum(jnp.square(norms / scale)))


def dense_norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ over all axes."""
    x = x.astype(jnp.float32)
    if x.size == 0:
        return jnp.zeros((), jnp.float32)
    scale = _power_of_two(x)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def form(piece: Piece) -> jax.Array:
    """The gradient of one example that a piece stands for, in the parameter's shape, float32."""
    arrays = piece.arrays
    if isinstance(arrays, ContractionArrays):
        x = _product(arrays)
    elif isinstance(arrays, RowsArrays):
        x = jnp.zeros((piece.form.num_rows, arrays.updates.shape[1]), jnp.float32)
        x = x.at[arrays.ids].add(arrays.updates.astype(jnp.float32))
    else:
        x = arrays.x.astype(jnp.float32)
    return apply_moves(piece.form.moves, x.reshape(piece.form.shape))


def _power_of_two(x: jax.Array) -> jax.Array:
    """The power of two at the largest entry, within [2⁻¹²⁵, 2¹²⁶]: dividing is exact."""
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), initial=0.0)
    # The exponent bits alone: `frexp` and `ldexp` are dozens of operations, for every parameter.
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return jax.lax.clamp(jnp.float32(2.0**-125), power, jnp.float32(2.0**126))


def _normalised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    scale = _power_of_two(x)
    return x / scale.astype(x.dtype), scale


def _norm_of_one(piece: Piece, budget: Budget) -> jax.Array:
    arrays = piece.arrays
    if isinstance(arrays, DenseArray):
        return dense_norm(arrays.x)
    if isinstance(arrays, RowsArrays):
        updates, scale = _normalised(arrays.updates)
        return scale * _root(_rows_square(RowsArrays(arrays.ids, updates)))
    return _contraction_norm(arrays, budget)


def _contraction_norm(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    a, a_scale = _normalised(arrays.a)
    g, g_scale = _normalised(arrays.g)
    # One after the other: the product of the scales may leave the range of float32 first.
    return _contraction_root(ContractionArrays(a, g), budget) * a_scale * g_scale


def _contraction_root(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    _, length, inputs = arrays.a.shape
    outputs = arrays.g.shape[2]
    if use_gram(length, inputs, outputs):
        return _root(_gram_square(arrays, budget) + _GRAM_MARGIN * _sum_of_squares(arrays))
    return dense_norm(_product(arrays))


def _root(square: jax.Array) -> jax.Array:
    # Rounding may leave a sum of products that cancel slightly below zero. NaN passes.
    return jnp.sqrt(jnp.where(square < 0, 0.0, square))


def _product(arrays: ContractionArrays) -> jax.Array:
    return product("ntd,ntp->ndp", arrays.a, arrays.g)


def _gram_square(arrays: ContractionArrays, budget: Budget) -> jax.Array:
    """Σ_n Σ_{t,s} (a_nt · a_ns)(g_nt · g_ns) = ‖aᵀg‖², in blocks of t."""
    groups, length, _ = arrays.a.shape
    block = budget.gram_block(groups, length, length)

    def of_block(a: jax.Array, g: jax.Array) -> jax.Array:
        first = product("ntd,nsd->nts", a, arrays.a)
        second = product("ntp,nsp->nts", g, arrays.g)
        return jnp.sum(first * second)

    return _in_blocks(of_block, [arrays.a, arrays.g], 1, block)


def _sum_of_squares(arrays: ContractionArrays) -> jax.Array:
    """Σ_t ‖a_t‖² ‖g_t‖²: the square if the gradients of all tokens were orthogonal."""
    a, g = (jnp.sum(jnp.square(x.astype(jnp.float32)), axis=2) for x in arrays)
    return jnp.sum(a * g)


def _rows_square(rows: RowsArrays) -> jax.Array:
    """Σ over rows ‖Σ_{t: ids_t = row} u_t‖², by sorting: no T × T array."""
    order = jnp.argsort(rows.ids)
    ids, updates = rows.ids[order], rows.updates[order].astype(jnp.float32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), (ids[1:] != ids[:-1]).astype(jnp.int32)])
    segments = jnp.cumsum(starts)
    sums = jax.ops.segment_sum(
        updates, segments, num_segments=ids.shape[0], indices_are_sorted=True
    )
    return jnp.sum(jnp.square(sums))


def _clusters(boxes: Sequence[Box | None]) -> list[list[int]] | None:
    """Pieces in one place together, others apart; None if places overlap partly or are unknown."""
    clusters: list[list[int]] = []
    for index, box in enumerate(boxes):
        if box is None:
            return None
        for cluster in clusters:
            members = [boxes[member] for member in cluster]
            if members[0].place == box.place:
                if not all(member.matches(box) for member in members):
                    return None
                cluster.append(index)
                break
            if overlap(members[0], box):
                return None
        else:
            clusters.append([index])
    return clusters


def _norm_of_cluster(pieces: Sequence[Piece], boxes: Sequence[Box], budget: Budget) -> jax.Array:
    """Pieces that share every axis: norms of all, and 2⟨piece, piece'⟩ of all pairs."""
    if len(pieces) == 1:
        return factor_of(pieces[0].form.moves) * _norm_of_one(pieces[0], budget)
    reference = next((box for box in boxes if box.is_table), boxes[0])
    contractions, rows = [], []
    for piece, box in zip(pieces, boxes, strict=True):
        aligned = box.aligned_with(reference, piece)
        (contractions if isinstance(aligned, ContractionArrays) else rows).append(aligned)
    contraction = _along_time(contractions, 1)
    table = _along_time(rows, 0)
    if table is None:
        return _contraction_norm(contraction, budget)
    return _norm_of_both(contraction, table, budget)


def _along_time(arrays: Sequence, axis: int):
    """Several pieces of one kind are one, with a longer time."""
    if not arrays:
        return None
    kind = type(arrays[0])
    parts = zip(*arrays, strict=True)
    if kind is RowsArrays:
        return RowsArrays(*[jnp.concatenate(part, axis=0) for part in parts])
    return ContractionArrays(*[jnp.concatenate(part, axis=axis) for part in parts])


def _norm_of_both(
    contraction: ContractionArrays | None, rows: RowsArrays, budget: Budget
) -> jax.Array:
    """A table that is both looked up and contracted: a `(1, T, V)`, g `(1, T, K)`.

    The cross term is Σ_{t,s} a[s, ids_t] (u_t · g_s): a gather of (T, T), never a (V, K) array.
    """
    updates, rows_scale = _normalised(rows.updates)
    if contraction is None:
        return rows_scale * _root(_rows_square(RowsArrays(rows.ids, updates)))
    a, a_scale = _normalised(contraction.a)
    g, g_scale = _normalised(contraction.g)
    own = _contraction_root(ContractionArrays(a, g), budget)
    looked_up = _root(_rows_square(RowsArrays(rows.ids, updates)))

    def cross_of_block(ids: jax.Array, updates: jax.Array) -> jax.Array:
        picked = jnp.take(a[0], ids, axis=1).astype(jnp.float32)
        return jnp.sum(picked * product("sk,tk->st", g[0], updates))

    block = budget.gram_block(1, rows.ids.shape[0], a.shape[1])
    cross = _in_blocks(cross_of_block, [rows.ids, updates], 0, block)
    # own and looked_up are in units of their scales; bring both to the larger one.
    product_scale = a_scale * g_scale
    scale = jnp.maximum(product_scale, rows_scale)
    x, y = product_scale / scale, rows_scale / scale
    square = jnp.square(own * x) + jnp.square(looked_up * y) + 2.0 * cross * x * y
    apart = _sum_of_squares(ContractionArrays(a, g)) * jnp.square(x)
    apart += jnp.sum(jnp.square(updates.astype(jnp.float32))) * jnp.square(y)
    square += _GRAM_MARGIN * apart
    return scale * _root(square)


def _in_blocks(function, operands: list[jax.Array], axis: int, block: int) -> jax.Array:
    """Σ of `function` over blocks of the operands along `axis`, one block after another."""
    length = operands[0].shape[axis]
    if block >= length:
        return function(*operands)
    whole = length // block * block

    def split(x: jax.Array) -> jax.Array:
        kept = jax.lax.slice_in_dim(x, 0, whole, axis=axis)
        shape = (*x.shape[:axis], whole // block, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(kept.reshape(shape), axis, 0)

    def step(total: jax.Array, parts: list[jax.Array]) -> tuple[jax.Array, None]:
        return total + function(*parts), None

    total, _ = jax.lax.scan(step, jnp.zeros((), jnp.float32), [split(x) for x in operands])
    if whole < length:
        total = total + function(
            *[jax.lax.slice_in_dim(x, whole, length, axis=axis) for x in operands]
        )
    return total
