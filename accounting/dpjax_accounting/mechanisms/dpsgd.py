"""DP-SGD with Poisson sampling: one object that sampler, noise and accountant read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dpjax_accounting.checks import checked_name
from dpjax_accounting.engine.privacy_loss import check_noise
from dpjax_accounting.engine.releases import Release, poisson
from dpjax_accounting.mechanisms.stepwise import PoissonBatches, RepeatedStep

_SAMPLING_REFUSED = {
    "shuffle": "no bound for shuffled epochs is implemented that is better than no amplification"
    " by sampling, and Poisson figures can be far too small for them. ShuffledDPSGD describes them",
    "fixed_size": "batches of a fixed size drawn without replacement need another neighbouring"
    " relation and lose far more privacy than Poisson batches with the same noise. FixedSizeDPSGD"
    " describes them",
    "truncated_poisson": "the effect of dropping units from large batches has to be accounted for."
    " TruncatedPoissonDPSGD describes it",
    "random_allocation": "one random step of every epoch for each unit (balls and bins) loses"
    " privacy in another way than Poisson batches. RandomAllocationDPSGD describes it",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonRecords(PoissonBatches, RepeatedStep):
    """Equal steps on Poisson batches, which say how they sample, whom they protect, and from what.

    Attributes:
        sampling: "poisson".
        unit: "record".
        neighboring: one of the class's `relations`.
    """

    sampling: str = "poisson"
    unit: str = "record"
    neighboring: str = "add_or_remove_one"

    def __post_init__(self) -> None:
        """Checks every field and turns numbers of other libraries into Python's."""
        super().__post_init__()
        checked_name("sampling", self.sampling, ("poisson",), _SAMPLING_REFUSED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPSGD(PoissonRecords):
    """DP-SGD with Poisson sampling: the mechanism whose (ε, δ) is accounted for.

    In each of `num_steps` steps every unit is included independently with probability
    q = expected_batch_size / num_units; the contribution of each included unit is clipped to an
    L2 norm of C; Gaussian noise of standard deviation noise_multiplier × C is added to every
    coordinate of their sum (Abadi et al. 2016, algorithm 1). The guarantee is that of the
    `num_steps`-fold adaptive composition. All iterates may be released, while the choice of units
    and the noise stay secret. q, C and num_steps are treated as public.

    Neighbouring data sets differ by one unit that is present or not ("add_or_remove_one"), present
    or without contribution ("zero_out", the same ε), or exchanged for another ("replace_one", where
    the sum moves by up to 2C). The noise multiplier is relative to C in every case.

    Attributes:
        num_units: number of privacy units in the training data, at least 1.
        expected_batch_size: mean number of units per step, above 0 and at most `num_units`.
        noise_multiplier: noise standard deviation / clip norm, above 0.
        num_steps: number of noisy releases, at least 0.
        sampling: "poisson".
        unit: "record".
        neighboring: "add_or_remove_one", "zero_out" or "replace_one".

    Raises:
        TypeError: if a field has the wrong type (a bool is not a number).
        ValueError: if a field is out of range, or a name unknown or not supported.

    Example:
        >>> from dpjax_accounting import DPSGD
        >>> run = DPSGD(
        ...     num_units=67349, expected_batch_size=1024, noise_multiplier=1.0, num_steps=198
        ... )
        >>> round(run.epsilon(delta=1e-5), 3)
        1.396
    """

    name: ClassVar[str] = "dpsgd"
    refused_units: ClassVar[Mapping[str, str]] = {
        "user": "sampling, clipping and accounting treat each record on its own, and an epsilon for"
        " records is not an epsilon for users who own several. UserLevelDPSGD and GroupOfRecords"
        " bound it, and UserSampledDPSGD is for runs that sample and clip users",
    }

    def _step(self) -> Release:
        """Returns the Poisson-sampled Gaussian."""
        check_noise(self.noise_multiplier)
        return poisson(self.sampling_probability, self.noise_multiplier, self.neighboring)
