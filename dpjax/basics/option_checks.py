"""Options that check themselves, with messages that say what was seen and what may be meant."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence

# As difflib counts: 1 for equal names, 0 for names without a letter in common.
_LEAST_SIMILARITY = 0.5
_is_deferred = contextvars.ContextVar("is_deferred", default=False)


@dataclasses.dataclass(frozen=True)
class CheckedOptions:
    """Base of dataclasses of options, which check themselves when they are made."""

    def __post_init__(self) -> None:
        if not _is_deferred.get():
            self.check()

    def check(self) -> None:
        """Raises ValueError if a value does not fit."""


@contextlib.contextmanager
def checks_deferred() -> Iterator[None]:
    """Within it options are made unchecked; `check_all` checks them afterwards.

    A parser of command lines that makes them would put words of its own around the message.
    """
    token = _is_deferred.set(True)
    try:
        yield
    finally:
        _is_deferred.reset(token)


def check_all(options: CheckedOptions) -> None:
    """Checks options, and before them the groups of options that they hold."""
    for field in dataclasses.fields(options):
        group = getattr(options, field.name)
        if isinstance(group, CheckedOptions):
            check_all(group)
    options.check()


def check_positive(name: str, value: float | None) -> None:
    """Raises ValueError unless the value is positive and finite, or None."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_at_least(name: str, value: int | None, least: int) -> None:
    """Raises ValueError unless the value is at least `least`, or None."""
    if value is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless the value is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError unless the value is one of the choices; names the nearest."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, got {value!r}."
            + did_you_mean(value, choices)
        )


def did_you_mean(name: object, valid: Iterable[str], *, prefix: str = "") -> str:
    """Returns `" Did you mean 'query'?"` if a valid name is close to `name`, else nothing.

    Args:
        name: what was given.
        valid: what may be given.
        prefix: stands before the suggested name, such as "text_column=".
    """
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=_LEAST_SIMILARITY)
    return f" Did you mean {prefix}{close[0]!r}?" if close else ""
