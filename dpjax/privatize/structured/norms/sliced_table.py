"""The norm of a table that a loop contracts a slice at a time, and that may be looked up as well.

So do heads of language models that go over the vocabulary in chunks. The operands of all iterations
together are as large as the logits, and the rows that are looked up get their updates long after
the loop is over. But of an iteration's operand a cross term needs only the entries of those rows,
`(T, T)` in all: they are taken while the loop runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.privatize.float32.scaling import hypot
from dpjax.privatize.structured.costs.methods import Budget
from dpjax.privatize.structured.norms import norm
from dpjax.privatize.structured.norms.contractions import (
    contraction_norm,
    norm_if_orthogonal,
    rounding_slack,
)
from dpjax.privatize.structured.program.evaluate import Request, make_plan, run, values_request
from dpjax.privatize.structured.program.jaxpr import (
    Atom,
    Equation,
    Program,
    Value,
    depends_on,
    loop_of,
)
from dpjax.privatize.structured.terms.layout import Box, box_of, overlap
from dpjax.privatize.structured.terms.moves import Moves, Transpose
from dpjax.privatize.structured.terms.pieces import (
    ContractionArrays,
    Form,
    RowsArrays,
    arrays_of,
    form_of,
    row_numbers,
    side_of,
    stacked_form,
)
from dpjax.privatize.structured.terms.roots import (
    Contraction,
    LoopOutput,
    Root,
    Rows,
    Terms,
    operands,
)

Values = dict[Atom, Any]


def sliced_norm_request(program: Program, terms: Terms, budget: Budget) -> Request | None:
    """The norm of the gradient of one example, without the operands of whole loops.

    None unless the terms are contractions that fill parts of the parameter that do not overlap,
    some of them in slices by a loop, and rows of a table around them; or where a loop runs before
    it is known which rows.
    """
    sliced_parts: list[_Whole | _Slices | None] = []
    table = _Table(program, [], None)
    for root, moves in terms:
        if isinstance(root, Rows):
            box = box_of(form_of(root, moves))
            if box is None or not (table.box is None or table.box.same_place(box)):
                return None
            table = table._replace(lookups=[*table.lookups, (root, box.factor)], box=box)
        else:
            sliced_parts.append(_part(root, moves))
    if not any(isinstance(part, _Slices) for part in sliced_parts):
        return None
    parts = [part.beside(table.box) for part in sliced_parts if part is not None]
    if len(parts) < len(sliced_parts):
        return None
    if not _fit([part.box for part in parts], table.box):
        return None
    known = table.known_before([part.equation for part in parts if isinstance(part, _Slices)])
    return None if known is None else _request(parts, table, known, budget)


class _Table(NamedTuple):
    """Rows looked up, all in one place.

    Attributes:
        program: where they come from.
        lookups: with the factors of their updates.
        box: None without any.
    """

    program: Program
    lookups: list[tuple[Rows, float]]
    box: Box | None

    def known_before(self, loops: Collection[Equation]) -> tuple[Atom, ...] | None:
        """Values made before the first of the loops that all row numbers can be computed from.

        Not the row numbers themselves: a lookup that is rematerialised computes them again later.
        None if there are no such values, or if it would take a loop.
        """
        inside = {value for loop in loops for value in loop.outputs}
        program = self.program.without_barriers
        before = set(program.inputs)
        for equation in program.equations:
            if not inside.isdisjoint(equation.outputs):
                break
            before.update(equation.outputs)
        plan = make_plan(program, before, [self._ids_request()])
        if any(equation.loop is not None for equation in plan.equations):
            return None
        return tuple(atom for atom in plan.read if atom in before)

    def numbers(self, known: Values) -> jax.Array:
        """The row numbers of all lookups, `(S,)`, from the values of `known_before`."""
        values = {atom: x for atom, x in known.items() if isinstance(atom, Value)}
        [ids_of_lookups] = run(self.program.without_barriers, values, [self._ids_request()])
        return jnp.concatenate(
            [
                row_numbers(root, ids)
                for (root, _), ids in zip(self.lookups, ids_of_lookups, strict=True)
            ]
        )

    def _ids_request(self) -> Request:
        return values_request([self.program.through_barriers(root.ids) for root, _ in self.lookups])

    def arrays(self, values: Values) -> RowsArrays | None:
        """All lookups together."""
        if not self.lookups:
            return None
        all_rows = [arrays_of(root, values.__getitem__) for root, _ in self.lookups]
        updates = [
            rows.updates.astype(jnp.float32) * factor
            for rows, (_, factor) in zip(all_rows, self.lookups, strict=True)
        ]
        return RowsArrays(
            jnp.concatenate([rows.ids for rows in all_rows]), jnp.concatenate(updates)
        )

    def holds(self, box: Box) -> bool:
        """Whether the part of the parameter in `box` is looked up too."""
        return self.box is not None and overlap(box, self.box)


class _Norms(NamedTuple):
    """The norm of a contraction.

    Attributes:
        own: the norm.
        slack: what rounding may add to it.
        orthogonal: `norm_if_orthogonal`, where that is needed.
    """

    own: jax.Array
    slack: jax.Array
    orthogonal: jax.Array


@jax.named_scope("example_norms")
def _norms_of(arrays: ContractionArrays, crossed: bool, budget: Budget) -> _Norms:
    slack = jnp.asarray(rounding_slack(arrays), jnp.float32)
    orthogonal = norm_if_orthogonal(arrays, budget) if crossed else jnp.zeros((), jnp.float32)
    return _Norms(contraction_norm(arrays, budget), slack, orthogonal)


@dataclasses.dataclass(frozen=True, eq=False)
class _Whole:
    """A contraction outside of loops, or seen from inside one: how its sides are to be taken.

    Attributes:
        root: a contraction.
        exchanged: whether the second side of the root is meant where one says first.
        box: the side that is called first runs along its left.
    """

    root: Contraction
    exchanged: bool
    box: Box

    def beside(self, table: Box | None) -> _Whole:
        """With the side that runs along the rows of a table called first, if there is one."""
        if table is None or (self.box.left, self.box.right) != (table.right, table.left):
            return self
        box = dataclasses.replace(self.box, left=self.box.right, right=self.box.left)
        return _Whole(self.root, not self.exchanged, box)

    def arrays(self, values: Values) -> ContractionArrays:
        """The sides, the one called first first."""
        a, g = arrays_of(self.root, values.__getitem__)
        return ContractionArrays(g, a) if self.exchanged else ContractionArrays(a, g)


@dataclasses.dataclass(frozen=True, eq=False)
class _Slices:
    """A contraction in the body of a stacking loop; one side is the same in every iteration.

    Attributes:
        equation: the loop.
        root: in its body.
        second_varies: whether the side that differs is the second one.
        box: the iterations and the side that differs run along its left.
    """

    equation: Equation
    root: Contraction
    second_varies: bool
    box: Box

    def beside(self, table: Box | None) -> _Slices:
        """Its sides cannot be exchanged."""
        return self

    @property
    def varying(self) -> Atom:
        """The side that differs, a value of the body."""
        return self.root.g if self.second_varies else self.root.a

    @property
    def fixed(self) -> Atom:
        """The side that is the same, a value of the body, in front of barriers."""
        side = self.root.a if self.second_varies else self.root.g
        return loop_of(self.equation).body.through_barriers(side)

    def fixed_inputs(self) -> list[int]:
        """The inputs of the loop that `fixed` is computed from."""
        loop = loop_of(self.equation)
        consts = loop.body.inputs[: loop.num_consts]
        plan = make_plan(loop.body.without_barriers, consts, [values_request([self.fixed])])
        return [index for index, value in enumerate(consts) if value in plan.read]

    def fixed_side(self, values: Values) -> jax.Array:
        """The side that is the same, `(T, p)`, computed outside of the loop."""
        body, inputs = loop_of(self.equation).body, self.equation.inputs
        known = {body.inputs[index]: values[inputs[index]] for index in self.fixed_inputs()}
        [[value]] = run(body.without_barriers, known, [values_request([self.fixed])])
        return side_of(self.root, value, second=not self.second_varies)


def _part(root: Root, moves: Moves) -> _Whole | _Slices | None:
    if isinstance(root, Contraction):
        box = box_of(form_of(root, moves))
        return None if box is None else _Whole(root, False, box)
    if not isinstance(root, LoopOutput) or not root.stacked or len(root.terms) != 1:
        return None
    inner, inner_moves = root.terms[0]
    if not isinstance(inner, Contraction) or inner.sizes[0] != 1:
        return None
    loop = loop_of(root.equation)
    varying = depends_on(loop.body.without_barriers, loop.body.inputs[loop.num_consts :])
    first_varies, second_varies = (
        loop.body.through_barriers(side) in varying for side in (inner.a, inner.g)
    )
    if first_varies and second_varies:
        return None
    form = stacked_form(form_of(inner, inner_moves), root.length)
    box = box_of(_iterations_first(form, second_varies, moves))
    return None if box is None else _Slices(root.equation, inner, second_varies, box)


def _iterations_first(form: Form, second_varies: bool, moves: Moves) -> Form:
    """The form of a stacked product whose first side is the iterations and the one that differs."""
    assert form.ranks is not None
    groups, left, right = form.ranks
    if second_varies:
        # The product with its sides exchanged, and the way back from it.
        axes = range(len(form.shape))
        exchanged = (*axes[:groups], *axes[groups + left :], *axes[groups : groups + left])
        back = tuple(exchanged.index(axis) for axis in axes)
        shape = tuple(form.shape[axis] for axis in exchanged)
        form = dataclasses.replace(form, shape=shape, moves=(Transpose(back), *form.moves))
        left, right = right, left
    return dataclasses.replace(form, ranks=(0, groups + left, right), moves=form.moves + moves)


def _fit(parts: Sequence[Box], table: Box | None) -> bool:
    """Whether parts lie apart from each other, each of them in the table or beside it."""
    if any(overlap(part, earlier) for i, part in enumerate(parts) for earlier in parts[:i]):
        return False
    return table is None or all(
        not overlap(part, table) or part.is_rows_of(table) for part in parts
    )


def _request(
    parts: Sequence[_Whole | _Slices], table: _Table, known: tuple[Atom, ...], budget: Budget
) -> Request:
    atoms = [atom for root, _ in table.lookups for atom in operands(root)]
    loops = []
    for part in parts:
        if isinstance(part, _Whole):
            atoms += operands(part.root)
            continue
        atoms += [part.equation.inputs[index] for index in part.fixed_inputs()]
        crossed = table.holds(part.box)
        loops.append((part.equation, _norms_request(part, crossed, budget)))
        if crossed:
            loops.append((part.equation, _picked_request(part, table, known)))

    def finish(operands: list[Any], from_loops: list[Any]) -> jax.Array:
        values = dict(zip(atoms, operands, strict=True))
        results = iter(from_loops)
        rows = table.arrays(values)
        all_norms, crosses = [], []
        for part in parts:
            factor, crossed = part.box.factor, table.holds(part.box)
            if isinstance(part, _Slices):
                of_part = _Norms(*map(hypot, next(results)))
                if crossed:
                    assert rows is not None
                    fixed = part.fixed_side(values)
                    crosses.append(norm.cross_of_picked(next(results), fixed, rows, factor))
            else:
                arrays = part.arrays(values)
                of_part = _norms_of(arrays, crossed, budget)
                if crossed:
                    assert rows is not None
                    crosses.append(norm.cross(arrays, rows, _first_row(part), budget, factor))
            all_norms.append(_Norms(*(abs(factor) * norm for norm in of_part)))
        norms = [of_part.own for of_part in all_norms]
        slack = hypot([of_part.slack for of_part in all_norms])
        if rows is None:
            return hypot(norms) + slack
        orthogonal = [of_part.orthogonal for of_part in all_norms]
        return norm.with_rows(norms, crosses, orthogonal, rows) + slack

    return Request(tuple(atoms), finish, tuple(loops))


def _norms_request(part: _Slices, crossed: bool, budget: Budget) -> Request:
    """The norms of an iteration."""
    atoms = operands(part.root)

    def finish(values: list[Any], _: list[Any]) -> _Norms:
        arrays = arrays_of(part.root, dict(zip(atoms, values, strict=True)).__getitem__)
        return _norms_of(arrays, crossed, budget)

    return Request(atoms, finish)


def _picked_request(part: _Slices, table: _Table, known: tuple[Atom, ...]) -> Request:
    """The side that differs at the rows that are looked up, `(T, S)` float32, of all iterations."""

    def finish(values: list[Any], _: list[Any]) -> jax.Array:
        value, *outside, iteration = values
        side = side_of(part.root, value, second=part.second_varies)
        ids = table.numbers(dict(zip(known, outside, strict=True)))
        return norm.picked_columns(side, ids, _first_row(part) + iteration * side.shape[1])

    return Request((part.varying,), finish, adds_up=True, outside=known)


def _first_row(part: _Whole | _Slices) -> int:
    """Where in the table the part begins."""
    (axis,) = part.box.left
    return part.box.place[axis][0]
