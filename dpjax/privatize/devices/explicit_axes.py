"""Meshes whose axes are `AxisType.Explicit`: clipped gradients are computed with automatic axes.

With explicit axes the sharding of an array is part of its type, and JAX refuses an operation whose
result could be sharded in several ways. A loss that was written for one example says nothing about
the axis of examples, so inside, the compiler decides, as with `AxisType.Auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from dpjax.basics.typing import PyTree

_NOTE = (
    "Axes of the mesh that are AxisType.Explicit are AxisType.Auto while a clipped gradient is "
    "computed. An array with an explicit sharding that the loss closes over cannot be used then: "
    "make the mesh with AxisType.Auto, or pass the array as a part of every example."
)


def explicit_mesh(tree: PyTree) -> Any | None:
    """The abstract mesh with explicit axes that the arrays are typed with, if there is one."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if mesh.explicit_axes:
            return mesh
    return None


def with_automatic_axes(
    function: Callable[..., Any], mesh: Any, params: PyTree, *rows: PyTree
) -> tuple[Any, ...]:
    """Calls `function(params, *rows) -> (like params, *per row)` with every axis automatic.

    Args:
        function: its first result has the structure and sharding of `params`; all others have a
            leading axis of examples.
        mesh: as `explicit_mesh` returned it.
        params: the parameters, a pytree of arrays.
        rows: pytrees with a leading axis of examples; None is passed on.

    Returns:
        The results, typed with explicit axes again: sharded as the parameters and as the rows.
    """
    of_params = jax.tree.map(
        lambda leaf: NamedSharding(mesh, jax.typeof(leaf).sharding.spec), params
    )
    axes = [jax.typeof(leaf).sharding.spec[0] for leaf in jax.tree.leaves(rows)]
    of_rows = NamedSharding(mesh, PartitionSpec(next((axis for axis in axes if axis), None)))

    def first_and_rest(params: PyTree, *rows: PyTree) -> tuple[PyTree, tuple[Any, ...]]:
        first, *rest = function(params, *rows)
        return first, tuple(rest)

    with_automatic = jax.sharding.auto_axes(
        first_and_rest, axes=mesh.explicit_axes, out_sharding=(of_params, of_rows)
    )
    try:
        first, rest = with_automatic(params, *rows)
    except Exception as error:
        error.add_note(_NOTE)
        raise
    return first, *rest
