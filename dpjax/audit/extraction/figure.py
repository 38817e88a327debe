"""One figure of extraction: of given records, beside the same figure of held-out records."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PREDICTABLE = (
    "What a model gives back is memorised only as far as it exceeds the figure of held-out records"
    " of the same kind: predictable text is given back without having been seen."
)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ExtractionFigure:
    """How much a model gives back of given records, and of records it has not seen.

    Attributes:
        name: what is measured.
        unit: of every value, such as "share of tokens".
        label: "descriptive": no theorem turns the figure into a statement about ε.
        values: (N,) float64, one for each given record; higher is more exposed.
        held_out_values: (M,) float64, one for each held-out record.
        num_left_out: given and held-out records that the figure does not fit, such as too short
            ones; they have no value.
        notes: sentences without which the figure must not be read.

    Raises:
        ValueError: there is no value on either side, or one is NaN.

    Example:
        >>> figure = ExtractionFigure(
        ...     name="exact_memorisation",
        ...     unit="share of tokens",
        ...     values=np.array([1.0, 0.5]),
        ...     held_out_values=np.array([0.5]),
        ... )
        >>> figure.value, figure.held_out_value, figure.label
        (0.75, 0.5, 'descriptive')
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    held_out_values: NDArray[np.float64]
    num_left_out: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = (_PREDICTABLE,)
    label: str = "descriptive"

    def __post_init__(self) -> None:
        for name in ("values", "held_out_values"):
            values = getattr(self, name)
            if values.ndim != 1 or not len(values):
                raise ValueError(f"{name} must have shape (N,) with N ≥ 1, got {values.shape}.")
            if np.isnan(values).any():
                raise ValueError(f"{name} must be numbers, got NaN.")

    @property
    def value(self) -> float:
        """The mean over the given records."""
        return float(self.values.mean())

    @property
    def held_out_value(self) -> float:
        """The mean over the held-out records."""
        return float(self.held_out_values.mean())

    def to_dict(self) -> dict[str, Any]:
        """Returns the means and numbers of records, ready for JSON, without any record's value."""
        return {
            "name": self.name,
            "unit": self.unit,
            "label": self.label,
            "value": self.value,
            "held_out_value": self.held_out_value,
            "num_records": len(self.values),
            "num_held_out": len(self.held_out_values),
            "num_left_out": list(self.num_left_out),
            "notes": list(self.notes),
        }
