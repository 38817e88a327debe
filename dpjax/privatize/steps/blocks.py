"""Leaves cut into blocks of rows, computed one after another: a generator needs memory of its own.

Drawing the entries of a leaf at once takes several times the memory of the leaf.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Of a block. What is drawn at once takes about six arrays of its size: with a 256th of the
# parameters that is 2 % of their memory. Smaller blocks than these would cost time.
_MOST_ENTRIES = 2**18
_FEWEST_ENTRIES = 2**12
_BLOCKS_OF_ALL = 256


def entries_of_block(num_entries: int) -> int:
    """Returns how many entries a block may have, given those of all parameters."""
    return min(_MOST_ENTRIES, max(_FEWEST_ENTRIES, num_entries // _BLOCKS_OF_ALL))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a leaf is cut, seen as rows.

    The last block ends where the leaf does: the rows that it shares with the block before it belong
    to the last one.

    Attributes:
        rows: of the leaf.
        row: the shape of one.
        size: rows of a block.
    """

    rows: int
    row: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, shape: tuple[int, ...], entries: int) -> Blocks:
        """Returns the blocks of a leaf.

        Args:
            shape: of the leaf.
            entries: the most that a block may have.
        """
        rows, row = 1, shape
        while math.prod(row) > entries:
            rows, row = rows * row[0], row[1:]
        return cls(rows, row, min(rows, max(1, entries // max(1, math.prod(row)))))

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return -(-self.rows // self.size)

    def assembled(self, compute: Callable[[jax.Array, jax.Array], jax.Array], like: Any) -> Any:
        """Returns the leaf, from `(number of block, its first row) -> rows of the block`.

        Args:
            compute: is called in a loop over the blocks.
            like: gives shape and dtype.
        """

        def write(block: jax.Array, rows: jax.Array) -> jax.Array:
            start = self._start(block)
            return jax.lax.dynamic_update_slice_in_dim(rows, compute(block, start), start, 0)

        empty = jnp.zeros((self.rows, *self.row), like.dtype)
        return jax.lax.fori_loop(0, self.number, write, empty).reshape(like.shape)

    def changed(
        self, leaf: jax.Array, change: Callable[[jax.Array, jax.Array], jax.Array]
    ) -> jax.Array:
        """Returns `leaf` with `change(number of block, its rows)` in each block, each row once.

        Where the buffer of the leaf may be taken over, the compiler needs no other one.
        """

        def write(block: jax.Array, rows: jax.Array) -> jax.Array:
            start = self._start(block)
            old = jax.lax.dynamic_slice_in_dim(rows, start, self.size)
            new = jnp.where(self._belongs(block), change(block, old), old)
            return jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0)

        rows = leaf.reshape(self.rows, *self.row)
        return jax.lax.fori_loop(0, self.number, write, rows).reshape(leaf.shape)

    def summed(
        self, leaf: jax.Array, term: Callable[[jax.Array, jax.Array], jax.Array]
    ) -> jax.Array:
        """Returns the sum of `term(rows of a block, their places)`, uint32, each row once.

        Args:
            leaf: is read block after block.
            term: returns uint32 of the shape of the rows; places count the entries of the leaf.
        """
        rows = leaf.reshape(self.rows, *self.row)
        entries = math.prod(self.row)
        inside = jnp.arange(self.size * entries, dtype=jnp.uint32).reshape(self.size, *self.row)

        def add(block: jax.Array, total: jax.Array) -> jax.Array:
            start = self._start(block)
            places = start.astype(jnp.uint32) * jnp.uint32(entries % 2**32) + inside
            terms = term(jax.lax.dynamic_slice_in_dim(rows, start, self.size), places)
            return total + jnp.sum(jnp.where(self._belongs(block), terms, 0), dtype=jnp.uint32)

        return jax.lax.fori_loop(0, self.number, add, jnp.zeros((), jnp.uint32))

    def _belongs(self, block: jax.Array) -> jax.Array:
        """Which rows of a block are its own, with axes of one for those of a row."""
        of_last = self._start(block) + jnp.arange(self.size) >= self.rows - self.size
        return (~of_last | (block == self.number - 1)).reshape(-1, *(1 for _ in self.row))

    def _start(self, block: jax.Array) -> jax.Array:
        return jnp.minimum(block * self.size, self.rows - self.size)
