"""Which axes of a parameter the two sides of a piece run along, and which part of it they fill.

Needed only where several pieces add up to one parameter: their cross terms can be had without
forming them if they agree about the axes, and are zero if they fill different parts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dpjax.privatize.structured.terms.moves import Pad, Reshape, Transpose, signed_factor_of, times
from dpjax.privatize.structured.terms.pieces import ContractionArrays, Form, Piece, RowsArrays

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

    def same_place(self, other: Box) -> bool:
        """Whether both fill the same part, along the same axes."""
        return self.matches(other) and self.place == other.place

    def is_rows_of(self, table: Box) -> bool:
        """Whether this is nothing but whole rows of a table, numbered along a single axis."""
        axes = (self.groups, self.left, self.right)
        return (
            len(self.left) == 1
            and axes == (table.groups, table.left, table.right)
            and all(
                place == full or axis in self.left
                for axis, (place, full) in enumerate(zip(self.place, table.place, strict=True))
            )
            and self._lies_in(table)
        )

    def _lies_in(self, other: Box) -> bool:
        return all(
            low <= first and first + count <= low + size
            for (first, count), (low, size) in zip(self.place, other.place, strict=True)
        )

    def aligned_with(self, reference: Box, piece: Piece) -> ContractionArrays | RowsArrays:
        """The arrays times their factor, sides as in `reference`: a table if there is one."""
        exchanged = (self.left, self.right) != (reference.left, reference.right)
        if isinstance(piece.arrays, RowsArrays):
            ids, updates = piece.arrays
            assert not exchanged
            return RowsArrays(ids, times(updates, self.factor))
        assert isinstance(piece.arrays, ContractionArrays)
        a, g = piece.arrays
        # The smaller one, since that makes a copy of it.
        a, g = (times(a, self.factor), g) if a.size < g.size else (a, times(g, self.factor))
        return ContractionArrays(g, a) if exchanged else ContractionArrays(a, g)


@dataclasses.dataclass
class _Axis:
    """An axis of a box.

    `orders` are the first and last of the root's axes that run along this one, numbered without
    those of length 1.
    """

    role: str | None
    orders: tuple[int, int]
    size: int
    first: int
    filled: int


def box_of(form: Form) -> Box | None:
    """Follows the moves.

    Returns:
        The box; None where an axis is split, or merged with one of another side, or the root has no
        sides.
    """
    roles = _root_roles(form)
    if roles is None:
        return None
    axes, order = [], 0
    for role, size in zip(roles, form.shape, strict=True):
        axes.append(_Axis(role if size > 1 else None, (order, order), size, 0, size))
        if size > 1:
            order += 1
    for move in form.moves:
        if isinstance(move, Transpose):
            axes = [axes[axis] for axis in move.permutation]
        elif isinstance(move, Reshape):
            reshaped = _reshaped(axes, move.shape)
            if reshaped is None:
                return None
            axes = reshaped
        elif isinstance(move, Pad):
            padded = _padded(axes, move)
            if padded is None:
                return None
            axes = padded
    return Box(
        groups=_along(axes, _GROUP),
        left=_along(axes, _LEFT),
        right=_along(axes, _RIGHT),
        place=tuple((axis.first, axis.filled) for axis in axes),
        factor=signed_factor_of(form.moves),
        is_table=form.num_rows is not None,
    )


def overlap(first_box: Box, second_box: Box) -> bool:
    """Whether the parts filled have an entry in common."""
    return all(
        first < other_first + other_size and other_first < first + size
        for (first, size), (other_first, other_size) in zip(
            first_box.place, second_box.place, strict=True
        )
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
    """Reshapes the axes; None where that cannot be followed.

    Axes of length 1 may come and go, unless they say where a piece lies. Neighbours of one side
    become one; others must stay.
    """
    remaining = [axis for axis in axes if axis.size > 1]
    reshaped = []
    for size in shape:
        if size == 1:
            reshaped.append(_Axis(None, (0, 0), 1, 0, 1))
            continue
        if not remaining:
            return None
        axis = remaining.pop(0)
        while axis.size < size and remaining:
            merged = _merged(axis, remaining.pop(0))
            if merged is None:
                return None
            axis = merged
        if axis.size != size:
            return None
        reshaped.append(axis)
    return None if remaining else reshaped


def _merged(left: _Axis, right: _Axis) -> _Axis | None:
    """Both as one axis, if they are full and follow each other in the root too."""
    full = all(axis.filled == axis.size for axis in (left, right))
    if not full or left.role != right.role or right.orders[0] != left.orders[1] + 1:
        return None
    size = left.size * right.size
    return _Axis(left.role, (left.orders[0], right.orders[1]), size, 0, size)


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
    return tuple(sorted(positions, key=lambda position: axes[position].orders))
