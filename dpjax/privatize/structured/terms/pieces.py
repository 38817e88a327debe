"""Terms as arrays of one example, in a canonical form: what norms and sums are computed from.

A piece is a root's arrays together with the moves into the parameter. Bringing a piece out of a
loop that stacks makes its groups more, out of a loop that adds up makes its time longer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from dpjax.privatize.float32.products import product
from dpjax.privatize.structured.program.jaxpr import Atom
from dpjax.privatize.structured.terms.moves import Moves, Pad, Reshape, Scale, Transpose
from dpjax.privatize.structured.terms.roots import Contraction, Dense, Rows


class ContractionArrays(NamedTuple):
    """a `(N, T, d)` and g `(N, T, p)`, meaning Σ_t a[n, t, :] ⊗ g[n, t, :], `(N, d, p)`.

    A single group has no axis: reshaping what is as large as logits would make a copy of it.
    """

    a: jax.Array
    g: jax.Array

    @property
    def num_groups(self) -> int:
        """N of one example."""
        return 1 if self.a.ndim == 2 else self.a.shape[0]


class RowsArrays(NamedTuple):
    """ids `(T,)` int32 in [0, V) and updates `(T, K)`, meaning a `(V, K)` table of sums."""

    ids: jax.Array
    updates: jax.Array


class DenseArray(NamedTuple):
    """The gradient itself."""

    x: jax.Array


Arrays = ContractionArrays | RowsArrays | DenseArray


@dataclasses.dataclass(frozen=True)
class Form:
    """How the arrays of a piece become (a part of) a parameter's gradient.

    Attributes:
        shape: of the root; the formed arrays are reshaped to it, then moved.
        moves: from the root's shape to the parameter's.
        ranks: for a contraction, how many axes of `shape` are groups, free in a, free in g.
        num_rows: V of a table of rows.
    """

    shape: tuple[int, ...]
    moves: Moves
    ranks: tuple[int, int, int] | None = None
    num_rows: int | None = None


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["form"])
@dataclasses.dataclass(frozen=True)
class Piece:
    """A form with its arrays; a pytree of the arrays."""

    form: Form
    arrays: Arrays

    def moved(self, moves: Moves) -> Piece:
        """With more moves after its own."""
        form = dataclasses.replace(self.form, moves=self.form.moves + moves)
        return Piece(form, self.arrays)


def form_of(root: Contraction | Rows | Dense, moves: Moves) -> Form:
    """The static part of the piece of a term."""
    if isinstance(root, Contraction):
        (contract, _), (batch, _) = root.dimensions
        fixed = len(contract) + len(batch)
        ranks = (len(batch), len(root.a.shape) - fixed, len(root.g.shape) - fixed)
        return Form(root.shape, moves, ranks=ranks)
    if isinstance(root, Rows):
        return Form(root.shape, moves, num_rows=root.shape[0])
    return Form(tuple(root.shape), moves)


@overload
def arrays_of(root: Contraction, lookup: Callable[[Atom], Any]) -> ContractionArrays: ...
@overload
def arrays_of(root: Rows, lookup: Callable[[Atom], Any]) -> RowsArrays: ...
@overload
def arrays_of(root: Dense, lookup: Callable[[Atom], Any]) -> DenseArray: ...


def arrays_of(root: Contraction | Rows | Dense, lookup: Callable[[Atom], Any]) -> Arrays:
    """The arrays of a root from the values of its program, for one example."""
    if isinstance(root, Contraction):
        return ContractionArrays(
            side_of(root, lookup(root.a), second=False), side_of(root, lookup(root.g), second=True)
        )
    if isinstance(root, Rows):
        ids = _as_int32(lookup(root.ids)).reshape(-1)
        updates = lookup(root.updates).reshape(ids.shape[0], -1)
        if not root.clamped:
            inside = (ids >= 0) & (ids < root.shape[0])
            updates = jnp.where(inside[:, None], updates, jnp.zeros((), updates.dtype))
        return RowsArrays(row_numbers(root, ids), updates)
    return DenseArray(jnp.asarray(lookup(root.value)))


def side_of(root: Contraction, value: Any, *, second: bool) -> jax.Array:
    """One side of a contraction in the form of `ContractionArrays`, from the operand's value."""
    contract, batch = (pair[second] for pair in root.dimensions)
    return _groups_time_free(value, batch, contract)


def row_numbers(root: Rows, ids: Any) -> jax.Array:
    """`(T,)` int32 in [0, V) from the value of `root.ids`; those outside at the nearest end."""
    return jnp.clip(_as_int32(ids).reshape(-1), 0, root.shape[0] - 1)


def _as_int32(ids: jax.Array) -> jax.Array:
    """Row numbers in a format that the size of a table fits into; what is outside stays outside."""
    info = jnp.iinfo(ids.dtype)
    if info.bits < 32 or ids.dtype == jnp.int32:
        return ids.astype(jnp.int32)
    largest = jnp.iinfo(jnp.int32).max
    return jnp.clip(ids, max(info.min, -1), largest).astype(jnp.int32)


def piece_of(
    root: Contraction | Rows | Dense, moves: Moves, lookup: Callable[[Atom], Any], formed: bool
) -> Piece:
    """The piece of a term for one example; a contraction as a dense one if `formed`."""
    arrays = arrays_of(root, lookup)
    if not formed:
        return Piece(form_of(root, moves), arrays)
    product_of_sides = product("...td,...tp->...dp", *arrays).reshape(root.shape)
    return Piece(Form(tuple(root.shape), moves), DenseArray(product_of_sides))


def _groups_time_free(x: jax.Array, batch: tuple[Any, ...], contract: tuple[Any, ...]) -> jax.Array:
    free = [axis for axis in range(x.ndim) if axis not in batch and axis not in contract]
    ordered = jnp.transpose(x, (*batch, *contract, *free))
    groups = math.prod(x.shape[axis] for axis in batch)
    length = math.prod(x.shape[axis] for axis in contract)
    return _groups_first(ordered, groups, length)


def _groups_first(x: jax.Array, groups: int, length: int) -> jax.Array:
    """`(N, T, d)`, or `(T, d)` for one group, from an array with those axes in that order."""
    return x.reshape(length, -1) if groups == 1 else x.reshape(groups, length, -1)


def out_of_stacking_loop(piece: Piece, length: int) -> Piece:
    """A piece whose arrays were stacked over iterations, for a parameter with one row for each."""
    form, arrays = stacked_form(piece.form, length), piece.arrays
    if isinstance(arrays, ContractionArrays):
        groups = math.prod(arrays.a.shape[:-2])
        return Piece(
            form, ContractionArrays(*[_groups_first(x, groups, x.shape[-2]) for x in arrays])
        )
    if isinstance(arrays, RowsArrays):
        assert piece.form.num_rows is not None
        first = piece.form.num_rows * jnp.arange(length, dtype=jnp.int32)
        ids = (arrays.ids + first[:, None]).reshape(-1)
        return Piece(form, RowsArrays(ids, arrays.updates.reshape(ids.shape[0], -1)))
    return Piece(form, arrays)


def stacked_form(form: Form, length: int) -> Form:
    """The form of a piece with one more axis in front, along which it is repeated."""
    ranks, num_rows = form.ranks, form.num_rows
    if ranks is not None:
        groups, left, right = ranks
        ranks = (groups + 1, left, right)
    if num_rows is not None:
        num_rows = length * num_rows
    moves = tuple(_lift(move, length) for move in form.moves)
    return Form((length, *form.shape), moves, ranks=ranks, num_rows=num_rows)


def out_of_adding_loop(piece: Piece) -> Piece:
    """A piece whose arrays were stacked over iterations, for a parameter that adds them up."""
    form, arrays = piece.form, piece.arrays
    if isinstance(arrays, ContractionArrays):
        groups = math.prod(arrays.a.shape[1:-2])
        merged = [
            _groups_first(jnp.moveaxis(x, 0, -3), groups, x.shape[0] * x.shape[-2]) for x in arrays
        ]
        return Piece(form, ContractionArrays(*merged))
    if isinstance(arrays, RowsArrays):
        ids = arrays.ids.reshape(-1)
        return Piece(form, RowsArrays(ids, arrays.updates.reshape(ids.shape[0], -1)))
    return Piece(form, DenseArray(jnp.sum(arrays.x, axis=0)))


def _lift(move: Any, length: int) -> Any:
    if isinstance(move, Transpose):
        return Transpose((0, *(axis + 1 for axis in move.permutation)))
    if isinstance(move, Reshape):
        return Reshape((length, *move.shape))
    if isinstance(move, Pad):
        return Pad(((0, 0, 0), *move.config))
    assert isinstance(move, Scale)
    return move
