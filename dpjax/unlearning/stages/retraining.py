"""The run once more, without the records to forget: what unlearning should come to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dpjax_accounting import write_text
from rich.console import Console

from dpjax.data import Completions, DataSource, Texts
from dpjax.finetuning import (
    RunDirectory,
    RunInterrupted,
    RunState,
    RunStopped,
    Tracking,
    execute,
    set_up,
)
from dpjax.unlearning.setup.tuned_run import TunedRun

_OWNER_ONLY = 0o600
_STOPPED = "the baseline was stopped; the same command with --resume goes on with it"


def check_can_retrain(run: TunedRun, retain: Any) -> None:
    """Refuses a run whose batches would be larger than what is retained.

    Args:
        run: whose options.
        retain: `(R,)` integers, the rows of its training records that are kept.

    Raises:
        ValueError: its expected batch size is above the number of retained records or owners.
    """
    records, config = run.records.take(retain.tolist()), run.config
    is_of_owners = records.owners is not None and config.samples_owners
    number = len(set(records.owners or ())) if is_of_owners else len(records)
    batch = config.training.expected_batch_size
    if config.privacy.sampling != "full-batch" and batch > number:
        what = "owners" if is_of_owners else "records"
        raise ValueError(
            f"the baseline cannot be trained: the run has training.expected_batch_size={batch}, "
            f"and only {number} {what} are retained. Say baseline=False, or forget fewer"
        )


def retrain(run: TunedRun, retain: Any, folder: Path) -> Path:
    """Trains with the options of the run on the retained records; returns the adapter's folder.

    A baseline that was interrupted goes on; one that is finished is not trained again.

    The noise is calibrated for fewer records where an ε was asked for. No ledger is charged: the
    model is there to compare with, and whoever publishes it must charge what its privacy.json says.

    Args:
        run: whose options.
        retain: `(R,)` integers, the rows of its training records that are kept.
        folder: new, for the run; the records are in a file beside it while it goes on.

    Raises:
        ValueError: the options do not fit fewer records, such as an expected batch size above
            their number.
    """
    path, directory = folder.with_name("retained.jsonl"), RunDirectory(folder)
    state = directory.state()
    if state is RunState.FINISHED:
        # What a process left that was killed.
        path.unlink(missing_ok=True)
        if directory.private.exists():
            directory.forget_secrets()
        return directory.adapter
    records = run.records.take(retain.tolist())
    lines = [json.dumps(row) for row in _rows(records)]
    write_text(path, "".join(f"{line}\n" for line in lines), mode=_OWNER_ONLY)
    config = dataclasses.replace(
        run.config,
        output_dir=str(folder),
        train_data=DataSource(
            str(path),
            owner_column=None if records.owners is None else "owner",
            record_format=_format_of(records),
        ),
        privacy=dataclasses.replace(run.config.privacy, ledger=None),
        generation=dataclasses.replace(run.config.generation, num_prompts=0),
        tracking=Tracking(),
        overwrite=False,
        resume=state is not RunState.NEW,
    )
    try:
        execute(set_up(config), Console(quiet=True))
    except RunInterrupted as stopped:
        # What it advises is for a run of its own.
        raise RunInterrupted(_STOPPED, stopped.step, stopped.signal_number) from None
    except RunStopped as stopped:
        raise RunStopped(f"{_STOPPED}. The reason: {stopped}") from stopped
    finally:
        # A copy of private records that nobody asked for.
        path.unlink()
    return directory.adapter


def _format_of(records: Any) -> Any:
    if isinstance(records, Texts):
        return "text"
    return "prompt_completion" if isinstance(records, Completions) else "messages"


def _rows(records: Any) -> list[dict[str, Any]]:
    if isinstance(records, Texts):
        rows: list[dict[str, Any]] = [{"text": text} for text in records.texts]
    elif isinstance(records, Completions):
        pairs = zip(records.prompts, records.completions, strict=True)
        rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    else:
        rows = [{"messages": messages} for messages in records.conversations]
    for name, values in (("owner", records.owners), ("tools", getattr(records, "tools", None))):
        if values is not None:
            rows = [row | {name: value} for row, value in zip(rows, values, strict=True)]
    return rows
