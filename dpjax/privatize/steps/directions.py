"""Random directions in the space of the parameters, drawn again wherever they are needed.

A direction is as large as the parameters. It is never stored: its key is, and every leaf is drawn
from that. Whoever changes how leaves are drawn raises `NOISE_VERSION`: a resumed run would release
other differences with the noise that it had before.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.steps.blocks import Blocks, entries_of_block
from dpjax.privatize.steps.grid import LARGEST_DRAW
from dpjax.privatize.untrained_leaves import merged, split


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Directions:
    """k directions z₁ … z_k: each entry is N(0, 1), independent of the others and of all data.

    Attributes:
        key: typed JAX key, a scalar; used for nothing else.
        number: k, at least 1.
        leaves: shape and dtype of each parameter.
        treedef: the structure of the parameters.
        units: of the grid that parameters are moved on in place, for each trained leaf; None where
            a copy is moved.
        fingerprint: of the parameters on that grid, uint32 scalar; None likewise.
    """

    key: jax.Array
    number: int = dataclasses.field(metadata={"static": True})
    leaves: tuple[tuple[tuple[int, ...], Any], ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})
    units: tuple[jax.Array, ...] | None = None
    fingerprint: jax.Array | None = None

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
            blocks = self._blocks(leaf)
            rows = leaf.reshape(blocks.rows, *blocks.row)

            def move_block(block: jax.Array, start: jax.Array) -> jax.Array:
                old = jax.lax.dynamic_slice_in_dim(rows, start, blocks.size)
                drawn = distance * self._drawn(index, number, block, old.shape)
                return (old.astype(jnp.float32) + drawn).astype(leaf.dtype)

            return blocks.assembled(move_block, leaf)

        return merged(_mapped(move, trained), fixed)

    def moved_on_grid(
        self, params: PyTree, index: jax.Array, smoothing: float, times: jax.Array
    ) -> PyTree:
        """Returns θ + times · δ, exactly, with δ = φz rounded to a multiple of each leaf's unit.

        Args:
            params: θ, on the grid of `units`. Integer and boolean leaves are returned as they are.
            index: which direction, an int32 scalar.
            smoothing: φ, the one that the units were made for.
            times: float32 scalar: 1, -1 or -2.
        """
        trained, fixed = split(params)
        units = self.units
        assert units is not None

        def move(number: int, leaf: jax.Array) -> jax.Array:
            unit = units[number]
            # A leaf that is not finite has no unit, and stays.
            is_moved = unit > 0
            per_draw = smoothing / jnp.where(is_moved, unit, 1.0)

            def change(block: jax.Array, old: jax.Array) -> jax.Array:
                drawn = self._drawn(index, number, block, old.shape)
                multiples = jnp.round(per_draw * jnp.clip(drawn, -LARGEST_DRAW, LARGEST_DRAW))
                return jnp.where(is_moved, old + times * (multiples * unit), old)

            return self._blocks(leaf).changed(leaf, change)

        return merged(_mapped(move, trained), fixed)

    def combined(self, weights: jax.Array) -> PyTree:
        """Returns Σⱼ weights[j] zⱼ: float32, zeros of their own dtype for what is not trained.

        Args:
            weights: `(k,)` float32.
        """
        trained, fixed = split(self.shapes())

        def combine(number: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            blocks = self._blocks(leaf)
            zeros = jnp.zeros((blocks.size, *blocks.row), jnp.float32)

            def combine_block(block: jax.Array, _: jax.Array) -> jax.Array:
                def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
                    drawn = self._drawn(index, number, block, total.shape)
                    return total + weights[index] * drawn, None

                # One direction after another: memory does not grow with their number.
                return jax.lax.scan(add, zeros, jnp.arange(self.number))[0]

            of_sum = jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
            return blocks.assembled(combine_block, of_sum)

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

    def _blocks(self, leaf: Any) -> Blocks:
        return Blocks.of(leaf.shape, self._entries)

    @functools.cached_property
    def _entries(self) -> int:
        """The most entries of a block, whichever leaf it is of."""
        return entries_of_block(sum(math.prod(shape) for shape, _ in self.leaves))

    @property
    def narrowest(self) -> Any:
        """The floating-point dtype with the fewest digits among the parameters."""
        trained = [dtype for _, dtype in self.leaves if jnp.issubdtype(dtype, jnp.floating)]
        return max(trained, key=lambda dtype: jnp.finfo(dtype).eps)


def _mapped(function: Callable[[int, Any], jax.Array], tree: PyTree) -> PyTree:
    """Applies a function to the number of each leaf, counted from 0, and the leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [function(*pair) for pair in enumerate(leaves)])
