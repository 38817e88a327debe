"""What a person sees during a run: a live line in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Shows step, loss, ε spent so far, records per second and the time left."""

    def __init__(self, console: Console, num_steps: int, first_step: int, private: bool) -> None:
        self._console = console
        self._num_steps = num_steps
        self._first_step = first_step
        self._private = private
        self._start = self._last_line = time.monotonic()
        self._num_records = 0
        self._bar: Progress | None = None

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "train", total=self._num_steps, completed=self._first_step, status="compiling"
            )
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float | None, epsilon: float | None, records: int) -> None:
        """Reports that `step` steps are done, the last one over `records` records."""
        self._num_records += records
        elapsed = time.monotonic() - self._start
        shown_loss = "–" if loss is None else f"{loss:.4f}"
        spent = f"ε {epsilon:.3f}" if self._private else "NO PRIVACY"
        status = f"loss {shown_loss} · {spent} · {self._num_records / elapsed:.0f} records/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
            return
        now = time.monotonic()
        first_or_last = step in (self._first_step + 1, self._num_steps)
        if first_or_last or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = elapsed / (step - self._first_step) * (self._num_steps - step)
            self._console.print(
                f"step {step}/{self._num_steps} · {status} · {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )


class CountProgress:
    """Shows how many of the things to be done are done, and the time left.

    Args:
        console: where it is shown.
        what: is being done, such as "computing features".
        total: how many there are.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console, self._what, self._total = console, what, total
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> CountProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn(self._what),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("count", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Reports how many are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._start) / done * (self._total - done)
            self._console.print(
                f"{self._what} {done}/{self._total} · {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
