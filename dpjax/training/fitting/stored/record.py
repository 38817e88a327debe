"""privacy.json of a run of `fit`: steps stand in it before anybody can see what they came to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_GROWTH = 8
_MARGIN = 1.5


class StepRecord:
    """Puts steps on record before they are done, several at once.

    At first the record is one step ahead; then by as many as are done until the next checkpoint,
    and never by more than 8 times what this process has done. A run that is killed has at least
    its own steps on record.

    Args:
        write: writes that so many steps are on record, where so many are done.
        first: how many steps are done.
        num_steps: how many there are.
        on_record: how many the record counts already.
        seconds: between checkpoints; None for no such rule.
        steps: likewise, counted in steps.
    """

    def __init__(
        self,
        write: Callable[[int, int], None],
        *,
        first: int,
        num_steps: int,
        on_record: int,
        seconds: float | None,
        steps: int | None,
    ) -> None:
        self._write = write
        self._first = first
        self._num_steps = num_steps
        self._seconds = seconds
        self._steps = steps
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self.on_record = on_record

    def cover(self, step: int) -> None:
        """Returns once step `step`, counted from 1, is on record; call it before the step.

        Raises:
            OSError: for instance because the disk is full: do not do the step.
        """
        with self._lock:
            if step > self.on_record:
                self._extend(step - 1)

    def renew(self, done: int) -> None:
        """Looks ahead while a checkpoint is stored, in its thread; `done` steps are done."""
        with self._lock:
            if self.on_record < min(self._num_steps - 1, done + self._ahead(done) // 2):
                self._extend(done)

    def _extend(self, done: int) -> None:
        # With its last step on record a run looks complete, so that one comes by itself.
        on_record = min(max(self._num_steps - 1, done + 1), done + self._ahead(done))
        self._write(on_record, done)
        self.on_record = on_record

    def _ahead(self, done: int) -> int:
        here = done - self._first
        if here <= 0:
            return 1
        most = _GROWTH * here
        if self._steps is not None:
            most = min(most, 2 * self._steps)
        if self._seconds is not None:
            rate = here / max(time.monotonic() - self._start, 1e-9)
            most = min(most, math.ceil(_MARGIN * self._seconds * rate))
        return max(1, most)
