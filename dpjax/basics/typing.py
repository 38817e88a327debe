"""Types that many modules name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

# Any nesting of containers that JAX knows, with arrays as leaves.
PyTree: TypeAlias = Any
# A number, or an array of shape ().
Scalar: TypeAlias = float | jax.Array
# (params, example) -> scalar, or (scalar, aux); of one example, without a batch axis.
LossFn: TypeAlias = Callable[[PyTree, PyTree], Any]
# (params, batch, mask) -> (grads, rows, losses, aux): one way to compute a clipped sum.
Clip: TypeAlias = Callable[[PyTree, PyTree, jax.Array], tuple[Any, ...]]
