"""Which training records are to be forgotten. They are known by their content."""

from __future__ import annotations

import dataclasses

import numpy as np

from dpjax.data import read_language_records
from dpjax.unlearning.config import UnlearnConfig
from dpjax.unlearning.setup.tuned_run import TunedRun


@dataclasses.dataclass(frozen=True, eq=False)
class ForgetSet:
    """The training records in two parts that have no content in common.

    Attributes:
        forget: `(F,)` integers, the rows to forget, with all copies.
        retain: `(R,)` integers, the others.
        num_named: how many different records were named.
    """

    forget: np.ndarray
    retain: np.ndarray
    num_named: int


def find_forget_set(config: UnlearnConfig, run: TunedRun) -> ForgetSet:
    """Finds the rows of the records that were named, and all copies of them.

    Raises:
        FileNotFoundError: there is no file of that name.
        ValueError: a record, row or owner is not in the training data, with counts; or nothing
            would be retained.
    """
    contents = list(run.records.units())
    named = _named(config, run, contents)
    is_forgotten = np.array([content in named for content in contents], np.bool_)
    if is_forgotten.all():
        raise ValueError(
            f"all {len(contents)} training records are to be forgotten: take the base instead, "
            "which has seen none of them"
        )
    forget, retain = np.flatnonzero(is_forgotten), np.flatnonzero(~is_forgotten)
    for name, rows in (("forget", forget), ("retain", retain)):
        if run.train.take(rows).without_targets.all():
            raise ValueError(
                f"none of the {len(rows)} records to {name} has a token that the run could learn, "
                "within its training.max_length"
            )
    return ForgetSet(forget, retain, len(named))


def _named(config: UnlearnConfig, run: TunedRun, contents: list[bytes]) -> set[bytes]:
    path = run.config.train_data.path
    if config.forget_rows:
        if run.plan.num_left_out:
            raise ValueError(
                f"forget_rows would not be rows of {path}: the run has left out "
                f"{run.plan.num_left_out} records of owners with too many. Name the records by "
                "forget or forget_owners"
            )
        outside = [row for row in config.forget_rows if row >= len(contents)]
        if outside:
            raise ValueError(
                f"forget_rows must be below {len(contents)}, the number of training records in "
                f"{path}, got {outside[0]}; {len(outside)} are outside"
            )
        return {contents[row] for row in config.forget_rows}
    if config.forget_owners:
        owners = run.records.owners
        if owners is None:
            raise ValueError(
                "forget_owners needs a run with train_data.owner_column; this one knows no owners. "
                "Name the records by forget or forget_rows"
            )
        wanted = {owner.strip() for owner in config.forget_owners}
        # As the run compares them: blanks around a name do not count.
        names = [owner.strip() for owner in owners]
        missing = sorted(wanted - set(names))
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(wanted)} forget_owners have no record in {path} that the "
                "run could draw"
            )
        return {content for content, name in zip(contents, names, strict=True) if name in wanted}
    assert config.forget is not None
    source = dataclasses.replace(run.config.train_data, path=config.forget, owner_column=None)
    given = set(read_language_records(source).units())
    if not given:
        raise ValueError(f"{config.forget} holds no record to forget")
    missing_records = given - set(contents)
    if missing_records:
        raise ValueError(
            f"{len(missing_records)} of {len(given)} records in {config.forget} are not in the "
            f"training data {path} of the run: what was not learnt cannot be forgotten. Records "
            "are compared word for word; name those that are there"
        )
    return given
