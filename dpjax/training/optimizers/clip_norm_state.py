"""The clip norm of the next step, kept in the optimizer's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree

if TYPE_CHECKING:
    import optax


class ClipNormState(NamedTuple):
    """What `keep_clip_norm` keeps. It is stored and restored with the state of the optimizer.

    Attributes:
        clip_norm: C of the next step, a float32 scalar. It was released, with noise.
        optimizer: the state of the optimizer itself.
    """

    clip_norm: jax.Array
    optimizer: Any


def keep_clip_norm(
    optimizer: optax.GradientTransformation, first: float
) -> optax.GradientTransformation:
    """Makes an optimizer in whose state there is room for a clip norm that changes.

    `PrivateTraining` with `AdaptiveClipping` reads C of a step there, and puts the next one in.

    Args:
        optimizer: makes the updates, which stay the same.
        first: C of the first step, above 0.

    Example:
        >>> import optax
        >>> state = keep_clip_norm(optax.sgd(1.0), 0.5).init(jnp.zeros(2))
        >>> float(state.clip_norm)
        0.5
    """
    import optax

    def init(params: PyTree) -> ClipNormState:
        return ClipNormState(jnp.asarray(first, jnp.float32), optimizer.init(params))

    def update(
        grads: PyTree, state: ClipNormState, params: Any = None
    ) -> tuple[PyTree, ClipNormState]:
        updates, inner = optimizer.update(grads, state.optimizer, params)
        return updates, state._replace(optimizer=inner)

    return optax.GradientTransformation(init, update)
