"""ε by dp-accounting, which shares no code with this package: a reviewer's second opinion."""

from __future__ import annotations

import math

from dpjax_accounting.mechanisms.dpsgd import DPSGD
from dpjax_accounting.mechanisms.laplace import LaplaceDPSGD
from dpjax_accounting.mechanisms.mechanism import Mechanism

# dp-accounting's own default, and how many grid points its time and memory bear.
_LARGEST_INTERVAL = 1e-4
_MOST_POINTS = 500_000
# Below this many times the number of steps its transform's round-off decides the answer.
_SMALLEST_DELTA_PER_STEP = 1e-14
# Below this noise multiplier its distribution of one step takes minutes.
_SMALLEST_NOISE_MULTIPLIER = 0.3
# Relative. What both call an upper bound is rounded on different grids.
_AGREEMENT = 0.01


def second_opinion(mechanism: Mechanism, delta: float) -> float | None:
    """Returns ε by dp-accounting's privacy loss distributions; None where these are not to be had.

    They are to be had for `DPSGD` and `LaplaceDPSGD` under add_or_remove_one or zero_out, unless δ
    or the noise is so small that dp-accounting's answer would be wrong, or would take minutes.
    Where single steps lose little, its grid is coarser than ours and its ε larger.

    Args:
        mechanism: any mechanism.
        delta: between 0 and 1.
    """
    if not isinstance(mechanism, DPSGD | LaplaceDPSGD) or mechanism.neighboring == "replace_one":
        return None
    if delta < _SMALLEST_DELTA_PER_STEP * mechanism.num_steps:
        return None
    if mechanism.noise_multiplier < _SMALLEST_NOISE_MULTIPLIER:
        return None
    if mechanism.num_steps == 0:
        return 0.0
    from dp_accounting.pld import privacy_loss_distribution

    q, noise = mechanism.sampling_probability, mechanism.noise_multiplier
    # About a tenth of the standard deviation of one step's loss, if so many points can be afforded.
    is_gaussian = isinstance(mechanism, DPSGD)
    variance, reach = math.expm1(noise**-2), 0.5 / noise**2 + 10 / noise
    if not is_gaussian:
        variance, reach = math.expm1(1 / noise) ** 2, 1 / noise
    interval = max(0.1 * q * math.sqrt(variance), reach / _MOST_POINTS)
    grid = min(interval, _LARGEST_INTERVAL)
    if is_gaussian:
        one_step = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=q, value_discretization_interval=grid
        )
    else:
        one_step = privacy_loss_distribution.from_laplace_mechanism(
            noise, sampling_prob=q, value_discretization_interval=grid
        )
    return float(one_step.self_compose(mechanism.num_steps).get_epsilon_for_delta(delta))


def in_words(epsilon: float, opinion: float | None) -> str:
    """Returns one sentence on what `second_opinion` says of `epsilon`."""
    whose = "dp-accounting, which shares no code with this accountant,"
    if opinion is None:
        return f"{whose} has no figure for it."
    if math.isclose(epsilon, opinion, rel_tol=_AGREEMENT, abs_tol=1e-4):
        return f"{whose} agrees: epsilon={opinion:.6g}."
    kind = "looser" if opinion > epsilon else "TIGHTER"
    return f"{whose} has a {kind} bound: epsilon={opinion:.6g}."
