"""L2 norms of per-example gradients from their pieces, without forming the gradients.

Every function sees one example and is meant for `jax.vmap`. Results are float32. Where
rounding may count they are rather too large: whoever underestimates a norm breaks the guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from dpjax.privatize.devices.varying import axes_of
from dpjax.privatize.float32.products import product
from dpjax.privatize.float32.scaling import (
    dense_norm,
    enlarged,
    hypot,
    normalised,
    power_of_two,
    root,
)
from dpjax.privatize.structured.costs.methods import Budget
from dpjax.privatize.structured.norms.contractions import (
    GRAM_MARGIN,
    contraction_norm,
    formed,
    in_slices,
    norm_if_orthogonal,
    rounding_slack,
)
from dpjax.privatize.structured.terms.layout import Box, box_of, overlap
from dpjax.privatize.structured.terms.moves import apply_moves, factor_of
from dpjax.privatize.structured.terms.pieces import (
    ContractionArrays,
    DenseArray,
    Piece,
    RowsArrays,
)


@jax.named_scope("example_norms")
def norm(pieces: Sequence[Piece], budget: Budget) -> jax.Array:
    """‖Σ pieces‖₂ and what rounding may add to it in the sum over examples, float32 scalar.

    NaN or inf where an entry is not finite.
    """
    # Operands of a shorter format are rounded once more after they were scaled (see `sums`).
    slack = sum(
        factor_of(piece.form.moves) * rounding_slack(piece.arrays)
        for piece in pieces
        if isinstance(piece.arrays, ContractionArrays)
    )
    return _exact_norm(pieces, budget) + slack


def _exact_norm(pieces: Sequence[Piece], budget: Budget) -> jax.Array:
    if not pieces:
        return jnp.zeros((), jnp.float32)
    if len(pieces) == 1:
        return factor_of(pieces[0].form.moves) * _norm_of_one(pieces[0], budget)
    all_boxes = [box_of(piece.form) for piece in pieces]
    boxes = [box for box in all_boxes if box is not None]
    clusters = _clusters(boxes) if len(boxes) == len(all_boxes) else None
    if clusters is None:
        return dense_norm(cast(jax.Array, sum(form(piece) for piece in pieces)))
    return hypot(
        [
            _norm_of_cluster([pieces[i] for i in cluster], [boxes[i] for i in cluster], budget)
            for cluster in clusters
        ]
    )


def form(piece: Piece) -> jax.Array:
    """The gradient of one example that a piece stands for, in the parameter's shape, float32."""
    arrays = piece.arrays
    if isinstance(arrays, ContractionArrays):
        x = formed(arrays)
    elif isinstance(arrays, RowsArrays):
        x = jnp.zeros((piece.form.num_rows, arrays.updates.shape[1]), jnp.float32)
        x = x.at[arrays.ids].add(arrays.updates.astype(jnp.float32))
    else:
        x = arrays.x.astype(jnp.float32)
    return apply_moves(piece.form.moves, x.reshape(piece.form.shape))


def _norm_of_one(piece: Piece, budget: Budget) -> jax.Array:
    arrays = piece.arrays
    if isinstance(arrays, DenseArray):
        return dense_norm(arrays.x)
    if isinstance(arrays, RowsArrays):
        return rows_norm(arrays)
    return contraction_norm(arrays, budget)


def rows_norm(rows: RowsArrays) -> jax.Array:
    """The norm of a table of rows, Σ_{t: ids_t = row} u_t each, by sorting: no T × T array."""
    updates, scale = normalised(rows.updates)
    return scale * enlarged(
        dense_norm(_sums_by_row(RowsArrays(rows.ids, updates))), rows.ids.shape[0]
    )


def _sums_by_row(rows: RowsArrays) -> jax.Array:
    """`(T, K)` float32: the sums of the updates of each row that occurs, then zeros."""
    order = jnp.argsort(rows.ids)
    ids, updates = rows.ids[order], rows.updates[order].astype(jnp.float32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), (ids[1:] != ids[:-1]).astype(jnp.int32)])
    segments = jnp.cumsum(starts)
    return jax.ops.segment_sum(
        updates, segments, num_segments=ids.shape[0], indices_are_sorted=True
    )


def _clusters(boxes: Sequence[Box]) -> list[list[int]] | None:
    """Pieces in one place together, others apart; None if places overlap partly."""
    clusters: list[list[int]] = []
    for index, box in enumerate(boxes):
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
    contractions: list[ContractionArrays] = []
    rows: list[RowsArrays] = []
    for piece, box in zip(pieces, boxes, strict=True):
        aligned = box.aligned_with(reference, piece)
        if isinstance(aligned, ContractionArrays):
            contractions.append(aligned)
        else:
            rows.append(aligned)
    # Several pieces of one kind are one, with a longer time.
    contraction = (
        ContractionArrays(*[_joined(part, -2) for part in zip(*contractions, strict=True)])
        if contractions
        else None
    )
    if not rows:
        assert contraction is not None
        return contraction_norm(contraction, budget)
    table = RowsArrays(*[_joined(part, 0) for part in zip(*rows, strict=True)])
    return _norm_of_both(contraction, table, budget)


def _joined(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """Arrays of one format as they are, of several in float32: JAX does not mix short formats."""
    if len({part.dtype for part in parts}) > 1:
        parts = [part.astype(jnp.float32) for part in parts]
    return jnp.concatenate(parts, axis=axis)


def _norm_of_both(
    contraction: ContractionArrays | None, rows: RowsArrays, budget: Budget
) -> jax.Array:
    """A table that is both looked up and contracted: a `(T, V)`, g `(T, K)`."""
    if contraction is None:
        return rows_norm(rows)
    return with_rows(
        [contraction_norm(contraction, budget)],
        [cross(contraction, rows, 0, budget)],
        [norm_if_orthogonal(contraction, budget)],
        rows,
    )


class Cross(NamedTuple):
    """The inner product of a contraction and rows: `value` times the three scales."""

    value: jax.Array
    scales: tuple[jax.Array, jax.Array, jax.Array]


@jax.named_scope("example_norms")
def cross(
    contraction: ContractionArrays,
    rows: RowsArrays,
    first: int,
    budget: Budget,
    factor: float = 1.0,
) -> Cross:
    """Computes factor · ⟨aᵀg, the rows of the table from `first` on⟩; a `(T, V)`, g `(T, K)`.

    Σ_{t,s} a[s, ids_t - first] (u_t · g_s): a gather of (T, T), never a (V, K) array.
    """
    g, g_scale = normalised(contraction.g)
    updates, rows_scale = normalised(rows.updates)
    a_scale = power_of_two(contraction.a)
    block = budget.portion(rows.ids.shape[0], contraction.a.shape[0])

    def cross_slice(start: Any, counts: jax.Array) -> jax.Array:
        ids, some = (jax.lax.dynamic_slice_in_dim(x, start, block) for x in (rows.ids, updates))
        picked = picked_columns(contraction.a, ids, first) / a_scale
        return jnp.sum(picked * product("sk,tk->st", g, some) * counts[None])

    value = in_slices(rows.ids.shape[0], block, cross_slice, axes=axes_of((contraction, rows)))
    return Cross(factor * value, (a_scale, g_scale, rows_scale))


def cross_of_picked(
    picked: jax.Array, g: jax.Array, rows: RowsArrays, factor: float = 1.0
) -> Cross:
    """As `cross`, where a is known at the rows that are looked up: `picked_columns`."""
    g, g_scale = normalised(g)
    updates, rows_scale = normalised(rows.updates)
    a_scale = power_of_two(picked)
    value = jnp.sum(picked / a_scale * product("sk,tk->st", g, updates))
    return Cross(factor * value, (a_scale, g_scale, rows_scale))


def picked_columns(a: jax.Array, ids: jax.Array, first: int | jax.Array) -> jax.Array:
    """a[:, ids - first] `(T, S)` float32, 0 where there is no such column."""
    columns = ids - first
    there = (columns >= 0) & (columns < a.shape[1])
    picked = jnp.take(a, columns, axis=1, mode="clip").astype(jnp.float32)
    return jnp.where(there, picked, 0.0)


@jax.named_scope("example_norms")
def with_rows(
    norms: Sequence[jax.Array],
    crosses: Sequence[Cross],
    orthogonal: Sequence[jax.Array],
    rows: RowsArrays,
) -> jax.Array:
    """The norm of contractions that do not overlap plus rows of a table: √(Σ own² + 2 Σ cross).

    `orthogonal`: of each contraction, `norm_if_orthogonal`.
    """
    norms = [*norms, rows_norm(rows)]
    largest = jnp.max(jnp.stack(norms))
    scale = power_of_two(jnp.where(largest > 0, largest, 1.0))
    square = cast(jax.Array, sum(jnp.square(norm / scale) for norm in norms))
    for value, (first, second, third) in crosses:
        # One after the other: the product of all scales may leave the range of float32 first.
        square += 2.0 * value * (first / scale) * second * (third / scale)
    # What the products of the cross terms are about, as for a Gram form.
    apart = [*orthogonal, jax.lax.stop_gradient(dense_norm(rows.updates))]
    return scale * root(square + GRAM_MARGIN * sum(jnp.square(norm / scale) for norm in apart))
