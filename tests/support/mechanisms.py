"""Mechanisms in one line, the first numbers in the order of the fields; a check of their steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import pytest
from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    FixedSizeDPSGD,
    FullBatch,
    LaplaceDPSGD,
    RandomAllocationDPSGD,
    Segment,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
    UserSampledDPSGD,
    UserSampledFixedSizeDPSGD,
    UserSampledFullBatch,
    UserSampledTruncatedPoissonDPSGD,
)

Kind = TypeVar("Kind")


def in_field_order(kind: type[Kind]) -> Callable[..., Kind]:
    """Function that makes a `kind`, the fields of which are keyword-only, without their names."""
    names = [field.name for field in dataclasses.fields(kind)]

    def make(*values: float, **others: object) -> Kind:
        return kind(**dict(zip(names[: len(values)], values, strict=True)), **others)

    return make


dpsgd = in_field_order(DPSGD)
laplace = in_field_order(LaplaceDPSGD)
full_batch = in_field_order(FullBatch)
segment = in_field_order(Segment)
fixed_size = in_field_order(FixedSizeDPSGD)
truncated_poisson = in_field_order(TruncatedPoissonDPSGD)
random_allocation = in_field_order(RandomAllocationDPSGD)
banded = in_field_order(BandedDPSGD)
user_level = in_field_order(UserLevelDPSGD)
user_sampled = in_field_order(UserSampledDPSGD)
user_sampled_truncated_poisson = in_field_order(UserSampledTruncatedPoissonDPSGD)
user_sampled_fixed_size = in_field_order(UserSampledFixedSizeDPSGD)
user_sampled_full_batch = in_field_order(UserSampledFullBatch)
adaptive_clipping = in_field_order(AdaptiveClippingDPSGD)


def check_bad_steps_are_refused(ask: Callable[[object], object], *, num_steps: int) -> None:
    """Steps that a mechanism of so many does not have, and what is no step."""
    words = f"step={num_steps + 1} lies beyond the last one: num_steps={num_steps}"
    with pytest.raises(ValueError, match=words):
        ask(num_steps + 1)
    with pytest.raises(ValueError, match="step must be at least 0"):
        ask(-1)
    with pytest.raises(TypeError, match="step must be an integer"):
        ask(1.0)
