"""Mechanisms in one line: the first numbers in the order of the fields, the rest by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    FixedSizeDPSGD,
    FullBatch,
    RandomAllocationDPSGD,
    Segment,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
)

Kind = TypeVar("Kind")


def in_field_order(kind: type[Kind]) -> Callable[..., Kind]:
    """Function that makes a `kind`, the fields of which are keyword-only, without their names."""
    names = [field.name for field in dataclasses.fields(kind)]

    def make(*values: float, **others: object) -> Kind:
        return kind(**dict(zip(names[: len(values)], values, strict=True)), **others)

    return make


dpsgd = in_field_order(DPSGD)
full_batch = in_field_order(FullBatch)
segment = in_field_order(Segment)
fixed_size = in_field_order(FixedSizeDPSGD)
truncated_poisson = in_field_order(TruncatedPoissonDPSGD)
random_allocation = in_field_order(RandomAllocationDPSGD)
banded = in_field_order(BandedDPSGD)
user_level = in_field_order(UserLevelDPSGD)
adaptive_clipping = in_field_order(AdaptiveClippingDPSGD)
