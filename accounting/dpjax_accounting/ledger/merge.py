"""Several ledgers of the same data set made into one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpjax_accounting.ledger.chained_file import ChainedFile
from dpjax_accounting.ledger.entry import entries_of
from dpjax_accounting.ledger.ledger import Ledger, check_same_dataset

Event = dict[str, Any]


def merge_ledgers(sources: Sequence[str | Path], target: str | Path) -> Ledger:
    """Writes the ledger `target` with every run of `sources` once, and returns it.

    The sources stay as they are; the first line of the new ledger names their heads. A run that
    several hold, as copies of a ledger do, counts once, in the state of the one that knows most.

    Raises:
        FileExistsError: if there is a ledger at `target`.
        FileNotFoundError: if a source does not exist.
        ValueError: if there are fewer than two sources, their data sets differ, a run is recorded
            in different ways, or two runs have the same key.
        TamperedError: if a source is not what was written.
    """
    if len(sources) < 2:
        raise ValueError(
            f"There is nothing to merge: name at least two ledgers; got {len(sources)}."
        )
    ledgers = [Ledger(path) for path in sources]
    for ledger in ledgers[1:]:
        check_same_dataset(f"The ledger {ledger.path}", ledger.dataset, ledgers[0].dataset)
    runs: dict[str, list[Event]] = {}
    for ledger in ledgers:
        for run, events in _by_run(ledger.events()).items():
            runs[run] = _longer(run, runs.get(run, []), events)
    events = [event for of_run in runs.values() for event in of_run]
    entries_of(events)
    heads = [ledger.head for ledger in ledgers]
    merged = Ledger.create(target, ledgers[0].dataset, merged_from=heads)
    file = ChainedFile(target)
    for event in events:
        file.append(functools.partial(_recorded, event))
    return merged


def _recorded(event: Event, _: object) -> Event:
    return event


def _by_run(events: Sequence[Event]) -> dict[str, list[Event]]:
    runs: dict[str, list[Event]] = {}
    for event in events:
        runs.setdefault(event["run"], []).append(event)
    return runs


def _longer(run: str, first: list[Event], second: list[Event]) -> list[Event]:
    """The longer of two histories of a run, which must begin with the other."""
    shorter, longer = sorted((first, second), key=len)
    if longer[: len(shorter)] != shorter:
        raise ValueError(
            f"Run {run!r} is recorded in different ways: one ledger does not merely go on from"
            " where the other stops. Find out which is right before merging."
        )
    return longer
