"""Estimates from sizes alone: how norms are taken, in what portions, which strategy is cheapest.

Operations are multiplications (with their addition); memory is counted in float32 values of one
example.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from dpjax.privatize.structured.gradient import GradientProgram
from dpjax.privatize.structured.program import Equation, Program, Value, depends_on
from dpjax.privatize.structured.roots import Contraction, Dense, LoopOutput, Rows, Terms

# How many multiplications a processor does while it moves one float32 to or from memory.
_OPERATIONS_PER_VALUE_MOVED = 10
# Per-example gradients are written once, and read for the norm and for the sum.
_MOVES_OF_A_DENSE_VALUE = 3

# Smaller matrix products are slow, so that a triangle of them takes longer than the square.
_SMALLEST_GRAM_BLOCK = 128
_LARGEST_GRAM_BLOCK = 256

DEFAULT_BUDGET_VALUES = 2**26
"""The most that one intermediate array may have over all examples: 256 MiB of float32."""

KEPT_BUDGET_VALUES = 2**26
"""By how much `one_backward` may exceed the operands' memory to save time: 256 MiB of float32."""

AUTO_BUDGET_VALUES = 2**29
"""What a strategy may keep over all examples before `auto` prefers another: 2 GiB of float32."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many float32 values one intermediate array of a whole batch may have.

    Attributes:
        values: the limit, over all examples that are processed at once.
        batch_size: how many those are.
    """

    values: int
    batch_size: int

    def portion(self, count: int, size: int) -> int:
        """How many of `count` arrays of `size` values (for one example) to take at once; ≥ 1."""
        return max(1, min(count, self.values // max(1, self.batch_size * size)))


def gram_block(length: int, groups: int, budget: Budget) -> int:
    """How many tokens to take at once on either side of a Gram form; ≥ 1.

    A quarter of them, since the forms are symmetric and only pairs of blocks on one side of the
    diagonal are computed; but enough for large matrix products, and `(B, groups, block, block)`
    within the budget.
    """
    wanted = min(_LARGEST_GRAM_BLOCK, max(_SMALLEST_GRAM_BLOCK, -(-length // 4)))
    fitting = math.isqrt(budget.portion(length**2, groups))
    return min(length, wanted, fitting)


def gram_share(length: int) -> float:
    """The part of a Gram matrix that is computed."""
    blocks = -(-length // gram_block(length, 1, Budget(DEFAULT_BUDGET_VALUES, 1)))
    return (1 + 1 / blocks) / 2


def use_gram(length: int, inputs: int, outputs: int) -> bool:
    """Whether Σ (a_t·a_s)(g_t·g_s) is cheaper than forming the `(inputs, outputs)` product.

    Multiplications: T²(d + p), of which symmetry saves up to a half, against T·d·p.
    """
    return length * (inputs + outputs) * gram_share(length) < inputs * outputs


def kept_formed(all_terms: Iterable[Terms], batch_size: int) -> set[Contraction]:
    """Which contractions `one_backward` forms for every example, to keep d·p values of each until
    the clip factors are known, instead of T·(d + p) of the operands.

    The sum then needs no product; all it costs is to write and read those values. First those that
    also save memory, then those that save most time for the memory, up to a budget.
    """
    candidates = []
    for terms in all_terms:
        candidates += _formable(terms, batch_size)
    kept = set()
    left = KEPT_BUDGET_VALUES
    for root, saved, extra in sorted(candidates, key=lambda one: -one[1] / max(1, one[2])):
        if saved > 0 and extra <= left:
            kept.add(root)
            left -= max(0, extra)
    return kept


def _formable(terms: Terms, count: int) -> Iterator[tuple[Contraction, float, int]]:
    """Contractions, the multiplications that keeping the product saves, the values it adds."""
    if len(terms) != 1:
        # Several pieces share a parameter: their cross terms need the operands.
        return
    root = terms[0][0]
    if isinstance(root, LoopOutput) and root.stacked:
        yield from _formable(root.terms, count * root.length)
    elif isinstance(root, Contraction):
        groups, length, inputs, outputs = root.sizes
        size = inputs * outputs
        gram = length**2 * (inputs + outputs) * gram_share(length)
        moved = _OPERATIONS_PER_VALUE_MOVED * _MOVES_OF_A_DENSE_VALUE * size
        saved = min(length * size, gram) - moved
        extra = size - length * (inputs + outputs)
        yield root, count * groups * saved, count * groups * extra


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


def term_costs(terms: Terms, repeats: int = 1, longer: int = 1) -> Iterator[TermCost]:
    """The terms of a gradient; `repeats` and `longer` say what the loops around them do."""
    for root, _ in terms:
        if isinstance(root, LoopOutput):
            length = root.length
            stacked = root.stacked
            yield from term_costs(
                root.terms,
                repeats * (length if stacked else 1),
                longer * (1 if stacked else length),
            )
        elif isinstance(root, Contraction):
            yield _contraction_cost(root, repeats, longer)
        elif isinstance(root, Rows):
            yield _rows_cost(root, repeats, longer)
        else:
            yield _dense_cost(root, repeats)


def _contraction_cost(root: Contraction, repeats: int, longer: int) -> TermCost:
    groups, length, inputs, outputs = root.sizes
    groups, length = groups * repeats, length * longer
    gram = use_gram(length, inputs, outputs)
    transient = groups * (2 * length * length if gram else inputs * outputs)
    products = length * (length * (inputs + outputs) if gram else inputs * outputs)
    times = f"{groups} × " if groups > 1 else ""
    return TermCost(
        f"{times}contraction of {length}, {inputs} × {outputs}",
        "Gram" if gram else "formed",
        groups * products + 2 * _OPERATIONS_PER_VALUE_MOVED * transient,
        groups * length * (inputs + outputs),
        transient,
    )


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


def strategy_costs(gradient: GradientProgram) -> dict[str, StrategyCost]:
    """Estimates for every strategy, and for the ordinary step as "non_private"."""
    backward = depends_on(gradient.program, [gradient.cotangent])
    forward_products, backward_products = _products(gradient.program, backward)
    ordinary = forward_products + backward_products
    parameters = sum(leaf.size for leaf in gradient.params)
    terms = [cost for own in gradient.terms for cost in term_costs(own)]
    norms = sum(cost.operations for cost in terms)
    # The second pass repeats what leads to the operands, not the products of the weight gradients.
    weights = sum(_root_products(own) for own in gradient.terms)
    moved = _OPERATIONS_PER_VALUE_MOVED * _MOVES_OF_A_DENSE_VALUE * parameters
    return {
        "non_private": StrategyCost(ordinary, 0),
        "materialize": StrategyCost(ordinary + moved, parameters),
        "one_backward": StrategyCost(ordinary + norms, sum(cost.kept for cost in terms)),
        "two_backwards": StrategyCost(
            ordinary + norms + max(0, backward_products - weights),
            max((cost.transient for cost in terms), default=0),
        ),
    }


def choose(gradient: GradientProgram, batch_size: int) -> str:
    """The strategy with the fewest operations of those that fit; if none does, the smallest."""
    costs = strategy_costs(gradient)
    del costs["non_private"]
    fitting = {
        name: cost for name, cost in costs.items() if cost.values * batch_size <= AUTO_BUDGET_VALUES
    }
    if fitting:
        return min(fitting, key=lambda name: fitting[name].operations)
    return min(costs, key=lambda name: costs[name].values)


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
