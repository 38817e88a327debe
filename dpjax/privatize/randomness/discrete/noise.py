"""Sums on a grid of whole numbers, and the discrete noise that they are released with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dpjax_accounting import DPSGDSchedule, LaplaceDPSGD, Mechanism

from dpjax.privatize.randomness.discrete.sampler import (
    RandomBits,
    discrete_gaussian,
    discrete_laplace,
)
from dpjax.privatize.randomness.run_key import RunKey
from dpjax.privatize.randomness.step_noise import StepNoise, step_noise

# Added to the variance, in grid intervals squared: with it the discrete Gaussian is no worse than
# the continuous one (docs/accounting/proofs.md, "Discrete Gaussian noise").
SMOOTHING = 4
# Added to the scale, in grid intervals: with it discrete Laplace noise is no worse than continuous
# (docs/accounting/proofs.md, "Discrete Laplace noise").
LAPLACE_MARGIN = 1
# The square of a contribution fits into int32.
_FINEST = 2**15
# A sum of eight times as many units as are expected, and noise of eight standard deviations, fit.
_LARGEST_SUM, _LARGEST_STDDEV = 2**28, 2**26
# SMOOTHING is at most 1 % of the variance.
_LEAST_STDDEV = 20
_LOW_BITS = 15
_MOST_COORDINATES = 2**15


@dataclasses.dataclass(frozen=True)
class Grid:
    """Contributions as whole numbers: a clip norm is `resolution` intervals of the grid.

    The sum of int32 is exact in any order, modulo 2³², and so is the sum with noise. A sum that
    wraps around would be useless, and as private: what is released is a function of the true one.

    Attributes:
        resolution: m, a power of two.

    Example:
        >>> grid = Grid.for_noise([StepNoise(noise_multiplier=1.0, batch_size=1024)])
        >>> grid.resolution, grid.variance(1.0)
        (32768, 1073741828)
        >>> int(grid.rounded(jnp.array([[-0.9999 / 32768]]), clip_norm=1.0)[0, 0])
        0
    """

    resolution: int

    @classmethod
    def for_noise(cls, steps: Iterable[StepNoise]) -> Grid:
        """Returns the finest grid on which the sums of all `steps` fit into int32.

        Args:
            steps: the noise multipliers, in clip norms, and the public batch sizes, in units.

        Raises:
            ValueError: they do not fit on a grid that is fine enough.
        """
        steps = list(steps)
        largest_batch = max(step.batch_size for step in steps)
        stddevs = [step.noise_multiplier for step in steps]
        most = min(_FINEST, _LARGEST_SUM / (largest_batch + 8), _LARGEST_STDDEV / max(stddevs))
        resolution = 2 ** math.floor(math.log2(most))
        if resolution < 1 or resolution * min(stddevs) < _LEAST_STDDEV:
            raise ValueError(
                f"discrete noise needs a grid of int32, on which batches of {largest_batch:g} "
                f"units and noise multipliers from {min(stddevs):g} to {max(stddevs):g} do not fit "
                "together. Take smaller batches, or noise nearer to the clip norm"
            )
        return cls(int(resolution))

    def variance(self, noise_multiplier: float) -> int:
        """Returns S² = ⌈(σm)²⌉ + 4, in intervals squared: without rounding of any other kind."""
        return math.ceil((Fraction(float(noise_multiplier)) * self.resolution) ** 2) + SMOOTHING

    def laplace_scale(self, noise_multiplier: float) -> int:
        """Returns s = ⌈bm⌉ + 1, in intervals: without rounding of any other kind."""
        return math.ceil(Fraction(float(noise_multiplier)) * self.resolution) + LAPLACE_MARGIN

    def draw(
        self, noise_multiplier: float, blocks: Iterator[bytes], size: int
    ) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Draws discrete Gaussian noise, modulo 2³².

        Args:
            noise_multiplier: σ, the standard deviation in clip norms.
            blocks: secret bytes that nothing else reads, from the run key.
            size: how many numbers, independent of each other.

        Returns:
            `(size,)` int32, in intervals.
        """
        bits, variance = RandomBits(blocks), self.variance(noise_multiplier)
        return _wrapped(discrete_gaussian(bits, variance) for _ in range(size))

    def draw_laplace(
        self, noise_multiplier: float, blocks: Iterator[bytes]
    ) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Draws discrete Laplace noise for one number, modulo 2³².

        Args:
            noise_multiplier: b, the scale in clip norms.
            blocks: as for `draw`.

        Returns:
            `(1,)` int32, in intervals.
        """
        return _wrapped(
            [discrete_laplace(RandomBits(blocks), self.laplace_scale(noise_multiplier))]
        )

    def rounded(self, vectors: jax.Array, clip_norm: float | jax.Array) -> jax.Array:
        """Rounds each coordinate towards zero to the grid; no vector is longer than m afterwards.

        Args:
            vectors: `(B, k)` float32, finite, each of L2 norm at most C.
            clip_norm: C.

        Returns:
            `(B, k)` int32, in intervals. A vector that rounding made longer than m would become
            zero: the guarantee rests on whole numbers, and not on how floats are rounded.
        """
        scaled = jnp.trunc(vectors * (self.resolution / clip_norm))
        whole = jnp.clip(scaled, -self.resolution, self.resolution).astype(jnp.int32)
        # The sum of squares in two parts, neither of which overflows.
        squares = whole * whole
        low = jnp.sum(squares % 2**_LOW_BITS, axis=1, keepdims=True)
        high = jnp.sum(squares >> _LOW_BITS, axis=1, keepdims=True) + (low >> _LOW_BITS)
        most_high, most_low = divmod(self.resolution**2, 2**_LOW_BITS)
        fits = (high < most_high) | ((high == most_high) & (low % 2**_LOW_BITS <= most_low))
        return jnp.where(fits, whole, 0)


def check_discrete_noise(mechanism: Mechanism) -> None:
    """Raises ValueError unless the discrete noise of all steps fits on a grid of int32.

    Args:
        mechanism: what the accountant counts, of independent noise.

    Example:
        >>> from dpjax_accounting import DPSGD
        >>> run = {"num_units": 1000, "expected_batch_size": 20, "num_steps": 10}
        >>> check_discrete_noise(DPSGD(noise_multiplier=1.0, **run))
    """
    Grid.for_noise(_noise_of_all_steps(mechanism))


class DiscreteNoise:
    """Discrete noise for a vector of few numbers, drawn in each step independently.

    The vector is a sum of contributions that `grid.rounded` returned. The noise is a discrete
    Gaussian, and with `LaplaceDPSGD` a discrete Laplace distribution, for one number.

    Args:
        mechanism: what the accountant counts.
        run_key: gives the draws.
        clip_norm: C, of every step.
        size: k, of the vector.

    Raises:
        TypeError: the mechanism describes other noise.
        ValueError: it lacks its batch size, the noise does not fit on a grid, or the vector is too
            long for it.
    """

    in_order = False

    def __init__(
        self, mechanism: Mechanism, run_key: RunKey, clip_norm: float | jax.Array, size: int
    ) -> None:
        if size > _MOST_COORDINATES:
            raise ValueError(
                f"discrete noise is for vectors of at most {_MOST_COORDINATES} numbers, got {size}"
            )
        if isinstance(mechanism, LaplaceDPSGD) and size != 1:
            raise ValueError(
                f"LaplaceDPSGD is for one number in each step, got {size}: contributions are "
                "clipped in L2 norm, and Laplace noise on several numbers hides what is clipped in "
                "L1. Take DPSGD, or num_directions=1"
            )
        self._mechanism, self._run_key, self._clip_norm = mechanism, run_key, clip_norm
        self._size = size
        self.grid = Grid.for_noise(_noise_of_all_steps(mechanism))

    def arguments(self, step: int, clipped_sum: jax.Array) -> tuple[Any, ...]:
        """Returns the noise `(k,)` int32, and the interval of the grid divided by the batch size.

        Args:
            step: in the range of the mechanism's steps.
            clipped_sum: not read.
        """
        del clipped_sum
        noise = _noise_of(self._mechanism, step)
        blocks = self._run_key.noise_blocks(step)
        if isinstance(self._mechanism, LaplaceDPSGD):
            drawn = self.grid.draw_laplace(noise.noise_multiplier, blocks)
        else:
            drawn = self.grid.draw(noise.noise_multiplier, blocks, self._size)
        return drawn, self._scale(noise)

    def shapes(self, clipped_sum: jax.Array) -> tuple[Any, ...]:
        """Returns `arguments` with zeros for the noise: nothing is drawn."""
        del clipped_sum
        return np.zeros(self._size, np.int32), self._scale(_noise_of(self._mechanism, 0))

    def make_mean(self) -> Callable[..., jax.Array]:
        """Makes the function from sum, noise and scale to the noisy mean, `(k,)` float32."""
        return _mean

    def _scale(self, noise: StepNoise) -> np.float32:
        return np.float32(self._clip_norm / (self.grid.resolution * noise.batch_size))


def _mean(clipped_sum: jax.Array, noise: jax.Array, scale: jax.Array) -> jax.Array:
    """(`clipped_sum` + `noise`) · `scale`; the sum is exact, and what follows sees noise alone."""
    return (clipped_sum + noise).astype(jnp.float32) * scale


def _wrapped(numbers: Iterable[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Whole numbers of any size, modulo 2³²."""
    return np.array([number % 2**32 for number in numbers], np.uint32).view(np.int32)


def _noise_of(mechanism: Mechanism, step: int) -> StepNoise:
    if isinstance(mechanism, LaplaceDPSGD):
        return StepNoise(mechanism.noise_multiplier, mechanism.expected_batch_size)
    return step_noise(mechanism, step if isinstance(mechanism, DPSGDSchedule) else None)


def _noise_of_all_steps(mechanism: Mechanism) -> list[StepNoise]:
    """The different noises of a mechanism, one for each segment of a schedule."""
    if not isinstance(mechanism, DPSGDSchedule):
        return [_noise_of(mechanism, 0)]
    return [
        StepNoise(segment.noise_multiplier, segment.expected_batch_size)
        for segment in mechanism.segments
    ]
