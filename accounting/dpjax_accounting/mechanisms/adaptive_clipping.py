"""DP-SGD whose clip norm follows a privately released quantile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.engine.privacy_loss import check_noise
from dpjax_accounting.engine.releases import Release, poisson
from dpjax_accounting.mechanisms.stepwise import RepeatedStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveClippingDPSGD(RepeatedStep):
    """DP-SGD that also releases, in every step, a noisy count of the units that were not clipped.

    A unit moves the clipped sum by at most the clip norm C, and the count, centred as Σ(bᵢ − ½), by
    at most ½. With noise z_Δ·C and σ_b both together are one Gaussian release with noise multiplier
    z, 1/z² = 1/z_Δ² + 1/(2σ_b)² (Andrew et al. 2021, "Differentially Private Learning with Adaptive
    Clipping", theorem 1).

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        expected_batch_size: mean number of units per step, at most `num_units`.
        gradient_noise_multiplier: z_Δ, above 0.
        num_steps: number of steps, at least 0.
        count_stddev: σ_b, the standard deviation of the count's noise in units, above 0.
        unit: "record".
        neighboring: "add_or_remove_one".
    """

    name: ClassVar[str] = "adaptive_clipping_dpsgd"
    relations: ClassVar[tuple[str, ...]] = ("add_or_remove_one",)
    refused_relations: ClassVar[Mapping[str, str]] = {
        "zero_out": "a unit with a zero gradient still counts as not clipped, so that the count"
        " moves by up to 1 instead of ½",
        "replace_one": "the sum moves by twice the clip norm and the count by 1, which is not"
        " implemented",
    }

    num_units: int
    expected_batch_size: float
    gradient_noise_multiplier: float
    num_steps: int
    count_stddev: float
    unit: str = "record"
    neighboring: str = "add_or_remove_one"

    @property
    def noise_multiplier(self) -> float:
        """z, the noise multiplier of both releases together."""
        squares = self.gradient_noise_multiplier**-2 + (2 * self.count_stddev) ** -2
        return float(squares**-0.5)

    def _step(self) -> Release:
        """Returns the Poisson-sampled joint release."""
        check_noise(self.noise_multiplier)
        probability = self.expected_batch_size / self.num_units
        return poisson(probability, self.noise_multiplier, self.neighboring)
