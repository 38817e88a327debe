"""What a run says before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from dpjax_accounting import SEED_WARNING

from dpjax.data import Owners
from dpjax.finetuning.reports import privacy_report
from dpjax.finetuning.setup.plan import Plan
from dpjax.privatize import RunKey


def headline(plan: Plan, run_key: RunKey, trained_share: str, choices: Sequence[str]) -> str:
    """The records, what is trained, what is promised and what dpjax chose, over a few lines."""
    lines = [
        f"{len(plan.train)} training records, {len(plan.evaluation)} held out, "
        f"{plan.task.summary()}, {plan.num_steps} steps, " + trained_share,
        privacy_report.in_words(plan, plan.num_steps),
    ]
    if plan.owners is not None:
        lines.append(_on_owners(plan, plan.owners))
    num_shared = plan.num_shared_texts
    if num_shared:
        units = "record" if plan.owners is None else "owner"
        lines.append(
            f"{num_shared} training records have a text that another {units} has too: "
            "what several have in common is protected less than what one has alone"
        )
    num_canaries = plan.config.audit.num_canaries
    if plan.config.audit.hold_out:
        lines.append(
            "each training record is left out if a fair coin says so; as many as half of them "
            "count in the guarantee, whatever the coins say"
        )
    if num_canaries:
        whose = (
            ", each of an owner who has nothing else and is" if plan.samples_owners else ", each"
        )
        lines.append(
            f"{num_canaries} canaries{whose} in training if a fair coin says so; as many as half of"
            " them count in the guarantee, whatever the coins say"
        )
    nothing = getattr(plan.train, "num_without_targets", 0)
    if nothing:
        lines.append(
            f"{nothing} training records have no token to learn after "
            f"{plan.config.training.max_length} tokens; they still count in the guarantee"
        )
    if plan.train.num_truncated:
        lines.append(
            f"{plan.train.num_truncated} training records are longer than "
            f"{plan.config.training.max_length} tokens and were cut"
        )
    lines.extend(choices)
    if run_key.fixed_seed is not None and plan.mechanism is not None:
        lines.append(f"WARNING: {SEED_WARNING}")
    return "\n".join(lines)


def _on_owners(plan: Plan, owners: Owners) -> str:
    counts, at_most = owners.counts, plan.config.privacy.records_per_owner
    line = (
        f"the unit is an owner: {len(counts)} of them, with {counts.min()} to {counts.max()} "
        "records; "
    )
    if plan.samples_owners:
        return line + (
            f"a step reads at most {at_most} of each owner drawn, and {(counts > at_most).sum()} "
            "owners have more"
        )
    return line + (
        f"records are drawn and clipped singly, and {plan.num_left_out} were left out of owners "
        f"with more than {at_most}"
    )
