"""Estimates from sizes alone: what norms and strategies cost, in operations and in memory.

Operations are multiplications (with their addition); memory is in bytes of one example.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator

import jax.numpy as jnp

from dpjax.privatize.structured.costs.methods import (
    DEFAULT_BUDGET_VALUES,
    MOVES_OF_A_DENSE_VALUE,
    OPERATIONS_PER_VALUE_MOVED,
    gram_operations,
    kept_formed,
    use_gram,
)
from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.program.jaxpr import Atom, Program, Value, depends_on
from dpjax.privatize.structured.program.products import dot_size
from dpjax.privatize.structured.terms.roots import Contraction, Dense, LoopOutput, Rows, Terms

_FLOAT32 = 4
"""Bytes of a number."""


@dataclasses.dataclass(frozen=True)
class TermCost:
    """What one term of a parameter's gradient costs, for one example.

    Attributes:
        description: the structure, in words.
        method: how its norm is taken.
        operations: for the norm.
        kept: bytes that `one_backward` holds until the clip factors are known.
        transient: bytes that the norm needs while it is computed.
        operands: bytes of what the program computes the term from; in a loop, in one iteration.
    """

    description: str
    method: str
    operations: int
    kept: int
    transient: int
    operands: int


def term_costs(
    terms: Terms,
    kept: Container[Contraction] = (),
    repeats: int = 1,
    longer: int = 1,
) -> Iterator[TermCost]:
    """The terms of a gradient.

    Args:
        terms: of one parameter.
        kept: the contractions whose products are formed and kept.
        repeats: how often the loops around the terms run.
        longer: by how much they lengthen the axes that are contracted.
    """
    for root, _ in terms:
        if isinstance(root, LoopOutput):
            length = root.length
            stacked = root.stacked
            yield from term_costs(
                root.terms,
                kept,
                repeats * (length if stacked else 1),
                longer * (1 if stacked else length),
            )
        elif isinstance(root, Contraction):
            yield _contraction_cost(root, root in kept, repeats, longer)
        elif isinstance(root, Rows):
            yield _rows_cost(root, repeats, longer)
        else:
            yield _dense_cost(root, repeats)


def _contraction_cost(root: Contraction, kept: bool, repeats: int, longer: int) -> TermCost:
    groups, length, inputs, outputs = root.sizes
    operands = _bytes_of(root.a) + _bytes_of(root.g)
    groups, length = groups * repeats, length * longer
    product = inputs * outputs
    times = f"{groups} × " if groups > 1 else ""
    description = f"{times}contraction of {length}, {inputs} × {outputs}"
    if kept:
        moved = groups * OPERATIONS_PER_VALUE_MOVED * MOVES_OF_A_DENSE_VALUE * product
        formed = groups * product * _FLOAT32
        return TermCost(description, "formed and kept", moved, formed, 0, operands)
    if use_gram(length, inputs, outputs):
        transient = 2 * length**2
        method, products = "Gram", round(gram_operations(length, inputs, outputs))
    else:
        transient = product
        method, products = "formed", length * product
    operations = groups * (products + 2 * OPERATIONS_PER_VALUE_MOVED * transient)
    held = repeats * longer * operands
    return TermCost(description, method, operations, held, groups * transient * _FLOAT32, operands)


def _rows_cost(root: Rows, repeats: int, longer: int) -> TermCost:
    count = math.prod(root.ids.shape[:-1]) * repeats * longer
    width = math.prod(root.shape[1:])
    operands = _bytes_of(root.ids) + _bytes_of(root.updates)
    return TermCost(
        f"{count} rows of {width} into {root.shape[0] * repeats}",
        "sorted rows",
        2 * count * width,
        repeats * longer * operands,
        count * width * _FLOAT32,
        operands,
    )


def _dense_cost(root: Dense, repeats: int) -> TermCost:
    size, operands = math.prod(root.shape) * repeats, _bytes_of(root.value)
    name = f"dense, from {root.reason}"
    return TermCost(name, "dense", size, repeats * operands, size * _FLOAT32, operands)


def _bytes_of(atom: Atom) -> int:
    return math.prod(atom.shape) * jnp.dtype(atom.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class StrategyCost:
    """For one example: multiplications of the step, bytes held beyond those of an ordinary one."""

    operations: int
    num_bytes: int


def strategy_costs(gradient: GradientProgram, batch_size: int) -> dict[str, StrategyCost]:
    """Estimates for every strategy, and for the ordinary step as "non_private"."""
    backward = depends_on(gradient.program, [gradient.cotangent])
    forward_products, backward_products = _products(gradient.program, backward)
    ordinary = forward_products + backward_products
    parameters = sum(leaf.size for leaf in gradient.params)
    bytes_of_parameters = sum(_bytes_of(leaf) for leaf in gradient.params)
    kept = kept_formed(gradient.terms, batch_size)
    once = [cost for terms in gradient.terms for cost in term_costs(terms, kept)]
    twice = [cost for terms in gradient.terms for cost in term_costs(terms)]
    # The second pass repeats what leads to the operands, not the products of the weight gradients.
    weights = sum(_root_products(terms) for terms in gradient.terms)
    moved = OPERATIONS_PER_VALUE_MOVED * MOVES_OF_A_DENSE_VALUE * parameters
    return {
        "non_private": StrategyCost(ordinary, 0),
        "materialize": StrategyCost(ordinary + moved, bytes_of_parameters),
        "one_backward": StrategyCost(
            ordinary + sum(cost.operations for cost in once), sum(cost.kept for cost in once)
        ),
        "two_backwards": StrategyCost(
            ordinary + sum(cost.operations for cost in twice) + max(0, backward_products - weights),
            # What the second pass starts from outlives the first: once more the largest operands,
            # such as the logits of all tokens. Those of a loop are forgotten, chunk by chunk.
            max((cost.operands for cost in twice), default=0)
            + min(
                DEFAULT_BUDGET_VALUES * _FLOAT32 // max(1, batch_size),
                max((cost.transient for cost in twice), default=0),
            ),
        ),
    }


def _products(program: Program, backward: set[Value], times: int = 1) -> tuple[int, int]:
    """Multiplications of all matrix products, before and after the cotangent enters."""
    forward_total = backward_total = 0
    for equation in program.equations:
        if equation.loop is not None:
            count = sum(_products(equation.loop.body, set(), times * equation.loop.length))
        elif equation.primitive == "dot_general":
            left, out = equation.inputs[0].shape, equation.outputs[0].shape
            count = times * dot_size(equation.params, left, out)
        else:
            continue
        if equation.outputs[0] in backward:
            backward_total += count
        else:
            forward_total += count
    return forward_total, backward_total


def _root_products(terms: Terms, times: int = 1) -> int:
    total = 0
    for root, _ in terms:
        if isinstance(root, LoopOutput):
            total += _root_products(root.terms, times * root.length)
        elif isinstance(root, Contraction):
            total += times * math.prod(root.sizes)
    return total
