"""What a person sees while records are drawn: in a terminal a live line, else some lines."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class SynthesisProgress:
    """Shows how many records there are, and how many texts a second are drawn.

    Args:
        console: where it is shown.
        num: how many records are wanted.
        num_done: how many there are already.
    """

    def __init__(self, console: Console, num: int, num_done: int) -> None:
        self._console = console
        self._num = num
        self._done = num_done
        self._drawn = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> SynthesisProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("records"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "draw", total=self._num, completed=self._done, status="compiling"
            )
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def drawn(self, num_texts: int) -> None:
        """Reports texts that were drawn, each of them a record until it was looked at."""
        self._drawn += num_texts
        self._show(min(self._num, self._done + num_texts), is_due=False)

    def looked_at(self, num_records: int) -> None:
        """Reports how many records there are without those that were dropped."""
        self._show(num_records, is_due=num_records == self._num)

    def _show(self, num_records: int, *, is_due: bool) -> None:
        self._done = num_records
        speed = self._drawn / (time.monotonic() - self._start)
        status = f"{speed:.3g} texts/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=num_records, status=status)
            return
        now = time.monotonic()
        if is_due or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            line = f"record {num_records}/{self._num} · {status}"
            self._console.print(line, highlight=False, soft_wrap=True)
