"""The δ of a guarantee: a default, and the check against the number of units."""

from __future__ import annotations

import warnings

from dpjax_accounting.checks import checked_delta, checked_integer


class DeltaWarning(UserWarning):
    """δ is so large that publishing a unit at random would satisfy it."""


def default_delta(num_units: int) -> float:
    """Returns the δ that is used where none is given: min(1e-5, num_units ** −1.1).

    Releasing one unit chosen at random is (0, 1 / num_units)-differentially private and reveals
    that unit entirely. A meaningful δ therefore lies below 1 / num_units (Dwork and Roth 2014,
    section 2.3), and this one does for every number of units.

    Args:
        num_units: number of privacy units, at least 1.

    Raises:
        TypeError: if `num_units` is not an integer.
        ValueError: if `num_units` is below 1.

    Example:
        >>> default_delta(1000)
        1e-05
        >>> f"{default_delta(67349):.3g}"
        '4.88e-06'
    """
    return min(1e-5, float(checked_integer("num_units", num_units, minimum=1) ** -1.1))


def validate_delta(delta: float, num_units: int) -> float:
    """Returns `delta` as a float if 0 < delta < 1, and warn if it is not below 1 / num_units.

    Raises:
        TypeError: if `delta` is not a number or `num_units` is not an integer.
        ValueError: if `delta` does not lie strictly between 0 and 1, or `num_units` is below 1.

    Warns:
        DeltaWarning: if `delta` is at least 1 / num_units.
    """
    delta = checked_delta(delta)
    num_units = checked_integer("num_units", num_units, minimum=1)
    if delta >= 1 / num_units:
        warnings.warn(
            f"delta={delta:g} is not below 1 / num_units = {1 / num_units:g}: such a delta permits"
            f" revealing whole units. Use a smaller one, such as {default_delta(num_units):.3g}.",
            DeltaWarning,
            stacklevel=2,
        )
    return delta
