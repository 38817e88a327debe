"""One lower bound on ε: its value, and what it rests on."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from dpjax.audit.membership.intervals import checked_share

Validity = Literal["certified", "model-based", "descriptive"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """A lower bound on the ε of a training procedure at one δ.

    Attributes:
        method: name of the bound.
        epsilon: the bound, at least 0; 0 says that nothing was found.
        delta: the δ that ε belongs to.
        confidence: the least probability that the bound is at most the true ε. For a credible bound
            it is a posterior probability instead.
        validity: "certified": it holds for every training procedure, by a theorem, if the coins
            were fair. "model-based": it holds if a model of the attack's scores does.
            "descriptive": no statement about ε follows.
        assumption: one sentence: what the bound rests on.
        numbers: what it was computed from, by name.
    """

    method: str
    epsilon: float
    delta: float
    confidence: float
    validity: Validity
    assumption: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns every field, ready for strict JSON: an infinite bound becomes the text "inf"."""
        fields = dataclasses.asdict(self)
        if self.epsilon == float("inf"):
            fields["epsilon"] = "inf"
        return fields


def checked_count(name: str, value: int, *, least: int, most: int | None = None) -> int:
    """Returns a whole number between `least` and `most`, or raises.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it lies outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer)) or value % 1 != 0:
        raise TypeError(f"{name} must be a whole number; got {value!r}.")
    if value < least or (most is not None and value > most):
        limit = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {limit}; got {value}.")
    return int(value)


def checked_delta(delta: float) -> float:
    """Returns δ as a float if 0 ≤ δ < 1, or raises.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it lies outside the range.
    """
    return 0.0 if delta == 0 else checked_share("delta", delta)
