"""What every command of dpjax is: it checks what it was given, and then it runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Protocol, Self

from rich.console import Console


class Runnable(Protocol):
    """A command that has passed its checks."""

    def run(self, console: Console) -> int:
        """Runs it and returns the exit status.

        Raises:
            OSError, Refusal: what is given does not exist or does not fit after all.
        """


class Command(Protocol):
    """A command as it was given on the command line."""

    def prepare(self) -> Runnable:
        """Checks everything that can be checked before anything is done.

        Raises:
            TypeError, ValueError, OSError: what is given does not exist or does not fit.
        """


@dataclasses.dataclass(frozen=True)
class CommandOnFiles:
    """A command with several actions; the chosen one reads its files when it runs."""

    action: Runnable

    def prepare(self) -> Self:
        """Returns itself: the files are read when it runs."""
        return self

    def run(self, console: Console) -> int:
        """Runs the action and returns its exit status.

        Raises:
            OSError, Refusal: a file does not exist or does not hold what it should.
        """
        with refusing():
            return self.action.run(console)


class Refusal(Exception):
    """Something that was given does not fit; said in one sentence."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Within it a ValueError or TypeError is about what was given, not a fault of dpjax."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise Refusal(str(error)) from error
