"""Ctrl-C and SIGTERM: at once where nothing is lost, after the step where one is being done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from dpjax.training.stopped import RunInterrupted

_SECONDS_UNTIL_RAISED_AGAIN = 0.5
# JAX has a callback of the garbage collector, which runs at any time.
_DROPPING = ("_xla_gc_callback", "__del__")
# What weak dictionaries, weak sets and finalizers do once their object is gone.
_DROPPING_MODULES = ("weakref", "_weakrefset")


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, in the main thread, while it is entered.

    Within `deferred` the first signal only sets `number`; a second one raises. Outside the main
    thread, where Python delivers no signals, nothing changes.

    Attributes:
        number: of the first signal that came and has not been acknowledged; None without one.

    Example:
        >>> import os
        >>> with Interrupts() as interrupts, interrupts.deferred():
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     interrupts.acknowledge() == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_deferred = False
        self._previous: dict[int, Any] = {}
        self._reminder: threading.Timer | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self.acknowledge()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it the first signal waits for somebody to look at `number`."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    @contextlib.contextmanager
    def saying(self, message: str, step: int) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM become a RunInterrupted with this message.

        Args:
            message: what was stopped, and how to go on.
            step: how many steps are done.
        """
        try:
            yield
        except RunInterrupted:
            raise
        except KeyboardInterrupt:
            raise RunInterrupted(message, step, self.acknowledge()) from None
        except Exception:
            # It may be what somebody made of the KeyboardInterrupt.
            if self.number is None:
                raise
            raise RunInterrupted(message, step, self.acknowledge()) from None

    def raise_pending(self) -> None:
        """Raises KeyboardInterrupt if a signal came, and whatever it raised was dropped."""
        if self.number is not None:
            raise _Interrupted

    def acknowledge(self) -> int:
        """Whoever caught the KeyboardInterrupt says so; returns the signal's number."""
        number, self.number = self.number or signal.SIGINT, None
        if self._reminder is not None:
            self._reminder.cancel()
            self._reminder = None
        return number

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, self.number or number
        if self._is_deferred and first:
            return
        self._reminder = threading.Timer(_SECONDS_UNTIL_RAISED_AGAIN, self._remind)
        self._reminder.daemon = True
        self._reminder.start()
        if not _would_be_dropped(frame):
            raise _Interrupted

    def _remind(self) -> None:
        number = self.number
        main = threading.main_thread().ident
        if number is not None and main is not None:
            # A real signal, which ends a system call that the main thread waits in.
            signal.pthread_kill(main, number)


@contextlib.contextmanager
def interrupts_of_loop() -> Iterator[Interrupts]:
    """Enters `Interrupts` for a generator; a signal that comes while it is left is not lost."""
    interrupts, number = Interrupts(), None
    try:
        with interrupts:
            try:
                yield interrupts
            finally:
                number = interrupts.number
    except GeneratorExit:
        if number is not None:
            signal.raise_signal(number)
        raise


class _Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt by another name.

    Where one passes through `exec`, Python ends with the status of a killed process, even if it is
    caught afterwards; it looks for the exact class.
    """


def _would_be_dropped(frame: FrameType | None) -> bool:
    """Whether Python would print what is raised here and go on: in a callback or a destructor."""
    while frame is not None:
        is_callback = frame.f_globals.get("__name__") in _DROPPING_MODULES
        if is_callback or frame.f_code.co_name in _DROPPING:
            return True
        frame = frame.f_back
    return False
