"""DP-SGD with Poisson sampling into batches of at most a given size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.engine.privacy_loss import check_noise
from dpjax_accounting.engine.releases import Release, blended, poisson
from dpjax_accounting.mechanisms.other_samplings.public_size import PublicSize
from dpjax_accounting.mechanisms.stepwise import PoissonBatches, RepeatedStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedPoissonDPSGD(PublicSize, PoissonBatches, RepeatedStep):
    """DP-SGD whose Poisson batches lose random units where they exceed `largest_batch_size`.

    With p = P[Bin(n − 1, q) ≥ L] the chance that a unit meets a full batch and
    q′ = P[Bin(n, q) > L] · L / (n p) that it is in it then, displacing another one, a step is
    dominated by a mixture of which one knows the part: with probability 1 − p a Poisson step, with
    probability p one with sampling probability q′ in which the sum moves by twice as much
    (Ganesh 2025, "Tighter Privacy Analysis for Truncated Poisson Sampling", arXiv:2508.15089;
    derived in docs/accounting/proofs.md; dp-accounting's TruncatedSubsampledGaussianDpEvent is the
    same).

    Attributes:
        num_units, expected_batch_size, noise_multiplier, num_steps: as for :class:`DPSGD`, before
            truncation; n = num_units is public.
        largest_batch_size: L, at least 1. B + 6√B or more costs next to nothing.
        unit: "record".
        neighboring: "zero_out" or "replace_one".
    """

    name: ClassVar[str] = "truncated_poisson_dpsgd"
    refused_relations: ClassVar[Mapping[str, str]] = {
        "add_or_remove_one": "whether a batch overflows depends on the number of units, which must"
        " therefore be public",
    }

    largest_batch_size: int
    unit: str = "record"
    neighboring: str = "zero_out"

    def _step(self) -> Release:
        """Returns the mixture of a Poisson step and a full one."""
        from scipy import stats

        check_noise(self.noise_multiplier)
        n, most, q = self.num_units, self.largest_batch_size, self.sampling_probability
        usual = poisson(q, self.noise_multiplier, self.neighboring)
        full = float(stats.binom.sf(most - 1, n - 1, q))
        if full == 0.0:
            return usual
        inside = min(1.0, float(stats.binom.sf(most, n, q)) * most / (n * full))
        moved = poisson(inside, self.noise_multiplier / 2, "replace_one")
        if full == 1.0:
            return moved
        return blended(((1 - full, usual), (full, moved)))
