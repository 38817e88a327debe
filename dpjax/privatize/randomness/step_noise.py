"""How much noise a step has and what its sum is divided by, read from the mechanism."""

from __future__ import annotations

from typing import NamedTuple

from dpjax_accounting import (
    DPSGD,
    AdaptiveClippingDPSGD,
    BandedDPSGD,
    DPSGDSchedule,
    FixedSizeDPSGD,
    FullBatch,
    LaplaceDPSGD,
    Mechanism,
    RandomAllocationDPSGD,
    ShuffledDPSGD,
    TruncatedPoissonDPSGD,
    UserLevelDPSGD,
)

_REFUSED: dict[type[Mechanism], str] = {
    BandedDPSGD: "its noise is correlated over steps. Take private_gradient, which makes it",
    AdaptiveClippingDPSGD: "it releases a count in every step too, with noise of its own. Take"
    " private_gradient with rule=AdaptiveClipping()",
    LaplaceDPSGD: "its noise is not Gaussian. Take private_zeroth_order_gradient",
}


class StepNoise(NamedTuple):
    """The noise of one step, independent of that of the others, and the divisor of its sum.

    Attributes:
        noise_multiplier: standard deviation per coordinate / clip norm, whatever the neighbouring
            relation: what the relation does to the sensitivity is the accountant's.
        batch_size: B in units, public: the mean number of units of a step.
    """

    noise_multiplier: float
    batch_size: float


def step_noise(mechanism: Mechanism, step: int | None = None) -> StepNoise:
    """Returns noise and divisor of a step of `mechanism`.

    Args:
        mechanism: what the accountant counts.
        step: counted from 0; None stands for every step, where all have the same noise.

    Raises:
        TypeError: the mechanism does not describe independent Gaussian noise, or `step` is None and
            the noise changes.
        ValueError: the mechanism does not say how large a batch is, or has no such step.

    Example:
        >>> run = FixedSizeDPSGD(num_units=100, batch_size=20, noise_multiplier=3.0, num_steps=5)
        >>> step_noise(run)
        StepNoise(noise_multiplier=3.0, batch_size=20)
    """
    match mechanism:
        case DPSGDSchedule():
            if step is None:
                raise TypeError(
                    "mechanism must have the same noise in every step, got DPSGDSchedule. Take "
                    "private_gradient, or a DPSGD with the numbers of segment_at(step)"
                )
            segment = mechanism.segment_at(step)
            return StepNoise(segment.noise_multiplier, segment.expected_batch_size)
        case DPSGD() | TruncatedPoissonDPSGD() | RandomAllocationDPSGD() | UserLevelDPSGD():
            return StepNoise(mechanism.noise_multiplier, mechanism.expected_batch_size)
        case FixedSizeDPSGD():
            return StepNoise(mechanism.noise_multiplier, mechanism.batch_size)
        case ShuffledDPSGD():
            size = needed_for_a_run(mechanism, "batch_size")
            return StepNoise(mechanism.noise_multiplier, size)
        case FullBatch():
            size = needed_for_a_run(mechanism, "num_units")
            return StepNoise(mechanism.noise_multiplier, size)
    name = type(mechanism).__name__
    for kind, reason in _REFUSED.items():
        if isinstance(mechanism, kind):
            raise TypeError(f"mechanism must describe independent noise, got {name}: {reason}")
    raise TypeError(f"mechanism must describe independent Gaussian noise for each step, got {name}")


def needed_for_a_run(mechanism: FullBatch | ShuffledDPSGD, field: str) -> int:
    """Returns a field that no ε depends on, and that a run needs.

    Raises:
        ValueError: it is None.
    """
    value: int | None = getattr(mechanism, field)
    if value is None:
        raise ValueError(
            f"{field} of {type(mechanism).__name__} must be given for a run, got None. No ε depends"
            " on it"
        )
    return value
