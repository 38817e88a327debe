"""How a run ends that cannot go on now: each in one sentence, with what is left and what to do."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunStopped(Exception):
    """The run cannot go on now; the message says why, and how it is resumed.

    Example:
        >>> try:
        ...     raise RunStoppedByFiles("the run stopped in training; make room on the disk")
        ... except RunStopped as stopped:
        ...     print(stopped)
        the run stopped in training; make room on the disk
    """


class RunStoppedByFiles(RunStopped, OSError):
    """A file could not be written or read, for instance because the disk is full."""


class RunDiverged(RunStopped):
    """Training has left the numbers that can be computed with.

    Attributes:
        step: how many steps were done.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped after `step` steps and can be resumed; the message says how.

    Attributes:
        step: how many steps were done.
        signal_number: what stopped it, SIGINT or SIGTERM.

    Example:
        >>> RunInterrupted("interrupted after 7 steps; go on with --resume", step=7).step
        7
    """

    def __init__(self, message: str, step: int, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.step = step
        self.signal_number = signal_number


class RunInUse(BlockingIOError):
    """Another process has the run directory."""


@contextlib.contextmanager
def stopping_on_file_errors(
    doing: str, then: str, again: str = "the same command with --resume"
) -> Iterator[None]:
    """Turns what the operating system refuses into one sentence.

    Args:
        doing: what was going on, such as "in training".
        then: what a resumed run does.
        again: how it is resumed.

    Raises:
        RunStoppedByFiles: from an OSError, or from an error of safetensors, which writes files.
    """
    from safetensors import SafetensorError

    try:
        yield
    except RunStopped:
        raise
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
        first = "make room on the disk, and " if is_full else ""
        raise RunStoppedByFiles(
            f"the run stopped {doing}: {error}; {first}{again} {then}"
        ) from error
