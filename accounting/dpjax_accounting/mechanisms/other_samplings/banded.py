"""DP-FTRL with a banded strategy and cyclic Poisson sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.engine.privacy_loss import Releases, check_noise
from dpjax_accounting.engine.releases import poisson
from dpjax_accounting.mechanisms.other_samplings.public_size import PublicSize
from dpjax_accounting.mechanisms.stepwise import PoissonBatches


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedDPSGD(PublicSize, PoissonBatches):
    """DP-SGD with noise that is correlated over `bands` steps (BandMF).

    The units are split beforehand, without looking at them, into `bands` groups whose sizes differ
    by at most one; step t samples from group t mod `bands` only, with probability
    expected_batch_size / ⌊num_units / bands⌋. The noise is C⁻¹Z times the clip norm, with a lower
    triangular strategy matrix C that has `bands` bands, and Z of standard deviation
    noise_multiplier. A unit then takes part at most once in any `bands` successive steps, and the
    run is dominated by ⌈num_steps / bands⌉ Poisson-sampled Gaussian releases with that probability
    and sensitivity `column_norm` (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix
    Factorization", theorem 4; for "replace_one" the proof is in docs/accounting/proofs.md).

    Neighbouring data sets must have the same groups. With "add_or_remove_one" they do not: if sizes
    may differ by at most one, a unit more moves others to another group, whose contributions then
    change too.

    Attributes:
        num_units: number of privacy units, at least 1; public.
        expected_batch_size: mean number of units per step, at most ⌊num_units / bands⌋.
        noise_multiplier: standard deviation of Z, above 0.
        num_steps: number of steps, at least 0.
        bands: number of bands of the strategy, at least 1.
        column_norm: the largest L2 norm of a column of the strategy matrix, above 0.
        unit: "record".
        neighboring: "zero_out" or "replace_one".
    """

    name: ClassVar[str] = "banded_dpsgd"
    refused_relations: ClassVar[Mapping[str, str]] = {
        "add_or_remove_one": "groups of equal size move other units from group to group when one is"
        " added or removed, which no sensitivity of one clip norm covers; num_units and the groups"
        " must be public and fixed",
    }

    bands: int
    column_norm: float
    unit: str = "record"
    neighboring: str = "zero_out"

    def __post_init__(self) -> None:
        """Checks every field."""
        super().__post_init__()
        group = self.num_units // self.bands
        if self.expected_batch_size > group:
            raise ValueError(
                f"expected_batch_size={self.expected_batch_size:g} is larger than a group, which"
                f" has num_units / bands = {group} units. Choose fewer bands or a smaller batch."
            )

    @property
    def sampling_probability(self) -> float:
        """The probability that a unit of the step's group takes part, in the smallest group."""
        return self.expected_batch_size / (self.num_units // self.bands)

    def releases(self) -> Releases:
        """Returns one Poisson-sampled Gaussian for every `bands` steps."""
        if self.num_steps == 0:
            return ()
        noise = self.noise_multiplier / self.column_norm
        check_noise(noise)
        release = poisson(self.sampling_probability, noise, self.neighboring)
        return ((release, -(-self.num_steps // self.bands)),)
