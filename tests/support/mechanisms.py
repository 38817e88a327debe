"""The mechanisms that tests name most, in one line: numbers in the order of their fields."""

from __future__ import annotations

from dpjax_accounting import DPSGD, FullBatch, Segment


def dpsgd(
    num_units: int,
    expected_batch_size: float,
    noise_multiplier: float,
    num_steps: int,
    **others: str,
) -> DPSGD:
    return DPSGD(
        num_units=num_units,
        expected_batch_size=expected_batch_size,
        noise_multiplier=noise_multiplier,
        num_steps=num_steps,
        **others,
    )


def full_batch(noise_multiplier: float, num_steps: int, **others: str) -> FullBatch:
    return FullBatch(noise_multiplier=noise_multiplier, num_steps=num_steps, **others)


def segment(expected_batch_size: float, noise_multiplier: float, num_steps: int) -> Segment:
    return Segment(
        expected_batch_size=expected_batch_size,
        noise_multiplier=noise_multiplier,
        num_steps=num_steps,
    )
