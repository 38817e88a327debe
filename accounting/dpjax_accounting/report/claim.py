"""The part of a privacy report that follows from the mechanism: what is claimed, and by whom.

Writing a report and verifying one use the same function: what is written is what is recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from dpjax_accounting.delta import validate_delta
from dpjax_accounting.mechanisms.mechanism import Mechanism
from dpjax_accounting.mechanisms.stepwise import num_steps_of, stopped_after
from dpjax_accounting.readings.trade_off import largest_tpr
from dpjax_accounting.readings.two_accountants import compare
from dpjax_accounting.readings.unamplified import NotSampled, unamplified_epsilon

OTHER_DELTAS = (1e-4, 1e-5, 1e-6, 1e-8, 1e-10)
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
_METHODS = {
    "pld": "privacy loss distributions, pessimistic discretisation: an upper bound",
    "rdp": "Rényi differential privacy: an upper bound",
}


def claim(
    mechanism: Mechanism,
    delta: float,
    *,
    steps_completed: int | None = None,
    other_deltas: Sequence[float] = OTHER_DELTAS,
) -> dict[str, Any]:
    """Returns the sections of a privacy report that follow from a mechanism, ready for JSON.

    They are status, steps_planned, steps_completed, guarantee, mechanism and accountant, with the
    fields that report/privacy-report.schema.json describes.

    Args:
        mechanism: as planned.
        delta: of the guarantee.
        steps_completed: what of it has been executed; None for all. Only for mechanisms in steps.
            Of mechanisms in epochs every epoch that was begun counts.
        other_deltas: where ε is given too.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `delta` or `steps_completed` is out of range, `steps_completed` given for a
            mechanism without steps, or the loss too large to account for.

    Warns:
        DeltaWarning: if `delta` is at least 1 / (number of units).

    Example:
        >>> from dpjax_accounting import FullBatch, claim
        >>> run = FullBatch(noise_multiplier=8.0, num_steps=3)
        >>> sections = claim(run, 1e-5, steps_completed=2)
        >>> sections["status"]
        'unfinished'
        >>> round(sections["guarantee"]["epsilon"], 3)
        0.634
    """
    planned = num_steps_of(mechanism)
    done = mechanism if steps_completed is None else stopped_after(mechanism, steps_completed)
    completed = planned if steps_completed is None else int(steps_completed)
    num_units = getattr(mechanism, "num_units", None)
    if num_units is not None:
        validate_delta(delta, num_units)
    guarantee = {
        "epsilon": done.epsilon(delta),
        "delta": delta,
        "unit": mechanism.unit,
        "neighboring": mechanism.neighboring,
        "num_units": num_units,
        "delta_times_num_units": None if num_units is None else delta * num_units,
        "other_deltas": _other_deltas(done, delta, other_deltas),
        "tests": _tests(done, delta),
        "largest_advantage": min(done.delta(0.0), 1.0),
    }
    guarantee |= _comparisons(done, delta)
    # Last, because the accountant remembers one number of steps at a time.
    guarantee["epsilon_planned"] = mechanism.epsilon(delta)
    return {
        "status": "complete" if completed == planned else "unfinished",
        "steps_planned": planned,
        "steps_completed": completed,
        "guarantee": guarantee,
        "mechanism": mechanism.to_dict(),
        "accountant": {
            "method": _METHODS[mechanism.accountant],
            "package": "dpjax_accounting",
            # The distribution that the package comes in.
            "version": version("dpjax"),
        },
    }


def _other_deltas(
    mechanism: Mechanism, delta: float, others: Sequence[float]
) -> list[dict[str, float]]:
    return [
        {"delta": other, "epsilon": mechanism.epsilon(other)}
        for other in others
        if not math.isclose(other, delta)
    ]


def _tests(mechanism: Mechanism, delta: float) -> list[dict[str, float]]:
    bounds = largest_tpr(mechanism, FALSE_POSITIVE_RATES, delta=delta)
    return [
        {"false_positive_rate": rate, "largest_true_positive_rate": float(bound)}
        for rate, bound in zip(FALSE_POSITIVE_RATES, bounds, strict=True)
    ]


def _comparisons(mechanism: Mechanism, delta: float) -> dict[str, float | None]:
    """ε without amplification by sampling, and by the accountant that it does not rest on."""
    try:
        unamplified = unamplified_epsilon(mechanism, delta)
    except NotSampled:
        unamplified = None
    return {
        "epsilon_unamplified": unamplified,
        "epsilon_renyi": compare(mechanism, delta).rdp,
    }
