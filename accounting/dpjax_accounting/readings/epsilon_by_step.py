"""The privacy spent as a run proceeds."""

from __future__ import annotations

import bisect
import functools

from dpjax_accounting.checks import checked_integer
from dpjax_accounting.engine.privacy_loss import PrivacyLoss, check_delta
from dpjax_accounting.mechanisms.stepwise import InEpochs, Stepwise, checked_step, num_steps_of

_COARSER = 10.0
# Where no pair of a step is known, one value takes seconds to a minute.
_FEW_POINTS = 8


class EpsilonBySteps:
    """Upper bounds on ε after each step of a run, quick enough for a progress display.

    Before the last step the privacy loss is rounded up on a grid ten times coarser than that of
    `mechanism.epsilon`: on one CPU core 0.02 s at a time, 0.06 s at a sampling probability of 1e-4,
    whatever the number of steps, and so one or two seconds for all steps of a run. In runs of more
    than `max_points` steps at most that many are computed, and a step between two gets the value of
    the later one, which is an upper bound because ε only grows with steps. They lie at the squares
    of evenly spaced numbers, where ε, which often grows as the root of the steps, is about evenly
    spaced. Mechanisms in epochs have the ε of the epochs that are begun; of random allocation at
    most 8 are computed, each of which takes seconds to a minute. No value exceeds
    `mechanism.epsilon(delta)`, which is the value after the last step.
    Values are computed when asked for, and remembered.

    Raises:
        TypeError: if `mechanism` has no steps, `delta` is no number or `max_points` no integer.
        ValueError: if `max_points` is below 1, or `mechanism.epsilon(delta)` would refuse.
    """

    def __init__(self, mechanism: Stepwise, delta: float, *, max_points: int = 64) -> None:
        if num_steps_of(mechanism) is None:
            raise TypeError(
                f"mechanism must be one in steps, such as DPSGD; got {type(mechanism).__name__},"
                " which has one epsilon for the whole of it."
            )
        points = checked_integer("max_points", max_points, minimum=1)
        self._mechanism = mechanism
        self._last = mechanism.num_steps
        self._delta = check_delta(delta)
        releases = mechanism.releases()
        if releases is not None:
            PrivacyLoss(releases).check_supported()
        self._points = _points(self._last, points)
        if isinstance(mechanism, InEpochs):
            points = points if releases is not None else min(points, _FEW_POINTS)
            batches = mechanism.batches_per_epoch
            self._points = [batches * epoch for epoch in _points(mechanism.num_epochs, points)]
        self._values: dict[int, float] = {0: 0.0}

    def at(self, step: int) -> float:
        """Returns an upper bound on ε after `step` steps, 0.0 before the first.

        Raises:
            TypeError: if `step` is not an integer.
            ValueError: if `step` is negative or beyond the last step.
        """
        step = checked_step(step, self._last)
        point = self._points[bisect.bisect_left(self._points, step)] if step else 0
        if point not in self._values:
            self._values[point] = min(self._bound(point), self._total)
        return self._values[point]

    @functools.cached_property
    def _total(self) -> float:
        return self._mechanism.epsilon(self._delta)

    def _bound(self, step: int) -> float:
        if step == self._last:
            return self._total
        stopped = self._mechanism.after(step)
        releases = stopped.releases()
        if releases is None:
            return stopped.epsilon(self._delta)
        return PrivacyLoss(releases, _COARSER).epsilon(self._delta)


def _points(last: int, most: int) -> list[int]:
    """Returns up to `most` steps in order, all of them if they are no more; the last is `last`."""
    if last <= most:
        return list(range(1, last + 1))
    return sorted({-(-last * i * i // most**2) for i in range(1, most + 1)})
