"""Sums that stay where the parameters lie: the compiler alone might put all of them on each device.

Inside `jax.jit` an array does not say where it lies, so this is read from the arguments before.
"""

from __future__ import annotations

import jax
from jax.sharding import AxisType, NamedSharding

from dpjax.basics.typing import PyTree

Shardings = tuple[NamedSharding | None, ...]
# A shape may say where its array would lie, on devices that are not there.
_WITH_PLACE = (jax.Array, jax.ShapeDtypeStruct)


def shardings_of(params: PyTree) -> Shardings:
    """Where the leaves of `params` lie: hashable, and empty where nothing is spread by a mesh."""
    found = tuple(_automatic(leaf) for leaf in jax.tree.leaves(params))
    return found if any(found) else ()


def kept_at(sums: PyTree, shardings: Shardings) -> PyTree:
    """The same sums, laid out as `shardings_of` found the parameters; for use inside `jax.jit`."""
    if not shardings:
        return sums
    leaves, treedef = jax.tree.flatten(sums)
    placed = [
        leaf if sharding is None else jax.lax.with_sharding_constraint(leaf, sharding)
        for leaf, sharding in zip(leaves, shardings, strict=True)
    ]
    return jax.tree.unflatten(treedef, placed)


def _automatic(leaf: object) -> NamedSharding | None:
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, _WITH_PLACE):
        return None
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1:
        return None
    # An array with explicit axes has its place in its type.
    return None if AxisType.Explicit in sharding.mesh.axis_types else sharding
