"""A clip norm that follows a quantile of the gradient norms, at a cost that is accounted for."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dpjax.privatize.randomness.noise import gaussian_noise, noisy_mean

if TYPE_CHECKING:
    from dpjax_accounting import DPSGD

PyTree = Any

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


@dataclasses.dataclass(frozen=True)
class AdaptiveClipping:
    """Moves the clip norm of `FlatClipping` towards a quantile of the gradient norms.

    Every step releases two things: the noisy mean of the gradients and a noisy count of those that
    were not clipped. Together they are one Gaussian release with the noise multiplier of
    `mechanism`, so that ε is that of `mechanism`, unchanged; the gradient's noise is larger for it
    (0.005 % at B = 1024 and z = 1 with the default `count_stddev`).

    The state is the clip norm, a float32 scalar; a run starts with any constant. In each step::

        clipped = dpjax.clipped_grad(loss, clip_norm=clip_norm)  # inside jit; clip_norm is traced
        one = clipped(params, batch, mask)  # one.grads and one.centered_count are added up
        mean, clip_norm = adaptive.noisy_mean(grads, count, clip_norm, noise_keys=..., ...)

    Only where units are added or removed: if they were replaced, the sum would move by 2C and the
    count by 1, and `DPSGD` does not say which of the two sensitivities its noise is in units of.

    Source: Andrew et al. 2021, arXiv:1905.03871, Algorithm 1 with the geometric update.

    Attributes:
        mechanism: the DP-SGD mechanism of the run.
        target_quantile: γ in (0, 1), the share of gradients that should not be clipped.
        learning_rate: η > 0; a step changes the clip norm by a factor of about e^η at most.
        count_stddev: σ_b, the standard deviation of the noise of the count, in units; by default a
            twentieth of the expected batch size.

    Raises:
        ValueError: an attribute is out of range; `count_stddev` is not above half the noise
            multiplier; or the mechanism has another neighbouring relation.
    """

    mechanism: DPSGD
    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        if self.mechanism.neighboring != "add_or_remove_one":
            raise ValueError(
                "adaptive clipping is proved for neighboring='add_or_remove_one' only, the "
                f"mechanism has {self.mechanism.neighboring!r}"
            )
        if self.count_stddev is None:
            object.__setattr__(self, "count_stddev", self.mechanism.expected_batch_size / 20)
        if not 0 < self.target_quantile < 1:
            raise ValueError(
                f"target_quantile must lie strictly between 0 and 1, got {self.target_quantile}"
            )
        for name in ("learning_rate", "count_stddev"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        gradient_noise_multiplier(self.mechanism.noise_multiplier, self.count_stddev)

    @property
    def gradient_noise_multiplier(self) -> float:
        """z_Δ, the noise of the gradients' sum per coordinate in units of the clip norm."""
        return gradient_noise_multiplier(self.mechanism.noise_multiplier, self.count_stddev)

    def noisy_mean(
        self,
        clipped_sum: PyTree,
        centered_count: jax.Array,
        clip_norm: float | jax.Array,
        *,
        noise_keys: jax.Array,
        quantile_keys: jax.Array,
    ) -> tuple[PyTree, jax.Array]:
        """The private gradient of a step, as `dpjax.noisy_mean`, and the next step's clip norm.

        Both are released at once, since each alone would cost what both together cost.

        Args:
            clipped_sum: `ClippedGrad.grads` summed over all microbatches and devices of the step.
            centered_count: `ClippedGrad.centered_count` summed over the same.
            clip_norm: C, the one the sum was clipped with.
            noise_keys: `RunKey.noise_keys(step)`.
            quantile_keys: `RunKey.quantile_keys(step)`.

        Returns:
            The mean: float32, the structure of `clipped_sum`; and C, a float32 scalar.

        Raises:
            ValueError: both keys are the same array, which would let the count's noise be computed
                from the gradient's.
        """
        if noise_keys is quantile_keys:
            raise ValueError(
                "noise_keys and quantile_keys must differ: take RunKey.noise_keys(step) and "
                "RunKey.quantile_keys(step)"
            )
        of_gradient = dataclasses.replace(
            self.mechanism, noise_multiplier=self.gradient_noise_multiplier
        )
        mean = noisy_mean(clipped_sum, noise_keys, mechanism=of_gradient, clip_norm=clip_norm)
        return mean, self._next_clip_norm(centered_count, clip_norm, quantile_keys)

    def _next_clip_norm(
        self, centered_count: jax.Array, clip_norm: float | jax.Array, keys: jax.Array
    ) -> jax.Array:
        """C·exp(-η(b̃ - γ)), b̃ = ½ + (Σ(bᵢ - ½) + N(0, σ_b²))/B the noisy share not clipped."""
        count = jnp.asarray(centered_count, jnp.float32)
        noisy_count = count + gaussian_noise(keys, count, self.count_stddev)
        share = 0.5 + noisy_count / self.mechanism.expected_batch_size
        factor = jnp.exp(-self.learning_rate * (share - self.target_quantile))
        following = jnp.asarray(clip_norm, jnp.float32) * factor
        return jnp.clip(following, _SMALLEST_CLIP_NORM, _LARGEST_CLIP_NORM)
