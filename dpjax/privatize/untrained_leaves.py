"""Parameters that are not trained: integer and boolean leaves, such as counters and lookup tables.

Strategies, rules and noise see the others only. None, which JAX takes for no leaf, is in the place
of those that are left out, so that paths and structure stay.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree


def is_fixed(leaf: Any) -> bool:
    """Whether a parameter has no gradient, since it is an integer or a truth value."""
    dtype = jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_


def split(params: PyTree) -> tuple[PyTree, PyTree]:
    """The trained leaves, and the fixed ones; None in the place of what the other tree has."""
    trained = jax.tree.map(lambda leaf: None if is_fixed(leaf) else leaf, params)
    return trained, jax.tree.map(lambda leaf: leaf if is_fixed(leaf) else None, params)


def merged(trained: PyTree, fixed: PyTree) -> PyTree:
    """What `split` took apart."""
    return jax.tree.map(
        lambda first, second: second if first is None else first,
        trained,
        fixed,
        is_leaf=lambda leaf: leaf is None,
    )


def with_zeros(trained: PyTree, fixed: PyTree) -> PyTree:
    """A gradient of all parameters: zeros of their own dtype for the fixed ones."""
    return merged(trained, jax.tree.map(jnp.zeros_like, fixed))
