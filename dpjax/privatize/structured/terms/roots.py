"""Where per-example gradients come from: every parameter's gradient as a sum of structured terms.

Walking back from a parameter's gradient through moves (`moves`) ends at roots: a contraction over
time, a scatter of rows into an embedding table, the output of a loop whose body has roots of its
own, or anything else, which is taken as it is (dense).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dpjax.privatize.structured.program.jaxpr import (
    Atom,
    Constant,
    Equation,
    Program,
    Value,
    loop_of,
    needed_for,
    scalar_constant,
)
from dpjax.privatize.structured.terms.moves import Moves, are_safe, read_moves


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """The value Σ_t a[n, t, d] · g[n, t, p], `(N..., d..., p...)`: a dot_general of two values."""

    a: Atom
    g: Atom
    dimensions: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """N groups, T contracted, d free in a, p free in g."""
        (contract, _), (batch, _) = self.dimensions
        a, g = self.a.shape, self.g.shape
        groups = math.prod(a[axis] for axis in batch)
        length = math.prod(a[axis] for axis in contract)
        return (
            groups,
            length,
            math.prod(a) // max(1, groups * length),
            math.prod(g) // max(1, groups * length),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A (V, ...) table of zeros to whose row ids[t] updates[t] is added.

    Row numbers outside the table are moved to its ends if `clamped`, otherwise left out.
    """

    ids: Atom
    updates: Atom
    clamped: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A value without structure that is known here; `reason` says what computed it."""

    value: Atom
    reason: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return self.value.shape


@dataclasses.dataclass(frozen=True, eq=False)
class LoopOutput:
    """What a loop stacks (`stacked`), or adds up over its iterations; `terms` live in its body."""

    equation: Equation
    stacked: bool
    terms: Terms
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of iterations."""
        return loop_of(self.equation).length


Root = Contraction | Rows | Dense | LoopOutput
Term = tuple[Root, Moves]
Terms = tuple[Term, ...]


def find_terms(program: Program, gradient: Atom) -> Terms:
    """The gradient of one example as a sum of moved roots; empty if it is identically zero."""
    return tuple(_expand(program, gradient))


def is_structured(terms: Terms) -> bool:
    """Whether any root is more than a dense value."""
    return any(not isinstance(root, Dense) for root, _ in terms)


def _expand(program: Program, atom: Atom) -> list[Term]:
    # A barrier of rematerialisation is about when, not about what.
    atom = program.through_barriers(atom)
    if isinstance(atom, Constant):
        # A gradient that does not depend on the example.
        return [] if scalar_constant(atom) == 0.0 else [(Dense(atom, "a constant"), ())]
    if atom.size == 0:
        return []
    equation = program.makers.get(atom)
    if equation is None:
        return [(Dense(atom, "an input"), ())]
    root = _root(program, equation, atom)
    if root is not None:
        return root
    pieces = read_moves(equation, atom)
    if pieces is None:
        return [(Dense(atom, equation.primitive), ())]
    terms = [
        (root, inner + moves)
        for operand, moves in pieces
        for root, inner in _expand(program, operand)
    ]
    if not all(are_safe(moves) for _, moves in terms):
        return [(Dense(atom, "a product with an extreme constant"), ())]
    # A sum of dense values is one dense value: no cross terms.
    return (
        terms
        if is_structured(tuple(terms)) or not terms
        else [(Dense(atom, equation.primitive), ())]
    )


def _root(program: Program, equation: Equation, value: Value) -> list[Term] | None:
    if equation.primitive == "dot_general":
        return _contraction(equation, value)
    if equation.primitive == "scatter-add":
        return _rows(program, equation, value)
    if equation.loop is not None:
        return _loop_output(program, equation, value)
    return None


def _contraction(equation: Equation, value: Value) -> list[Term] | None:
    a, g = equation.inputs
    if isinstance(a, Constant) or isinstance(g, Constant):
        return None
    root = Contraction(a, g, equation.params["dimension_numbers"], value.shape)
    _, length, inputs, outputs = root.sizes
    if length == 0:
        return []
    # With nothing free on one side the product is no larger than the other operand.
    return None if min(inputs, outputs) == 1 else [(root, ())]


def _rows(program: Program, equation: Equation, value: Value) -> list[Term] | None:
    table, indices, updates = equation.inputs
    numbers = equation.params["dimension_numbers"]
    window = tuple(range(len(indices.shape) - 1, len(updates.shape)))
    simple = (
        tuple(numbers.inserted_window_dims) == (0,)
        and tuple(numbers.scatter_dims_to_operand_dims) == (0,)
        and not numbers.operand_batching_dims
        and tuple(numbers.update_window_dims) == window
        and updates.shape[len(indices.shape) - 1 :] == value.shape[1:]
        and indices.shape[-1] == 1
    )
    if not simple or _expand(program, table):
        return None
    if math.prod(updates.shape) == 0:
        return []
    clamped = equation.params["mode"].name == "CLIP"
    return [(Rows(indices, updates, clamped, value.shape), ())]


def _loop_output(program: Program, equation: Equation, value: Value) -> list[Term] | None:
    loop = loop_of(equation)
    index = equation.outputs.index(value)
    if loop.length == 0:
        return _expand(program, equation.inputs[loop.num_consts + index])
    if index >= loop.num_carry:
        terms = find_terms(loop.body, loop.body.outputs[index])
        if not is_structured(terms):
            return None if terms else []
        return [(LoopOutput(equation, True, terms, value.shape), ())]
    added = _accumulated(loop.body, loop.num_consts + index, index)
    if added is None or not is_structured(added) or not _is_small(added, loop.length):
        return None
    start = _expand(program, equation.inputs[loop.num_consts + index])
    return [*start, (LoopOutput(equation, False, added, value.shape), ())]


def _is_small(terms: Terms, length: int) -> bool:
    """Whether operands of all iterations take less than the sum that they would be added up to."""
    for root, _ in terms:
        if isinstance(root, LoopOutput):
            small = _is_small(root.terms, length if root.stacked else length * root.length)
        elif isinstance(root, Contraction):
            _, time, inputs, outputs = root.sizes
            small = length * time * (inputs + outputs) < inputs * outputs
        else:
            small = True
        if not small:
            return False
    return True


def _accumulated(body: Program, input_index: int, output_index: int) -> Terms | None:
    """What an iteration adds to a carried sum that it does not otherwise look at."""
    before, after = body.inputs[input_index], body.outputs[output_index]
    terms = find_terms(body, after)
    carried = [moves for root, moves in terms if _is(root, before)]
    if carried != [()]:
        return None
    rest = tuple(term for term in terms if not _is(term[0], before))
    if any(isinstance(root, Dense) for root, _ in rest):
        return None
    others = [out for position, out in enumerate(body.outputs) if position != output_index]
    used = {atom for equation in needed_for(body, others) for atom in equation.inputs}
    inside = {atom for root, _ in rest for atom in operands(root)}
    used |= {atom for equation in needed_for(body, inside) for atom in equation.inputs}
    return None if before in used | inside | set(others) else rest


def _is(root: Root, value: Value) -> bool:
    return isinstance(root, Dense) and root.value is value


def operands(root: Root) -> tuple[Atom, ...]:
    """The values of its program that a root is computed from."""
    if isinstance(root, Contraction):
        return root.a, root.g
    if isinstance(root, Rows):
        return root.ids, root.updates
    if isinstance(root, LoopOutput):
        return root.equation.inputs
    return (root.value,)
