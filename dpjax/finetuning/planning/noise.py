"""The noise of a run for several batch sizes, by the accountant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from dpjax_accounting import LaplaceDPSGD, Stepwise

from dpjax.finetuning.config import Privacy, Training
from dpjax.finetuning.setup.mechanism import fix_noise, make_recipe, noise_of
from dpjax.privatize import NoiseStrategy, num_steps_of

# Noise this near to that of the full batch is called flat.
FLAT = 1.1
_PRECISION = 1.05


@dataclasses.dataclass(frozen=True)
class NoiseChoice:
    """A batch size with the noise that it needs.

    Attributes:
        expected_batch_size: B.
        num_steps: T, of the run.
        noise_multiplier: σ; of the draws, where noise is correlated over steps; the scale of
            Laplace noise.
        epsilon: of the run, by the accountant.
        stddev_over_multiplier: 1, and √2 of Laplace noise.

    Example:
        >>> choice = NoiseChoice(expected_batch_size=200, num_steps=100, noise_multiplier=2.0,
        ...                      epsilon=3.0)
        >>> choice.relative_noise, choice.relative_norm(10_000)
        (0.01, 1.0)
    """

    expected_batch_size: int
    num_steps: int
    noise_multiplier: float
    epsilon: float
    stddev_over_multiplier: float = 1.0

    @classmethod
    def of(cls, mechanism: Stepwise, delta: float) -> NoiseChoice:
        """Asks the accountant for the ε of a mechanism."""
        num_steps = num_steps_of(mechanism)
        # With steps that train the head alone: of those after them.
        noise = noise_of(mechanism, num_steps - 1)
        return cls(
            expected_batch_size=round(noise.batch_size),
            num_steps=num_steps,
            noise_multiplier=noise.noise_multiplier,
            epsilon=mechanism.epsilon(delta),
            stddev_over_multiplier=mechanism.noise_stddev / mechanism.noise_multiplier
            if isinstance(mechanism, LaplaceDPSGD)
            else 1.0,
        )

    @property
    def relative_noise(self) -> float:
        """σ / B: noise on a coordinate of the mean gradient, as a multiple of the clip norm C.

        Of its standard deviation: of Laplace noise of scale b, √2 b / B.
        """
        return self.stddev_over_multiplier * self.noise_multiplier / self.expected_batch_size

    def relative_norm(self, num_trained: int) -> float:
        """√d σ / B for d trained parameters: the norm (root mean square) of the noise over C.

        The mean of clipped gradients is about C long at most.
        """
        return math.sqrt(num_trained) * self.relative_noise

    def relative_noise_of_run(self, num_trained: int) -> float:
        """√(d / T) σ / B: the norm of all steps' noise over that of the longest possible signal.

        The noise of T steps adds up to √(dT) σ C / B, and T mean gradients to T C at most, if all
        point the same way.
        """
        return self.relative_norm(num_trained) / math.sqrt(self.num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, ready for JSON."""
        return dataclasses.asdict(self) | {"relative_noise": self.relative_noise}


@dataclasses.dataclass(frozen=True)
class CorrelatedSums:
    """Noise on sums of steps where it is correlated over steps, root mean square over all sums.

    Attributes:
        relative: over that of independent draws with the same σ.
        independent: σ of independent noise with the same ε; None where σ was given.
        relative_to_independent: over that of this noise; None likewise.

    Example:
        >>> CorrelatedSums(relative=0.5, independent=2.0, relative_to_independent=0.75).relative
        0.5
    """

    relative: float
    independent: float | None
    relative_to_independent: float | None


def compare_with_independent(
    privacy: Privacy,
    training: Training,
    delta: float,
    num_units: int,
    asked: NoiseChoice,
    strategy: NoiseStrategy,
) -> CorrelatedSums:
    """Returns what correlated noise gains on sums of steps.

    Args:
        privacy: the promise, with correlated noise.
        training: the length of the run.
        delta: δ of the guarantee.
        num_units: records.
        asked: the noise of the run.
        strategy: of that noise.
    """
    relative = noise_of_sums(strategy, asked.num_steps)
    if privacy.target_epsilon is None:
        return CorrelatedSums(relative, None, None)
    independent = dataclasses.replace(privacy, noise="independent", bands=None)
    sizes = [asked.expected_batch_size]
    (other,) = compare_batch_sizes(independent, training, delta, num_units, sizes)
    ratio = relative * asked.noise_multiplier / other.noise_multiplier
    return CorrelatedSums(relative, other.noise_multiplier, ratio)


def compare_batch_sizes(
    privacy: Privacy,
    training: Training,
    delta: float,
    num_units: int,
    batch_sizes: Iterable[int],
    num_steps: int | None = None,
) -> tuple[NoiseChoice, ...]:
    """Returns what each batch size needs: the noise for the target ε, or the ε of the noise given.

    Args:
        privacy: the promise, and how batches are drawn.
        training: the length of the run.
        delta: δ of the guarantee.
        num_units: records, at least as many as the largest batch.
        batch_sizes: expected sizes.
        num_steps: instead of the length of the run.

    Example:
        >>> promise, recipe = Privacy(target_epsilon=3.0), Training(num_steps=47)
        >>> small, large = compare_batch_sizes(promise, recipe, 1e-5, 4000, (256, 512))
        >>> small.relative_noise > large.relative_noise
        True
    """
    if num_steps is not None:
        training = dataclasses.replace(training, num_epochs=None, num_steps=num_steps)
    choices = []
    for size in batch_sizes:
        recipe = make_recipe(
            privacy, dataclasses.replace(training, expected_batch_size=size), num_units
        )
        choices.append(NoiseChoice.of(fix_noise(recipe, privacy, delta), delta))
    return tuple(choices)


def noise_of_sums(strategy: NoiseStrategy, num_steps: int) -> float:
    """Returns the noise on sums of correlated steps over that of independent draws with the same σ.

    With the strategy matrix C, whose columns have length 1, and the matrix A of ones on and below
    the diagonal, it is ‖A C⁻¹‖ / ‖A‖ in the Frobenius norm: the root mean square over all sums of
    the first steps (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization").

    Example:
        >>> from dpjax.privatize import BandedStrategy
        >>> noise_of_sums(BandedStrategy((1.0,)), 10)
        1.0
        >>> noise_of_sums(BandedStrategy((1.0, 0.5)), 10) < 1
        True
    """
    column = strategy.toeplitz(num_steps)
    scales = np.sqrt(np.cumsum(column**2))[::-1]
    inverse = np.zeros(num_steps)
    inverse[0] = 1 / column[0]
    bands = strategy.num_bands(num_steps)
    for step in range(1, num_steps):
        below = min(step, bands - 1)
        past = inverse[step - below : step][::-1]
        inverse[step] = -(column[1 : below + 1] @ past) / column[0]
    # Column j of C⁻¹ is s_t (T⁻¹)_{t-j}; A adds it up.
    squares = sum(
        float(np.sum(np.cumsum(scales[first:] * inverse[: num_steps - first]) ** 2))
        for first in range(num_steps)
    )
    return math.sqrt(squares / (num_steps * (num_steps + 1) / 2))


def of_full_batch(
    privacy: Privacy, training: Training, delta: float, num_units: int, num_steps: int
) -> NoiseChoice:
    """Returns the noise of all records in each of a number of steps: no batch has less.

    Example:
        >>> of_full_batch(Privacy(target_epsilon=3.0), Training(), 1e-5, 4000, 1000).num_steps
        1000
    """
    # The noise of a step as one release, whatever it is shared out to.
    every = dataclasses.replace(privacy.with_constant_clip_norm(), sampling="full-batch")
    (choice,) = compare_batch_sizes(every, training, delta, num_units, [num_units], num_steps)
    return choice


def flat_from(privacy: Privacy, training: Training, delta: float, least: NoiseChoice) -> int:
    """Returns about the batch size from which noise hardly falls at a number of steps.

    There σ / B is 1.1 times that of the full batch (De et al. 2022, "Unlocking high-accuracy
    differentially private image classification through scale", section 3: a larger batch lowers
    the noise of a step until sampling no longer hides who is in it).

    Args:
        privacy: the promise, with a target ε.
        training: the recipe.
        delta: δ of the guarantee.
        least: the noise of the full batch.

    Example:
        >>> promise, recipe = Privacy(target_epsilon=3.0), Training()
        >>> full = of_full_batch(promise, recipe, 1e-5, 4000, num_steps=1000)
        >>> 100 < flat_from(promise, recipe, 1e-5, full) < 400
        True
    """
    low, high = 1, least.expected_batch_size
    while high > max(low + 1, _PRECISION * low):
        middle = round(math.sqrt(low * high))
        middle = min(max(middle, low + 1), high - 1)
        (choice,) = compare_batch_sizes(
            privacy, training, delta, least.expected_batch_size, [middle], least.num_steps
        )
        if choice.relative_noise <= FLAT * least.relative_noise:
            high = middle
        else:
            low = middle
    return high
