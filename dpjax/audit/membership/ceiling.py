"""What (ε, δ) allows an attack to reach, and whether a measured one went beyond it.

The guarantee compares training with one record and without it, on average over the randomness of
training. The measurement compares many records under one trained model, and its members and
held-out records differ by a replacement, for which (2ε, (1 + e^ε) δ) would be the strict bound;
here the effect of one record more or less on the others' rates is neglected. So an excess is an
alarm that calls for an explanation, no proof, and the label stays descriptive.
"""

from __future__ import annotations

from dpjax_accounting import tpr_ceiling
from scipy import special

from dpjax.audit.membership.attack import AttackResult
from dpjax.audit.membership.intervals import binomial_interval, num_above_threshold


def auc_ceiling(*, epsilon: float, delta: float) -> float:
    """Return the largest AUC that an (ε, δ)-differentially private training allows.

    The area under `dpjax_accounting.tpr_ceiling`. That curve runs straight through (0, δ),
    (x, 1 − x), (1 − δ, 1) with x = (1 − δ) / (1 + e^ε); the kite above it has the area (1 − δ) x.

    Raises:
        TypeError: if `epsilon` or `delta` is not a number.
        ValueError: if epsilon is negative or not finite, or delta not in [0, 1].
    """
    tpr_ceiling(0.0, epsilon=epsilon, delta=delta)
    return float(1 - (1 - delta) ** 2 * special.expit(-epsilon))


def exceeds_ceiling(result: AttackResult, *, epsilon: float, delta: float) -> bool:
    """Return whether the attack did better than (ε, δ) allows, by more than chance explains.

    Raises:
        TypeError, ValueError: as for `auc_ceiling`.
    """
    return bool(ceiling_alarms(result, epsilon=epsilon, delta=delta))


def ceiling_alarms(result: AttackResult, *, epsilon: float, delta: float) -> tuple[str, ...]:
    """Return a sentence for each rate beyond what (ε, δ) allows; none for a run that keeps it.

    Two comparisons. AUC: the lower end of its interval against `auc_ceiling`. TPR: at the threshold
    used, its exact lower end against the ceiling at the exact upper end of that threshold's FPR,
    which sees more with few non-members than `tpr_interval`, where the FPR is fixed. A run on the
    ceiling, its records independent, raises each falsely with probability at most 1 − confidence
    (TPR, whatever the distributions) and about half of that (AUC, approximately).

    Raises:
        TypeError, ValueError: as for `auc_ceiling`.
    """
    alarms = []
    highest_auc = auc_ceiling(epsilon=epsilon, delta=delta)
    if result.auc_interval[0] > highest_auc:
        alarms.append(
            f"the AUC is at least {result.auc_interval[0]:.4f}, and at most {highest_auc:.4f} is"
            " allowed"
        )
    tpr, fpr = _certain_rates(result)
    highest_tpr = float(tpr_ceiling(fpr, epsilon=epsilon, delta=delta))
    if tpr > highest_tpr:
        alarms.append(
            f"the TPR is at least {100 * tpr:.3g} % where the FPR is at most {100 * fpr:.3g} %, and"
            f" there at most {100 * highest_tpr:.3g} % is allowed"
        )
    return tuple(alarms)


def checked_guarantee(epsilon: float | None, delta: float | None) -> tuple[float, float] | None:
    """Return (epsilon, delta), or None if both are; raises ValueError if only one is."""
    if (epsilon is None) != (delta is None):
        raise ValueError(
            f"epsilon and delta belong together; got epsilon={epsilon}, delta={delta}."
            " Give both, or neither for a run without privacy."
        )
    return None if epsilon is None or delta is None else (epsilon, delta)


def _certain_rates(result: AttackResult) -> tuple[float, float]:
    """The lower end of the TPR and the upper end of the FPR at the threshold of `result.tpr`."""
    caught = round(result.tpr * result.num_members)
    tpr, _ = binomial_interval(
        successes=caught, trials=result.num_members, confidence=result.confidence
    )
    # The threshold is the (k + 1)-th largest non-member score, so its FPR follows
    # Beta(k + 1, N - k): the distribution that the upper end for k of N is a quantile of.
    allowed = num_above_threshold(result.num_nonmembers, result.fpr_level)
    _, fpr = binomial_interval(
        successes=allowed, trials=result.num_nonmembers, confidence=result.confidence
    )
    return tpr, fpr
