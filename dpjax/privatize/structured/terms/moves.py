"""Linear maps that only place or rename the entries of an array, up to one factor.

Between the operation that produces a weight gradient and the parameter it belongs to, a backward
program only reshapes, transposes, pads and scales. Such maps keep norms (times |factor|), and
commute with sums over examples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dpjax.privatize.structured.program.jaxpr import (
    Atom,
    Constant,
    Equation,
    Value,
    scalar_constant,
)


@dataclasses.dataclass(frozen=True)
class Transpose:
    """Axis i of the result is axis permutation[i] of the operand."""

    permutation: tuple[int, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """The moved array."""
        return jnp.transpose(x, self.permutation)


@dataclasses.dataclass(frozen=True)
class Reshape:
    """The same entries in the same order."""

    shape: tuple[int, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """The moved array."""
        return jnp.reshape(x, self.shape)


@dataclasses.dataclass(frozen=True)
class Pad:
    """Zeros around (low, high) and between (interior) the entries, none removed."""

    config: tuple[tuple[int, int, int], ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """The moved array."""
        return jax.lax.pad(x, jnp.zeros((), x.dtype), self.config)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Times a constant."""

    factor: float


Move = Transpose | Reshape | Pad | Scale
Moves = tuple[Move, ...]

# A product of constants that is far outside could vanish or overflow in float32, alone or times an
# array, in a sum but not in a norm.
_SMALLEST_FACTOR, _LARGEST_FACTOR = 2.0**-60, 2.0**60


def apply_moves(moves: Sequence[Move], x: jax.Array) -> jax.Array:
    """The moves one after the other; x float32.

    All constants are applied as one, as they are in norms: one after the other, two that cancel
    could overflow in between.
    """
    for move in moves:
        if not isinstance(move, Scale):
            x = move(x)
    return times(x, signed_factor_of(moves))


def times(x: jax.Array, factor: float) -> jax.Array:
    """Computes factor · x in float32, the factor not rounded to the format of x; x for 1."""
    return x if factor == 1.0 else x.astype(jnp.float32) * factor


def signed_factor_of(moves: Sequence[Move]) -> float:
    """The product of all constants."""
    return math.prod(move.factor for move in moves if isinstance(move, Scale))


def factor_of(moves: Sequence[Move]) -> float:
    """What the moves multiply every norm by."""
    return abs(signed_factor_of(moves))


def are_safe(moves: Sequence[Move]) -> bool:
    """Whether the constants, together, are finite and not so extreme that float32 loses them."""
    factor = factor_of(moves)
    return factor == 0.0 or _SMALLEST_FACTOR <= factor <= _LARGEST_FACTOR


def read_moves(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    """`output` as a sum of moved operands of its equation; None if it is not one.

    An empty list means that the output is zero.
    """
    reader = _READERS.get(equation.primitive)
    if reader is None or not jnp.issubdtype(output.dtype, jnp.floating):
        return None
    return reader(equation, output)


def _transpose(equation: Equation, output: Value) -> list[tuple[Atom, Moves]]:
    return [(equation.inputs[0], (Transpose(tuple(equation.params["permutation"])),))]


def _reshape(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    if len(equation.inputs) != 1 or equation.params.get("dimensions") is not None:
        return None
    return [(equation.inputs[0], (Reshape(output.shape),))]


def _broadcast(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    operand = equation.inputs[0]
    if scalar_constant(operand) == 0.0:
        return []
    if len(equation.inputs) != 1 or isinstance(operand, Constant) or operand.size != output.size:
        return None
    kept = [axis for axis in equation.params["broadcast_dimensions"] if output.shape[axis] != 1]
    if kept != sorted(kept):
        return None
    return [(operand, (Reshape(output.shape),))]


def _reduce_sum(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    operand = equation.inputs[0]
    if isinstance(operand, Constant) or operand.size != output.size:
        return None
    return [(operand, (Reshape(output.shape),))]


def _convert(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    operand = equation.inputs[0]
    if isinstance(operand, Constant) or not jnp.issubdtype(operand.dtype, jnp.floating):
        return None
    return [(operand, ())]


def _copy(equation: Equation, output: Value) -> list[tuple[Atom, Moves]]:
    return [(equation.inputs[0], ())]


def _add(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    if any(atom.shape != output.shape for atom in equation.inputs):
        return None
    return [(atom, ()) for atom in equation.inputs]


def _subtract(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    terms = _add(equation, output)
    if terms is None:
        return None
    (minuend, _), (subtrahend, _) = terms
    return [(minuend, ()), (subtrahend, (Scale(-1.0),))]


def _negate(equation: Equation, output: Value) -> list[tuple[Atom, Moves]]:
    return [(equation.inputs[0], (Scale(-1.0),))]


def _multiply(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    left, right = equation.inputs
    for factor, operand in ((left, right), (right, left)):
        value = scalar_constant(factor)
        if value is not None and operand.shape == output.shape:
            return [(operand, (Scale(value),))]
    return None


def _divide(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    operand, divisor = equation.inputs
    value = scalar_constant(divisor)
    if not value or operand.shape != output.shape:
        return None
    return [(operand, (Scale(1.0 / value),))]


def _pad(equation: Equation, output: Value) -> list[tuple[Atom, Moves]] | None:
    operand, filler = equation.inputs
    config = tuple(
        (int(low), int(high), int(interior))
        for low, high, interior in equation.params["padding_config"]
    )
    if scalar_constant(filler) != 0.0 or any(low < 0 or high < 0 for low, high, _ in config):
        return None
    return [(operand, (Pad(config),))]


def _concatenate(equation: Equation, output: Value) -> list[tuple[Atom, Moves]]:
    axis, start = equation.params["dimension"], 0
    terms: list[tuple[Atom, Moves]] = []
    for operand in equation.inputs:
        size = operand.shape[axis]
        config = [(0, 0, 0)] * len(output.shape)
        config[axis] = (start, output.shape[axis] - start - size, 0)
        terms.append((operand, (Pad(tuple(config)),)))
        start += size
    return terms


_READERS = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reduce_sum,
    "expand_dims": _reduce_sum,
    "broadcast_in_dim": _broadcast,
    "reduce_sum": _reduce_sum,
    "convert_element_type": _convert,
    "copy": _copy,
    "copy_p": _copy,
    "sharding_constraint": _copy,
    "add_any": _add,
    "add": _add,
    "sub": _subtract,
    "neg": _negate,
    "mul": _multiply,
    "div": _divide,
    "pad": _pad,
    "concatenate": _concatenate,
}
