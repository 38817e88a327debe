"""One fine-tuning run that was set up: train, write the model, then measure it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from dpjax_accounting import Ledger
from rich.console import Console

from dpjax.finetuning.after_training import Stages, measure
from dpjax.finetuning.reports import privacy_report
from dpjax.finetuning.reports.headline import headline
from dpjax.finetuning.result import FinetuneResult, result_of_lead
from dpjax.finetuning.setup.automatic.strategy import describe_clipping
from dpjax.finetuning.setup.model.initial_a import (
    starts_at_principal_a,
    store_a,
    with_a_of_lead,
    with_principal_a,
)
from dpjax.finetuning.setup.model.load import load_model
from dpjax.finetuning.setup.start import MeasuredRun, Run
from dpjax.finetuning.training.loop import Trained, train
from dpjax.finetuning.training.whole_model import bring_to_lead, write_model
from dpjax.training import (
    TOTAL_UNKNOWN,
    Callback,
    DirectoryLock,
    Interrupts,
    RunDiverged,
    RunInterrupted,
    RunStopped,
    in_lead,
    is_lead,
    raise_if_cut_off,
    read_rows,
    steps_on_record,
    stopping_on_file_errors,
    write_json,
)


def execute(
    run: Run | MeasuredRun,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
) -> FinetuneResult:
    """Trains, writes the tuned model, evaluates, attacks and reports.

    Where several processes train, each must call this, and all return the same. Process 0 keeps
    the files, shows progress and tells callbacks; once training is done it goes on alone, and the
    others wait.

    Args:
        run: what `set_up` made.
        console: where progress is shown; default: a new one.
        callbacks: are told of each step.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; the run can be resumed.
        RunStopped: the disk is full, training has diverged, or another process has ended.
        RunInUse: another process has the folder.

    Example:
        >>> from pathlib import Path
        >>> from dpjax.data import DataSource
        >>> from dpjax.demo.checkpoint import find_minilm
        >>> from dpjax.demo.run import write_data
        >>> from dpjax.finetuning import FinetuneConfig, Privacy, Training, set_up
        >>> train, held_out = write_data(Path("clinic"))
        >>> config = FinetuneConfig(
        ...     model=str(find_minilm()),
        ...     train_data=DataSource(str(train)),
        ...     eval_data=DataSource(str(held_out)),
        ...     output_dir="runs/first",
        ...     tuning="head",
        ...     num_layers=1,
        ...     privacy=Privacy(target_epsilon=3.0),
        ...     training=Training(num_steps=2, max_length=16),
        ... )
        >>> execute(set_up(config), Console(quiet=True)).epsilon <= 3.0
        True
    """
    console = (console or Console()) if is_lead() else Console(quiet=True)
    lock = in_lead(lambda: run.lock or run.directory.lock())
    with (
        lock or contextlib.nullcontext(),
        Interrupts() as interrupts,
        interrupts.saying("stopped; the same command with --resume goes on from there", 0),
    ):
        finished = _finish(run, console, interrupts, callbacks)
        in_lead(lambda: _forget_secrets(run, lock, interrupts, len(finished.metrics)))
    for warning in finished.warnings:
        console.print(f"WARNING: {warning}", highlight=False, markup=False, soft_wrap=True)
    return finished


def _forget_secrets(
    run: Run | MeasuredRun, lock: DirectoryLock | None, interrupts: Interrupts, step: int
) -> None:
    with (
        interrupts.saying(
            "stopped while private/ was being deleted; everything else is done, and the same "
            "command with --resume deletes the rest",
            step,
        ),
        stopping_on_file_errors("while private/ was being deleted", "deletes the rest"),
    ):
        run.directory.forget_secrets(lock)


def _finish(
    run: Run | MeasuredRun, console: Console, interrupts: Interrupts, callbacks: Sequence[Callback]
) -> FinetuneResult:
    if isinstance(run, MeasuredRun):
        return run.result
    plan = run.plan
    # What the accountant cannot answer is found now: the model is written after this report.
    privacy_report.build(plan, run.run_key, run.run_id, plan.num_steps)
    start = functools.partial(_start, run, console, interrupts, callbacks)
    started = in_lead(start, takes_long=True) or _Started(run, None, ())
    if starts_at_principal_a(plan.config) and not run.resumes and jax.process_count() > 1:
        model = with_a_of_lead(run.model, started.run.model if is_lead() else None)
        started = started._replace(run=dataclasses.replace(run, model=model))
    trained = _train(started, console, interrupts)
    ready = bring_to_lead(started.run, trained.trainable)
    with contextlib.nullcontext() if is_lead() else interrupts.deferred():
        complete = functools.partial(_complete, ready, started.ledger, trained, interrupts)
        finished = in_lead(complete, takes_long=True)
        return result_of_lead(run.directory.path, finished)


class _Started(NamedTuple):
    """A run that was put on record."""

    run: Run
    ledger: Ledger | None
    callbacks: Sequence[Callback]


def _start(
    run: Run, console: Console, interrupts: Interrupts, callbacks: Sequence[Callback]
) -> _Started:
    """Writes what a resumption needs, and puts the run on record before any of it is released."""
    plan, directory = run.plan, run.directory
    told = (*callbacks, *plan.config.tracking.make_callbacks())
    start = "stopped before a step was done; the same command with --resume goes on from there"
    if not run.resumes:
        with interrupts.saying(start, 0):
            directory.clear_for_new_run(overwrite=plan.config.overwrite)
    with (
        interrupts.saying(start, 0),
        stopping_on_file_errors("before a step was done", "goes on from there"),
    ):
        for notice in run.notices:
            console.print(notice, highlight=False, soft_wrap=True)
        if not run.resumes:
            run = _begin(run)
        elif not directory.has_config():
            write_json(directory.config, plan.options())
        # Before anything is charged: the loss is traced for it.
        begins = headline(plan, run.run_key, run.model.describe_share(), _choices(run))
        ledger = None if run.ledger is None else run.ledger.charge()
        console.print(begins, highlight=False, soft_wrap=True)
        if steps_on_record(directory.privacy, otherwise=-1) < 0:
            # Of a run that resumes the file was lost; what its state came from was spent.
            _note_progress(run, ledger, run.checkpoints.find().step)
        interrupts.raise_pending()
    return _Started(run, ledger, told)


def _choices(run: Run) -> tuple[str, ...]:
    """Sentences on what was left to dpjax."""
    plan = run.plan
    if plan.mechanism is None or plan.owner_training is not None:
        return plan.choices
    clipping = describe_clipping(plan, run.model, plan.microbatch_size, run.layout)
    return (*plan.choices, clipping)


def _complete(
    run: Run, ledger: Ledger | None, trained: Trained, interrupts: Interrupts
) -> FinetuneResult:
    """Writes the tuned model, which the run has by now, and then measures it."""
    plan, tuned = run.plan, run.model
    write = "stopped while the tuned model was being written; the same command with --resume "
    with (
        interrupts.saying(f"{write}writes it", plan.num_steps),
        stopping_on_file_errors("while the tuned model was being written", "writes it"),
    ):
        # What was spent is on record before anything that spent it is written.
        privacy, ledger_error = _note_progress(run, ledger, plan.num_steps)
        write_model(run, tuned.merge())
    stages = Stages(interrupts)
    if ledger_error is not None:
        stages.warnings.append(f"{TOTAL_UNKNOWN} The reason: {ledger_error}")
    try:
        return measure(run, tuned, privacy, trained, stages)
    except KeyboardInterrupt:
        raise RunInterrupted(
            "stopped after the last step, with the tuned model and privacy.json written; left are "
            f"{', '.join(stages.left)}, which the same command with --resume does",
            plan.num_steps,
            interrupts.acknowledge(),
        ) from None


def _begin(run: Run) -> Run:
    """Writes what a resumption needs, the key last: without it nothing was used or spent."""
    directory = run.directory
    if starts_at_principal_a(run.plan.config):
        key = run.run_key.model_key("random texts")
        is_here = jax.process_count() == 1
        model = run.model if is_here else load_model(run.plan, run.run_key, None)
        run = dataclasses.replace(run, model=with_principal_a(model, run.plan.checkpoint, key))
    write_json(directory.identity, run.identity, mode=0o600)
    write_json(directory.config, run.plan.options())
    if starts_at_principal_a(run.plan.config):
        store_a(run.model, directory.start_a)
    if run.audited is not None:
        run.audited.seal(directory, run.run_key)
    run.checkpoints.start()
    directory.store_key(run.run_key)
    return run


def _train(started: _Started, console: Console, interrupts: Interrupts) -> Trained:
    """Runs the steps; however that ends, what was spent is on record."""
    run, ledger, callbacks = started

    def stop_at(step: int) -> None:
        if ledger is not None:
            ledger.settle(run.run_id, max(step, steps_on_record(run.directory.privacy)))
        _note_progress(run, ledger, step)

    def note_progress(step: int) -> None:
        _note_progress(run, ledger, step)

    directory = run.directory
    with stopping_on_file_errors("in training", "goes on from the state that was stored last"):
        try:
            return train(run, console, note_progress, interrupts, callbacks)
        except (RunInterrupted, RunDiverged) as stopped:
            if is_lead():
                stop_at(stopped.step)
            raise
        except (RunStopped, OSError):
            raise
        except (KeyboardInterrupt, Exception) as error:
            done = run.checkpoints.find().step if is_lead() else 0
            # An exception may be what somebody made of the KeyboardInterrupt.
            if isinstance(error, KeyboardInterrupt) or interrupts.number is not None:
                last = f"after step {done}, whose state is stored"
                raise RunInterrupted(
                    "stopped at once; the same command with --resume goes on "
                    + (last if is_lead() else "from the state that was stored last"),
                    done,
                    interrupts.acknowledge(),
                ) from None
            if jax.process_count() > 1:
                raise_if_cut_off(error)
            elif done == 0:
                # It would fail again in the same way, and no state is lost.
                stop_at(len(read_rows(directory.metrics)))
                directory.forget_secrets()
            raise


class _Noted(NamedTuple):
    """privacy.json as it was written, and what went wrong with the ledger, if anything did."""

    privacy: dict[str, Any]
    ledger_error: Exception | None


def _note_progress(run: Run, ledger: Ledger | None, step: int) -> _Noted:
    """Writes privacy.json as it is after `step` steps; it never counts fewer than it did.

    A run that goes on from an older state has done more steps than that state has behind it.
    Once all steps are done, no state of the ledger prevents it: they were charged before the first.
    Another process may have damaged the ledger since, or added runs whose total is unknown.
    """
    step = max(step, steps_on_record(run.directory.privacy))
    build = functools.partial(privacy_report.build, run.plan, run.run_key, run.run_id, step)
    is_last = step == run.plan.num_steps
    ledger_error = None
    try:
        if ledger is not None and is_last:
            ledger.settle(run.run_id, step)
        privacy = build(ledger)
    except (OSError, ValueError) as error:
        if ledger is None or not is_last:
            raise
        privacy, ledger_error = build(total_is_unknown=True), error
    write_json(run.directory.privacy, privacy)
    return _Noted(privacy, ledger_error)
