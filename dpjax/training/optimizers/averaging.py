"""The moving average of the parameters, kept in the optimizer's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree

if TYPE_CHECKING:
    import optax


class AveragingState(NamedTuple):
    """What `keep_average` keeps.

    Attributes:
        optimizer: the state of the optimizer itself.
        decay: d, a float32 scalar.
        sums: `optax.EmaState`: the number of steps t, and (1 − d) Σₛ dᵗ⁻ˢ wₛ in float32.
    """

    optimizer: Any
    decay: jax.Array
    sums: Any


def keep_average(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Makes an optimizer that also keeps the moving average of the parameters.

    After t steps it is Σₛ dᵗ⁻ˢ wₛ / Σₛ dᵗ⁻ˢ over the parameters w₁ ... w_t (`optax.ema` without
    its bias). It evens out what noise does to single steps (De et al. 2022, "Unlocking
    High-Accuracy Differentially Private Image Classification through Scale"). It is computed from
    private parameters, so it costs no ε. `average_of` reads it.

    Args:
        optimizer: makes the updates, which stay the same.
        decay: d, above 0 and below 1: about 1 / (1 − d) steps count.

    Returns:
        An optax transformation, whose update needs the parameters.

    Raises:
        ValueError: `decay` is out of range.

    Example:
        >>> import optax
        >>> optimizer = keep_average(optax.sgd(1.0), decay=0.5)
        >>> params = jnp.zeros(1)
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(-jnp.ones(1), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params[0]), round(float(average_of(state, params)[0]), 4)
        (2.0, 1.6667)
    """
    import optax

    if not 0 < decay < 1:
        raise ValueError(f"decay must be above 0 and below 1, got {decay}")
    averaging = optax.ema(decay, debias=False, accumulator_dtype=jnp.float32)

    def init(params: PyTree) -> AveragingState:
        kept = jnp.asarray(decay, jnp.float32)
        return AveragingState(optimizer.init(params), kept, averaging.init(params))

    def update(
        grads: PyTree, state: AveragingState, params: Any = None
    ) -> tuple[PyTree, AveragingState]:
        updates, inner = optimizer.update(grads, state.optimizer, params)
        # As the loop computes them: rounded to the format of the parameters.
        reached = optax.apply_updates(params, updates)
        in_float32 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), reached)
        _, sums = averaging.update(in_float32, state.sums)
        return updates, AveragingState(inner, state.decay, sums)

    return optax.GradientTransformation(init, update)


def average_of(state: AveragingState, params: PyTree) -> PyTree:
    """Returns the average that `keep_average` has come to, in the formats of the parameters.

    Args:
        state: after a step; `result.state` of `fit`.
        params: after the same step; what is returned before the first one.

    Raises:
        TypeError: the optimizer keeps no average.
    """
    if not isinstance(state, AveragingState):
        raise TypeError(
            f"state must be that of an optimizer made by keep_average, got {type(state).__name__}"
        )
    if int(state.sums.count) == 0:
        return params
    import optax

    means = optax.tree.bias_correction(state.sums.ema, state.decay, state.sums.count)
    return jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), means, params)
