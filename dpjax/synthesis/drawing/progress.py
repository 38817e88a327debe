"""What a person sees while records are drawn."""

from __future__ import annotations

from rich.console import Console

from dpjax.training import CountProgress


class SynthesisProgress(CountProgress):
    """Shows how many records there are, and how many texts a second are drawn.

    Args:
        console: where it is shown.
        num: how many records are wanted.
        num_done: how many there are already.
    """

    def __init__(self, console: Console, num: int, num_done: int) -> None:
        super().__init__(console, "record", num, num_done, status="compiling")
        self._done = num_done
        self._drawn = 0

    def drawn(self, num_texts: int) -> None:
        """Reports texts that were drawn, each of them a record until it was looked at."""
        self._drawn += num_texts
        self._show_records(min(self._total, self._done + num_texts))

    def looked_at(self, num_records: int) -> None:
        """Reports how many records there are without those that were dropped."""
        self._show_records(num_records)

    def _show_records(self, num_records: int) -> None:
        self._done = num_records
        speed = self._drawn / self.seconds
        is_last = num_records == self._total
        self.show(num_records, f"{speed:.3g} texts/s", is_due=is_last)
