"""`private_gradient`: loss, clipping rule, mechanism and run key, bound once for a training loop.

The tier between `dpjax.finetune` and the loose parts: `docs/tiers.md` says who is responsible for
what in each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast, overload

import jax
import numpy as np
from dpjax_accounting import DPSGD, AdaptiveClippingDPSGD, BandedDPSGD, Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize.devices.room import check_device_memory
from dpjax.privatize.randomness.correlated.noise import CorrelatedNoise
from dpjax.privatize.randomness.correlated.strategies import NoiseStrategy
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.randomness.source import IndependentNoise, NoiseSource
from dpjax.privatize.rules.adaptive_clipping import AdaptiveClipping
from dpjax.privatize.rules.clipping_rules import ClippingRule
from dpjax.privatize.sampling.choice import sampler_for
from dpjax.privatize.steps.adaptive import AdaptivePrivateGradient
from dpjax.privatize.steps.backward_steps import BackwardSteps
from dpjax.privatize.steps.private_steps import check_one_rule, constant_rule
from dpjax.privatize.steps.total import StepTotal
from dpjax.privatize.strategies import strategy_named


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateGradient(BackwardSteps):
    """Private gradients of a training loop whose clip norm is constant.

    Build it with `private_gradient`.
    """

    rule: ClippingRule
    noise: NoiseSource

    @property
    def noise_strategy(self) -> NoiseStrategy | None:
        """The strategy of correlated noise, public; None where noise is independent."""
        return self.noise.strategy if isinstance(self.noise, CorrelatedNoise) else None

    def zeros(self, params: PyTree, step: int) -> StepTotal:
        """Returns the total that a step starts from: no units yet.

        Args:
            params: the parameters that are trained.
            step: in `range(num_steps)`.

        Raises:
            TypeError: `step` is not an integer.
            ValueError: `step` is not a step of the mechanism.
        """
        return StepTotal.zeros(params, self._checked_step(step), owner=self._owner)

    def release(self, total: StepTotal, step: int) -> PyTree:
        """Adds the noise of the step to the total, once: (Σᵢ cᵢ gᵢ + N(0, σ²C²)) / B.

        It runs on the host, outside `jax.jit`, and waits for the total. Each step is released once;
        the buffers of `total.grads` are taken over. What an earlier process released, the object
        cannot know: after a restart, repeat a step from the parameters that it started from.
        Noise that is correlated over steps is made for all steps before, once after a restart.

        Args:
            total: the sum over all microbatches of `batches(step, ...)`.
            step: the step that the total was made for.

        Returns:
            The private gradient: float32, the structure of the parameters, as `noisy_mean`.

        Raises:
            TypeError: `total` is traced or no total, or `step` is not an integer.
            ValueError: the total is that of another object or step, or does not have as many
                records as the step's batch; or the step is none of the mechanism's, has been
                released, or comes before one that has, where noise is correlated.
        """
        step = self._approve(total, step)
        return self._compiled_mean(*self._sums(total), *self._noise(total, step))

    def _approve(self, total: StepTotal, step: int) -> int:
        later = max(self._released_steps, default=-1)
        if self.noise.in_order and self._checked_step(step) < later:
            raise ValueError(
                f"step must be after {later}, which has been released, got {step}: noise is "
                "correlated over steps, and covers what a step has seen of the steps before it. "
                "Release steps in their order"
            )
        return super()._approve(total, step)

    def lower_noise(self, params: PyTree) -> jax.stages.Lowered | None:
        """Lowers the program that makes correlated noise; None where noise is independent.

        Its arguments are the state of past steps, whose buffers are taken over, and noise keys; its
        results the noise of a step, which `release_and_update` takes, and the state after it.

        Args:
            params: the parameters that the total is of, arrays or shapes.
        """
        return self.noise.lower(self._abstract_total(params).grads)

    def _make_rule_of(self) -> Callable[[StepTotal], ClippingRule]:
        rule = self.rule
        return lambda total: rule

    @functools.cached_property
    def _compiled_mean(self) -> Callable[..., PyTree]:
        return jax.jit(self._make_release(), donate_argnums=0)

    def _sums(self, total: StepTotal) -> tuple[Any, ...]:
        return (total.grads,)

    def _noise(self, total: StepTotal, step: int) -> tuple[Any, ...]:
        return self.noise.arguments(step, total.grads)

    def _abstract_noise(self, total: StepTotal) -> tuple[Any, ...]:
        return self.noise.shapes(total.grads)

    def _make_release(self) -> Callable[..., Any]:
        return self.noise.make_mean()


@overload
def private_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    clip_norm: float,
    strategy: str = "auto",
    device_memory: int | None = None,
    present: np.ndarray | None = None,
    noise_strategy: NoiseStrategy | None = None,
) -> PrivateGradient: ...
@overload
def private_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    rule: ClippingRule,
    strategy: str = "auto",
    device_memory: int | None = None,
    present: np.ndarray | None = None,
    noise_strategy: NoiseStrategy | None = None,
) -> PrivateGradient: ...
@overload
def private_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    rule: AdaptiveClipping,
    strategy: str = "auto",
    device_memory: int | None = None,
    present: np.ndarray | None = None,
) -> AdaptivePrivateGradient: ...


def private_gradient(
    loss_fn: Callable[..., jax.Array],
    *,
    mechanism: Mechanism,
    run_key: RunKey,
    clip_norm: float | None = None,
    rule: ClippingRule | AdaptiveClipping | None = None,
    strategy: str = "auto",
    device_memory: int | None = None,
    present: np.ndarray | None = None,
    noise_strategy: NoiseStrategy | None = None,
) -> PrivateGradient | AdaptivePrivateGradient:
    """Binds loss, clipping rule, mechanism and run key for a training loop with DP-SGD.

    Sampling, clipping and noise then read the same objects as the accountant, and misuse that would
    cost privacy is refused: see `PrivateGradient.release`. The gradient of one step is
    (Σᵢ cᵢ gᵢ + N(0, σ²C²)) / B (Abadi et al. 2016, "Deep Learning with Differential Privacy",
    Algorithm 1).

    Args:
        loss_fn: `(params, example) -> scalar`, or `(params, example, *shared) -> scalar` with what
            `add` is given as `shared`; it sees one example without a batch axis. `unit_loss` makes
            one of a unit of several examples.
        mechanism: what the accountant counts: sampling, noise and number of steps. `sampler_for`
            says what it needs. The noise of `BandedDPSGD` is correlated over steps.
        run_key: the secret of this run, `RunKey.from_os_entropy()`; use it in no other run.
        clip_norm: C > 0, the most that one unit contributes, in L2 norm.
        rule: instead of `clip_norm`; with `AdaptiveClipping` the clip norm is the loop's state.
        strategy: how the clipped sum is computed, as for `clipped_grad`.
        device_memory: bytes that one device can use, as for `clipped_grad`.
        present: `(S,)` bool for S slots of units, where not all are sure to be there; as for
            `sampler_for`. Default: all units of the mechanism.
        noise_strategy: for `BandedDPSGD`, the strategy matrix, public, such as that of another run.
            Default: `BandedStrategy.optimized` for its steps and bands.

    Returns:
        A `PrivateGradient`; an `AdaptivePrivateGradient` where the rule is `AdaptiveClipping`.

    Raises:
        TypeError: the mechanism describes no run or another clipping rule, the run key is not a
            RunKey, the rule not a rule, or not exactly one of `clip_norm` and `rule` is given; or a
            noise strategy is given without `BandedDPSGD`.
        ValueError: the mechanism lacks a number that a run needs, the clip norm is not positive,
            the strategy is unknown, or `AdaptiveClipping`, `present` or the noise strategy does not
            fit the mechanism.
        ImportError: noise is correlated, and jax_privacy is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> data = jnp.arange(40.0).reshape(20, 2)
        >>> params = jnp.zeros(2)
        >>> mechanism = DPSGD(
        ...     num_units=20, expected_batch_size=5, noise_multiplier=1.0, num_steps=3
        ... )
        >>> private = private_gradient(
        ...     lambda params, x: jnp.sum((params - x) ** 2),
        ...     mechanism=mechanism,
        ...     clip_norm=1.0,
        ...     run_key=RunKey.from_os_entropy(),
        ... )
        >>> for step in range(mechanism.num_steps):
        ...     total = private.zeros(params, step)
        ...     for rows, mask in private.batches(step, microbatch_size=4):
        ...         total = private.add(total, params, data[rows], mask)
        ...     params = params - 0.1 * private.release(total, step)
        >>> params.shape
        (2,)
    """
    check_one_rule("private_gradient", run_key, clip_norm, rule)
    strategy_named(strategy)
    check_device_memory(device_memory)
    sampler_for(mechanism, run_key, present)
    if noise_strategy is not None and not isinstance(mechanism, BandedDPSGD):
        raise TypeError(
            "noise_strategy is for BandedDPSGD, whose noise is correlated over steps, got "
            f"{type(mechanism).__name__}. Leave it out"
        )
    if isinstance(rule, AdaptiveClipping):
        rule.noise_scales(mechanism)
        described = cast(DPSGD | AdaptiveClippingDPSGD, mechanism)
        return AdaptivePrivateGradient(
            loss_fn, described, run_key, present, strategy, device_memory, rule
        )
    constant = constant_rule(
        clip_norm, rule, wanted="a clipping rule, such as FlatClipping(1.0) or AdaptiveClipping()"
    )
    noise: NoiseSource
    if isinstance(mechanism, BandedDPSGD):
        noise = CorrelatedNoise(mechanism, run_key, float(constant.clip_norm), noise_strategy)
    else:
        noise = IndependentNoise(mechanism, run_key, constant.clip_norm)
    return PrivateGradient(
        loss_fn, mechanism, run_key, present, strategy, device_memory, constant, noise
    )
