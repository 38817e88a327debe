"""The steps of a fine-tuning run: log, progress and checkpoints around the loop of all runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from dpjax_accounting import EpsilonBySteps
from rich.console import Console

from dpjax.data import by_length
from dpjax.finetuning.setup.mechanism import noise_of
from dpjax.finetuning.setup.plan import Plan
from dpjax.finetuning.setup.start import Run, on_devices
from dpjax.finetuning.setup.steps import make_run_optimizer, make_steps
from dpjax.finetuning.training.batches import encode_batch, owner_batches
from dpjax.finetuning.training.evaluate import evaluate
from dpjax.training import (
    Callback,
    CallbackCaller,
    CheckpointWriter,
    DivergenceWatch,
    Interrupts,
    MetricsLog,
    RunInterrupted,
    StepDone,
    TrainingProgress,
    TrainingSteps,
    average_of,
    run_steps,
)
from dpjax.typing import PyTree

_ADVICE = (
    "start another one with a lower training.learning_rate, in a new folder or with --overwrite. "
    "The state that was stored before is kept, but --resume would do the same steps again"
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        trainable: the tuned parameters; their moving average, where that was asked for.
        metrics: the rows of metrics.jsonl.
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
    plan, directory = run.plan, run.directory
    model, layout = run.model, run.layout
    if layout is not None:
        model = on_devices(model, layout)
    trainable, frozen = model.trainable, model.frozen
    training = plan.config.training
    optimizer = make_run_optimizer(plan)
    steps = _make_steps(run, optimizer)
    spent = None if plan.mechanism is None else EpsilonBySteps(plan.mechanism, plan.delta)
    init = (
        optimizer.init if layout is None else functools.partial(layout.init_state, optimizer.init)
    )
    state = init(trainable)
    first, (trainable, state) = run.checkpoints.restore((trainable, state))
    remarks: tuple[str, ...] = ()
    evaluation = _Evaluation(run)
    watch = DivergenceWatch(noise_of(plan.recipe).batch_size, _ADVICE)
    progress = TrainingProgress(console, plan.num_steps, first, plan.mechanism is not None)
    with (
        MetricsLog(directory.metrics, keep_steps=first) as log,
        CheckpointWriter(
            run.checkpoints,
            note_progress,
            seconds=training.checkpoint_every_seconds,
            steps=training.checkpoint_every_steps,
        ) as writer,
        CallbackCaller(callbacks) as caller,
        contextlib.ExitStack() as after_first_step,
        progress,
    ):
        for done in run_steps(
            steps,
            functools.partial(_batches, run, steps),
            trainable,
            state,
            frozen,
            first=first,
            num_steps=plan.num_steps,
            spent=spent,
            watch=watch,
        ):
            if done.step == first + 1:
                # Until now an interruption lost nothing, and compiling may take minutes.
                after_first_step.enter_context(interrupts.deferred())
            row = done.row() | evaluation.if_due(done)
            log.append(row)
            caller.on_step(row)
            if done.remark is not None:
                remarks += (done.remark,)
                console.print(f"WARNING: {done.remark}", highlight=False, markup=False)
            progress.update(done.step, done.loss, done.epsilon, done.num_records)
            watch.check_losses(done.step, done.num_records, done.num_losses)
            trainable, state = done.params, done.state
            is_last = done.step == plan.num_steps
            is_interrupted = interrupts.number is not None
            if writer.is_due() or is_interrupted or is_last:
                watch.check_parameters(done.step, bool(done.are_finite))
                writer.store(done.step, (done.params, done.state))
            if is_interrupted and not is_last:
                writer.wait()
                raise RunInterrupted(
                    f"stopped after step {done.step} of {plan.num_steps}; the same command with "
                    "--resume goes on from there",
                    done.step,
                    interrupts.acknowledge(),
                )
        writer.wait()
    said = (*remarks, *evaluation.remarks, *caller.remarks)
    return Trained(_exported(plan, trainable, state), log.rows, log.num_missing, said)


def _exported(plan: Plan, trainable: PyTree, state: Any) -> PyTree:
    """Returns the parameters, or their moving average where that is asked for."""
    return trainable if plan.config.training.ema_decay is None else average_of(state, trainable)


class _Evaluation:
    """Measures the model on held-out records, every so many steps but the last.

    The numbers change nothing of the run: it keeps the model after its last step. Nor does an
    evaluation that fails: it leaves a sentence, and there is no other one.
    """

    def __init__(self, run: Run) -> None:
        self.remarks: list[str] = []
        self._run = run
        self._every = run.plan.config.training.evaluate_every

    def if_due(self, done: StepDone) -> dict[str, float | None]:
        """Returns the numbers after a step; none where no evaluation is due."""
        is_last = done.step == self._run.plan.num_steps
        if self._every is None or done.step % self._every or is_last:
            return {}
        try:
            return self._measure(done)
        except Exception as error:
            self._every = None
            self.remarks.append(
                f"the evaluation after step {done.step} failed, and those after it were left out: "
                f"{type(error).__name__}: {error}"
            )
            return {}

    def _measure(self, done: StepDone) -> dict[str, float | None]:
        plan = self._run.plan
        exported = _exported(plan, done.params, done.state)
        model = self._run.model.replace(trainable=exported)
        held_out = evaluate(plan.task, model, plan.evaluation, self._run.layout)
        found = {"eval_loss": held_out.loss}
        for name in ("accuracy", "perplexity"):
            value = getattr(held_out, name)
            if value is not None:
                found[f"eval_{name}"] = value
        return found


def _make_steps(run: Run, optimizer: Any) -> TrainingSteps:
    present = None if run.audited is None else run.audited.present
    graphdef = run.model.graphdef
    return make_steps(run.plan, graphdef, optimizer, run.run_key, present, run.layout)


def _batches(run: Run, steps: TrainingSteps, step: int) -> Iterator[tuple[Any, Any]]:
    """Yields the microbatches of a step, where they are computed."""
    for batch in _drawn(run, steps, step):
        yield batch if run.layout is None else run.layout.place_rows(batch)


def _drawn(run: Run, steps: TrainingSteps, step: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields the microbatches of a step; each record drops what its own key says."""
    plan = run.plan
    records = plan.train if run.audited is None else run.audited.slots
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
