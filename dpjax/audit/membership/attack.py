"""The loss attack: a record that the tuned model finds easy is called a member."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpjax.audit.membership.intervals import auc_interval, checked_share, tpr_interval
from dpjax.audit.membership.roc import RocCurve, auc, checked_scores, roc_curve
from dpjax.basics.option_checks import did_you_mean

_EXCHANGEABLE = (
    "The numbers measure membership only if members and non-members differ in nothing else: both"
    " drawn at random from one source, with the same filters, from the same time. If they differ,"
    " an attack can tell them apart without the model."
)
_REVERSED = (
    "Non-members fit the model better than members do, by more than chance explains. Membership"
    " does not do that; the two sets probably differ in something else, and then neither number"
    " measures membership."
)

# The name of an attack whose members are owners.
OWNER_LOSS = "owner loss"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AttackResult:
    """How well an attack told members from non-members of one trained model.

    Attributes:
        attack: name of the attack.
        label: "descriptive": no theorem turns these numbers into a statement about ε.
        num_members: training records attacked, or their owners.
        num_nonmembers: held-out records attacked, or their owners.
        confidence: of both intervals.
        auc: P(a member scores higher than a non-member) + ½ P(equal); 0.5 is guessing.
        auc_interval: see `dpjax.audit.auc_interval`.
        fpr_level: the share of non-members that may be called members.
        tpr: largest share of members caught by a threshold with empirical FPR ≤ `fpr_level`.
        tpr_interval: of the TPR where the population's FPR is `fpr_level`; see
            `dpjax.audit.tpr_interval`.
        roc: the empirical curve.
        notes: sentences without which the numbers must not be read.
    """

    attack: str
    label: str
    num_members: int
    num_nonmembers: int
    confidence: float
    auc: float
    auc_interval: tuple[float, float]
    fpr_level: float
    tpr: float
    tpr_interval: tuple[float, float]
    roc: RocCurve
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return every field, ready for strict JSON.

        The curve is thinned to at most 200 points and has lost its thresholds: each of them is the
        score of one record, which a summary should not hold.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        curve = self.roc.thinned()
        return fields | {
            "auc_interval": list(self.auc_interval),
            "tpr_interval": list(self.tpr_interval),
            "roc": {"fpr": curve.fpr.tolist(), "tpr": curve.tpr.tolist()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AttackResult:
        """Return the result that `to_dict` described, with the curve as thinned there.

        Raises:
            ValueError: if a name is unknown (the nearest valid one is given) or missing.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ValueError(
                    f"an attack result has no field {name!r}.{did_you_mean(name, known)}"
                )
        missing = [name for name in known if name not in fields]
        if missing:
            raise ValueError(f"the description of an attack result lacks {', '.join(missing)}.")
        roc = fields["roc"]
        restored = {
            "auc_interval": tuple(fields["auc_interval"]),
            "tpr_interval": tuple(fields["tpr_interval"]),
            "roc": RocCurve(fpr=np.array(roc["fpr"]), tpr=np.array(roc["tpr"]), thresholds=None),
            "notes": tuple(fields["notes"]),
        }
        return cls(**{**fields, **restored})


def loss_attack(
    member_losses: ArrayLike,
    nonmember_losses: ArrayLike,
    *,
    confidence: float = 0.95,
    fpr_level: float = 0.01,
) -> AttackResult:
    """Return how well a low loss under the tuned model betrays membership.

    The score is −loss: the attack of Yeom, Giacomelli, Fredrikson and Jha 2018 ("Privacy Risk in
    Machine Learning"), here with every threshold instead of one. It measures membership only if
    the two sets are exchangeable: members chosen at random from one pool, and nothing but training
    told them apart since.

    Args:
        member_losses: (M,) losses of training records under the tuned model; +inf is the least
            member-like value.
        nonmember_losses: (N,) losses of records that were held out.
        confidence: of the intervals, between 0 and 1.
        fpr_level: false positive rate at which the TPR is reported, between 0 and 1.

    Raises:
        TypeError: if the losses are not numbers.
        ValueError: if an array is empty, not one-dimensional, holds NaN or −inf, or a share lies
            outside (0, 1).
    """
    members, member_note = _scores_from_losses("member_losses", member_losses)
    nonmembers, nonmember_note = _scores_from_losses("nonmember_losses", nonmember_losses)
    result = score_attack(
        members, nonmembers, attack="loss", confidence=confidence, fpr_level=fpr_level
    )
    return dataclasses.replace(result, notes=(*result.notes, *member_note, *nonmember_note))


def owner_loss_attack(member_losses: ArrayLike, nonmember_losses: ArrayLike) -> AttackResult:
    """Return how well a low mean loss over an owner's records betrays that they were trained on.

    As `loss_attack`, with owners of several records for records: where a guarantee is for owners,
    so must the attack be.

    Args:
        member_losses: (M,) mean losses of owners in training, under the tuned model.
        nonmember_losses: (N,) the same of owners without a record in training. To be exchangeable
            with members, they need means over as many records.

    Raises:
        TypeError, ValueError: as for `loss_attack`.

    Example:
        >>> owner_loss_attack([0.1, 0.3], [0.2, 0.9]).auc
        0.75
    """
    result = loss_attack(member_losses, nonmember_losses)
    return dataclasses.replace(result, attack=OWNER_LOSS)


def score_attack(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    attack: str,
    confidence: float = 0.95,
    fpr_level: float = 0.01,
) -> AttackResult:
    """Return the result of any attack that gives each record a score, higher for members.

    Args:
        member_scores: (M,) numbers.
        nonmember_scores: (N,) numbers.
        attack: its name, for the report.
        confidence: of the intervals, between 0 and 1.
        fpr_level: false positive rate at which the TPR is reported, between 0 and 1.

    Raises:
        TypeError, ValueError: as for `loss_attack`, except that infinite scores are allowed.
    """
    members = checked_scores("member_scores", member_scores)
    nonmembers = checked_scores("nonmember_scores", nonmember_scores)
    confidence = checked_share("confidence", confidence)
    fpr_level = checked_share("fpr_level", fpr_level)
    interval = auc_interval(members, nonmembers, confidence=confidence)
    curve = roc_curve(members, nonmembers)
    notes = [_EXCHANGEABLE]
    if len(nonmembers) * fpr_level < 10:
        notes.append(_too_few(len(nonmembers), fpr_level))
    if interval[1] < 0.5:
        notes.append(_REVERSED)
    return AttackResult(
        attack=attack,
        label="descriptive",
        num_members=len(members),
        num_nonmembers=len(nonmembers),
        confidence=confidence,
        auc=auc(members, nonmembers),
        auc_interval=interval,
        fpr_level=fpr_level,
        tpr=curve.tpr_at_fpr(fpr_level),
        tpr_interval=tpr_interval(members, nonmembers, fpr_level=fpr_level, confidence=confidence),
        roc=curve,
        notes=tuple(notes),
    )


def _scores_from_losses(name: str, losses: ArrayLike) -> tuple[np.ndarray, list[str]]:
    checked = checked_scores(name, losses)
    if np.isneginf(checked).any():
        raise ValueError(f"{name} holds -inf, which no loss of a trained model can be.")
    num_infinite = int(np.isposinf(checked).sum())
    if num_infinite == 0:
        return -checked, []
    note = f"{name}: {num_infinite} of {len(checked)} are infinite and rank as least member-like."
    return -checked, [note]


def _too_few(num_nonmembers: int, fpr_level: float) -> str:
    needed = int(np.ceil(10 / fpr_level))
    return (
        f"Too few non-members for FPR {100 * fpr_level:g} %: the threshold rests on"
        f" {num_nonmembers * fpr_level:.3g} of {num_nonmembers} records. With {needed} it would"
        " rest on ten."
    )
