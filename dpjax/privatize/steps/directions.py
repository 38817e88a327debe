"""Random directions in the space of the parameters, drawn again wherever they are needed.

A direction is as large as the parameters. It is never stored: its key is, and every leaf is drawn
from that. Whoever changes how leaves are drawn raises `NOISE_VERSION`: a resumed run would release
other differences with the noise that it had before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.untrained_leaves import is_fixed, merged, split


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
            step = distance * self._drawn(index, number, leaf.shape)
            return (leaf.astype(jnp.float32) + step).astype(leaf.dtype)

        return merged(_mapped(move, trained), fixed)

    def combined(self, weights: jax.Array) -> PyTree:
        """Returns Σⱼ weights[j] zⱼ: float32, zeros of their own dtype for what is not trained.

        Args:
            weights: `(k,)` float32.
        """
        trained, fixed = split(self.shapes())

        def combine(number: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
                return total + weights[index] * self._drawn(index, number, leaf.shape), None

            # One direction after another: memory does not grow with their number.
            zeros = jnp.zeros(leaf.shape, jnp.float32)
            return jax.lax.scan(add, zeros, jnp.arange(self.number))[0]

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fixed)
        return merged(_mapped(combine, trained), zeros)

    def _drawn(self, index: jax.Array, number: int, shape: tuple[int, ...]) -> jax.Array:
        """The entries of a direction for one leaf: the same wherever they are drawn."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, index), number)
        return jax.random.normal(key, shape, jnp.float32)

    @property
    def narrowest(self) -> Any:
        """The floating-point dtype with the fewest digits among the parameters."""
        trained = [dtype for shape, dtype in self.leaves if not is_fixed(jnp.zeros((), dtype))]
        return max(trained, key=lambda dtype: jnp.finfo(dtype).eps)


def _mapped(function: Callable[[int, Any], jax.Array], tree: PyTree) -> PyTree:
    """Applies a function to the number of each leaf, counted from 0, and the leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [function(*pair) for pair in enumerate(leaves)])
