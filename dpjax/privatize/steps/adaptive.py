"""Private gradients whose clip norm follows a quantile of the gradient norms."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGD, AdaptiveClippingDPSGD

from dpjax.basics.typing import PyTree
from dpjax.privatize.randomness.discrete.noise import Grid
from dpjax.privatize.randomness.noise import mean_with_noise
from dpjax.privatize.rules.adaptive_clipping import AdaptiveClipping, NoiseScales
from dpjax.privatize.rules.clipping_rules import ClippingRule, FlatClipping
from dpjax.privatize.steps.backward_steps import BackwardSteps
from dpjax.privatize.steps.total import StepTotal


@dataclasses.dataclass(frozen=True, eq=False)
class AdaptivePrivateGradient(BackwardSteps):
    """Private gradients of a training loop with `AdaptiveClipping`.

    The state is the clip norm C, a float32 scalar. The first step takes any positive constant, each
    following step what `release` returned with the gradient; the function that
    `release_and_update` calls takes both as a pair. Build it with `private_gradient`.
    """

    mechanism: DPSGD | AdaptiveClippingDPSGD
    rule: AdaptiveClipping

    def __post_init__(self) -> None:
        # Refuses noise that does not fit, before anything is computed.
        _ = self._count_noise

    @property
    def noise_scales(self) -> NoiseScales:
        """Noise of the gradient and of the count, both together as the mechanism says."""
        return self.rule.noise_scales(self.mechanism)

    @functools.cached_property
    def _count_noise(self) -> tuple[float, Grid]:
        return self.rule.count_noise(self.mechanism)

    def zeros(self, params: PyTree, step: int, clip_norm: float | jax.Array) -> StepTotal:
        """Returns the total that a step starts from: no units yet.

        Args:
            params: the parameters that are trained.
            step: in `range(num_steps)`.
            clip_norm: C > 0 of the step, a constant or what the step before released.

        Raises:
            TypeError: `step` is not an integer, or `clip_norm` not a number.
            ValueError: `step` is not a step of the mechanism, or `clip_norm` not positive.
        """
        clip_norm = FlatClipping(clip_norm).clip_norm
        step = self._checked_step(step)
        return StepTotal.zeros(params, step, clip_norm=clip_norm, owner=self._owner)

    def release(self, total: StepTotal, step: int) -> tuple[PyTree, jax.Array]:
        """Returns the private gradient as `PrivateGradient.release`, and the next step's C.

        Both are released at once, since each alone would cost what both together cost.

        Args:
            total: the sum over all microbatches of `batches(step, ...)`.
            step: the step that the total was made for.

        Returns:
            The private gradient: float32, the structure of the parameters; and C, a float32 scalar.

        Raises:
            TypeError, ValueError: as `PrivateGradient.release`.
        """
        step = self._approve(total, step)
        return self._compiled_release(*self._sums(total), *self._noise(total, step))

    def _sums(self, total: StepTotal) -> tuple[Any, ...]:
        return total.grads, total.doubled_count, total.clip_norm

    def _noise(self, total: StepTotal, step: int) -> tuple[Any, ...]:
        """Keys of the gradient's noise, and the noise of the doubled count."""
        del total
        multiplier, grid = self._count_noise
        (of_count,) = grid.draw(multiplier, self.run_key.quantile_blocks(step), 1)
        return self.run_key.noise_keys(step), of_count

    def _abstract_noise(self, total: StepTotal) -> tuple[Any, ...]:
        del total
        return self.run_key.noise_keys(0), np.zeros((), np.int32)

    def _abstract_total(self, params: PyTree) -> StepTotal:
        scalars: dict[str, Any] = {
            "clip_norm": jax.ShapeDtypeStruct((), jnp.float32),
            "doubled_count": jax.ShapeDtypeStruct((), jnp.int32),
        }
        return dataclasses.replace(super()._abstract_total(params), **scalars)

    def _make_rule_of(self) -> Callable[[StepTotal], ClippingRule]:
        return lambda total: FlatClipping(cast(jax.Array, total.clip_norm))

    @functools.cached_property
    def _compiled_release(self) -> Callable[..., tuple[PyTree, jax.Array]]:
        return jax.jit(self._make_release(), donate_argnums=0)

    def _make_release(self) -> Callable[..., tuple[PyTree, jax.Array]]:
        """Makes the function from sums and noise to what is released; it holds no `self`."""
        multiplier, resolution = self.noise_scales[0], self._count_noise[1].resolution
        rule, expected_batch_size = self.rule, self.mechanism.expected_batch_size

        def release(
            clipped_sum: PyTree,
            doubled_count: jax.Array,
            clip_norm: jax.Array,
            noise_keys: jax.Array,
            count_noise: jax.Array,
        ) -> tuple[PyTree, jax.Array]:
            stddev = multiplier * clip_norm
            mean = mean_with_noise(clipped_sum, noise_keys, stddev, expected_batch_size)
            on_grid = doubled_count * resolution + count_noise
            noisy_count = on_grid.astype(jnp.float32) / (2 * resolution)
            return mean, rule.next_clip_norm(noisy_count, clip_norm, expected_batch_size)

        return release
