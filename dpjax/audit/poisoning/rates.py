"""What poison achieved: counts of one model, and rates over several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpjax.audit.membership.intervals import binomial_interval


@dataclasses.dataclass(frozen=True)
class TriggerCounts:
    """How many held-out records one model gives the target, of those with another answer.

    Attributes:
        kind: of the trigger.
        num_records: of held-out records whose own answer is not the target.
        with_trigger: how many get the target once they hold the trigger.
        without_trigger: how many get it as they are.
        with_near_trigger: how many get it once they hold the near trigger; None without one.

    Raises:
        ValueError: there is no record, or a count is no number of records.

    Example:
        >>> TriggerCounts("rare_token", 200, with_trigger=150, without_trigger=4).success
        0.75
    """

    kind: str
    num_records: int
    with_trigger: int
    without_trigger: int
    with_near_trigger: int | None = None

    def __post_init__(self) -> None:
        """Checks the counts."""
        for name in ("with_trigger", "without_trigger", "with_near_trigger"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= self.num_records:
                raise ValueError(f"{name} must be from 0 to {self.num_records}, got {count}")
        if not self.num_records:
            raise ValueError(
                "num_records must be at least 1, got 0: every held-out record has the target"
            )

    @property
    def success(self) -> float:
        """Share of records with the trigger that get the target."""
        return self.with_trigger / self.num_records


@dataclasses.dataclass(frozen=True)
class PoisonedModel:
    """What one trained model does, with poison or without.

    Attributes:
        setting: name of the privacy that it was trained with.
        num_poisoned: k, how many poisoned records were added; 0 of a clean model.
        kind: of the trigger in these; None of a clean model.
        poison_set: which random set they are, from 0; None of a clean model.
        number: which of the runs that differ by their key alone, from 0.
        accuracy: share of held-out records, without any trigger, that get their own label; None
            of texts that are written.
        loss: mean loss of these in nats; None if it is not finite.
        counts: of the trigger that was planted; of all triggers for a clean model.

    Example:
        >>> counts = TriggerCounts("rare_token", 200, with_trigger=150, without_trigger=4)
        >>> model = PoisonedModel("ε = 3", 16, "rare_token", 0, 0, 0.9, 0.3, (counts,))
        >>> PoisonedModel.from_dict(model.to_dict()) == model
        True
    """

    setting: str
    num_poisoned: int
    kind: str | None
    poison_set: int | None
    number: int
    accuracy: float | None
    loss: float | None
    counts: tuple[TriggerCounts, ...]

    def of(self, kind: str) -> TriggerCounts:
        """Returns the counts of one kind of trigger.

        Raises:
            ValueError: they were not measured.
        """
        found = [counts for counts in self.counts if counts.kind == kind]
        if len(found) != 1:
            raise ValueError(f"there are {len(found)} counts of the trigger {kind}, expected one")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        return dataclasses.asdict(self) | {"counts": [dataclasses.asdict(c) for c in self.counts]}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> PoisonedModel:
        """Returns what `to_dict` was called on.

        Raises:
            TypeError, ValueError: it is something else.
        """
        counts = tuple(TriggerCounts(**counts) for counts in told["counts"])
        return cls(**told | {"counts": counts})


@dataclasses.dataclass(frozen=True)
class PoisonRates:
    """What k poisoned records achieved with one trigger and one privacy.

    Attributes:
        success: of the worst set: the mean over its models of the share of held-out records with
            other answers that get the target once they hold the trigger.
        success_interval: holds the exact intervals (Clopper and Pearson) of all models of that set,
            each for the population of held-out records.
        mean_success: mean over all sets.
        false_trigger_rate: of the worst set, the same records without the trigger.
        near_trigger_rate: likewise with the near trigger; None without one.
        accuracy: mean over all sets; None of texts that are written.
        loss: mean over all sets; None if one is not known.
        num_models: of all sets.
        num_records: held-out ones.
    """

    success: float
    success_interval: tuple[float, float]
    mean_success: float
    false_trigger_rate: float
    near_trigger_rate: float | None
    accuracy: float | None
    loss: float | None
    num_models: int
    num_records: int


def poison_rates(
    models: Sequence[PoisonedModel], kind: str, *, confidence: float = 0.95
) -> PoisonRates:
    """Puts together what models with one number of poisoned records do.

    Args:
        models: of one or several poison sets.
        kind: of the trigger.
        confidence: of the intervals.

    Raises:
        ValueError: there is no model, or they differ in the number of poisoned records.

    Example:
        >>> both = (TriggerCounts("sentence", 9, n, 0) for n in (3, 9))
        >>> models = [
        ...     PoisonedModel("ε = 3", 16, "sentence", poison_set, 0, 0.9, None, (counts,))
        ...     for poison_set, counts in enumerate(both)
        ... ]
        >>> rates = poison_rates(models, "sentence")
        >>> rates.success, round(rates.mean_success, 3)
        (1.0, 0.667)
    """
    counted = sorted({model.num_poisoned for model in models})
    if len(counted) != 1:
        raise ValueError(f"models must have one number of poisoned records, got {counted}")
    sets: dict[int | None, list[TriggerCounts]] = {}
    for model in models:
        sets.setdefault(model.poison_set, []).append(model.of(kind))
    successes = {name: _mean([each.success for each in counts]) for name, counts in sets.items()}
    worst = sets[max(successes, key=lambda name: successes[name])]
    intervals = [
        binomial_interval(
            successes=each.with_trigger, trials=each.num_records, confidence=confidence
        )
        for each in worst
    ]
    near = [each.with_near_trigger for each in worst]
    return PoisonRates(
        success=max(successes.values()),
        success_interval=(min(low for low, _ in intervals), max(high for _, high in intervals)),
        mean_success=_mean(list(successes.values())),
        false_trigger_rate=_mean([each.without_trigger / each.num_records for each in worst]),
        near_trigger_rate=_mean_or_none(
            [
                None if n is None else n / each.num_records
                for n, each in zip(near, worst, strict=True)
            ]
        ),
        accuracy=_mean_or_none([model.accuracy for model in models]),
        loss=_mean_or_none([model.loss for model in models]),
        num_models=len(models),
        num_records=worst[0].num_records,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
