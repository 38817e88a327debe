"""Private gradients from forward passes: the difference of two losses is all that is released."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from dpjax_accounting import BandedDPSGD, Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.spread_sums import Shardings
from dpjax.privatize.randomness.discrete.noise import DiscreteNoise
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.rules.clipping_rules import ClippingRule
from dpjax.privatize.sampling.choice import sampler_for
from dpjax.privatize.steps.differences import clipped_differences
from dpjax.privatize.steps.directions import Directions
from dpjax.privatize.steps.private_steps import PrivateSteps, check_one_rule, constant_rule
from dpjax.privatize.steps.total import StepTotal


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateZerothOrderGradient(PrivateSteps):
    """Private zeroth-order gradients of a training loop, called as a `PrivateGradient`.

    Build it with `private_zeroth_order_gradient`.
    """

    rule: ClippingRule
    noise: DiscreteNoise
    smoothing: float
    num_directions: int

    # As of a `PrivateGradient` with independent noise.
    noise_strategy = None

    def zeros(self, params: PyTree, step: int) -> StepTotal:
        """Returns the total that a step starts from: no units yet, and the step's directions.

        Args:
            params: the parameters that are trained.
            step: in `range(num_steps)`.

        Raises:
            TypeError: `step` is not an integer.
            ValueError: `step` is not a step of the mechanism.
        """
        step = self._checked_step(step)
        key = self.run_key.direction_key(step)
        directions = Directions.of(params, key, self.num_directions)
        return StepTotal.zeros(params, step, directions=directions, owner=self._owner)

    def release(self, total: StepTotal, step: int) -> PyTree:
        """Adds the noise of the step to the k sums, once, and returns Σⱼ dⱼ zⱼ / k.

        d = (Σᵢ cᵢ dᵢ + noise) / B is what is released: sums of whole numbers, and discrete Gaussian
        noise with standard deviation σC. The rest is public: the directions depend on no record.

        Args:
            total: the sum over all microbatches of `batches(step, ...)`.
            step: the step that the total was made for.

        Returns:
            The private gradient: float32, the structure of the parameters; zeros of their own dtype
            for integer and boolean leaves.

        Raises:
            TypeError, ValueError: as `PrivateGradient.release`.
        """
        step = self._approve(total, step)
        noise = self.noise.arguments(step, total.grads)
        return self._compiled_gradient(total.grads, total.directions, *noise)

    def release_and_update(
        self, update: Callable[..., PyTree], total: StepTotal, step: int, *args: PyTree
    ) -> PyTree:
        """Calls `update(release(total, step), *args)` as one compiled program.

        Args:
            update: as for `PrivateGradient.release_and_update`.
            total: as for `release`.
            step: as for `release`.
            args: pytrees of arrays, whose buffers are taken over.

        Raises:
            TypeError, ValueError: as `release`.
        """
        step = self._approve(total, step)
        noise = self.noise.arguments(step, total.grads)
        return self._compiled_update(update, args, total.grads, total.directions, *noise)

    def lower_update(
        self, update: Callable[..., PyTree], params: PyTree, *args: PyTree
    ) -> jax.stages.Lowered:
        """Lowers the program of `release_and_update` for arrays or shapes: nothing is released.

        Args:
            update: as for `release_and_update`.
            params: the parameters that the total is of.
            args: what `update` takes beside the private gradient.
        """
        total = self._abstract_total(params)
        noise = self.noise.shapes(total.grads)
        return self._compiled_update.lower(update, args, total.grads, total.directions, *noise)

    def lower_noise(self, params: PyTree) -> None:
        """Returns nothing: independent noise needs no program of its own."""
        del params

    def _abstract_total(self, params: PyTree) -> StepTotal:
        return jax.eval_shape(lambda params: self.zeros(params, 0), params)

    @functools.cached_property
    def _compiled_add(self) -> jax.stages.Wrapped:
        # What is compiled must not refer to this object: see `BackwardSteps`.
        loss_of_example, rule, smoothing = self.loss_fn, self.rule, self.smoothing
        grid = self.noise.grid

        def add(
            total: StepTotal,
            params: PyTree,
            batch: PyTree,
            mask: jax.Array,
            *shared: PyTree,
            shardings: Shardings = (),
            num_devices: int = 1,
        ) -> StepTotal:
            del num_devices
            total.check_fits(params)
            directions = total.directions
            assert directions is not None

            def loss_fn(params: PyTree, example: PyTree) -> jax.Array:
                return loss_of_example(params, example, *shared)

            clipped = clipped_differences(
                loss_fn, directions, rule, smoothing, grid, params, batch, mask, shardings
            )
            return total.plus(clipped, mask)

        return jax.jit(add, static_argnames=("shardings", "num_devices"), donate_argnums=0)

    @functools.cached_property
    def _compiled_gradient(self) -> Callable[..., PyTree]:
        return jax.jit(self._make_gradient())

    @functools.cached_property
    def _compiled_update(self) -> jax.stages.Wrapped:
        gradient = self._make_gradient()

        def run(
            update: Callable[..., PyTree],
            args: tuple[PyTree, ...],
            clipped_sum: jax.Array,
            directions: Directions,
            *noise: PyTree,
        ) -> PyTree:
            return update(gradient(clipped_sum, directions, *noise), *args)

        return jax.jit(run, static_argnums=0, donate_argnums=1)

    def _make_gradient(self) -> Callable[..., PyTree]:
        """Makes the function from sums, directions and noise to the private gradient."""
        mean, number = self.noise.make_mean(), self.num_directions

        def gradient(clipped_sum: jax.Array, directions: Directions, *noise: PyTree) -> PyTree:
            return directions.combined(mean(clipped_sum, *noise) / number)

        return gradient


def private_zeroth_order_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    clip_norm: float | None = None,
    rule: ClippingRule | None = None,
    smoothing: float = 1e-3,
    num_directions: int = 1,
    present: np.ndarray | None = None,
) -> PrivateZerothOrderGradient:
    """Binds loss, clipping rule, mechanism and run key for a loop that goes forward only (DP-ZO).

    Each step draws k public directions zⱼ ~ N(0, I). A record's differences of two losses,
    d_ij = (Lᵢ(θ + φzⱼ) - Lᵢ(θ - φzⱼ)) / 2φ, are clipped to L2 norm C, summed, and given the noise
    of the mechanism; the gradient is Σⱼ dⱼ zⱼ / k. ε is that of DP-SGD with the same mechanism: the
    sum has the same sensitivity, and k numbers instead of one for each parameter. Clipped vectors
    are rounded towards zero to a grid of C/2¹⁵, or coarser for very large batches or noise, and the
    noise is a discrete Gaussian on it, so that no rounding of floats is in what is released.

    Source: Zhang et al. 2024, "Private Fine-tuning of Large Language Models with Zeroth-order
    Optimization", arXiv:2401.04343, Algorithm 1; the estimator with k directions is that of
    Malladi et al. 2023, "Fine-Tuning Language Models with Just Forward Passes", arXiv:2305.17333,
    Definition 1.

    Args:
        loss_fn: as for `private_gradient`; it needs no derivative.
        mechanism: as for `private_gradient`; its noise is independent in each step.
        run_key: the secret of this run; the directions too are drawn from it.
        clip_norm: C > 0, the most that one unit contributes: the k differences in L2 norm. Without
            clipping dᵢ is about N(0, ‖gᵢ‖²) for a gradient gᵢ, for each direction.
        rule: instead of `clip_norm`, a rule of a single group, such as `AutomaticClipping`.
        smoothing: φ > 0, how far θ is moved along a direction. The error of a difference grows with
            φ², and what rounding of losses does to it with 1/φ.
        num_directions: k ≥ 1. Time is 2k forward passes; the variance of the estimate falls with k.
        present: as for `private_gradient`.

    Raises:
        TypeError: the mechanism describes no run with independent noise, the run key is not a
            RunKey, the rule not a rule, or not exactly one of `clip_norm` and `rule` is given.
        ValueError: the mechanism lacks a number that a run needs, the rule has several groups, or
            the clip norm, the smoothing or the number of directions is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from dpjax_accounting import DPSGD
        >>> data = jnp.arange(40.0).reshape(20, 2)
        >>> params = jnp.zeros(2)
        >>> mechanism = DPSGD(
        ...     num_units=20, expected_batch_size=5, noise_multiplier=1.0, num_steps=3
        ... )
        >>> private = private_zeroth_order_gradient(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     mechanism=mechanism,
        ...     clip_norm=10.0,
        ...     run_key=RunKey.from_os_entropy(),
        ... )
        >>> for step in range(mechanism.num_steps):
        ...     total = private.zeros(params, step)
        ...     for rows, mask in private.batches(step, microbatch_size=4):
        ...         total = private.add(total, params, data[rows], mask)
        ...     params = params - 0.01 * private.release(total, step)
        >>> total.grads.shape, params.shape
        ((1,), (2,))
    """
    check_one_rule("private_zeroth_order_gradient", run_key, clip_norm, rule)
    rule = constant_rule(
        clip_norm, rule, wanted="a clipping rule of one group, such as FlatClipping(1.0)"
    )
    if rule.group_names is not None:
        raise ValueError(
            "rule must have a single group, since differences belong to all parameters together, "
            f"got the groups {list(rule.group_names)}. Give clip_norm, or FlatClipping"
        )
    if isinstance(mechanism, BandedDPSGD):
        raise TypeError(
            "mechanism must have independent noise, got BandedDPSGD: noise that a later step takes "
            "back must lie along the same direction, and every step has new ones. Give DPSGD"
        )
    if isinstance(num_directions, bool) or not isinstance(num_directions, int):
        raise TypeError(f"num_directions must be a whole number, got {num_directions!r}")
    if num_directions < 1:
        raise ValueError(f"num_directions must be at least 1, got {num_directions}")
    if not (math.isfinite(smoothing) and smoothing > 0):
        raise ValueError(f"smoothing must be positive and finite, got {smoothing}")
    sampler_for(mechanism, run_key, present)
    return PrivateZerothOrderGradient(
        loss_fn=loss_fn,
        mechanism=mechanism,
        run_key=run_key,
        present=present,
        rule=rule,
        noise=DiscreteNoise(mechanism, run_key, rule.clip_norm, num_directions),
        smoothing=float(smoothing),
        num_directions=num_directions,
    )
