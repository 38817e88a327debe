"""Random directions in the space of the parameters, drawn again wherever they are needed.

A direction is as large as the parameters. It is never stored: its key is, and every leaf is drawn
from that. Whoever changes how leaves are drawn raises `NOISE_VERSION`: a resumed run would release
other differences with the noise that it had before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.untrained_leaves import merged, split

# Of a block, which a generator draws at once.
_MOST_ENTRIES = 2**18


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Directions:
    """k directions z₁ … z_k: each entry is N(0, 1), independent of the others and of all data.

    Attributes:
        key: typed JAX key, a scalar; used for nothing else.
        number: k, at least 1.
        leaves: shape and dtype of each parameter.
        treedef: the structure of the parameters.
    """

    key: jax.Array
    number: int = dataclasses.field(metadata={"static": True})
    leaves: tuple[tuple[tuple[int, ...], Any], ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, params: PyTree, key: jax.Array, number: int) -> Directions:
        """Returns the directions for parameters, arrays or shapes; nothing is drawn."""
        leaves, treedef = jax.tree.flatten(params)
        kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        return cls(key, number, kinds, treedef)

    def shapes(self) -> PyTree:
        """Returns the parameters as shapes."""
        kinds = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.leaves]
        return jax.tree.unflatten(self.treedef, kinds)

    def moved(self, params: PyTree, index: jax.Array, distance: jax.Array) -> PyTree:
        """Returns θ + distance · z, in the dtypes of the parameters.

        Args:
            params: θ. Integer and boolean leaves are returned as they are.
            index: which direction, an int32 scalar.
            distance: float32 scalar, negative for the opposite way.
        """
        trained, fixed = split(params)

        def move(number: int, leaf: jax.Array) -> jax.Array:
            blocks = _Blocks.of(leaf.shape)
            rows = leaf.reshape(blocks.rows, *blocks.row)

            def move_block(block: jax.Array, start: jax.Array) -> jax.Array:
                old = jax.lax.dynamic_slice_in_dim(rows, start, blocks.size)
                drawn = distance * self._drawn(index, number, block, old.shape)
                return (old.astype(jnp.float32) + drawn).astype(leaf.dtype)

            return blocks.assembled(move_block, leaf.dtype).reshape(leaf.shape)

        return merged(_mapped(move, trained), fixed)

    def combined(self, weights: jax.Array) -> PyTree:
        """Returns Σⱼ weights[j] zⱼ: float32, zeros of their own dtype for what is not trained.

        Args:
            weights: `(k,)` float32.
        """
        trained, fixed = split(self.shapes())

        def combine(number: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            blocks = _Blocks.of(leaf.shape)
            zeros = jnp.zeros((blocks.size, *blocks.row), jnp.float32)

            def combine_block(block: jax.Array, _: jax.Array) -> jax.Array:
                def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
                    drawn = self._drawn(index, number, block, total.shape)
                    return total + weights[index] * drawn, None

                # One direction after another: memory does not grow with their number.
                return jax.lax.scan(add, zeros, jnp.arange(self.number))[0]

            return blocks.assembled(combine_block, jnp.float32).reshape(leaf.shape)

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fixed)
        return merged(_mapped(combine, trained), zeros)

    def _drawn(
        self, index: jax.Array, number: int, block: jax.Array, shape: tuple[int, ...]
    ) -> jax.Array:
        """The entries of a direction for a block of a leaf: the same wherever they are drawn."""
        key = self.key
        for part in (index, number, block):
            key = jax.random.fold_in(key, part)
        return jax.random.normal(key, shape, jnp.float32)

    @property
    def narrowest(self) -> Any:
        """The floating-point dtype with the fewest digits among the parameters."""
        trained = [dtype for _, dtype in self.leaves if jnp.issubdtype(dtype, jnp.floating)]
        return max(trained, key=lambda dtype: jnp.finfo(dtype).eps)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """How a leaf is cut, seen as rows: a random generator holds several times what it draws.

    The last block ends where the leaf does, and its rows replace those of the block before it.
    """

    rows: int
    row: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Blocks:
        rows, row = 1, shape
        while math.prod(row) > _MOST_ENTRIES:
            rows, row = rows * row[0], row[1:]
        return cls(rows, row, min(rows, max(1, _MOST_ENTRIES // max(1, math.prod(row)))))

    def assembled(
        self, compute: Callable[[jax.Array, jax.Array], jax.Array], dtype: Any
    ) -> jax.Array:
        """Returns all rows, from `(number of block, its first row) -> rows of the block`."""

        def write(block: jax.Array, rows: jax.Array) -> jax.Array:
            start = jnp.minimum(block * self.size, self.rows - self.size)
            return jax.lax.dynamic_update_slice_in_dim(rows, compute(block, start), start, 0)

        empty = jnp.zeros((self.rows, *self.row), dtype)
        return jax.lax.fori_loop(0, -(-self.rows // self.size), write, empty)


def _mapped(function: Callable[[int, Any], jax.Array], tree: PyTree) -> PyTree:
    """Applies a function to the number of each leaf, counted from 0, and the leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [function(*pair) for pair in enumerate(leaves)])
