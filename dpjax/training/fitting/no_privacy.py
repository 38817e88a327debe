"""What takes the place of a mechanism where training is not private."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoPrivacy:
    """The recipe of a mechanism without clipping and noise. No privacy at all.

    Attributes:
        num_units: number of records, at least 1.
        expected_batch_size: mean size of a Poisson batch; sums of gradients are divided by it.
        num_steps: optimizer steps, at least 0.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> NoPrivacy(num_units=1000, expected_batch_size=100, num_steps=30).num_steps
        30
    """

    num_units: int
    expected_batch_size: int
    num_steps: int

    def __post_init__(self) -> None:
        if self.num_units < 1:
            raise ValueError(f"num_units must be at least 1, got {self.num_units}.")
        if not 0 < self.expected_batch_size <= self.num_units:
            raise ValueError(
                f"expected_batch_size must be above 0 and at most num_units={self.num_units}, got"
                f" {self.expected_batch_size}."
            )
        if self.num_steps < 0:
            raise ValueError(f"num_steps must be at least 0, got {self.num_steps}.")
