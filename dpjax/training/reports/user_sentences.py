"""The sentences of a privacy report where the guarantee is for users instead of records."""

from __future__ import annotations

import re
from typing import Any

from dpjax_accounting import Mechanism

# Sentences that speak of units speak of them in one of these ways.
_UNIT = re.compile(r"\b([Oo]ne|[Ee]very|[Ee]ach|[Ww]hich|number of) record(s?)\b")
_ONE_RECORD = "One record is "
_EACH_GRADIENT = "Each gradient is clipped"


def tell_of_users(
    report: dict[str, Any], mechanism: Mechanism | None, who_is_one: str
) -> dict[str, Any]:
    """Returns the report with units called users, where the unit is a user; else unchanged.

    Args:
        report: a privacy report whose sentences say record for unit.
        mechanism: of the run; None without privacy.
        who_is_one: the assumption that says what a user is, and what a step reads of one.

    Example:
        >>> from dpjax_accounting import UserSampledDPSGD
        >>> mechanism = UserSampledDPSGD(
        ...     num_units=100,
        ...     expected_batch_size=10,
        ...     noise_multiplier=1.0,
        ...     num_steps=5,
        ...     records_per_user=2,
        ... )
        >>> report = {
        ...     "assumptions": ["One record is one row.", "Data sets differ by one record."],
        ...     "implementation": {"sampling": "Poisson: every record is drawn."},
        ...     "trust": {"kept_secret": ["Which records were drawn."]},
        ...     "data_uses": [],
        ... }
        >>> told = tell_of_users(report, mechanism, "One user is one name.")
        >>> told["assumptions"]
        ['One user is one name.', 'Data sets differ by one user.']
        >>> told["implementation"]["sampling"]
        'Poisson: every user is drawn.'
    """
    if mechanism is None or mechanism.unit != "user":
        return report
    kept = [line for line in report["assumptions"] if not line.startswith(_ONE_RECORD)]
    implementation, trust = report["implementation"], report["trust"]
    return report | {
        "assumptions": [who_is_one, *map(_of_users, kept)],
        "implementation": implementation | {"sampling": _of_users(implementation["sampling"])},
        "trust": trust | {"kept_secret": [_of_users(line) for line in trust["kept_secret"]]},
        "data_uses": [_use_of_users(use) for use in report["data_uses"]],
    }


def _of_users(sentence: str) -> str:
    return _UNIT.sub(r"\1 user\2", sentence)


def _use_of_users(use: dict[str, str]) -> dict[str, str]:
    clipped = "The gradient of each user that was drawn is clipped as one"
    return use | {"explanation": use["explanation"].replace(_EACH_GRADIENT, clipped)}
