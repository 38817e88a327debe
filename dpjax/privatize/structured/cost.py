"""How the norm of a contraction is taken, and in what portions, from sizes alone."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many float32 values one intermediate array of a whole batch may have.

    Attributes:
        values: the limit, over all examples that are processed at once.
        batch_size: how many those are.
    """

    values: int
    batch_size: int

    def gram_block(self, groups: int, rows: int, columns: int) -> int:
        """How many of `rows` to take at once, so that `(B, groups, block, columns)` fits; ≥ 1."""
        per_row = max(1, self.batch_size * groups * columns)
        return max(1, min(rows, self.values // per_row))


DEFAULT_BUDGET_VALUES = 2**26
"""256 MiB of float32."""


def use_gram(groups: int, length: int, inputs: int, outputs: int) -> bool:
    """Whether Σ (a_t·a_s)(g_t·g_s) is cheaper than forming the `(inputs, outputs)` product.

    Multiplications: T²(d + p) against T·d·p. Form where both are about as fast but the product is smaller
    than the two (T, T) arrays.
    """
    del groups
    return length * (inputs + outputs) < inputs * outputs
