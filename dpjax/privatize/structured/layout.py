"""Which axes of a parameter the two sides of a piece run along, and which part of it they fill.

Needed only where several pieces add up to one parameter: their cross terms can be had without
forming them if they agree about the axes, and are zero if they fill different parts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dpjax.privatize.structured.moves import Pad, Reshape, Scale, Transpose
from dpjax.privatize.structured.pieces import ContractionArrays, Form, Piece, RowsArrays

_GROUP, _LEFT, _RIGHT = "group", "left", "right"


@dataclasses.dataclass(frozen=True)
class Box:
    """Where a piece lies in its parameter.

    Attributes:
        groups, left, right: the parameter's axes longer than 1 that the groups, the first side
            (a, or the row number) and the second side (g, or the row) run along, in their order.
        place: for every axis of the parameter, (first index, number of indices) filled.
        factor: signed factor of the moves.
        is_table: whether the first side numbers rows; the sides then cannot be exchanged.
    """

    groups: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    place: tuple[tuple[int, int], ...]
    factor: float
    is_table: bool

    def matches(self, other: Box) -> bool:
        """Whether both run along the same axes, the sides of one perhaps exchanged."""
        same = (self.left, self.right) == (other.left, other.right)
        exchanged = (self.left, self.right) == (other.right, other.left)
        both_tables = self.is_table and other.is_table
        return self.groups == other.groups and (same or (exchanged and not both_tables))

    def aligned_with(self, reference: Box, piece: Piece) -> ContractionArrays | RowsArrays:
        """The arrays times their factor, sides as in `reference`: a table if there is one."""
        exchanged = (self.left, self.right) != (reference.left, reference.right)
        if isinstance(piece.arrays, RowsArrays):
            ids, updates = piece.arrays
            assert not exchanged
            return RowsArrays(ids, _times(updates, self.factor))
        a, g = piece.arrays
        g = _times(g, self.factor)
        return ContractionArrays(g, a) if exchanged else ContractionArrays(a, g)


@dataclasses.dataclass
class _Axis:
    role: str | None
    order: int
    size: int
    first: int
    filled: int


def box_of(form: Form) -> Box | None:
    """Follows the moves; None where an axis is split or merged, or the root has no sides."""
    roles = _root_roles(form)
    if roles is None:
        return None
    axes = [
        _Axis(role if size > 1 else None, order, size, 0, size)
        for order, (role, size) in enumerate(zip(roles, form.shape, strict=True))
    ]
    factor = 1.0
    for move in form.moves:
        if isinstance(move, Scale):
            factor *= move.factor
        elif isinstance(move, Transpose):
            axes = [axes[axis] for axis in move.permutation]
        elif isinstance(move, Reshape):
            axes = _reshaped(axes, move.shape)
        elif isinstance(move, Pad):
            axes = _padded(axes, move)
        if axes is None:
            return None
    return Box(
        *(_along(axes, role) for role in (_GROUP, _LEFT, _RIGHT)),
        tuple((axis.first, axis.filled) for axis in axes),
        factor,
        form.num_rows is not None,
    )


def overlap(one: Box, other: Box) -> bool:
    """Whether the parts filled have an entry in common."""
    return all(
        first < other_first + other_size and other_first < first + size
        for (first, size), (other_first, other_size) in zip(one.place, other.place, strict=True)
    )


def _root_roles(form: Form) -> list[str] | None:
    if form.ranks is not None:
        groups, left, right = form.ranks
        return [_GROUP] * groups + [_LEFT] * left + [_RIGHT] * right
    if form.num_rows is None:
        return None
    leading = next(
        n for n in range(len(form.shape) + 1) if math.prod(form.shape[:n]) == form.num_rows
    )
    return [_LEFT] * leading + [_RIGHT] * (len(form.shape) - leading)


def _reshaped(axes: Sequence[_Axis], shape: tuple[int, ...]) -> list[_Axis] | None:
    """Axes of length 1 may come and go (unless they say where a piece lies); others must stay."""
    long = [axis for axis in axes if axis.size > 1]
    if [axis.size for axis in long] != [size for size in shape if size > 1]:
        return None
    remaining = iter(long)
    return [next(remaining) if size > 1 else _Axis(None, 0, 1, 0, 1) for size in shape]


def _padded(axes: Sequence[_Axis], move: Pad) -> list[_Axis] | None:
    padded = []
    for axis, (low, high, interior) in zip(axes, move.config, strict=True):
        if interior:
            return None
        padded.append(
            dataclasses.replace(axis, size=axis.size + low + high, first=axis.first + low)
        )
    return padded


def _along(axes: Sequence[_Axis], role: str) -> tuple[int, ...]:
    positions = [position for position, axis in enumerate(axes) if axis.role == role]
    return tuple(sorted(positions, key=lambda position: axes[position].order))


def _times(x, factor: float):
    return x if factor == 1.0 else x * factor
