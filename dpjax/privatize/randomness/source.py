"""Where the noise of a run comes from: what a private gradient asks of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
from dpjax_accounting import DPSGDSchedule, Mechanism

from dpjax.basics.typing import PyTree
from dpjax.privatize.randomness.noise import mean_with_noise, noisy_mean
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.randomness.step_noise import step_noise


class NoiseSource(Protocol):
    """Adds the noise of a step to its clipped sum, as a pure function of (run key, step)."""

    # Whether the guarantee holds only if each step is released after those before it.
    in_order: bool

    def arguments(self, step: int, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns what the mean of `step` takes beside the sum.

        Args:
            step: in the range of the mechanism's steps.
            clipped_sum: gives shapes and devices; its values are not read.
        """
        ...

    def shapes(self, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns what `arguments` does, as shapes where it is large: nothing is drawn.

        Args:
            clipped_sum: arrays or shapes.
        """
        ...

    def lower(self, clipped_sum: PyTree) -> jax.stages.Lowered | None:
        """Lowers the program that makes a step's noise beforehand; None where the mean draws it.

        Args:
            clipped_sum: arrays or shapes.
        """
        ...

    def make_mean(self) -> Callable[..., PyTree]:
        """Makes the function `(clipped_sum, *arguments) -> private gradient`, to be compiled."""
        ...


class IndependentNoise:
    """Noise that is drawn in each step independently of the others.

    Args:
        mechanism: what the accountant counts.
        run_key: gives the draws.
        clip_norm: C, of every step.

    Raises:
        TypeError: the mechanism describes other noise.
        ValueError: it lacks its batch size.
    """

    in_order = False

    def __init__(self, mechanism: Mechanism, run_key: RunKey, clip_norm: float | jax.Array) -> None:
        self._mechanism, self._run_key, self._clip_norm = mechanism, run_key, clip_norm
        self._changes = isinstance(mechanism, DPSGDSchedule)
        if not self._changes:
            step_noise(mechanism)

    def arguments(self, step: int, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns the keys; and standard deviation and divisor, where these change by step."""
        del clipped_sum
        keys = self._run_key.noise_keys(step)
        if not self._changes:
            return (keys,)
        noise = step_noise(self._mechanism, step)
        return keys, noise.noise_multiplier * self._clip_norm, noise.batch_size

    def shapes(self, clipped_sum: PyTree) -> tuple[Any, ...]:
        """Returns `arguments`, of which none is large."""
        return self.arguments(0, clipped_sum)

    def lower(self, clipped_sum: PyTree) -> None:
        """Returns nothing: the mean draws the noise."""
        del clipped_sum

    def make_mean(self) -> Callable[..., PyTree]:
        """Makes the function from sum, noise keys and scale to the noisy mean."""
        if self._changes:
            return mean_with_noise
        return functools.partial(noisy_mean, mechanism=self._mechanism, clip_norm=self._clip_norm)
