"""Ctrl-C that waits for the end of a step, so that the state which is saved is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped after `step` steps and can be resumed; the message says how."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class InterruptFlag:
    """Turns the first SIGINT or SIGTERM into a flag; a second one stops at once.

    Outside the main thread, where Python delivers no signals, it stays False.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> InterruptFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
