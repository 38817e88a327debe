"""Whether a model has forgotten too much, or too little."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpjax.audit import auc, auc_interval
from dpjax.unlearning.measures.auc_difference import auc_difference
from dpjax.unlearning.measures.model import Measured

FORGET_MARGIN = 1.0
"""In nats per token: e times less probable than where the records were never seen."""
RETAIN_MARGIN = 0.5
"""In nats per token."""

RULE = (
    "A model counts as over-unlearned if one of three holds: its loss on the forget set is more "
    f"than {FORGET_MARGIN:g} nat per token above that of the retrained model (without one: above "
    "the original model's loss on held-out records); or its loss on retained records is more than "
    f"{RETAIN_MARGIN:g} nats per token above that of both the original and the retrained model; or "
    "the attack ranks forget records below records that were never seen: the interval of its AUC "
    "lies below 0.5, and that of the difference to the retrained model below 0. Records that are "
    "conspicuously improbable can be told as those that were to be forgotten. It counts as "
    "under-unlearned if the interval of the difference of the AUCs lies above 0 (without a "
    "retrained model: if the interval of the AUC lies above 0.5): the attack still tells forget "
    "records as members. If neither holds, these records do not show a difference; that proves "
    "nothing about other attacks."
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the comparison comes to.

    Attributes:
        auc: of the attack on the unlearned model: forget records against held-out ones.
        auc_interval: of it.
        retrained_auc: of the attack on the retrained model; None without one.
        difference: AUC − that of the retrained model; None without one.
        difference_interval: of it; None without one.
        over_reasons: sentences; empty unless the model is over-unlearned.
        under_reasons: sentences; empty unless it is under-unlearned.
    """

    auc: float
    auc_interval: tuple[float, float]
    retrained_auc: float | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    over_reasons: tuple[str, ...]
    under_reasons: tuple[str, ...]

    @property
    def over_unlearned(self) -> bool:
        """Whether the model has forgotten too much."""
        return bool(self.over_reasons)

    @property
    def under_unlearned(self) -> bool:
        """Whether the model has forgotten too little."""
        return bool(self.under_reasons)

    def to_dict(self) -> dict[str, Any]:
        """Returns every field and both flags, ready for JSON."""
        flags = {"over_unlearned": self.over_unlearned, "under_unlearned": self.under_unlearned}
        return dataclasses.asdict(self) | flags


def judge(
    original: Measured, unlearned: Measured, retrained: Measured | None, *, confidence: float
) -> Verdict:
    """Compares the unlearned model with the retrained one, by the rule that `RULE` tells.

    Args:
        original: the model before unlearning.
        unlearned: the model after it.
        retrained: the model that never saw the forget set; None without a baseline.
        confidence: of the intervals.
    """
    scores = unlearned.forget_scores, unlearned.held_out_scores
    area, interval = auc(*scores), auc_interval(*scores, confidence=confidence)
    difference = difference_interval = retrained_auc = None
    if retrained is not None:
        others = retrained.forget_scores, retrained.held_out_scores
        retrained_auc = auc(*others)
        difference, difference_interval = auc_difference(*scores, *others, confidence=confidence)
    over = _loss_reasons(original, unlearned, retrained)
    is_below = difference_interval is None or difference_interval[1] < 0
    if interval[1] < 0.5 and is_below:
        over.append(
            f"the attack ranks forget records below unseen ones: AUC {area:.3f}, interval "
            f"{interval[0]:.3f} to {interval[1]:.3f}"
        )
    under = []
    if difference_interval is not None and difference_interval[0] > 0:
        under.append(
            f"the attack's AUC is {difference:.3f} above that of the retrained model, interval "
            f"{difference_interval[0]:.3f} to {difference_interval[1]:.3f}"
        )
    elif difference_interval is None and interval[0] > 0.5:
        under.append(
            f"the attack tells forget records as members: AUC {area:.3f}, interval "
            f"{interval[0]:.3f} to {interval[1]:.3f}"
        )
    return Verdict(
        auc=area,
        auc_interval=interval,
        retrained_auc=retrained_auc,
        difference=difference,
        difference_interval=difference_interval,
        over_reasons=tuple(over),
        under_reasons=tuple(under),
    )


def judge_controls(
    original: Measured, retrained: Measured | None, *, confidence: float
) -> dict[str, Verdict]:
    """Judges the two models whose answer is known, by the same rule.

    The original model knows the forget set: it should count as under-unlearned. The retrained one
    never saw it: judged as if there were no baseline, it should count as neither. Where this is not
    so, the records do not suit the rule, and the verdict on the unlearned model says little.

    Args:
        original: the model before unlearning.
        retrained: the model that never saw the forget set; None without a baseline.
        confidence: of the intervals.

    Returns:
        The verdicts on "original" and, with a baseline, on "retrained".
    """
    controls = {"original": judge(original, original, retrained, confidence=confidence)}
    if retrained is not None:
        controls["retrained"] = judge(original, retrained, None, confidence=confidence)
    return controls


def _loss_reasons(original: Measured, unlearned: Measured, retrained: Measured | None) -> list[str]:
    reasons = []
    unseen = original.loss("held_out") if retrained is None else retrained.loss("forget")
    if unlearned.loss("forget") > unseen + FORGET_MARGIN:
        reasons.append(
            f"the loss on the forget set, {unlearned.loss('forget'):.3f} nats per token, is far "
            f"above {unseen:.3f}, that of records which were never seen"
        )
    trained = [each.loss("retain") for each in (original, retrained) if each is not None]
    if unlearned.loss("retain") > max(trained) + RETAIN_MARGIN:
        reasons.append(
            f"the loss on retained records, {unlearned.loss('retain'):.3f} nats per token, is far "
            f"above {max(trained):.3f}, that of trained models"
        )
    return reasons
