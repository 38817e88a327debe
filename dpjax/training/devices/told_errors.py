"""Errors of one process that all others raise too."""

from __future__ import annotations

from typing import Any

from dpjax.training.stopped import (
    RunDiverged,
    RunInterrupted,
    RunInUse,
    RunStopped,
    RunStoppedByFiles,
)

# With them, in UTF-8 and JSON, an error has at most `BYTES_OF_AN_ERROR`.
_CHARACTERS_OF_A_MESSAGE = 1200
BYTES_OF_AN_ERROR = 8192
# What one process raises, all raise as what it is; a subclass as its parent.
_KINDS: tuple[type[BaseException], ...] = (
    *(RunInterrupted, RunDiverged, RunInUse, RunStoppedByFiles, RunStopped),
    *(FileExistsError, FileNotFoundError, OSError),
    *(ImportError, ValueError, TypeError),
)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Returns what others need to raise the error too, ready for JSON."""
    kinds = [kind.__name__ for kind in _KINDS if isinstance(error, kind)]
    if isinstance(error, KeyboardInterrupt):
        kinds = [RunInterrupted.__name__]
    name = type(error).__name__
    return {
        "kind": kinds[0] if kinds else name,
        "message": (str(error) or name)[:_CHARACTERS_OF_A_MESSAGE],
        "step": getattr(error, "step", 0),
        "signal": getattr(error, "signal_number", None),
    }


def error_of(told: dict[str, Any], process: int) -> BaseException:
    """Returns the error that `describe_error` described, with the process before its message.

    An error of a kind that is not told apart is a RuntimeError.

    Args:
        told: what the process said.
        process: its number.
    """
    kinds = {kind.__name__: kind for kind in _KINDS}
    kind, message = kinds.get(told["kind"], RuntimeError), f"process {process}: {told['message']}"
    if issubclass(kind, RunInterrupted):
        signal = {} if told["signal"] is None else {"signal_number": told["signal"]}
        return kind(message, told["step"], **signal)
    return kind(message, told["step"]) if issubclass(kind, RunDiverged) else kind(message)
