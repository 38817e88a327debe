"""The attack in words, for the report of a run."""

from __future__ import annotations

from dpjax_accounting import tpr_ceiling

from dpjax.audit.membership.attack import OWNER_LOSS, AttackResult
from dpjax.audit.membership.ceiling import auc_ceiling, ceiling_alarms, checked_guarantee

_READING = (
    "A weak result proves nothing: a better attack may succeed where this one fails. The protection"
    " of a private run is its (ε, δ), not this measurement.",
    "Both numbers are averages. Single records, unusual ones above all, can be far more exposed.",
    "The intervals say what other records would give with this model. They do not cover another"
    " training with the same recipe.",
)
_LIMITS = (
    "What (ε, δ) allows is meant for one {} added or removed, on average over the randomness"
    " of training. Staying below it does not confirm ε; going above it calls for an explanation."
)

_HOW = {
    "loss": " (a low loss under the tuned model gives a member away)",
    OWNER_LOSS: " (a low mean loss over an owner's records gives the owner away)",
}


def render_attack_section(
    result: AttackResult, *, epsilon: float | None, delta: float | None
) -> str:
    """Return Markdown, without a heading: the numbers, what (ε, δ) allows, and how to read them.

    Args:
        result: of the attack on the run's model.
        epsilon: what the run spent; None for a run without privacy.
        delta: None exactly if `epsilon` is.

    Raises:
        ValueError: if only one of `epsilon` and `delta` is None, or one is out of range.
    """
    guarantee = checked_guarantee(epsilon, delta)
    how = _HOW.get(result.attack, "")
    units = "owners of training records" if result.attack == OWNER_LOSS else "training records"
    opening = (
        f"Attack: {result.attack}{how}."
        f" {result.num_members} {units} against {result.num_nonmembers} held-out ones."
        f" Label: **{result.label}**; no statement about ε follows from these numbers."
    )
    bullets = [*result.notes, *_READING]
    if guarantee is not None:
        bullets.append(_LIMITS.format("owner" if result.attack == OWNER_LOSS else "record"))
    return "\n\n".join(
        [
            opening,
            _table(result, guarantee),
            _verdict(result, guarantee),
            "\n".join(f"- {line}" for line in bullets),
        ]
    )


def _table(result: AttackResult, guarantee: tuple[float, float] | None) -> str:
    level = f"{100 * result.fpr_level:g} %"
    low, high = result.auc_interval
    header = ["", "measured", f"{100 * result.confidence:g} % interval", "guessing"]
    auc = ["AUC", f"{result.auc:.3f}", f"{low:.3f} to {high:.3f}", "0.5"]
    low, high = result.tpr_interval
    tpr = [
        f"TPR at {level} FPR",
        f"{100 * result.tpr:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        level,
    ]
    if guarantee is not None:
        epsilon, delta = guarantee
        highest_auc = auc_ceiling(epsilon=epsilon, delta=delta)
        highest_tpr = float(tpr_ceiling(result.fpr_level, epsilon=epsilon, delta=delta))
        header.append(f"ε = {epsilon:.3g}, δ = {delta:.3g} allows")
        auc.append(f"{highest_auc:.3f}")
        tpr.append(f"{100 * highest_tpr:.1f} %")
    rows = [header, ["---"] * len(header), auc, tpr]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _verdict(result: AttackResult, guarantee: tuple[float, float] | None) -> str:
    if guarantee is not None:
        epsilon, delta = guarantee
        alarms = ceiling_alarms(result, epsilon=epsilon, delta=delta)
        if alarms:
            return (
                f"> **ALARM.** This is more than (ε, δ) allows: {'; '.join(alarms)}. Either the two"
                " sets differ in more than membership, or the training is not what the accountant"
                " was told. Do not rely on the stated ε before the reason is found."
            )
    if result.auc_interval[0] > 0.5 or result.tpr_interval[0] > result.fpr_level:
        verdict = "The attack works: it does better than guessing by more than chance explains."
    else:
        verdict = "The attack did no better than guessing, as far as this many records can tell."
    if guarantee is None:
        return f"{verdict} The run had no privacy: nothing bounds what a better attack would find."
    return f"{verdict} Neither number exceeds what (ε, δ) allows by more than chance."
