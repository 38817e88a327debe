"""Mechanisms that take place in steps, and stop before the last."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

from dpjax_accounting.checks import checked_integer
from dpjax_accounting.mechanisms.mechanism import Mechanism


class Stepwise(Mechanism):
    """A mechanism in `num_steps` steps, whose first ones are a mechanism of the same kind."""

    if TYPE_CHECKING:
        # A field, or the sum of those of segments.
        @property
        def num_steps(self) -> int: ...  # noqa: D102

    def after(self, step: int) -> Self:
        """Returns the same mechanism stopped after `step` steps; 0 means that nothing was released.

        Raises:
            TypeError: if `step` is not an integer.
            ValueError: if `step` is negative or beyond `num_steps`.
        """
        return dataclasses.replace(self, num_steps=checked_step(step, self.num_steps))


def checked_step(step: object, num_steps: int) -> int:
    """Returns `step` as a Python int from 0 to `num_steps`, or raises."""
    number = checked_integer("step", step, minimum=0)
    if number > num_steps:
        raise ValueError(f"step={number} lies beyond the last one: num_steps={num_steps}.")
    return number


def stopped_after(mechanism: Mechanism, num_steps: int) -> Mechanism:
    """Returns what `mechanism` released in its first `num_steps` steps, as a mechanism.

    Raises:
        TypeError: if `num_steps` is not an integer.
        ValueError: if it is negative or beyond the last step, or the mechanism has no steps: then
            it counts in full.
    """
    if isinstance(mechanism, Stepwise):
        return mechanism.after(num_steps)
    raise ValueError(f"A {mechanism.name!r} mechanism has no steps: it counts in full.")
