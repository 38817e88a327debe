"""Adam for private gradients: the variance of the noise is taken off the second moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree

if TYPE_CHECKING:
    import optax


class AdamBCState(NamedTuple):
    """What `scale_by_adam_bc` keeps.

    Attributes:
        step: int32, how many were done.
        mean: of the gradients, a running one.
        square: of the squares of the gradients, a running one.
    """

    step: jax.Array
    mean: PyTree
    square: PyTree


def scale_by_adam_bc(
    noise_stddev: float, *, b1: float = 0.9, b2: float = 0.999, least_square: float = 5e-8
) -> optax.GradientTransformation:
    """Makes DP-AdamBC: m̂ / √max(v̂ − Φ, γ′) with Φ = (σC / B)², the variance of the noise.

    Noise of a known variance adds Φ to Adam's second moment v̂ and hides what the gradients say.
    Tang, Shpilevskiy and Lécuyer 2024 ("DP-AdamBC: Your DP-Adam Is Actually DP-SGD (Unless You
    Apply Bias Correction)", arXiv:2312.14334, algorithm 1) subtract it. It is computed from the
    private gradient and public numbers, so it costs no ε.

    Args:
        noise_stddev: σC / B, the standard deviation per coordinate of the noise on the private
            gradient. Noise that is correlated over steps has another one in each step: it is not
            for that.
        b1: decay of the mean, in [0, 1).
        b2: decay of the squares, in [0, 1).
        least_square: γ′ > 0, what v̂ − Φ counts as at least. It bounds an update by m̂ / √γ′: tune it
            together with the learning rate.

    Returns:
        An optax transformation, to be chained with a learning rate.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> import optax
        >>> optimizer = optax.chain(
        ...     scale_by_adam_bc(noise_stddev=0.01), optax.scale_by_learning_rate(1e-3)
        ... )
        >>> params = {"w": jnp.zeros(3)}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.array([1.0, -1.0, 1e-6])}, state, params)
        >>> [round(float(entry), 6) for entry in updates["w"]]
        [-0.001, 0.001, -4e-06]
    """
    import optax

    if not noise_stddev >= 0:
        raise ValueError(f"noise_stddev must be at least 0, got {noise_stddev}.")
    if not least_square > 0:
        raise ValueError(f"least_square must be above 0, got {least_square}.")
    for name, decay in (("b1", b1), ("b2", b2)):
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {decay}.")

    def init(params: PyTree) -> AdamBCState:
        # Two trees of zeros: a compiled step takes over the buffers of each.
        mean, square = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return AdamBCState(jnp.zeros((), jnp.int32), mean, square)

    def update(grads: PyTree, state: AdamBCState, params: Any = None) -> tuple[PyTree, AdamBCState]:
        del params
        step = state.step + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.square, grads)

        def scale(m: jax.Array, v: jax.Array) -> jax.Array:
            unbiased = v / (1 - b2**step)
            signal = jnp.maximum(unbiased - noise_stddev**2, least_square)
            return m / (1 - b1**step) / jnp.sqrt(signal)

        return jax.tree.map(scale, mean, square), AdamBCState(step, mean, square)

    return optax.GradientTransformation(init, update)
