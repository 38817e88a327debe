"""Estimates from sizes alone: what norms and strategies cost, and which strategy is cheapest.

Operations are multiplications (with their addition); memory is counted in float32 values of one
example.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator

from dpjax.privatize.structured.costs.methods import (
    DEFAULT_BUDGET_VALUES,
    MOVES_OF_A_DENSE_VALUE,
    OPERATIONS_PER_VALUE_MOVED,
    gram_operations,
    kept_formed,
    use_gram,
)
from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.program.jaxpr import Equation, Program, Value, depends_on
from dpjax.privatize.structured.terms.roots import Contraction, Dense, LoopOutput, Rows, Terms

AUTO_BUDGET_VALUES = 2**29
"""What a strategy may keep over all examples before `auto` prefers another: 2 GiB of float32."""

# Estimates that differ by less say nothing about which is faster.
_CLOSE = 1.1


@dataclasses.dataclass(frozen=True)
class TermCost:
    """What one term of a parameter's gradient costs, for one example.

    Attributes:
        description: the structure, in words.
        method: how its norm is taken.
        operations: for the norm.
        kept: values that `one_backward` holds until the clip factors are known.
        transient: values that the norm needs while it is computed.
    """

    description: str
    method: str
    operations: int
    kept: int
    transient: int


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
    groups, length = groups * repeats, length * longer
    product, operands = inputs * outputs, length * (inputs + outputs)
    times = f"{groups} × " if groups > 1 else ""
    description = f"{times}contraction of {length}, {inputs} × {outputs}"
    if kept:
        moved = OPERATIONS_PER_VALUE_MOVED * MOVES_OF_A_DENSE_VALUE * product
        return TermCost(description, "formed and kept", groups * moved, groups * product, 0)
    if use_gram(length, inputs, outputs):
        transient = 2 * length**2
        method, products = "Gram", round(gram_operations(length, inputs, outputs))
    else:
        transient = product
        method, products = "formed", length * product
    operations = products + 2 * OPERATIONS_PER_VALUE_MOVED * transient
    return TermCost(description, method, groups * operations, groups * operands, groups * transient)


def _rows_cost(root: Rows, repeats: int, longer: int) -> TermCost:
    count = math.prod(root.ids.shape[:-1]) * repeats * longer
    width = math.prod(root.shape[1:])
    return TermCost(
        f"{count} rows of {width} into {root.shape[0] * repeats}",
        "sorted rows",
        2 * count * width,
        count * (width + 1),
        count * width,
    )


def _dense_cost(root: Dense, repeats: int) -> TermCost:
    size = math.prod(root.shape) * repeats
    return TermCost(f"dense, from {root.reason}", "dense", size, size, size)


@dataclasses.dataclass(frozen=True)
class StrategyCost:
    """For one example: multiplications of the step, values held beyond those of an ordinary one."""

    operations: int
    values: int


def strategy_costs(gradient: GradientProgram, batch_size: int) -> dict[str, StrategyCost]:
    """Estimates for every strategy, and for the ordinary step as "non_private"."""
    backward = depends_on(gradient.program, [gradient.cotangent])
    forward_products, backward_products = _products(gradient.program, backward)
    ordinary = forward_products + backward_products
    parameters = sum(leaf.size for leaf in gradient.params)
    kept = kept_formed(gradient.terms, batch_size)
    once = [cost for terms in gradient.terms for cost in term_costs(terms, kept)]
    twice = [cost for terms in gradient.terms for cost in term_costs(terms)]
    # The second pass repeats what leads to the operands, not the products of the weight gradients.
    weights = sum(_root_products(terms) for terms in gradient.terms)
    moved = OPERATIONS_PER_VALUE_MOVED * MOVES_OF_A_DENSE_VALUE * parameters
    return {
        "non_private": StrategyCost(ordinary, 0),
        "materialize": StrategyCost(ordinary + moved, parameters),
        "one_backward": StrategyCost(
            ordinary + sum(cost.operations for cost in once), sum(cost.kept for cost in once)
        ),
        "two_backwards": StrategyCost(
            ordinary + sum(cost.operations for cost in twice) + max(0, backward_products - weights),
            min(
                DEFAULT_BUDGET_VALUES // max(1, batch_size),
                max((cost.transient for cost in twice), default=0),
            ),
        ),
    }


def choose(gradient: GradientProgram, batch_size: int) -> str:
    """Chooses the strategy for a batch of this size.

    Of those that fit, it takes the smallest among those with about the fewest operations; if none
    fits, the smallest.
    """
    costs = strategy_costs(gradient, batch_size)
    del costs["non_private"]
    fitting = {
        name: cost for name, cost in costs.items() if cost.values * batch_size <= AUTO_BUDGET_VALUES
    }
    fewest = min((cost.operations for cost in fitting.values()), default=0)
    close = [name for name, cost in fitting.items() if cost.operations <= _CLOSE * fewest]
    candidates = close if close else list(costs)
    return min(candidates, key=lambda name: costs[name].values)


def _products(program: Program, backward: set[Value], times: int = 1) -> tuple[int, int]:
    """Multiplications of all matrix products, before and after the cotangent enters."""
    forward_total = backward_total = 0
    for equation in program.equations:
        if equation.loop is not None:
            count = sum(_products(equation.loop.body, set(), times * equation.loop.length))
        elif equation.primitive == "dot_general":
            count = times * _product_size(equation)
        else:
            continue
        if equation.outputs[0] in backward:
            backward_total += count
        else:
            forward_total += count
    return forward_total, backward_total


def _product_size(equation: Equation) -> int:
    (contract, _), _ = equation.params["dimension_numbers"]
    shape = equation.inputs[0].shape
    return equation.outputs[0].size * math.prod(shape[axis] for axis in contract)


def _root_products(terms: Terms, times: int = 1) -> int:
    total = 0
    for root, _ in terms:
        if isinstance(root, LoopOutput):
            total += _root_products(root.terms, times * root.length)
        elif isinstance(root, Contraction):
            total += times * math.prod(root.sizes)
    return total
