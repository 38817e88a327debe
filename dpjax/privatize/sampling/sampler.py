"""What every sampler answers, and how many slots of units it draws from."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Sampler(Protocol):
    """Decides which units take part in a step, as a pure function of (run key, step).

    Steps may be asked for in any order, and again. Who takes part is secret: it is what
    amplification by sampling rests on. `sampler_for` makes the sampler of a mechanism.

    Example:
        >>> from dpjax_accounting import FullBatch
        >>> from dpjax.privatize import RunKey, Sampler, sampler_for
        >>> mechanism = FullBatch(noise_multiplier=5.0, num_steps=10, num_units=4)
        >>> sampler: Sampler = sampler_for(mechanism, RunKey.from_os_entropy())
        >>> sampler.indices(step=7).tolist()
        [0, 1, 2, 3]
    """

    def indices(self, step: int) -> np.ndarray:
        """Returns the units of `step`, int64 `(n,)`, ascending, each at most once."""
        ...


def number_of_slots(num_units: int, present: np.ndarray | None) -> int:
    """Returns how many slots units are drawn from: `num_units`, or the length of `present`.

    Args:
        num_units: of the mechanism.
        present: `(S,)` bool, or None.

    Raises:
        TypeError: `present` holds no truth values.
        ValueError: `present` has another number of axes than one.
    """
    if present is None:
        return num_units
    if np.ndim(present) != 1:
        raise ValueError(f"present must have one axis, got shape {np.shape(present)}")
    if present.dtype != np.bool_:
        raise TypeError(f"present must hold truth values, got {present.dtype}")
    return len(present)


def places_of(is_drawn: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """Returns the slots that are drawn and present, int64 `(n,)`, ascending."""
    return np.flatnonzero(is_drawn if present is None else is_drawn & present)
