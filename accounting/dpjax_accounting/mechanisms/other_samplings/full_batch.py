"""Gradient descent on all units in every step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dpjax_accounting.engine.releases import Release, gaussian
from dpjax_accounting.mechanisms.stepwise import RepeatedStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullBatch(RepeatedStep):
    """The Gaussian mechanism on the clipped sum over all units, `num_steps` times.

    ε and δ are exact (Balle and Wang 2018, theorem 8, with √num_steps for the composition, which is
    exact for Gaussians: Dong, Roth and Su 2022, corollary 3.3, numbers of arXiv:1905.02383).

    Attributes:
        noise_multiplier: noise standard deviation / clip norm, above 0.
        num_steps: number of noisy releases, at least 0.
        unit: "record".
        neighboring: "add_or_remove_one", "zero_out" or "replace_one"; a unit that is replaced moves
            the sum by twice the clip norm.
        num_units: number of privacy units, for whoever makes the run; ε does not depend on it.
    """

    name: ClassVar[str] = "full_batch"
    optional: ClassVar[tuple[str, ...]] = ("num_units",)

    noise_multiplier: float
    num_steps: int
    unit: str = "record"
    neighboring: str = "add_or_remove_one"
    num_units: int | None = None

    def _step(self) -> Release:
        """Returns the Gaussian release, which is exact at any noise."""
        return gaussian(self.noise_multiplier, self.neighboring)
