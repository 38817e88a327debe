"""The attack on a tuned model: whether a low loss gives a member of the training data away."""

from __future__ import annotations

import dataclasses

import numpy as np

from dpjax.audit import AttackResult, loss_attack, owner_loss_attack
from dpjax.data import Owners
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.tasks.base import Evaluation
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.models import SplitModel

_RECORDS = 2000
# Of an owner: the same for members and others, for a mean over more records varies less.
_RECORDS_OF_ONE = 4
_ON_RECORDS = (
    "The attack is on single records, and ε is for an owner with all records: an attack that puts "
    "together what the model says of all of them may find more. {}"
)
_NO_OWNERS = "Name eval_data.owner_column for an attack on owners."
_ALL_TRAINED = "Every held-out owner has records in training too: there is nobody to compare with."


def attack_run(run: Run, tuned: SplitModel, held_out: Evaluation | None) -> AttackResult | None:
    """Attacks owners where both sides say whose records are, else single records.

    Args:
        run: what was trained.
        tuned: the model after the last step.
        held_out: what the model makes of the held-out records; None where that is not known.

    Returns:
        The result; None without held-out losses.

    Raises:
        ValueError: no record has a finite loss.
    """
    if held_out is None:
        return None
    if run.plan.owners is None:
        return _attack_records(run, tuned, held_out)
    names = run.plan.eval_records.owners
    if names is None:
        return _attack_records(run, tuned, held_out, _ON_RECORDS.format(_NO_OWNERS))
    trained = set(run.plan.train_records.owners or ())
    rows = np.array([row for row, name in enumerate(names) if name not in trained], np.int64)
    if not len(rows):
        return _attack_records(run, tuned, held_out, _ON_RECORDS.format(_ALL_TRAINED))
    strangers = Owners.of(names[row] for row in rows)
    return _attack_owners(run, tuned, held_out.losses[rows], strangers, len(names) - len(rows))


def _attack_records(run: Run, tuned: SplitModel, held_out: Evaluation, *notes: str) -> AttackResult:
    """The loss attack on a random part of the training records against the held-out ones."""
    trained = run.trained_records
    # Public randomness: which records are attacked is no secret and changes no guarantee.
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(trained))[:_RECORDS]
    members = evaluate(run.plan.task, tuned, trained.take(np.sort(chosen)), run.layout)
    non_members = rng.permutation(held_out.finite_losses)[:_RECORDS]
    for records, evaluation in (("training", members), ("held-out", held_out)):
        if not len(evaluation.finite_losses):
            raise ValueError(f"no {records} record has a finite loss")
    result = loss_attack(members.finite_losses, non_members)
    if members.num_nonfinite or held_out.num_nonfinite:
        notes += (
            f"Left out, because their loss is not finite: {members.num_nonfinite} of the "
            f"{len(members.losses)} training records and {held_out.num_nonfinite} of the "
            f"{len(held_out.losses)} held-out ones.",
        )
    return dataclasses.replace(result, notes=(*result.notes, *notes))


def _attack_owners(
    run: Run, tuned: SplitModel, losses: np.ndarray, strangers: Owners, num_left_out: int
) -> AttackResult:
    """The same on owners, by the mean loss of up to four records of each.

    Args:
        run: what was trained.
        tuned: the model after the last step.
        losses: of held-out records.
        strangers: whose they are; none of them has a training record.
        num_left_out: how many held-out records are of owners who have.
    """
    plan = run.plan
    assert plan.owners is not None
    at_most = _RECORDS_OF_ONE
    if not plan.samples_owners:
        # No more are in training.
        at_most = min(at_most, plan.config.privacy.records_per_owner)
    chosen = _some_owners(plan.owners, at_most)
    members = evaluate(plan.task, tuned, plan.train.take(chosen), run.layout)
    of_members = _mean_losses(members.losses, Owners.of(plan.owners.owner_of[chosen]))
    kept = strangers.keep(at_most)
    of_strangers = _mean_losses(losses[kept], Owners.of(strangers.owner_of[kept]))
    for whose, means in (("training", of_members), ("held-out", of_strangers)):
        if not len(means):
            raise ValueError(f"no {whose} owner has a record with a finite loss")
    note = f"An owner's score is the mean over at most {at_most} records"
    if num_left_out:
        note += f"; {num_left_out} held-out records of owners who are in training are left out"
    result = owner_loss_attack(of_members, of_strangers)
    return dataclasses.replace(result, notes=(*result.notes, f"{note}."))


def _some_owners(owners: Owners, at_most: int) -> np.ndarray:
    """Returns rows of random owners, at most so many of each, about `_RECORDS` in all."""
    rows = owners.keep(at_most)
    numbers = owners.owner_of[rows]
    order = np.random.default_rng(0).permutation(len(owners))
    places = np.argsort(order)[numbers]
    total = np.cumsum(np.bincount(places, minlength=len(owners)))
    num_owners = max(1, int(np.searchsorted(total, _RECORDS, side="right")))
    return rows[places < num_owners]


def _mean_losses(losses: np.ndarray, owners: Owners) -> np.ndarray:
    """Returns the mean of the finite losses of each owner who has one, float64."""
    finite, numbers = np.isfinite(losses), owners.owner_of
    sums = np.bincount(numbers[finite], losses[finite].astype(np.float64), len(owners))
    counts = np.bincount(numbers[finite], minlength=len(owners))
    return sums[counts > 0] / counts[counts > 0]
