"""How often an attack was right over many training runs, as counts."""

from __future__ import annotations

import dataclasses

from dpjax.audit.bounds.bound import checked_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackCounts:
    """Calls of an attack at a threshold that was fixed before, over independent training runs.

    Attributes:
        true_positives: runs with the record that were called so.
        num_positives: runs with the record.
        false_positives: runs without the record that were called runs with it.
        num_negatives: runs without the record.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if one lies outside its range.

    Example:
        >>> AttackCounts(
        ...     true_positives=80, num_positives=100, false_positives=5, num_negatives=100
        ... ).true_negatives
        95
    """

    true_positives: int
    num_positives: int
    false_positives: int
    num_negatives: int

    def __post_init__(self) -> None:
        """Checks the counts."""
        for hits, runs in (
            ("true_positives", "num_positives"),
            ("false_positives", "num_negatives"),
        ):
            most = checked_count(runs, getattr(self, runs), least=1)
            count = checked_count(hits, getattr(self, hits), least=0, most=most)
            object.__setattr__(self, runs, most)
            object.__setattr__(self, hits, count)

    @property
    def false_negatives(self) -> int:
        """Runs with the record that were not called so."""
        return self.num_positives - self.true_positives

    @property
    def true_negatives(self) -> int:
        """Runs without the record that were not called runs with it."""
        return self.num_negatives - self.false_positives

    def to_dict(self) -> dict[str, int]:
        """Returns the four counts by name."""
        return dataclasses.asdict(self)
