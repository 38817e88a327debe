"""The sentences of a privacy report where the guarantee is for users instead of records."""

from __future__ import annotations

import re
from typing import Any

from dpjax_accounting import Mechanism, UserLevelDPSGD

# Sentences that speak of units speak of them in one of these ways.
_UNIT = re.compile(r"\b([Oo]ne|[Ww]hich|number of|draw of) record(s?)\b")
_ONE_RECORD = "One record is "
_NEIGHBOURS = "Neighbouring data sets differ by one "
EACH_GRADIENT = "Each gradient is clipped"


def tell_of_users(
    report: dict[str, Any], mechanism: Mechanism | None, who_is_one: str
) -> dict[str, Any]:
    """Returns the report with units called users, where the unit is a user; else unchanged.

    Args:
        report: a privacy report whose sentences say record for unit, but for the way of sampling.
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
        ...     "implementation": {"gradient_accumulation": "One step is one draw of records."},
        ...     "trust": {"kept_secret": ["Which records were drawn."]},
        ...     "data_uses": [],
        ... }
        >>> told = tell_of_users(report, mechanism, "One user is one name.")
        >>> told["assumptions"]
        ['One user is one name.', 'Data sets differ by one user.']
        >>> told["implementation"]["gradient_accumulation"]
        'One step is one draw of users.'
    """
    if mechanism is None or mechanism.unit != "user":
        return report
    kept = [line for line in report["assumptions"] if not line.startswith(_ONE_RECORD)]
    if isinstance(mechanism, UserLevelDPSGD):
        # Records are drawn and clipped: only the neighbours are users.
        return report | {"assumptions": [who_is_one, *map(_neighbours_of_users, kept)]}
    implementation, trust = report["implementation"], report["trust"]
    told = {"gradient_accumulation": _of_users(implementation["gradient_accumulation"])}
    return report | {
        "assumptions": [who_is_one, *map(_of_users, kept)],
        "implementation": implementation | told,
        "trust": trust | {"kept_secret": [_of_users(line) for line in trust["kept_secret"]]},
        "data_uses": [_use_of_users(use) for use in report["data_uses"]],
    }


def _of_users(sentence: str) -> str:
    return _UNIT.sub(r"\1 user\2", sentence)


def _neighbours_of_users(sentence: str) -> str:
    return sentence.replace(f"{_NEIGHBOURS}record", f"{_NEIGHBOURS}user")


def _use_of_users(use: dict[str, str]) -> dict[str, str]:
    clipped = "The gradient of each user that was drawn is clipped as one"
    return use | {"explanation": use["explanation"].replace(EACH_GRADIENT, clipped)}
