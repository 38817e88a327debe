"""The ways of sampling by name, with the mechanism that each of them is for the accountant."""

from __future__ import annotations

from typing import Literal

from dpjax_accounting import (
    DPSGD,
    FixedSizeDPSGD,
    FullBatch,
    Mechanism,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
)

from dpjax.privatize import why_all_must_be_present

SamplingName = Literal[
    "poisson", "truncated-poisson", "fixed-size", "random-allocation", "shuffled", "full-batch"
]
Neighboring = Literal["add_or_remove_one", "zero_out", "replace_one"]
MECHANISM_OF: dict[SamplingName, type[Mechanism]] = {
    "poisson": DPSGD,
    "truncated-poisson": TruncatedPoissonDPSGD,
    "fixed-size": FixedSizeDPSGD,
    "random-allocation": RandomAllocationDPSGD,
    "shuffled": ShuffledDPSGD,
    "full-batch": FullBatch,
}


def check_relation(sampling: SamplingName, neighboring: Neighboring) -> None:
    """Raises ValueError unless the accountant covers the relation with this way of sampling."""
    kind = MECHANISM_OF[sampling]
    if neighboring not in kind.relations:
        raise ValueError(
            f"privacy.neighboring={neighboring} is not accounted for with privacy.sampling="
            f"{sampling}: {kind.refused_relations[neighboring]}. Give privacy.neighboring="
            f"{' or '.join(kind.relations)}"
        )


def check_audit(sampling: SamplingName, neighboring: Neighboring) -> None:
    """Raises ValueError unless coins may leave records out."""
    reason = why_all_must_be_present(MECHANISM_OF[sampling])
    if reason is not None:
        able = [name for name, kind in MECHANISM_OF.items() if not why_all_must_be_present(kind)]
        raise ValueError(
            f"an audit leaves records out, which privacy.sampling={sampling} cannot: {reason}. Give"
            f" privacy.sampling={' or '.join(able)}, or no audit"
        )
    if neighboring == "replace_one":
        raise ValueError(
            "an audit adds or removes records, got privacy.neighboring=replace_one. Give "
            "privacy.neighboring=add_or_remove_one, or no audit"
        )
