"""What a person sees of long work: a live line in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class CountProgress:
    """Shows how many of the things to be done are done, and the time left.

    Args:
        console: where it is shown.
        what: is being done, such as "computing features".
        total: how many there are.
        first: how many were done before.
        status: what stands beside the count at first.
    """

    def __init__(
        self, console: Console, what: str, total: int, first: int = 0, *, status: str = ""
    ) -> None:
        self._console, self._what, self._total, self._first = console, what, total, first
        self._status = status
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn(self._what),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                self._what, total=self._total, completed=self._first, status=self._status
            )
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def show(self, done: int, status: str = "", *, is_due: bool = False) -> None:
        """Shows how many are done; `is_due`: at once, also where no line is to be seen yet."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, status=status)
            return
        now = time.monotonic()
        if is_due or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            parts = [f"{self._what} {done}/{self._total}", status]
            if done > self._first:
                left = (now - self._start) / (done - self._first) * (self._total - done)
                parts.append(f"{left:.0f} s left")
            line = " · ".join(part for part in parts if part)
            self._console.print(line, highlight=False, soft_wrap=True)


class TrainingProgress(CountProgress):
    """Shows step, loss, ε spent so far, records per second and the time left.

    Args:
        console: where it is shown.
        num_steps: how many there are.
        first_step: how many were done before.
        private: whether ε is shown.
        what: is counted.
    """

    def __init__(
        self,
        console: Console,
        num_steps: int,
        first_step: int,
        private: bool,
        *,
        what: str = "step",
    ) -> None:
        super().__init__(console, what, num_steps, first_step, status="compiling")
        self._private = private
        self._num_records = 0

    def update(self, step: int, loss: float | None, epsilon: float | None, records: int) -> None:
        """Reports that `step` steps are done, the last one over `records` records."""
        self._num_records += records
        shown_loss = "–" if loss is None else f"{loss:.4f}"
        spent = f"ε {epsilon:.3f}" if self._private else "NO PRIVACY"
        speed = self._num_records / self.seconds
        self.show(
            step,
            f"loss {shown_loss} · {spent} · {speed:.0f} records/s",
            is_due=step in (self._first + 1, self._total),
        )
