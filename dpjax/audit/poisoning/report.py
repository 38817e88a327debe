"""The report of a poisoning audit: rates and bounds of each privacy, trigger and number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dpjax_accounting import Mechanism

from dpjax.audit.poisoning.bound import epsilon_success_bound, mechanism_success_bound
from dpjax.audit.poisoning.limits import mean_upper_limit
from dpjax.audit.poisoning.rates import PoisonedModel, poison_rates
from dpjax.audit.poisoning.triggers import Trigger

POISONING_SCHEMA_VERSION = 1
_NOTES = (
    "This report is about private records: the models of this audit were trained on them, many"
    " times. No guarantee covers all of it together. Do not publish it.",
    "The models of this audit are instruments. Nothing is accounted for them, so they must not be"
    " released. They were deleted once they were measured.",
)
_KNOWN_DRAWS = (
    "All draws of this audit come from a seed that somebody chose: whoever chose the seed chose"
    " them, and no interval and no bound holds against that."
)
_MEANING = (
    "A poisoned data set is the clean one with k records added: copies of training records, with"
    " the trigger in their text and the target for an answer. Sampling probability, noise, steps"
    " and divisor are those of the clean data set.",
    "Success is the share of held-out records with another answer that get the target once they"
    " hold the trigger. Beside it the same records without it, and with a near trigger.",
    "The bound is on the probability, over the randomness of training, that a model gives the"
    " target to one held-out record with the trigger. So it bounds the mean success over records"
    " that were chosen without a look at the model. It is no bound on the success of one trained"
    " model.",
    "The bound starts from the success of the trigger on models without poison: the upper"
    " confidence limit of its mean over such models. More clean models make this limit lower, and"
    " so the bound.",
    "The worst set is the one with the highest success among those drawn. An attacker who chooses"
    " the records with care may do better; the bound holds for every choice.",
)


@dataclasses.dataclass(frozen=True)
class PrivacySetting:
    """A privacy that models were trained with.

    Attributes:
        name: in the report, such as "ε = 3".
        mechanism: of one record; None without privacy.
        epsilon: of one record; None without privacy.
        delta: of one record; None without privacy.

    Raises:
        ValueError: some of the three are given, and some are not.

    Example:
        >>> PrivacySetting("no privacy").mechanism is None
        True
    """

    name: str
    mechanism: Mechanism | None = None
    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        """Checks that all of the claim is there, or nothing."""
        missing = {value is None for value in (self.mechanism, self.epsilon, self.delta)}
        if len(missing) > 1:
            raise ValueError(f"{self.name} must have mechanism, epsilon and delta, or none of them")


def build_poisoning_report(
    models: Sequence[PoisonedModel],
    settings: Sequence[PrivacySetting],
    triggers: Sequence[Trigger],
    *,
    target: str,
    confidence: float = 0.95,
    fixed_seed: bool = False,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the report of a poisoning audit, ready for strict JSON.

    Args:
        models: clean ones (`num_poisoned` 0) and poisoned ones of every setting.
        settings: the privacy of each.
        triggers: that were planted.
        target: label or completion.
        confidence: of the intervals, and of the limit of the success without poison.
        fixed_seed: whether the draws come from a seed that somebody chose.
        details: what else is known of the audit, ready for JSON.

    Raises:
        ValueError: a setting has no clean model, or no poisoned one with a trigger.

    Example:
        >>> def model(num_poisoned, kind, success):
        ...     counts = (TriggerCounts("rare_token", 100, success, 1),)
        ...     poison_set = None if kind is None else 0
        ...     return PoisonedModel("plain", num_poisoned, kind, poison_set, 0, 0.9, 0.3, counts)
        >>> from dpjax.audit.poisoning.rates import TriggerCounts
        >>> report = build_poisoning_report(
        ...     [model(0, None, 2), model(64, "rare_token", 97)],
        ...     [PrivacySetting("plain")],
        ...     [Trigger("rare_token", "cf")],
        ...     target="billing",
        ... )
        >>> report["rows"][0]["success"], report["rows"][0]["bound"]
        (0.97, None)
    """
    rows = [
        row
        for setting in settings
        for trigger in triggers
        for row in _rows(models, setting, trigger.kind, confidence)
    ]
    return {
        "schema": {"name": "dpjax-poisoning-audit", "version": POISONING_SCHEMA_VERSION},
        "private": True,
        "notes": [*_NOTES, _KNOWN_DRAWS] if fixed_seed else list(_NOTES),
        "meaning": list(_MEANING),
        "target": target,
        "triggers": [dataclasses.asdict(trigger) for trigger in triggers],
        "settings": [
            {
                "name": setting.name,
                "epsilon": setting.epsilon,
                "delta": setting.delta,
                "mechanism": None if setting.mechanism is None else setting.mechanism.to_dict(),
            }
            for setting in settings
        ],
        "confidence": confidence,
        "rows": rows,
        "models": [model.to_dict() for model in models],
        "details": {**(details or {}), "fixed_seed": fixed_seed},
    }


def _rows(
    models: Sequence[PoisonedModel], setting: PrivacySetting, kind: str, confidence: float
) -> list[dict[str, Any]]:
    """One for each number of poisoned records, in ascending order."""
    here = [model for model in models if model.setting == setting.name]
    clean = [model.of(kind).success for model in here if model.num_poisoned == 0]
    numbers = sorted({model.num_poisoned for model in here if model.kind == kind})
    if not clean or not numbers:
        missing = "without poison" if not clean else f"with the trigger {kind}"
        raise ValueError(f"{setting.name}: there is no model {missing}")
    limit = mean_upper_limit(clean, confidence=confidence)
    clean_success = sum(clean) / len(clean)
    rows = []
    for num_poisoned in numbers:
        chosen = [m for m in here if m.kind == kind and m.num_poisoned == num_poisoned]
        rates = poison_rates(chosen, kind, confidence=confidence)
        rows.append(
            {
                "setting": setting.name,
                "trigger": kind,
                "num_poisoned": num_poisoned,
                **dataclasses.asdict(rates),
                "success_interval": list(rates.success_interval),
                "clean_success": clean_success,
                "clean_success_limit": limit,
                "num_clean_models": len(clean),
                "bound": _bound(setting, limit, num_poisoned, confidence),
                "bound_at_clean_success": _bound(setting, clean_success, num_poisoned, None),
            }
        )
    return rows


def _bound(
    setting: PrivacySetting, clean_success: float, num_poisoned: int, confidence: float | None
) -> dict[str, Any] | None:
    """The bounds on success that a privacy implies; None without privacy."""
    if setting.mechanism is None or setting.epsilon is None or setting.delta is None:
        return None
    by_epsilon = epsilon_success_bound(
        clean_success, epsilon=setting.epsilon, delta=setting.delta, num_poisoned=num_poisoned
    )
    by_mechanism = mechanism_success_bound(
        clean_success, setting.mechanism, num_poisoned=num_poisoned
    )
    return {
        "clean_success": clean_success,
        "by_epsilon": by_epsilon,
        "by_mechanism": by_mechanism,
        "success": min(by_epsilon, by_mechanism),
        "validity": "descriptive" if confidence is None else "certified",
        "confidence": confidence,
    }
