"""Checks of option values, with messages that say what was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dpjax.suggest import did_you_mean


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
