"""Arrays inside `jax.shard_map`: over which axes of the mesh their values differ.

With `check_vma=True`, the default, that is part of an array's type. The gradient with respect to an
array that is the same on all devices is then the *sum* over devices, so parameters are made to vary
before a gradient is taken. Loops demand that what they carry keeps its type.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dpjax.basics.typing import PyTree


def axes_of(tree: PyTree) -> frozenset[str]:
    """The axes over which any leaf varies; empty outside of `shard_map`."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        manual = _manual_type(leaf)
        if manual is not None:
            axes |= manual.varying
    return axes


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """The same values, typed as varying over `axes` too."""
    if not axes:
        return tree

    def vary_leaf(leaf: Any) -> Any:
        missing = axes - axes_of(leaf)
        return jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying") if missing else leaf

    return jax.tree.map(vary_leaf, tree)


def example_types(batch: PyTree) -> PyTree:
    """The abstract arrays of one example, from a batch of arrays or shapes; axis 0 is dropped."""
    return jax.tree.map(lambda leaf: abstract(jnp.shape(leaf)[1:], leaf), batch)


def abstract(shape: tuple[int, ...], like: Any) -> jax.ShapeDtypeStruct:
    """An abstract array with the dtype of `like`, which varies over the same axes."""
    manual = _manual_type(like)
    dtype = like.dtype if hasattr(like, "dtype") else jnp.result_type(like)
    if manual is None or not manual.varying:
        return jax.ShapeDtypeStruct(shape, dtype)
    sharding = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec())
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding, manual_axis_type=manual)


def check_reducible(params: PyTree) -> None:
    """Raises ValueError for a parameter of `shard_map` that is marked as (un)reduced."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        manual = _manual_type(leaf)
        if manual is not None and (manual.reduced or manual.unreduced):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has the type {manual}: its gradient would be "
                "spread over devices as parts of a sum, and no device could take its norm. Pass "
                "parameters that are replicated or varying"
            )


def _manual_type(leaf: Any) -> Any | None:
    """JAX's ManualAxisType of an array or shape; None where there is none."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.manual_axis_type
    if isinstance(leaf, jax.core.Tracer):
        return getattr(jax.typeof(leaf), "manual_axis_type", None)
    # Concrete arrays are the same on all devices.
    return None
