"""A clip norm that follows a quantile of the gradient norms, at a cost that is accounted for."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from dpjax_accounting import DPSGD, AdaptiveClippingDPSGD, Mechanism

from dpjax.privatize.randomness.discrete.noise import Grid
from dpjax.privatize.randomness.step_noise import StepNoise

# Far outside any useful clip norm, far inside float32.
_SMALLEST_CLIP_NORM, _LARGEST_CLIP_NORM = 2.0**-100, 2.0**100


def gradient_noise_multiplier(noise_multiplier: float, count_stddev: float) -> float:
    """z_Δ = (z⁻² - (2σ_b)⁻²)^(-1/2): the gradient's noise that leaves room for a noisy count.

    One unit, added or removed, moves the clipped sum by at most C and the centred count Σ(bᵢ - ½)
    by at most ½. In units of their noise, z_Δ·C and σ_b, both together move by at most
    √(z_Δ⁻² + (2σ_b)⁻²) = 1/z, as in one Gaussian release with noise multiplier z; the step's C is
    a function of what was released before. Andrew et al. 2021, "Differentially Private Learning
    with Adaptive Clipping", arXiv:1905.03871, Theorem 1.

    Args:
        noise_multiplier: z, of both releases together.
        count_stddev: σ_b, the standard deviation of the noise of the count, in units.

    Raises:
        ValueError: σ_b ≤ z/2: the count alone would lose more privacy than z allows.
    """
    if not 2 * count_stddev > noise_multiplier:
        raise ValueError(
            f"count_stddev={count_stddev:g} is too small for the noise multiplier "
            f"{noise_multiplier:g}: the count alone would lose more privacy than both releases may "
            f"together. Choose it well above {noise_multiplier / 2:g}"
        )
    return (noise_multiplier**-2 - (2 * count_stddev) ** -2) ** -0.5


class NoiseScales(NamedTuple):
    """The noise of the two releases of a step with `AdaptiveClipping`.

    Attributes:
        gradient_noise_multiplier: z_Δ, noise of the sum per coordinate in units of the clip norm.
        count_stddev: σ_b, standard deviation of the noise of the count, in units.
    """

    gradient_noise_multiplier: float
    count_stddev: float


@dataclasses.dataclass(frozen=True)
class AdaptiveClipping:
    """Moves the clip norm of `FlatClipping` towards a quantile of the gradient norms.

    It is a rule of `private_gradient` only. Every step releases two things: the noisy mean of the
    gradients and a noisy count of those that were not clipped. Together they are one Gaussian
    release with the noise multiplier of the mechanism, and ε is that of the mechanism. The
    gradient has more noise instead: 0.005 % at B = 1024 and z = 1 with the default `count_stddev`.
    The count is a whole number, and its noise a discrete Gaussian (docs/accounting/proofs.md).

    Only where units are added or removed: if they were replaced, the sum would move by 2C and the
    count by 1, and `DPSGD` does not say which of the two sensitivities its noise is in units of.

    Source: Andrew et al. 2021, arXiv:1905.03871, Algorithm 1 with the geometric update.

    Attributes:
        target_quantile: γ in (0, 1), the share of gradients that should not be clipped.
        learning_rate: η > 0; a step changes the clip norm by a factor of about e^η at most.
        count_stddev: σ_b, the standard deviation of the noise of the count, in units; by default
            that of the mechanism if it is an `AdaptiveClippingDPSGD`, otherwise a twentieth of its
            expected batch size.

    Raises:
        ValueError: an attribute is out of range.

    Example:
        >>> mechanism = DPSGD(
        ...     num_units=50_000, expected_batch_size=1000, noise_multiplier=1.0, num_steps=500
        ... )
        >>> scales = AdaptiveClipping(target_quantile=0.5).noise_scales(mechanism)
        >>> scales.count_stddev, round(scales.gradient_noise_multiplier, 5)
        (50.0, 1.00005)
    """

    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target_quantile < 1:
            raise ValueError(
                f"target_quantile must lie strictly between 0 and 1, got {self.target_quantile}"
            )
        for name in ("learning_rate", "count_stddev"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")

    def noise_scales(self, mechanism: Mechanism) -> NoiseScales:
        """Returns how much noise the two releases of a step of `mechanism` have.

        Args:
            mechanism: a `DPSGD`, whose noise multiplier is that of both releases together; or an
                `AdaptiveClippingDPSGD`, which says the noise of each.

        Raises:
            TypeError: the mechanism is of another kind.
            ValueError: `count_stddev` is not above half the noise multiplier, is too much or too
                little noise for sums of 32 bits, or not that of the mechanism; or the mechanism has
                another neighbouring relation than add_or_remove_one.
        """
        scales = self._scales(mechanism)
        described = cast(DPSGD | AdaptiveClippingDPSGD, mechanism)
        _count_grid(scales.count_stddev, described.expected_batch_size)
        return scales

    def count_noise(self, mechanism: DPSGD | AdaptiveClippingDPSGD) -> tuple[float, Grid]:
        """Returns the noise multiplier of the doubled count, which a unit moves by 1, and its grid.

        Args:
            mechanism: as for `noise_scales`; so are the errors.
        """
        count_stddev = self.noise_scales(mechanism).count_stddev
        return 2 * count_stddev, _count_grid(count_stddev, mechanism.expected_batch_size)

    def _scales(self, mechanism: Mechanism) -> NoiseScales:
        if isinstance(mechanism, AdaptiveClippingDPSGD):
            if self.count_stddev not in (None, mechanism.count_stddev):
                raise ValueError(
                    f"count_stddev must be {mechanism.count_stddev:g}, which the mechanism says, "
                    f"got {self.count_stddev:g}. Leave it out"
                )
            return NoiseScales(mechanism.gradient_noise_multiplier, mechanism.count_stddev)
        if not isinstance(mechanism, DPSGD):
            raise TypeError(
                "mechanism must be a DPSGD or an AdaptiveClippingDPSGD where the clip norm adapts, "
                f"got {type(mechanism).__name__}: the count that adaptive clipping releases is "
                "accounted for with Poisson batches of one size and noise"
            )
        if mechanism.neighboring != "add_or_remove_one":
            raise ValueError(
                "adaptive clipping is proved for neighboring='add_or_remove_one' only, the "
                f"mechanism has {mechanism.neighboring!r}"
            )
        count_stddev = self.count_stddev
        if count_stddev is None:
            count_stddev = mechanism.expected_batch_size / 20
        return NoiseScales(
            gradient_noise_multiplier(mechanism.noise_multiplier, count_stddev), count_stddev
        )

    def next_clip_norm(
        self, noisy_count: jax.Array, clip_norm: jax.Array, expected_batch_size: float
    ) -> jax.Array:
        """C·exp(-η(b̃ - γ)), with b̃ = ½ + noisy_count/B the noisy share that was not clipped.

        Args:
            noisy_count: Σ(bᵢ - ½) with noise of standard deviation σ_b, float32 scalar.
            clip_norm: C, float32 scalar.
            expected_batch_size: B, in units.

        Returns:
            float32 scalar between 2⁻¹⁰⁰ and 2¹⁰⁰.
        """
        share = 0.5 + noisy_count / expected_batch_size
        factor = jnp.exp(-self.learning_rate * (share - self.target_quantile))
        following = jnp.asarray(clip_norm, jnp.float32) * factor
        return jnp.clip(following, _SMALLEST_CLIP_NORM, _LARGEST_CLIP_NORM)


def _count_grid(count_stddev: float, batch_size: float) -> Grid:
    """The grid of the doubled count; ValueError where its noise does not fit."""
    try:
        return Grid.for_noise([StepNoise(2 * count_stddev, batch_size)])
    except ValueError:
        raise ValueError(
            f"count_stddev={count_stddev:g} does not go with batches of {batch_size:g} units: the "
            "noisy count is a whole number of 32 bits. Take about a twentieth of the batch size, "
            "smaller batches, or a smaller noise multiplier, which count_stddev must be above half"
        ) from None
