"""How often a poisoned model may do what the poison aims at, if training is private."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from dpjax_accounting import (
    DPSGD,
    SMALLEST_NOISE_MULTIPLIER,
    FullBatch,
    GroupOfRecords,
    Mechanism,
    UserLevelDPSGD,
    profile,
    tpr_ceiling,
    trade_off,
)

# Points of a group's profile, from ε = 0 to where a record's δ falls below this.
_NUM_POINTS, _SMALLEST_DELTA = 96, 1e-12
# The mixtures of Gaussians of many records take minutes, and lower a bound near 1 by little.
_WORTH_SHARPENING = 0.9


def epsilon_success_bound(
    clean_success: float, *, epsilon: float, delta: float, num_poisoned: int
) -> float:
    """Returns the largest success of k poisoned records that (ε, δ) for one record allows.

    Of k records added together an (ε, δ)-private training keeps (kε, δ (e^{kε} − 1) / (e^ε − 1))
    (Vadhan 2017, "The Complexity of Differential Privacy", lemma 2.2). So for any event

        p_poisoned ≤ min(e^{kε} p_clean + δ_k,  1 − e^{−kε} (1 − p_clean − δ_k)),

    the second by the same inequality for the complement, with the data sets exchanged. Ma, Zhu and
    Hsu 2019 ("Data Poisoning against Differentially-Private Learners", arXiv:1903.09860)
    bound the cost of an attack in this way.

    Args:
        clean_success: p_clean, the probability without poison.
        epsilon: of one record, finite and at least 0.
        delta: of one record, in [0, 1].
        num_poisoned: k, at least 1.

    Raises:
        TypeError: `epsilon` or `delta` is not a number.
        ValueError: a number is outside its range.

    Example:
        >>> round(epsilon_success_bound(0.01, epsilon=1.0, delta=1e-5, num_poisoned=2), 4)
        0.0739
    """
    _check_count(num_poisoned)
    # Checks the numbers of one record, whose bound is the one for k = 1.
    alone = tpr_ceiling(clean_success, epsilon=epsilon, delta=delta)
    if num_poisoned == 1:
        return float(alone)
    group_delta = delta * _growth(epsilon, num_poisoned) if delta else 0.0
    return float(
        tpr_ceiling(clean_success, epsilon=num_poisoned * epsilon, delta=min(1.0, group_delta))
    )


def mechanism_success_bound(
    clean_success: float, mechanism: Mechanism, *, num_poisoned: int
) -> float:
    """Returns the largest success of k poisoned records that a mechanism allows.

    The least of all that `epsilon_success_bound` says at points (ε, δ) of the mechanism's privacy
    profile. For full batches, and for Poisson sampling where the first bound is below 0.9, also
    what the trade-off function of the k records together says, which is tighter: of one Gaussian
    step with μ = 1 / σ it is Φ(Φ⁻¹(p_clean) + kμ).

    Args:
        clean_success: p_clean, the probability without poison.
        mechanism: of one record, added or removed.
        num_poisoned: k, at least 1.

    Raises:
        ValueError: a number is outside its range, the mechanism protects something else than
            records, or its neighbours do not differ by a record more or less.

    Example:
        >>> mechanism = FullBatch(noise_multiplier=20.0, num_steps=4)
        >>> round(mechanism_success_bound(0.05, mechanism, num_poisoned=4), 4)
        0.1066
    """
    _check_count(num_poisoned)
    if mechanism.unit != "record" or mechanism.neighboring != "add_or_remove_one":
        raise ValueError(
            "the mechanism must protect records that are added or removed, got "
            f"{mechanism.unit} and {mechanism.neighboring}: poisoned records are added ones"
        )
    bound = _by_profile(clean_success, mechanism, num_poisoned)
    together = records_together(mechanism, num_poisoned)
    is_slow = isinstance(together, UserLevelDPSGD)
    if together is not None and (bound < _WORTH_SHARPENING or not is_slow):
        bound = min(bound, float(trade_off(together, clean_success)))
    return bound


def records_together(mechanism: Mechanism, num_poisoned: int) -> Mechanism | None:
    """Returns the mechanism of k records that come together; None where none is known.

    Args:
        mechanism: of one record.
        num_poisoned: k.

    Example:
        >>> records_together(FullBatch(noise_multiplier=8.0, num_steps=2), 4).noise_multiplier
        2.0
    """
    if num_poisoned == 1:
        return mechanism
    if isinstance(mechanism, DPSGD):
        return UserLevelDPSGD(
            num_records=mechanism.num_units,
            expected_batch_size=mechanism.expected_batch_size,
            noise_multiplier=mechanism.noise_multiplier,
            num_steps=mechanism.num_steps,
            records_per_user=num_poisoned,
            neighboring=mechanism.neighboring,
        )
    if isinstance(mechanism, FullBatch):
        noise = mechanism.noise_multiplier / num_poisoned
        if noise >= SMALLEST_NOISE_MULTIPLIER:
            return dataclasses.replace(mechanism, noise_multiplier=noise)
    return None


def _by_profile(clean_success: float, mechanism: Mechanism, num_poisoned: int) -> float:
    """The least bound at points of the group's profile."""
    group: Mechanism = mechanism
    if num_poisoned > 1:
        group = GroupOfRecords(mechanism, records_per_user=num_poisoned)
    last = mechanism.epsilon(_SMALLEST_DELTA)
    epsilons = num_poisoned * (np.linspace(0.0, last, _NUM_POINTS) if last > 0 else np.zeros(1))
    deltas = profile(group, epsilons)
    return min(
        float(tpr_ceiling(clean_success, epsilon=float(epsilon), delta=float(delta)))
        for epsilon, delta in zip(epsilons, deltas, strict=True)
    )


def _growth(epsilon: float, k: int) -> float:
    """(e^{kε} − 1) / (e^ε − 1), k at ε = 0; infinite where it is beyond every float."""
    if epsilon == 0:
        return float(k)
    log_growth = (k - 1) * epsilon + math.log(math.expm1(-k * epsilon) / math.expm1(-epsilon))
    return math.exp(log_growth) if log_growth < 700 else math.inf


def _check_count(num_poisoned: int) -> None:
    if num_poisoned < 1:
        raise ValueError(f"num_poisoned must be at least 1, got {num_poisoned}")
