"""How norms are taken, and in what portions: decided from sizes alone, under a memory budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from dpjax.privatize.structured.terms.roots import Contraction, LoopOutput, Terms

OPERATIONS_PER_VALUE_MOVED = 10
"""How many multiplications a processor does while it moves one float32 to or from memory. As seen
on CPU; accelerators do more, so that they are asked to keep products rather too often."""

MOVES_OF_A_DENSE_VALUE = 3
"""Per-example gradients are written once, and read for the norm and for the sum."""

DEFAULT_BUDGET_VALUES = 2**26
"""The most that one intermediate array may have over all examples: 256 MiB of float32."""

KEPT_BUDGET_VALUES = 2**26
"""By how much `one_backward` may exceed the operands' memory to save time: 256 MiB of float32."""

# Smaller matrix products are slow, so that a triangle of them takes longer than the square.
_SMALLEST_GRAM_BLOCK = 128
_LARGEST_GRAM_BLOCK = 512


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
    within the budget. All of them where they are few: a loop over blocks copies the operands, and
    takes longer to compile, which costs more than the symmetry saves.
    """
    wanted = min(_LARGEST_GRAM_BLOCK, max(_SMALLEST_GRAM_BLOCK, -(-length // 4)))
    if length <= _LARGEST_GRAM_BLOCK:
        wanted = length
    fitting = math.isqrt(budget.portion(length**2, groups))
    return min(length, wanted, fitting)


def gram_operations(length: int, inputs: int, outputs: int) -> float:
    """Multiplications of Σ (a_t·a_s)(g_t·g_s): T²(d + p), of which symmetry saves up to a half."""
    blocks = -(-length // gram_block(length, 1, Budget(DEFAULT_BUDGET_VALUES, 1)))
    return length**2 * (inputs + outputs) * (1 + 1 / blocks) / 2


def use_gram(length: int, inputs: int, outputs: int) -> bool:
    """Whether a Gram form takes fewer multiplications than the T·d·p of forming the product."""
    return gram_operations(length, inputs, outputs) < length * inputs * outputs


def kept_formed(all_terms: Iterable[Terms], batch_size: int) -> set[Contraction]:
    """Chooses the contractions that `one_backward` forms for every example.

    It then keeps d·p values of each until the clip factors are known, instead of T·(d + p) of the
    operands.

    The sum then needs no product; all it costs is to write and read those values. First those that
    also save memory, then those that save most time for the memory, up to a budget.
    """
    candidates: list[tuple[Contraction, float, int]] = []
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
        gram = gram_operations(length, inputs, outputs)
        moved = OPERATIONS_PER_VALUE_MOVED * MOVES_OF_A_DENSE_VALUE * size
        saved = min(length * size, gram) - moved
        extra = size - length * (inputs + outputs)
        yield root, count * groups * saved, count * groups * extra
