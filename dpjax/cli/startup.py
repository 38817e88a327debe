"""What happens at Ctrl-C while the command `dpjax` is still loading its modules.

Loading takes a second or two. An exception that a signal raises meanwhile may end inside a callback
that drops it, and the command would go on. Nothing has been started yet, so the process just ends.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}


def finish() -> None:
    """Gives both signals back their handlers: everything is loaded."""
    while _previous:
        signal.signal(*_previous.popitem())


def _is_the_command() -> bool:
    """Whether this process was started as `dpjax` or `python -m dpjax`."""
    if sys.argv[:1] == ["-m"]:
        return ["-m", "dpjax"] in [sys.orig_argv[i : i + 2] for i in range(len(sys.orig_argv))]
    return bool(sys.argv) and Path(sys.argv[0]).name in ("dpjax", "dpjax.exe")


def _end(number: int, frame: FrameType | None) -> None:
    print("dpjax: interrupted before anything was started", file=sys.stderr, flush=True)
    os._exit(128 + number)


if _is_the_command():
    for _number in (signal.SIGINT, signal.SIGTERM):
        _previous[_number] = signal.signal(_number, _end)
