"""The options of the promise."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from dpjax.basics.option_checks import CheckedOptions, check_choice, check_positive
from dpjax.finetuning.config.sampling import (
    Neighboring,
    NoiseDistribution,
    NoiseName,
    SamplingName,
    check_bands,
)
from dpjax.privatize import GeneratorName

OwnerSampling = Literal["owners", "records"]
CLIP_LEARNING_RATE = 0.2
_MOST_RECORDS_PER_OWNER = 1000


@dataclasses.dataclass(frozen=True)
class Privacy(CheckedOptions):
    """The promise: give either a target epsilon or a noise multiplier.

    Example:
        >>> Privacy(target_epsilon=3.0).clip_norm
        1.0
    """

    target_epsilon: float | None = None
    """The run's total ε; the noise multiplier is calibrated so that it is not exceeded."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise divided by the clip norm; with noise_distribution=laplace the
    scale of the noise divided by it."""
    delta: float | None = None
    """δ of the guarantee; default: 1e-5, or n^-1.1 for n training records, or owners, if that is
    smaller."""
    clip_norm: float = 1.0
    """L2 norm that the gradient of one record is clipped to; where batches are of owners, that of
    one owner."""
    head_clip_norm: float | None = None
    """Clip the gradient of the classification head by itself, to this L2 norm, and that of
    everything else to clip_norm: a new head's gradient is longer at first, and leaves the rest
    little of one clip norm. The noise is in proportion to the root of both squares; ε is the same.
    """
    target_quantile: float | None = None
    """Move the clip norm, from clip_norm on, so that this share of the records, or owners, is not
    clipped (Andrew et al. 2021, arXiv:1905.03871). Each step then also releases how many were not,
    with noise of its own; noise_multiplier is that of both releases together."""
    clip_learning_rate: float = CLIP_LEARNING_RATE
    """With target_quantile, how fast the clip norm moves: by a factor of about e to this power in a
    step at most."""
    count_stddev: float | None = None
    """With target_quantile, the standard deviation of the noise of the count; default: a twentieth
    of the expected batch, and twice noise_multiplier at least, which leaves gradients at most 3.3 %
    more noise."""
    records_per_owner: int = 1
    """With train_data.owner_column, k: how many records of an owner a step reads at most, drawn in
    each step afresh. ε does not depend on it; time and memory do. With owner_sampling=records, how
    many of an owner are in the data, on which ε depends."""
    owner_sampling: OwnerSampling = "owners"
    """With train_data.owner_column, what a step draws and clips. owners: each with up to k records
    as one contribution. records: each record by itself; ε is for an owner of k, so that the noise
    must hide k contributions, and of owners with more the others are left out."""
    sampling: SamplingName = "poisson"
    """How the records, or owners, of a step are drawn, which decides what the accountant counts.
    poisson: each by itself. truncated-poisson: of a Poisson batch above B + 6√B a random part, B
    being training.expected_batch_size. fixed-size: B of them. random-allocation: each into one of
    ⌈n/B⌉ batches an epoch (balls in bins; needs the extra allocation). shuffled: the next B of a
    random order, which claims no amplification. full-batch: all."""
    neighboring: Neighboring = "add_or_remove_one"
    """Which data sets nobody can tell apart: with and without a record; with one that contributes
    nothing; with one exchanged. The last two make the number of records public. truncated-poisson,
    fixed-size and shuffled need one of them; random-allocation has no replace_one."""
    noise: NoiseName = "independent"
    """Whether steps have independent noise, or each takes back a part of the noise of the steps
    before it. banded (BandMF): with a matrix of privacy.bands bands. blt: with three buffers
    (buffered linear Toeplitz), and each record is in one step of the run at most. Both need the
    extra correlated, privacy.neighboring=zero_out or replace_one, and privacy.sampling=poisson,
    which then draws from groups of records that take turns."""
    bands: int | None = None
    """With privacy.noise=banded, b: records are dealt into b groups, and none is in two of any b
    successive steps. A larger b takes more noise back, and leaves less amplification by sampling:
    batches are drawn from n/b records."""
    noise_distribution: NoiseDistribution = "gaussian"
    """What is drawn. laplace: with training.gradient=zeroth-order and one direction, Laplace noise
    on the difference of losses, whose ε is finite for δ = 0 too. It is for records that are drawn
    by privacy.sampling=poisson."""
    generator: GeneratorName = "threefry"
    """What draws Gaussian noise. threefry: JAX's own generator, with four fresh keys of 64 bits in
    each step. chacha20: a cipher (RFC 8439), with four fresh keys of 256 bits. ε is the same."""
    ledger: str | None = None
    """File in which all runs on these training records are put on record, made if there is none;
    the report then has the ε of all of them together. Keep it with the data, as private as that."""

    @property
    def is_given(self) -> bool:
        """Whether anything is promised."""
        return self.target_epsilon is not None or self.noise_multiplier is not None

    def with_constant_clip_norm(self) -> Privacy:
        """Returns the same promise without adaptive clipping."""
        return dataclasses.replace(
            self, target_quantile=None, clip_learning_rate=CLIP_LEARNING_RATE, count_stddev=None
        )

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""
        if self.target_epsilon is not None and self.noise_multiplier is not None:
            raise ValueError(
                f"both privacy.target_epsilon={self.target_epsilon} and "
                f"privacy.noise_multiplier={self.noise_multiplier} are given; one follows from the "
                "other, so give one"
            )
        check_positive("privacy.target_epsilon", self.target_epsilon)
        check_positive("privacy.noise_multiplier", self.noise_multiplier)
        check_positive("privacy.clip_norm", self.clip_norm)
        check_positive("privacy.head_clip_norm", self.head_clip_norm)
        self._check_clip_quantile()
        check_choice("privacy.sampling", self.sampling, get_args(SamplingName))
        check_choice("privacy.noise", self.noise, get_args(NoiseName))
        check_choice(
            "privacy.noise_distribution", self.noise_distribution, get_args(NoiseDistribution)
        )
        check_choice("privacy.generator", self.generator, get_args(GeneratorName))
        check_bands(self.noise, self.bands, self.sampling)
        check_choice("privacy.neighboring", self.neighboring, get_args(Neighboring))
        check_choice("privacy.owner_sampling", self.owner_sampling, get_args(OwnerSampling))
        if not 1 <= self.records_per_owner <= _MOST_RECORDS_PER_OWNER:
            raise ValueError(
                f"privacy.records_per_owner must be between 1 and {_MOST_RECORDS_PER_OWNER}, got "
                f"{self.records_per_owner}"
            )
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"privacy.delta must be between 0 and 1, got {self.delta}")

    def _check_clip_quantile(self) -> None:
        if self.target_quantile is None:
            for name, default in (
                ("clip_learning_rate", CLIP_LEARNING_RATE),
                ("count_stddev", None),
            ):
                value = getattr(self, name)
                if value != default:
                    raise ValueError(
                        f"privacy.{name}={value} has no meaning with a constant clip norm. Give "
                        "privacy.target_quantile, for instance 0.5, or leave it out"
                    )
            return
        if not 0 < self.target_quantile < 1:
            raise ValueError(
                f"privacy.target_quantile must be above 0 and below 1, got {self.target_quantile}"
            )
        check_positive("privacy.clip_learning_rate", self.clip_learning_rate)
        check_positive("privacy.count_stddev", self.count_stddev)
