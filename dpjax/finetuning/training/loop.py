"""The steps of a fine-tuning run: log, progress and checkpoints around the loop of all runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from dpjax_accounting import EpsilonBySteps
from rich.console import Console

from dpjax.basics.typing import PyTree
from dpjax.data import by_length
from dpjax.finetuning.setup.model.load import on_devices
from dpjax.finetuning.setup.start import Run
from dpjax.finetuning.setup.steps import make_steps
from dpjax.finetuning.training.batches import encode_batch, owner_batches
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.finetuning.training.features import with_features
from dpjax.finetuning.training.stages import Stage, begin_stage, exported, stages_left
from dpjax.finetuning.training.step_files import StepFiles
from dpjax.training import (
    Callback,
    DivergenceWatch,
    Interrupts,
    RunInterrupted,
    StepDone,
    TrainingProgress,
    TrainingSteps,
    agree_with_lead,
    in_lead,
    run_steps,
    telling_failures,
    whole_on_host,
)

_ADVICE = (
    "start another one with a lower training.learning_rate, in a new folder or with --overwrite. "
    "The state that was stored before is kept, but --resume would do the same steps again"
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        trainable: the tuned parameters; their moving average, where that was asked for.
        metrics: the rows of metrics.jsonl; none in a process that keeps no files.
        num_missing_rows: how many rows the file has lost.
        remarks: what whoever trains should know, a sentence each.
    """

    trainable: PyTree
    metrics: list[dict[str, Any]]
    num_missing_rows: int
    remarks: tuple[str, ...]


def train(
    run: Run,
    console: Console,
    note_progress: Callable[[int], None],
    interrupts: Interrupts,
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Runs the steps that are not done yet, and stores the state after the last one.

    Where several processes train, they do the same steps, and end after the same one; what one of
    them was told by a signal, or the lead failed with, all are told after the step.

    Args:
        run: what `set_up` made.
        console: shows the progress.
        note_progress: puts steps on record; called before a state that they led to is stored.
        interrupts: says when to stop.
        callbacks: are told of each step.

    Raises:
        RunInterrupted: Ctrl-C or SIGTERM; the state after the last whole step is stored.
        RunDiverged: parameters or losses are not finite any more.
        OSError: for instance because the disk is full; the state stored before stays.
    """
    plan = run.plan
    if run.layout is not None:
        run = dataclasses.replace(run, model=on_devices(run.model, run.layout))
    stages = stages_left(run)
    stage = begin_stage(run, stages[0])
    first, (params, state) = run.checkpoints.restore_in_all((stage.params, stage.state))
    stage = dataclasses.replace(stage, params=params, state=state)
    files = in_lead(lambda: StepFiles(run, first, note_progress, callbacks))
    spent = None if plan.mechanism is None else EpsilonBySteps(plan.mechanism, plan.delta)
    shown = _Shown(console, plan.num_steps, spent, _Evaluation(run), [])
    with contextlib.nullcontext() if files is None else files:
        stage = _run_stage(stage, first, shown, files, interrupts)
        for later in stages[1:]:
            interrupts.raise_pending()
            first = stage.run.plan.num_steps
            stage = begin_stage(run, later, stage)
            stage = _run_stage(stage, first, shown, files, interrupts)
    remarks = (*shown.remarks, *shown.evaluation.remarks)
    if files is None:
        return Trained(stage.exported, [], 0, remarks)
    return Trained(stage.exported, files.rows, files.num_missing, (*remarks, *files.remarks))


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What is shown and measured of all steps.

    Attributes:
        console: shows the progress.
        num_steps: of all stages.
        spent: knows ε after each step; None without privacy.
        evaluation: on held-out records.
        remarks: what was said about steps.
    """

    console: Console
    num_steps: int
    spent: EpsilonBySteps | None
    evaluation: _Evaluation
    remarks: list[str]


def _run_stage(
    stage: Stage, first: int, shown: _Shown, files: StepFiles | None, interrupts: Interrupts
) -> Stage:
    """Runs the steps of a stage that are not done yet, and stores the state after its last one."""
    last, several = stage.run.plan.num_steps, jax.process_count() > 1
    if first == last:
        return stage
    # Features are freed with the stage: nothing else refers to them.
    run = with_features(stage.run, stage.run.model, shown.console)
    steps = _make_steps(run, stage.optimizer)
    watch = DivergenceWatch(run.plan.noise.batch_size, _ADVICE)
    what = "step" if last == shown.num_steps else f"step of the head alone, until {last},"
    progress = TrainingProgress(
        shown.console, shown.num_steps, first, shown.spent is not None, what=what
    )
    with contextlib.ExitStack() as deferring, progress:
        if several:
            # One that stopped at once would leave the others waiting for it.
            deferring.enter_context(interrupts.deferred())
        for done in run_steps(
            steps,
            functools.partial(_batches, run, steps),
            stage.params,
            stage.state,
            run.model.frozen,
            first=first,
            num_steps=last,
            spent=shown.spent,
            watch=watch,
        ):
            if done.step == first + 1 and not several:
                # Until now an interruption lost nothing, and compiling may take minutes.
                deferring.enter_context(interrupts.deferred())
            row = done.row() | shown.evaluation.if_due(run, done)
            if done.remark is not None:
                shown.remarks.append(done.remark)
                shown.console.print(f"WARNING: {done.remark}", highlight=False, markup=False)
            progress.update(done.step, done.loss, done.epsilon, done.num_records)
            with telling_failures():
                is_due = files is not None and files.keep(row)
            agreed = agree_with_lead(signal=interrupts.number, stores=is_due)
            watch.check_losses(done.step, done.num_records, done.num_losses)
            stage = dataclasses.replace(stage, params=done.params, state=done.state)
            if agreed.stores or agreed.signal is not None or done.step == last:
                watch.check_parameters(done.step, bool(done.are_finite))
                _store(files, done)
            if agreed.signal is not None and done.step < shown.num_steps:
                _wait(files)
                interrupts.acknowledge()
                raise RunInterrupted(
                    f"stopped after step {done.step} of {shown.num_steps}; the same command with "
                    "--resume goes on from there",
                    done.step,
                    agreed.signal,
                )
        _wait(files)
    return stage


def _store(files: StepFiles | None, done: StepDone) -> None:
    """Has the lead store the state after a step; it gets what other processes have of it."""
    state = done.params, done.state
    if jax.process_count() > 1:
        state = whole_on_host(state)
    in_lead(lambda: None if files is None else files.store(done.step, state))


def _wait(files: StepFiles | None) -> None:
    """Waits in all processes until the lead has stored what it was to store."""
    in_lead(lambda: None if files is None else files.wait(), takes_long=True)


class _Evaluation:
    """Measures the model on held-out records, every so many steps but the last.

    The numbers change nothing of the run: it keeps the model after its last step. Nor does an
    evaluation that fails: it leaves a sentence, and there is no other one.
    """

    def __init__(self, run: Run) -> None:
        self.remarks: list[str] = []
        self._num_steps = run.plan.num_steps
        self._every = run.plan.config.training.evaluate_every

    def if_due(self, run: Run, done: StepDone) -> dict[str, float | None]:
        """Returns the numbers after a step of a stage; none where no evaluation is due."""
        is_last = done.step == self._num_steps
        if self._every is None or done.step % self._every or is_last:
            return {}
        try:
            return self._measure(run, done)
        except Exception as error:
            self._every = None
            self.remarks.append(
                f"the evaluation after step {done.step} failed, and those after it were left out: "
                f"{type(error).__name__}: {error}"
            )
            return {}

    def _measure(self, run: Run, done: StepDone) -> dict[str, float | None]:
        plan = run.plan
        model = run.model.replace(trainable=exported(plan, done.params, done.state))
        held_out = evaluate(plan.task, model, plan.evaluation, run.layout)
        found = {"eval_loss": held_out.loss}
        for name in ("accuracy", "perplexity", "reward_margin", "span_f1"):
            value = getattr(held_out, name)
            if value is not None:
                found[f"eval_{name}"] = value
        return found


def _make_steps(run: Run, optimizer: Any) -> TrainingSteps:
    graphdef = run.model.graphdef
    return make_steps(run.plan, graphdef, optimizer, run.run_key, run.present, run.layout)


def _batches(run: Run, steps: TrainingSteps, step: int) -> Iterator[tuple[Any, Any]]:
    """Yields the microbatches of a step, where they are computed."""
    for batch in _drawn(run, steps, step):
        yield batch if run.layout is None else run.layout.place_rows(batch)


def _drawn(run: Run, steps: TrainingSteps, step: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields the microbatches of a step; each record drops what its own key says."""
    plan = run.plan
    records = run.slots
    owners = plan.owners if run.audited is None else run.audited.owners
    if owners is not None and plan.samples_owners:
        yield from owner_batches(run, records, owners, steps, step)
        return
    microbatches = steps.batches(
        step,
        microbatch_size=plan.microbatch_size,
        order=functools.partial(by_length, records),
    )
    for rows, mask in microbatches:
        yield encode_batch(run, records, rows, step), mask
