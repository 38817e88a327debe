"""Mechanisms that take place in steps, and stop before the last."""

from __future__ import annotations

from dpjax_accounting.checks import checked_integer
from dpjax_accounting.mechanism import Mechanism


def stopped_after(mechanism: Mechanism, num_steps: int) -> Mechanism:
    """Return what `mechanism` released in its first `num_steps` steps, as a mechanism.

    Raises:
        TypeError: if `num_steps` is not an integer.
        ValueError: if it is negative or beyond the last step, or the mechanism has no steps, or is
            not described when it stops early: then it counts in full.
    """
    steps = checked_integer("num_steps", num_steps, minimum=0)
    planned = getattr(mechanism, "num_steps", None)
    if steps == planned:
        return mechanism
    if planned is None:
        raise ValueError(f"A {mechanism.name!r} mechanism has no steps: it counts in full.")
    if not hasattr(mechanism, "after"):
        raise ValueError(
            f"A {mechanism.name!r} mechanism is not described after {steps} of its {planned} steps:"
            " it counts in full."
        )
    return mechanism.after(steps)
