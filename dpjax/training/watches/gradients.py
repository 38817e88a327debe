"""Whether everything that is trained has a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize import StepTotal

_MOST_NAMES = 5


class GradientWatch:
    """Looks at the first steps that have records, and names what has no gradient in any of them.

    Noise moves such a parameter too, so that its value tells nothing. Adapters whose B is zero give
    A its first gradient in the second step: three steps are looked at.

    Args:
        num_steps: how many steps are looked at.

    Example:
        >>> watch = GradientWatch(num_steps=1)
        >>> watch.look(StepTotal.zeros({"unused": jnp.zeros(3)}))
        >>> watch.remark(num_records=4).split(":")[0]
        'no gradient in the first 1 steps for unused'
    """

    def __init__(self, num_steps: int = 3) -> None:
        self._num_steps = self._num_left = num_steps
        self._has_gradient: PyTree | None = None

    def look(self, total: StepTotal) -> None:
        """Sees the sums of a step, before the update takes over their buffers."""
        if self._num_left:
            found = _has_gradient(total.grads)
            if self._has_gradient is not None:
                found = jax.tree.map(jnp.logical_or, found, self._has_gradient)
            self._has_gradient = found

    def remark(self, num_records: int) -> str | None:
        """Returns once, after the last step that was looked at, what is not trained, in words.

        Args:
            num_records: how many records of the step had a finite gradient. Without one the step
                does not count.
        """
        if not self._num_left or not num_records:
            return None
        self._num_left -= 1
        if self._num_left:
            return None
        found = jax.tree_util.tree_leaves_with_path(jax.device_get(self._has_gradient))
        self._has_gradient = None
        names = [
            jax.tree_util.keystr(path, simple=True, separator=".") or "params"
            for path, has_gradient in found
            if not has_gradient
        ]
        if not names:
            return None
        shown = ", ".join(names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return (
            f"no gradient in the first {self._num_steps} steps for {shown}{more}: nothing is "
            "learnt there. Check that the loss depends on all that is trained"
        )


@jax.jit
def _has_gradient(grads: PyTree) -> PyTree:
    """A boolean scalar for each leaf that can be trained."""
    return jax.tree.map(lambda leaf: jnp.any(leaf != 0), grads)
