"""The ways of sampling by name, with the mechanism that each of them is for the accountant."""

from __future__ import annotations

from typing import Literal

from dpjax_accounting import (
    DPSGD,
    BandedDPSGD,
    FixedSizeDPSGD,
    FullBatch,
    LaplaceDPSGD,
    Mechanism,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
)

from dpjax.privatize import why_all_must_be_present

SamplingName = Literal[
    "poisson", "truncated-poisson", "fixed-size", "random-allocation", "shuffled", "full-batch"
]
NoiseName = Literal["independent", "banded", "blt"]
NoiseDistribution = Literal["gaussian", "laplace"]
Neighboring = Literal["add_or_remove_one", "zero_out", "replace_one"]
MECHANISM_OF: dict[SamplingName, type[Mechanism]] = {
    "poisson": DPSGD,
    "truncated-poisson": TruncatedPoissonDPSGD,
    "fixed-size": FixedSizeDPSGD,
    "random-allocation": RandomAllocationDPSGD,
    "shuffled": ShuffledDPSGD,
    "full-batch": FullBatch,
}


def check_bands(noise: NoiseName, bands: int | None, sampling: SamplingName) -> None:
    """Raises ValueError unless number of bands and way of sampling are those of the noise."""
    if noise == "banded" and bands is None:
        raise ValueError(
            "privacy.noise=banded needs privacy.bands, the number of groups that take turns: give "
            "one of at least 2, such as privacy.bands=8"
        )
    if noise != "banded" and bands is not None:
        raise ValueError(
            f"privacy.bands={bands} is for privacy.noise=banded, got privacy.noise={noise}: leave "
            "it out"
        )
    if bands is not None and bands < 2:
        raise ValueError(
            f"privacy.bands must be at least 2, got {bands}. Noise of one band is independent: "
            "leave out privacy.noise then"
        )
    if noise != "independent" and sampling != "poisson":
        raise ValueError(
            f"privacy.noise={noise} is accounted for with Poisson batches from groups that take "
            f"turns, got privacy.sampling={sampling}: leave it out"
        )


def check_relation(
    sampling: SamplingName,
    neighboring: Neighboring,
    noise: NoiseName,
    distribution: NoiseDistribution,
) -> None:
    """Raises ValueError unless the accountant covers the relation with sampling and noise."""
    kind, option = _kind_of(sampling, noise)
    if distribution == "laplace":
        kind, option = LaplaceDPSGD, "privacy.noise_distribution=laplace"
    if neighboring not in kind.relations:
        raise ValueError(
            f"privacy.neighboring={neighboring} is not accounted for with {option}: "
            f"{kind.refused_relations[neighboring]}. Give privacy.neighboring="
            f"{' or '.join(kind.relations)}"
        )


def check_audit(sampling: SamplingName, neighboring: Neighboring, noise: NoiseName) -> None:
    """Raises ValueError unless coins may leave records out."""
    kind, option = _kind_of(sampling, noise)
    reason = why_all_must_be_present(kind)
    if reason is not None and noise != "independent":
        raise ValueError(
            f"an audit leaves records out, which {option} cannot: {reason}. Give privacy.noise="
            "independent, or no audit"
        )
    if reason is not None:
        able = [name for name, kind in MECHANISM_OF.items() if not why_all_must_be_present(kind)]
        raise ValueError(
            f"an audit leaves records out, which {option} cannot: {reason}. Give"
            f" privacy.sampling={' or '.join(able)}, or no audit"
        )
    if neighboring == "replace_one":
        raise ValueError(
            "an audit adds or removes records, got privacy.neighboring=replace_one. Give "
            "privacy.neighboring=add_or_remove_one, or no audit"
        )


def _kind_of(sampling: SamplingName, noise: NoiseName) -> tuple[type[Mechanism], str]:
    """The mechanism of a run, and the option that makes it that one."""
    if noise != "independent":
        return BandedDPSGD, f"privacy.noise={noise}"
    return MECHANISM_OF[sampling], f"privacy.sampling={sampling}"
